"""The plan of a run: what trains, on what, in which portions, with how much memory. Making it changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metalm_cli.config.cross_key_rules import warmup_problem
from metalm_cli.config.schema.objectives import ReplacedTokens
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.data.documents.corpus import Corpus, SourceInfo
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.encoder_pretraining import make_generator
from metalm_cli.models.trainable import PartSummary, TrainPolicy, summaries
from metalm_cli.objectives import DocumentObjective
from metalm_cli.training.planning.memory import MemoryEstimate, estimate_memory, rows_per_micro_batch
from metalm_cli.training.planning.plan_display import plan_text
from metalm_cli.training.planning.sample_stats import (
    SECONDS,
    SampleStats,
    SourcePlan,
    sample_figures,
    source_plans,
    steps_from_epochs,
)

__all__ = ["MemoryEstimate", "RunPlan", "SampleStats", "SourcePlan", "make_plan", "plan_text", "steps_from_epochs"]


@dataclass(frozen=True)
class SpecialTokens:
    """Which tokens mark starts and ends, and what they are in this vocabulary."""

    start: str
    start_token: str
    document: str
    document_token: str
    paragraph: str
    target_delimiter: str
    vocabulary: int


@dataclass(frozen=True)
class ValidationPlan:
    """What is validated on.

    Args:
        documents: Validation documents; what the recipe asks for at most, where they are not read yet.
        windows: Rows that they are cut into; None where they are not read yet.
        objective: How they are divided.
        sources: Names of sources of their own; empty: held out of training.
    """

    documents: int
    windows: int | None
    objective: str
    sources: tuple[str, ...]


MANY_EPOCHS = 20
"""A source that is read more often than this is worth a note."""


@dataclass(frozen=True)
class BatchShape:
    """How a step is cut.

    Args:
        steps: Optimiser steps in all.
        estimated: The steps come from ``train.epochs`` and a sample.
        batch_size: Rows of a step.
        micro_batch_size: Rows of a forward pass in one process, at most.
        micro_batches: Forward passes of a process in a step.
        processes: Processes.
        length: Positions of a row.
        filled: Positions of a step, where they are not rows times length.
    """

    steps: int
    estimated: bool
    batch_size: int
    micro_batch_size: int
    micro_batches: int
    processes: int
    length: int
    filled: int | None = None

    @property
    def positions(self) -> int:
        """Positions of a step."""
        return self.batch_size * self.length if self.filled is None else self.filled


@dataclass(frozen=True)
class RunPlan:
    """All that is known of a run before it begins.

    Args:
        parts: What the model is made of.
        total: Parameters, tied and shared ones once.
        trained: Those that train.
        tokens: Token rules; None for an encoder alone.
        objective: Its name.
        sources: What is read.
        figures: What a sample of rows shows.
        portions: Steps and batches.
        validated: What is validated on.
        memory: Of one process.
        precision: ``fp32`` or ``bf16``.
        device: Where it trains.
        notes: What a user should know.
        unit: What a number of the index plan stands for: a document, or an example.
        layout: How examples become rows; documents fill them.
    """

    parts: tuple[PartSummary, ...]
    total: int
    trained: int
    tokens: SpecialTokens | None
    objective: str
    sources: tuple[SourcePlan, ...]
    figures: SampleStats
    portions: BatchShape
    validated: ValidationPlan
    memory: MemoryEstimate
    precision: str
    device: str
    notes: tuple[str, ...]
    unit: str = "document"
    layout: str = ""

    @property
    def steps(self) -> int:
        return self.portions.steps

    def a_step(self, counter: str) -> float:
        """Mean of a counter of rows over the steps."""
        return self.figures.per_row(counter) * self.portions.batch_size


def make_plan(
    recipe: PretrainRecipe,
    corpus: Corpus,
    assembly: Assembly,
    objective: DocumentObjective,
    *,
    world: int,
    steps: int | None,
    root: nn.Module | None = None,
    device: torch.device | str | None = None,
    validation: tuple[int, int] | None = None,
    shards: int = 1,
) -> RunPlan:
    """Plan a run.

    Args:
        recipe: The recipe.
        corpus: Its documents.
        assembly: Its model.
        objective: Made for them.
        world: Processes.
        steps: Optimiser steps; None: ``train.steps``, or from ``train.epochs`` by :func:`steps_from_epochs`.
        root: The step module, if it has been made.
        device: Where the run will train; default: the device that a run of one process would take.
        validation: Validation documents and windows, if they have been read.
        shards: Processes that the model is sharded over.

    Raises:
        MetalmError: A source cannot be read; epochs are asked for of a stream, or are over before the warm-up is.
    """
    # Steps that come from epochs must not depend on how fast this process reads: others, and later ones, do the same.
    limit = SECONDS if steps or recipe.train.steps else math.inf
    figures = sample_figures(corpus, objective.writer(recipe.data, recipe.train.seed), seconds=limit)
    portions = _portions(recipe, corpus, figures, world, steps)
    generator = _generator(recipe, assembly, root)
    sources = source_plans(corpus.sources, figures, portions.steps * portions.positions)
    modules: list[nn.Module] = [assembly.model, *([generator] if generator is not None else [])]
    parameters = {id(one): one for module in modules for one in module.parameters()}.values()
    return RunPlan(
        parts=part_summaries(recipe, assembly, generator),
        total=sum(one.numel() for one in parameters),
        trained=sum(one.numel() for one in parameters if one.requires_grad),
        tokens=token_plan(assembly),
        objective=describe_options(recipe.objective),
        sources=sources,
        figures=figures,
        portions=portions,
        validated=_validated(recipe, corpus.validation_sources, validation),
        memory=estimate_memory(recipe, assembly, generator, world, shards),
        precision=recipe.train.precision,
        device=str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu",
        notes=(*assembly.notes, *_notes(recipe, sources, figures, portions, validation)),
    )


def _check_warmup(recipe: PretrainRecipe, steps: int) -> None:
    problem = warmup_problem(recipe.train, steps, "the steps of train.epochs,")
    if problem is not None:
        raise MetalmError(
            "the warm-up is longer than the run", where=problem.key, why=problem.message, remedy=problem.remedy
        )


def _portions(
    recipe: PretrainRecipe, corpus: Corpus, figures: SampleStats, world: int, steps: int | None
) -> BatchShape:
    train = recipe.train
    given = steps or train.steps
    if given is None:
        assert train.epochs is not None, "the rules require steps or epochs"
        given = steps_from_epochs(train.epochs, corpus, figures, train.batch_size)
        _check_warmup(recipe, given)
    own, micro = -(-train.batch_size // world), rows_per_micro_batch(recipe, world)
    estimated = train.steps is None and train.epochs is not None
    return BatchShape(given, estimated, train.batch_size, micro, -(-own // micro), world, recipe.data.sequence_length)


def _generator(recipe: PretrainRecipe, assembly: Assembly, root: nn.Module | None) -> Any:
    """The generator of replaced token detection: the run's, or one of the same shape."""
    if not isinstance(recipe.objective, ReplacedTokens):
        return None
    found = getattr(root, "generator", None)
    if found is None:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            found = make_generator(assembly.model, recipe.objective.generator_size)
    return found


def part_summaries(recipe: Any, assembly: Assembly, generator: Any) -> tuple[PartSummary, ...]:
    parts, policy = assembly.parts(), dict(assembly.policy)
    if generator is not None:
        parts["generator"], policy["generator"] = generator, TrainPolicy()
    return tuple(summaries(parts, policy, recipe.train.learning_rate))


def token_plan(assembly: Assembly) -> SpecialTokens | None:
    if assembly.tokenizer is None:
        return None
    reader = assembly.tokenizer
    start, document = reader.tokenizer.convert_ids_to_tokens([reader.start_id, reader.document_id])
    rules = reader.rules
    return SpecialTokens(
        rules.start, start, rules.document, document, rules.paragraph, rules.target_delimiter, len(reader.tokenizer)
    )


def describe_options(options: Any) -> str:
    """An objective with its options, on one line."""
    fields = options.model_dump(exclude={"name"})
    said = [f"{key} {'-'.join(map(str, value)) if isinstance(value, list) else value}" for key, value in fields.items()]
    return f"{options.name} ({', '.join(said)})" if said else str(options.name)


def _validated(recipe: PretrainRecipe, sources: list[SourceInfo], read: tuple[int, int] | None) -> ValidationPlan:
    options = recipe.data.validation
    most = options.documents * len(sources or recipe.data.sources)
    documents, windows = read if read is not None else (most, None)
    name = describe_options(options.objective or recipe.objective)
    return ValidationPlan(documents, windows, name, tuple(info.name for info in sources))


def _notes(
    recipe: PretrainRecipe,
    sources: tuple[SourcePlan, ...],
    figures: SampleStats,
    portions: BatchShape,
    validation: tuple[int, int] | None,
) -> list[str]:
    notes = []
    options = recipe.data.validation
    if options.documents and validation is not None and not validation[1]:
        none = "its sources give no document that can be scored"
        if options.sources is None:
            every = f"data.validation.hold_out_every ({options.hold_out_every})"
            none = f"no text that can be scored has a hash of 0 modulo {every}; lower it"
        notes.append(f"nothing is validated: {none}")
    streams = [one.info.name for one in sources if one.info.streamed]
    if streams and len(sources) > 1:
        notes.append(f"weights are shares of the documents drawn, whatever the size of {', '.join(streams)}")
    refused = {name: figures.counts.get(f"{name}_spans", 0) for name in ("cut", "empty", "too_long")}
    docked = figures.counts.get("docked_spans", 0)
    for name, what in (
        ("cut", "cut by a row's end"),
        ("empty", "read as empty by the encoder"),
        ("too_long", "longer than the encoder reads"),
    ):
        if refused[name]:
            share = refused[name] / (docked + sum(refused.values()))
            notes.append(f"{share:.0%} of the sampled spans are {what}, and stay causal")
    if portions.batch_size % portions.processes:
        notes.append(f"{portions.batch_size} rows do not divide among {portions.processes} processes")
    if recipe.train.max_time:
        notes.append(f"stops after {recipe.train.max_time}, with a checkpoint, if the steps are not done by then")
    documents = validation[0] if validation is not None else 0
    if 0 < documents < recipe.data.validation.documents // 10:
        notes.append(f"validation holds {documents} of the documents asked for: its loss says little")
    for one in sources:
        if one.epochs is not None and one.epochs > MANY_EPOCHS:
            notes.append(f"each document of {one.info.name} is read about {one.epochs:.0f} times")
    return notes
