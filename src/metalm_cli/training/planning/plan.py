"""Plan of a pretraining run: trained parts, data, batches and memory. Making a plan changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metalm_cli.common.table import counted
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.config.schema.training import TrainingConfig
from metalm_cli.data.documents.corpus import Corpus, SourceInfo
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.trainable import PartSummary, TrainPolicy, summarise_parts
from metalm_cli.objectives import DocumentObjective
from metalm_cli.training.planning.memory import MemoryEstimate, estimate_memory, rows_per_micro_batch
from metalm_cli.training.planning.plan_display import plan_text
from metalm_cli.training.planning.sample_stats import (
    TIME_LIMIT_S,
    SampleStats,
    SourcePlan,
    compute_sample_stats,
    left_out_notes,
    source_plans,
    steps_from_epochs,
)
from metalm_cli.training.planning.teacher_notes import teacher_notes

__all__ = ["MemoryEstimate", "RunPlan", "SampleStats", "SourcePlan", "make_plan", "plan_text", "steps_from_epochs"]


@dataclass(frozen=True)
class SpecialTokens:
    """Rules for start, document and delimiter tokens, with the tokens of this vocabulary."""

    start: str
    start_token: str
    document: str
    document_token: str
    paragraph: str
    target_delimiter: str
    vocabulary: int


@dataclass(frozen=True)
class ValidationPlan:
    """Validation data of a run.

    Args:
        documents: Validation documents; the recipe's maximum if they have not been read yet.
        windows: Rows that they are split into; None if they have not been read yet.
        objective: Description of the objective that divides them into spans.
        sources: Names of separate validation sources; empty: documents held out of the training sources.
    """

    documents: int
    windows: int | None
    objective: str
    sources: tuple[str, ...]


MANY_EPOCHS = 20
"""Epochs of a source above which the plan has a note."""


@dataclass(frozen=True)
class BatchShape:
    """Division of a step into processes, micro-batches and rows.

    Args:
        steps: Total optimiser steps.
        steps_are_estimated: The steps come from ``train.epochs`` and a sample.
        batch_size: Rows of a step.
        micro_batch_size: Maximum rows of a forward pass in one process.
        micro_batches: Forward passes of a process in a step.
        processes: Number of processes.
        length: Positions of a row.
        filled_positions: Positions of a step, if they are not rows times length.
    """

    steps: int
    steps_are_estimated: bool
    batch_size: int
    micro_batch_size: int
    micro_batches: int
    processes: int
    length: int
    filled_positions: int | None = None

    @property
    def positions(self) -> int:
        """Positions of a step."""
        return self.batch_size * self.length if self.filled_positions is None else self.filled_positions


@dataclass(frozen=True)
class RunPlan:
    """Plan of a run before it starts.

    Args:
        parts: Parts of the model.
        total: Number of parameters, tied and shared ones counted once.
        trained: Number of trained parameters.
        special_tokens: Token rules; None for a model that continues no texts.
        objective: Description of the objective.
        sources: Training sources.
        sample_stats: Statistics of a sample of rows.
        batch_shape: Steps and batches.
        validation: Validation data.
        memory: Memory of one process.
        precision: ``fp32`` or ``bf16``.
        device: Training device.
        notes: Notes for the user.
        unit: Unit of the index plan: ``document`` or ``example``.
        packing: Description of how examples are packed into rows; empty for documents, which fill rows.
    """

    parts: tuple[PartSummary, ...]
    total: int
    trained: int
    special_tokens: SpecialTokens | None
    objective: str
    sources: tuple[SourcePlan, ...]
    sample_stats: SampleStats
    batch_shape: BatchShape
    validation: ValidationPlan
    memory: MemoryEstimate
    precision: str
    device: str
    notes: tuple[str, ...]
    unit: str = "document"
    packing: str = ""

    @property
    def steps(self) -> int:
        return self.batch_shape.steps

    def per_step(self, counter: str) -> float:
        """Mean of a row counter per step."""
        return self.sample_stats.per_row(counter) * self.batch_shape.batch_size


def make_plan(
    recipe: PretrainRecipe,
    corpus: Corpus,
    assembly: Assembly,
    objective: DocumentObjective,
    *,
    num_processes: int,
    steps: int | None,
    root: nn.Module | None = None,
    device: torch.device | str | None = None,
    validation: tuple[int, int] | None = None,
    shards: int = 1,
) -> RunPlan:
    """Plan a pretraining run.

    Args:
        recipe: The recipe.
        corpus: The documents.
        assembly: The model.
        objective: The objective.
        num_processes: Number of processes.
        steps: Optimiser steps; None: ``train.steps``, or from ``train.epochs`` by :func:`steps_from_epochs`.
        root: The step module, if it has been made.
        device: Training device; default: the device of a run with one process.
        validation: Numbers of validation documents and windows, if they have been read.
        shards: Processes that the model is sharded over.

    Raises:
        MetalmError: A source cannot be read, or epochs are set for a stream.
    """
    # Steps from epochs must not depend on the speed of this process: other and later processes compute the same number.
    limit = TIME_LIMIT_S if steps or recipe.train.steps else math.inf
    sample_stats = compute_sample_stats(corpus, objective.writer(recipe.data, recipe.train.seed), seconds=limit)
    batch_shape = _batch_shape(recipe, corpus, sample_stats, num_processes, steps)
    extra_parts = objective.extra_parts(root)
    sources = source_plans(corpus.sources, sample_stats, batch_shape.steps * batch_shape.positions)
    modules: list[nn.Module] = [assembly.model, *extra_parts.values()]
    parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}.values()
    return RunPlan(
        parts=part_summaries(recipe, assembly, extra_parts),
        total=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        special_tokens=special_tokens_of(assembly),
        objective=describe_options(recipe.objective),
        sources=sources,
        sample_stats=sample_stats,
        batch_shape=batch_shape,
        validation=_validation_plan(recipe, corpus.validation_sources, validation),
        memory=estimate_memory(recipe, assembly, extra_parts, num_processes, shards),
        precision=recipe.train.precision,
        device=str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu",
        notes=(
            *assembly.notes,
            *teacher_notes(recipe, assembly, sample_stats.counts, num_processes),
            *warmup_notes(recipe.train, batch_shape.steps),
            *_notes(recipe, sources, sample_stats, batch_shape, validation),
        ),
    )


def warmup_notes(train: TrainingConfig, steps: int) -> list[str]:
    """Note a warm-up that does not fit the steps of ``train.epochs``, which are known only with the data."""
    if train.steps is not None or train.warmup_steps <= steps:
        return []
    return [
        f"train.warmup_steps is {train.warmup_of(steps)} instead of {train.warmup_steps}: train.epochs gives "
        f"{counted(steps, 'step')}"
    ]


def _batch_shape(
    recipe: PretrainRecipe, corpus: Corpus, sample_stats: SampleStats, num_processes: int, steps: int | None
) -> BatchShape:
    train = recipe.train
    total_steps = steps or train.steps
    if total_steps is None:
        assert train.epochs is not None, "the rules require steps or epochs"
        total_steps = steps_from_epochs(train.epochs, corpus, sample_stats, train.batch_size)
    rows_per_process, micro_batch_size = (
        -(-train.batch_size // num_processes),
        rows_per_micro_batch(recipe, num_processes),
    )
    estimated = train.steps is None and train.epochs is not None
    return BatchShape(
        total_steps,
        estimated,
        train.batch_size,
        micro_batch_size,
        -(-rows_per_process // micro_batch_size),
        num_processes,
        recipe.data.sequence_length,
    )


def part_summaries(recipe: Any, assembly: Assembly, extra_parts: Mapping[str, nn.Module]) -> tuple[PartSummary, ...]:
    parts = {**assembly.parts(), **extra_parts}
    policy = {**assembly.policy, **{name: TrainPolicy() for name in extra_parts}}
    return tuple(summarise_parts(parts, policy, recipe.train.learning_rate))


def special_tokens_of(assembly: Assembly) -> SpecialTokens | None:
    if assembly.tokenizer is None or not assembly.family.generates:
        return None
    tokenizer = assembly.tokenizer
    start, document = tokenizer.tokenizer.convert_ids_to_tokens([tokenizer.start_id, tokenizer.document_end_id])
    rules = tokenizer.rules
    start_rule = "before each target, in the decoder" if tokenizer.reads_pairs else rules.start
    return SpecialTokens(
        start_rule, start, rules.document, document, rules.paragraph, rules.target_delimiter, len(tokenizer.tokenizer)
    )


def describe_options(options: Any) -> str:
    """Describe an objective with its options on one line."""
    settings = _describe_settings(options.model_dump())
    return f"{options.name} ({', '.join(settings)})" if settings else str(options.name)


def _describe_settings(fields: Mapping[str, Any]) -> list[str]:
    settings = []
    for key, value in fields.items():
        if isinstance(value, dict):
            title = " ".join(filter(None, [key, value.get("name")]))
            settings.append(f"{title}: {', '.join(_describe_settings(value))}")
        elif key != "name":
            text = "-".join(map(str, value)) if isinstance(value, list) else value
            settings.append(f"{key} {repr(text) if key == 'mark' else text}")
    return settings


def _validation_plan(
    recipe: PretrainRecipe, sources: list[SourceInfo], documents_and_windows: tuple[int, int] | None
) -> ValidationPlan:
    options = recipe.data.validation
    max_documents = options.documents * len(sources or recipe.data.sources)
    documents, windows = documents_and_windows if documents_and_windows is not None else (max_documents, None)
    name = describe_options(options.objective or recipe.objective)
    return ValidationPlan(documents, windows, name, tuple(info.name for info in sources))


def _notes(
    recipe: PretrainRecipe,
    sources: tuple[SourcePlan, ...],
    sample_stats: SampleStats,
    batch_shape: BatchShape,
    validation: tuple[int, int] | None,
) -> list[str]:
    notes = []
    options = recipe.data.validation
    if options.documents and validation is not None and not validation[1]:
        reason = "its sources contain no document that can be scored"
        if options.sources is None:
            hold_out = f"data.validation.hold_out_every ({options.hold_out_every})"
            reason = f"no text that can be scored has a hash of 0 modulo {hold_out}; lower this value"
        notes.append(f"there is no validation: {reason}")
    notes += left_out_notes([source.info for source in sources])
    streams = [source.info.name for source in sources if source.info.streamed]
    if streams and len(sources) > 1:
        notes.append(f"weights are shares of the drawn documents, independent of the size of {', '.join(streams)}")
    causal_spans = {name: sample_stats.counts.get(f"{name}_spans", 0) for name in ("cut", "empty", "too_long")}
    docked_spans = sample_stats.counts.get("docked_spans", 0)
    for name, description in (
        ("cut", "cut at the end of a row"),
        ("empty", "empty for the encoder"),
        ("too_long", "longer than the encoder's input limit"),
    ):
        if causal_spans[name]:
            share = causal_spans[name] / (docked_spans + sum(causal_spans.values()))
            is_too_long = name == "too_long"
            remedy = "; raise model.encoders.NAME.max_length, or set shorter spans" if is_too_long else ""
            warning = "warning: " if is_too_long else ""
            notes.append(f"{warning}{share:.0%} of the sampled spans are {description}, and stay causal{remedy}")
    if batch_shape.batch_size % batch_shape.processes:
        notes.append(f"{batch_shape.batch_size} rows do not divide among {batch_shape.processes} processes")
    if recipe.train.max_time:
        notes.append(f"training stops with a checkpoint after {recipe.train.max_time}, even before the last step")
    documents = validation[0] if validation is not None else 0
    if 0 < documents < recipe.data.validation.documents // 10:
        notes.append(f"validation has only {documents} of the requested documents, so its loss is imprecise")
    for source in sources:
        if source.epochs is not None and source.epochs > MANY_EPOCHS:
            notes.append(f"each document of {source.info.name} is read about {source.epochs:.0f} times")
    return notes
