"""``metalm show``: real sessions of a recipe, as the model will see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.recipe import Arguments, ModelOption

if TYPE_CHECKING:
    from rich.console import Console

    from metalm_cli.data.corpus import Corpus
    from metalm_cli.data.task_corpus import TaskCorpus
    from metalm_cli.models.assemble import Assembly
    from metalm_cli.recipes.finetuning import FinetuneRecipe
    from metalm_cli.recipes.resolved import Resolved
    from metalm_cli.recipes.schema import PretrainRecipe
    from metalm_cli.sessions import Row

NARROW = 80


def show(
    arguments: Arguments = None,
    model: ModelOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Rows to show.")] = 3,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no network connection.")] = False,
    positions: Annotated[
        bool, typer.Option("--positions", help="A line for each position: what is read, what is predicted.")
    ] = False,
) -> None:
    """Show sessions of a recipe as the model will see them: what is docked, read and predicted.

    These are the first rows, or examples, that the run will train on. Nothing is trained.
    """
    from metalm_cli.cli.quiet import quiet_libraries
    from metalm_cli.cli.train import based
    from metalm_cli.recipes import resolve, split_arguments

    name, overrides = split_arguments(arguments or [])
    resolved = based(resolve(None, name, overrides, {"model.checkpoint": model}))
    quiet_libraries(offline)
    corpus: Corpus | TaskCorpus
    with console.stderr().status("assembling the model and opening the data"):
        if resolved.recipe.command == "pretrain":
            corpus, assembly = prepare(resolved.recipe, data_root, offline)
            rows = list(first_rows(resolved.recipe, corpus, assembly, count))
        else:
            corpus, assembly, rows = first_examples(resolved.recipe, data_root, offline, count)
    _print(console.stdout(), resolved, corpus, assembly, rows, positions)


def prepare(recipe: PretrainRecipe, data_root: Path | None, offline: bool) -> tuple[Corpus, Assembly]:
    """A recipe's documents and model."""
    from metalm_cli.data.opening import open_corpus
    from metalm_cli.models.assemble import assemble_recipe

    corpus = open_corpus(recipe.data, seed=recipe.train.seed, data_root=data_root, offline=offline)
    return corpus, assemble_recipe(recipe, lambda count: corpus.sample(count, 0), offline=offline)


def first_rows(recipe: PretrainRecipe, corpus: Corpus, assembly: Assembly, count: int) -> Iterator[Row]:
    """The first rows of a run: row r of step s comes from lane r."""
    from metalm_cli.data.lanes import Lane
    from metalm_cli.objectives import make_objective

    writer = make_objective(recipe, assembly).writer(recipe.data, recipe.train.seed)
    size = recipe.train.batch_size
    used = min(size, count)
    reader = corpus.reader(lambda number: number % size < used)
    lanes = [Lane(index, size, reader, writer) for index in range(used)]
    for number in range(count):
        yield lanes[number % used].next_row()


def first_examples(
    recipe: FinetuneRecipe, data_root: Path | None, offline: bool, count: int
) -> tuple[TaskCorpus, Assembly, list[Row]]:
    """A recipe's tasks and model, and the sessions of the first numbers, a row each."""
    from metalm_cli.data.fit import Limits
    from metalm_cli.data.open_tasks import open_tasks
    from metalm_cli.data.task_writer import TaskWriter, row_of
    from metalm_cli.models.assemble import assemble_recipe
    from metalm_cli.sessions import SessionTokeniser

    corpus, _ = open_tasks(recipe.data, seed=recipe.train.seed, data_root=data_root, offline=offline)
    assembly = assemble_recipe(recipe, lambda count: corpus.sample(count, 0), offline=offline)
    tokenise = SessionTokeniser(assembly.decoder_tokenizer, assembly.processors)
    writer = TaskWriter(corpus, tokenise, Limits.of(tokenise, recipe.data.sequence_length))
    return corpus, assembly, [row_of([writer.session(number)]) for number in range(count)]


def _print(
    out: Console, resolved: Resolved, corpus: Corpus | TaskCorpus, assembly: Assembly, rows: list[Row], positions: bool
) -> None:
    from rich.text import Text

    from metalm_cli.sessions.view import RowView, legend

    recipe = resolved.recipe
    plain = out.no_color or not out.is_terminal
    masked = assembly.tokenizer is None
    tokenizer: Any
    if masked:
        (processor,) = assembly.processors.values()
        tokenizer = processor.tokenizer  # type: ignore[attr-defined]
    else:
        tokenizer = assembly.decoder_tokenizer.tokenizer
    out.print(legend([] if masked else list(assembly.processors), objective=recipe.objective.name, plain=plain))
    for number, row in enumerate(rows):
        view = RowView(row, tokenizer, assembly.processors, masked=masked, plain=plain, where=corpus.where)
        step, lane = divmod(number, recipe.train.batch_size)
        title = f"{resolved.name} · step {step + 1}, {'row' if recipe.command == 'pretrain' else 'example'} {lane + 1}"
        out.print()
        out.print(Text.assemble((title, "bold"), f" · {view.summary()}"))
        out.print(view.table(narrow=out.width < NARROW) if positions else view.text())
