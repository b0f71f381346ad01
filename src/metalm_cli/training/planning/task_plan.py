"""The plan of a finetuning run."""

from __future__ import annotations

import math
import time
from collections import Counter

import torch

from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.data.examples.pack_examples import RowPacking, TaskSession
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import TaskSelection, group_by_reason
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Row
from metalm_cli.training.planning.memory import estimate_memory
from metalm_cli.training.planning.plan import (
    MANY_EPOCHS,
    BatchShape,
    RunPlan,
    ValidationPlan,
    part_summaries,
    token_plan,
)
from metalm_cli.training.planning.sample_stats import SampleStats, SourcePlan

SAMPLED = 256
"""Sessions that a plan makes."""
SECONDS = 3.0
"""... unless they take longer than this; as many as a step has are made, up to the above."""


def sample_sessions(writer: SessionBuilder, count: int = SAMPLED, seconds: float = SECONDS) -> list[TaskSession]:
    """The sessions of the first numbers.

    Raises:
        MetalmError: A row or a template is wrong, or nothing of a task fits.
    """
    start = time.monotonic()
    found: list[TaskSession] = []
    while len(found) < count and (len(found) < 8 or time.monotonic() < start + seconds):
        found.append(writer.session(len(found)))
    return found


def session_figures(sessions: list[TaskSession], length: int) -> SampleStats:
    """Sums over a sample of sessions; what is said per row is said per session."""
    counts: Counter[str] = Counter()
    for one in sessions:
        counts.update(one.counts)
        counts["trained_tokens"] += int(one.session.trained[1:].sum())
        counts["positions"] += len(one.session)
    number = len(sessions)
    return SampleStats(number, number, counts["source_tokens"], 0, number, length, dict(counts), {})


def layout_of(recipe: FinetuneRecipe, assembly: Assembly, device: torch.device) -> RowPacking:
    """How sessions become rows: packed where that is exact; into short rows on a CPU, where long ones cost more."""
    data = recipe.data
    packs = bool(assembly.model.traits.packs)
    return RowPacking(
        packs and data.row_packing != "pad", data.sequence_length, data.encoder_tokens, device.type == "cpu"
    )


def make_task_plan(
    recipe: FinetuneRecipe,
    corpus: TaskCorpus,
    chosen: TaskSelection,
    assembly: Assembly,
    sessions: list[TaskSession],
    layout: RowPacking,
    *,
    world: int,
    shards: int,
    device: torch.device,
    validation: tuple[int, int],
) -> RunPlan:
    """Plan a finetuning run.

    Args:
        recipe: The recipe.
        corpus: Its tasks.
        chosen: Why others do not train.
        assembly: Its model.
        sessions: A sample.
        layout: How they become rows.
        world: Processes.
        shards: Processes that the model is sharded over.
        device: Where the run trains.
        validation: Validation examples in all, and most of a task.
    """
    train, figures = recipe.train, session_figures(sessions, recipe.data.sequence_length)
    steps = train.steps or math.ceil((train.epochs or 1) * sum(task.rows for task in corpus.tasks) / train.batch_size)
    rows = layout.rows(sessions)
    micro = train.micro_batch_size or 0
    filled = round(figures.per_row("source_tokens") * train.batch_size)
    portions = BatchShape(
        steps,
        train.steps is None,
        train.batch_size,
        micro,
        int(bool(micro)),
        world,
        recipe.data.sequence_length,
        filled,
    )
    drawn = steps * train.batch_size
    sources = tuple(
        SourcePlan(info, drawn * info.share, drawn * info.share / (info.rows or 1)) for info in corpus.sources
    )
    parameters = {id(one): one for one in assembly.model.parameters()}.values()
    return RunPlan(
        parts=part_summaries(recipe, assembly, None),
        total=sum(one.numel() for one in parameters),
        trained=sum(one.numel() for one in parameters if one.requires_grad),
        tokens=token_plan(assembly),
        objective=f"answers of {len(corpus.tasks)} tasks, the mean over {train.loss_average}s",
        sources=sources,
        figures=figures,
        portions=portions,
        validated=ValidationPlan(validation[0], validation[1], "answers", ()),
        memory=estimate_memory(recipe, assembly, None, world, shards),
        precision=train.precision,
        device=str(device),
        notes=(*assembly.notes, *_notes(recipe, corpus, chosen, figures, layout, sources, validation)),
        unit="example",
        layout=describe_packing(layout, rows, len(sessions)),
    )


def describe_packing(layout: RowPacking, rows: list[Row], sessions: int) -> str:
    """The layout of a sample, in words."""
    positions = sum(map(len, rows))
    if layout.pack and layout.snug:
        return f"{sessions / len(rows):.1f} examples packed, rows as long as one of the step's examples"
    if layout.pack:
        fill = positions / (len(rows) * layout.length)
        return f"{layout.length:,} positions, {sessions / len(rows):.1f} examples packed, {fill:.1%} filled"
    return "one example, padded to the longest of its pass; passes are sorted by length"


def _notes(
    recipe: FinetuneRecipe,
    corpus: TaskCorpus,
    chosen: TaskSelection,
    figures: SampleStats,
    layout: RowPacking,
    sources: tuple[SourcePlan, ...],
    validation: tuple[int, int],
) -> list[str]:
    notes = []
    if chosen.held_out:
        notes.append(f"held out: {', '.join(card.name for card in chosen.held_out)}")
    reasons = group_by_reason(chosen.dropped).items()
    notes += [f"not trained on: {', '.join(names)}: {reason}" for reason, names in reasons]
    counts, number = figures.counts, figures.documents
    for name, what in (
        ("cut_examples", "had their long field cut"),
        ("too_long_examples", "did not fit even so, and were replaced"),
        ("lost_demonstrations", "demonstrations did not fit"),
    ):
        if counts.get(name):
            notes.append(f"{counts[name]:,} of {number:,} sampled examples {what}")
    if recipe.data.row_packing == "pack" and not layout.pack:
        notes.append("this decoder cannot be packed exactly: one example a row")
    if not validation[0]:
        notes.append("nothing is validated")
    often = [one.info.name for one in sources if (one.epochs or 0) > MANY_EPOCHS]
    if often:
        notes.append(f"each example of {', '.join(often)} is drawn more than {MANY_EPOCHS} times")
    if recipe.train.max_time:
        notes.append(f"stops after {recipe.train.max_time}, with a checkpoint, if the steps are not done by then")
    return notes
