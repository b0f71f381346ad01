"""Plan of a finetuning run."""

from __future__ import annotations

import math
import time
from collections import Counter

import torch

from metalm_cli.common.table import counted
from metalm_cli.config.schema.objectives import Contrastive
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.data.examples.pack_examples import RowPacking, TaskSession
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import TaskSelection, group_by_reason
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.attention import computes_segments_apart
from metalm_cli.models.dual_encoder.dual_encoder import DualEncoder
from metalm_cli.sessions import Row, row_format_of
from metalm_cli.training.planning.memory import estimate_memory
from metalm_cli.training.planning.plan import (
    MANY_EPOCHS,
    BatchShape,
    RunPlan,
    ValidationPlan,
    part_summaries,
    special_tokens_of,
    warmup_notes,
)
from metalm_cli.training.planning.plan_display import WARNING
from metalm_cli.training.planning.sample_stats import SampleStats, SourcePlan, left_out_notes
from metalm_cli.training.planning.teacher_notes import teacher_notes

SAMPLED_SESSIONS = 256
"""Maximum number of sessions that a plan makes."""
TIME_LIMIT_S = 3.0
"""Time limit for making them; at least 8 are made."""


def sample_sessions(
    writer: SessionBuilder, count: int = SAMPLED_SESSIONS, seconds: float = TIME_LIMIT_S
) -> list[TaskSession]:
    """Make the first sessions of the run.

    Raises:
        MetalmError: A row or a template is invalid, or no example of a task fits.
    """
    start = time.monotonic()
    sessions: list[TaskSession] = []
    while len(sessions) < count and (len(sessions) < 8 or time.monotonic() < start + seconds):
        sessions.append(writer.session(len(sessions)))
    return sessions


def session_stats(sessions: list[TaskSession], length: int) -> SampleStats:
    """Statistics of a sample of sessions, with one session as one row."""
    counts: Counter[str] = Counter()
    for sample in sessions:
        counts.update(sample.counts)
        counts["trained_tokens"] += int(sample.tokenised.trained[1:].sum())
        counts["positions"] += len(sample.tokenised)
    num_sessions = len(sessions)
    return SampleStats(num_sessions, num_sessions, counts["source_tokens"], 0, num_sessions, length, dict(counts))


def row_packing_of(recipe: FinetuneRecipe, assembly: Assembly, device: torch.device) -> RowPacking:
    """Choose how sessions become rows: packed if the model allows exact packing.

    On a CPU, they become one row if the model computes the sessions of a row apart and train.micro_batch_size does not
    limit the rows of a pass; otherwise short rows, in which attention costs less. A dual encoder compares all pairs of
    a step, which are one row.
    """
    data = recipe.data
    if isinstance(assembly.model, DualEncoder):
        return RowPacking(True, data.sequence_length, one_row=True)
    packs = assembly.model.traits.packs_rows_of(data.sequence_length)
    return RowPacking(
        packs and data.row_packing != "pad",
        data.sequence_length,
        data.encoder_tokens,
        device.type == "cpu",
        row_format_of(assembly.decoder_tokenizer),
        one_row=recipe.train.micro_batch_size is None and _computes_segments_apart(assembly, data.sequence_length),
    )


def _computes_segments_apart(assembly: Assembly, length: int) -> bool:
    decoder = getattr(assembly.model, "decoder", None)
    return decoder is not None and computes_segments_apart(decoder.config, length)


def make_task_plan(
    recipe: FinetuneRecipe,
    corpus: TaskCorpus,
    selection: TaskSelection,
    assembly: Assembly,
    sessions: list[TaskSession],
    packing: RowPacking,
    *,
    num_processes: int,
    shards: int,
    device: torch.device,
    validation: tuple[int, int],
) -> RunPlan:
    """Plan a finetuning run.

    Args:
        recipe: The recipe.
        corpus: The training tasks.
        selection: The selected tasks, and why the others are not trained on.
        assembly: The model.
        sessions: A sample of sessions.
        packing: How sessions are packed into rows.
        num_processes: Number of processes.
        shards: Processes that the model is sharded over.
        device: Training device.
        validation: Total number of validation examples, and the maximum of a task.
    """
    train, sample_stats = recipe.train, session_stats(sessions, recipe.data.sequence_length)
    steps = train.steps or math.ceil(
        (train.epochs or 1) * sum(task.row_count for task in corpus.tasks) / train.batch_size
    )
    rows = packing.rows(sessions)
    micro_batch_size = train.micro_batch_size or 0
    filled_positions = round(sample_stats.per_row("source_tokens") * train.batch_size)
    batch_shape = BatchShape(
        steps,
        train.steps is None,
        train.batch_size,
        micro_batch_size,
        int(bool(micro_batch_size)),
        num_processes,
        recipe.data.sequence_length,
        filled_positions,
    )
    num_drawn = steps * train.batch_size
    sources = tuple(
        SourcePlan(info, num_drawn * info.share, num_drawn * info.share / (info.rows or 1)) for info in corpus.sources
    )
    parameters = {id(parameter): parameter for parameter in assembly.model.parameters()}.values()
    return RunPlan(
        parts=part_summaries(recipe, assembly, {}),
        total=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        special_tokens=special_tokens_of(assembly),
        objective=_describe_objective(recipe, len(corpus.tasks)),
        sources=sources,
        sample_stats=sample_stats,
        batch_shape=batch_shape,
        validation=ValidationPlan(validation[0], validation[1], recipe.objective.name, ()),
        memory=estimate_memory(recipe, assembly, {}, num_processes, shards),
        precision=train.precision,
        device=str(device),
        notes=(
            *assembly.notes,
            *teacher_notes(recipe, assembly, row_counts(rows), num_processes),
            *warmup_notes(train, steps),
            *_notes(recipe, corpus, selection, sample_stats, packing, sources, validation),
        ),
        unit="example",
        packing="all pairs of a step in one pass"
        if isinstance(recipe.objective, Contrastive)
        else describe_packing(packing, rows, len(sessions)),
    )


def _describe_objective(recipe: FinetuneRecipe, tasks: int) -> str:
    if isinstance(recipe.objective, Contrastive):
        return f"contrastive: images and texts of {counted(tasks, 'task')}, all pairs of a step compared"
    return f"answers of {counted(tasks, 'task')}, the mean over {recipe.train.loss_average}s"


def row_counts(rows: list[Row]) -> Counter[str]:
    """Sums of the counters of rows."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.counts)
    return counts


def describe_packing(packing: RowPacking, rows: list[Row], sessions: int) -> str:
    """Describe the packing of a sample."""
    positions = sum(map(len, rows))
    if packing.pack and packing.one_row:
        return "all examples of a step in one row, each computed apart"
    if packing.pack and packing.shorten_rows:
        return f"{sessions / len(rows):.1f} examples packed, rows as long as one example of the step"
    if packing.pack:
        fill = positions / (len(rows) * packing.length)
        return f"{packing.length:,} positions, {sessions / len(rows):.1f} examples packed, {fill:.1%} filled"
    return "one example, padded to the longest of its pass; passes are sorted by length"


def _notes(
    recipe: FinetuneRecipe,
    corpus: TaskCorpus,
    selection: TaskSelection,
    sample_stats: SampleStats,
    packing: RowPacking,
    sources: tuple[SourcePlan, ...],
    validation: tuple[int, int],
) -> list[str]:
    notes = []
    if selection.held_out:
        notes.append(f"held out: {', '.join(card.name for card in selection.held_out)}")
    reasons = group_by_reason(selection.dropped).items()
    notes += [f"not trained on: {', '.join(names)}: {reason}" for reason, names in reasons]
    notes += _data_notes(corpus)
    notes += _overlap_warnings(corpus)
    notes += left_out_notes(corpus.sources)
    counts, num_examples = sample_stats.counts, sample_stats.documents
    for name, description in (
        ("cut_examples", "had their long field truncated"),
        ("lost_demonstrations", "demonstrations did not fit"),
    ):
        if counts.get(name):
            notes.append(f"{num_examples:,} sampled examples: {counts[name]:,} {description}")
    if recipe.data.row_packing == "pack" and not packing.pack:
        notes.append("this decoder does not allow exact packing: one example per row")
    if not validation[0]:
        notes.append("there is no validation")
    repeated_tasks = [source.info.name for source in sources if (source.epochs or 0) > MANY_EPOCHS]
    if repeated_tasks:
        notes.append(f"each example of {', '.join(repeated_tasks)} is drawn more than {MANY_EPOCHS} times")
    if recipe.train.max_time:
        notes.append(f"training stops with a checkpoint after {recipe.train.max_time}, even before the last step")
    return notes


def _data_notes(corpus: TaskCorpus) -> list[str]:
    """Describe how files without a card are read, and the shares that tasks give up for validation."""
    cards = [task.card for task in corpus.tasks]
    notes = [f"{card.name}: {card.description}" for card in cards if card.is_verbatim]
    names_by_share: dict[float, list[str]] = {}
    for card in cards:
        if card.shares_validation and corpus.options.validation.role == "validation":
            names_by_share.setdefault(card.validation_share, []).append(card.name)
    return notes + [
        f"{', '.join(names)}: {100 * share:.3g}% of the rows, by a hash of the input, are for validation, and are not "
        "trained on"
        for share, names in names_by_share.items()
    ]


def _overlap_warnings(corpus: TaskCorpus) -> list[str]:
    """Warn of cards whose splits to train and to validate on are overlapping slices of the same rows."""
    role, warnings = corpus.options.validation.role, []
    for task in corpus.tasks:
        card, examples = task.card, task.examples
        split = card.split(role, local=examples.split == card.split("train", local=True))
        if not corpus.options.validation.examples or split is None or split.name != examples.split.name:
            continue
        rows, validation = (part.rows(examples.table.rows) for part in (examples.split, split))
        shared = len(range(max(rows.start, validation.start), min(rows.stop, validation.stop)))
        if shared and not (card.shares_validation and role == "validation"):
            warnings.append(
                f"{WARNING}{card.name}: {shared:,} of {len(validation):,} {role} rows are also trained on; set "
                f"`splits` of its card to parts that do not overlap"
            )
    return warnings
