"""``metalm show``: real sessions of a recipe, as the model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.commands.project.recipe import Arguments
from metalm_cli.cli.options.shared import BaseOption, DataRoot, Offline
from metalm_cli.training.first_rows import first_examples, first_rows, prepare

if TYPE_CHECKING:
    from rich.console import Console

    from metalm_cli.config.resolution import ResolvedRecipe
    from metalm_cli.data.documents.corpus import Corpus
    from metalm_cli.data.examples.task_corpus import TaskCorpus
    from metalm_cli.models.assembly import Assembly
    from metalm_cli.sessions import Row

NARROW_WIDTH = 80


def show(
    arguments: Arguments = None,
    model: BaseOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of rows to show.")] = 3,
    data_root: DataRoot = None,
    offline: Offline = False,
    positions: Annotated[
        bool, typer.Option("--positions", help="Print one line per position: token read, token predicted.")
    ] = False,
) -> None:
    """Show sessions of a recipe as the model sees them: docked text, decoder text, predicted tokens.

    The rows (or examples) are the first ones that a run of the recipe trains on. Nothing is trained.
    """
    from metalm_cli.cli.commands.training.train_run import resolve_with_model
    from metalm_cli.config import split_arguments

    name, overrides = split_arguments(arguments or [])
    resolved = resolve_with_model(None, name, overrides, {"model.checkpoint": model}, offline)
    for stage in resolved.stages:
        console.stdout().print(f"stage {stage.name}", style="bold", highlight=False, markup=False)
        _show(stage.resolved, count, data_root, offline, positions)
    if not resolved.stages:
        _show(resolved, count, data_root, offline, positions)


def _show(resolved: ResolvedRecipe, count: int, data_root: Path | None, offline: bool, positions: bool) -> None:
    """Print the first rows of a recipe, or of one of its stages."""
    corpus: Corpus | TaskCorpus
    with console.stderr().status("assembling the model and opening the data"):
        if resolved.recipe.command == "pretrain":
            corpus, assembly = prepare(resolved.recipe, data_root, offline)
            rows = list(first_rows(resolved.recipe, corpus, assembly, count))
        else:
            corpus, assembly, rows = first_examples(resolved.recipe, data_root, offline, count)
    _print_rows(console.stdout(), resolved, corpus, assembly, rows, positions)


def _print_rows(
    out: Console,
    resolved: ResolvedRecipe,
    corpus: Corpus | TaskCorpus,
    assembly: Assembly,
    rows: list[Row],
    positions: bool,
) -> None:
    from rich.text import Text

    from metalm_cli.sessions import ENCODER
    from metalm_cli.sessions.row_display import RowView, legend

    recipe = resolved.recipe
    plain = out.no_color or not out.is_terminal
    masked = assembly.tokenizer is None
    tokenizer: Any
    if masked:
        (processor,) = assembly.processors.values()
        tokenizer = processor.tokenizer  # type: ignore[attr-defined]
    else:
        tokenizer = assembly.decoder_tokenizer.tokenizer
    encoders = [] if masked else list(assembly.processors)
    if rows and rows[0].source is not None:
        encoders = [ENCODER]
    out.print(legend(encoders, objective=recipe.objective.name, plain=plain))
    for number, row in enumerate(rows):
        view = RowView(row, tokenizer, assembly.processors, masked=masked, plain=plain, document_name=corpus.where)
        step, slot = divmod(number, recipe.train.batch_size)
        title = f"{resolved.name} · step {step + 1}, {'row' if recipe.command == 'pretrain' else 'example'} {slot + 1}"
        out.print()
        out.print(Text.assemble((title, "bold"), f" · {view.summary()}"))
        out.print(view.table(narrow=out.width < NARROW_WIDTH) if positions else view.text())
