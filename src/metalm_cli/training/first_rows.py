"""First rows of a run, for display."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
    from metalm_cli.data.documents.corpus import Corpus
    from metalm_cli.data.examples.task_corpus import TaskCorpus
    from metalm_cli.models.assembly import Assembly
    from metalm_cli.sessions import Row


def prepare(recipe: PretrainRecipe, data_root: Path | None, offline: bool) -> tuple[Corpus, Assembly]:
    """Open the documents and build the model of a recipe."""
    from metalm_cli.data.documents.open_corpus import open_corpus
    from metalm_cli.models.assembly import build_from_recipe

    corpus = open_corpus(recipe.data, seed=recipe.train.seed, data_root=data_root, offline=offline)
    return corpus, build_from_recipe(recipe, lambda count: corpus.sample(count, 0), offline=offline)


def first_rows(recipe: PretrainRecipe, corpus: Corpus, assembly: Assembly, count: int) -> Iterator[Row]:
    """Make the first rows of a run: row r of every step comes from slot r."""
    from metalm_cli.data.sampling.row_slots import RowSlot
    from metalm_cli.objectives import make_objective

    writer = make_objective(recipe, assembly).writer(recipe.data, recipe.train.seed)
    batch_size = recipe.train.batch_size
    num_slots = min(batch_size, count)
    reader = corpus.reader(lambda number: number % batch_size < num_slots)
    slots = [RowSlot(index, batch_size, reader, writer) for index in range(num_slots)]
    for number in range(count):
        yield slots[number % num_slots].next_row()


def first_examples(
    recipe: FinetuneRecipe, data_root: Path | None, offline: bool, count: int
) -> tuple[TaskCorpus, Assembly, list[Row]]:
    """Open the tasks and build the model of a recipe, and make the first sessions, one per row."""
    from metalm_cli.data.examples.pack_examples import pack_sessions
    from metalm_cli.data.examples.session_writer import SessionBuilder
    from metalm_cli.data.examples.task_selection import open_training_tasks
    from metalm_cli.data.examples.truncation import LengthLimits
    from metalm_cli.models.assembly import build_from_recipe
    from metalm_cli.models.dual_encoder.image_text_pairs import session_tokeniser_of
    from metalm_cli.sessions import row_format_of

    corpus, _ = open_training_tasks(recipe.data, seed=recipe.train.seed, data_root=data_root, offline=offline)
    assembly = build_from_recipe(recipe, lambda count: corpus.sample(count, 0), offline=offline)
    tokenise = session_tokeniser_of(assembly.decoder_tokenizer, assembly.processors)
    writer = SessionBuilder(corpus, tokenise, LengthLimits.of(tokenise, recipe.data.sequence_length))
    row_format = row_format_of(assembly.decoder_tokenizer)
    return corpus, assembly, [pack_sessions([writer.session(number)], row_format) for number in range(count)]
