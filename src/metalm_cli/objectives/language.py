"""Language modelling objectives: semi-causal (equation 1 of the paper), causal, and with a docked prefix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.objectives import CausalLM, MaskedLM, PrefixLM, ReplacedTokenDetection, SemiCausal
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.row_slots import SpanDrawer
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import check_every_encoder_is_used, check_trained_parts_are_used
from metalm_cli.objectives.base import StepModule, Term
from metalm_cli.objectives.decoder_objective import DecoderObjective
from metalm_cli.objectives.distillation import Teacher
from metalm_cli.objectives.longest_rows import docked_row, random_pair, with_texts
from metalm_cli.sessions import Batch, DockTable, Processor, Row, TextProcessor, row_format_of
from metalm_cli.sessions.batch import dock_table

MIN_SAMPLED_DOCUMENTS = 32
"""Documents of a sample from which on rows without docks count as typical of the run."""


def semi_causal_spans(
    tokens: int, rng: np.random.Generator, *, low: int, high: int, fraction: float
) -> list[tuple[int, int]]:
    """Draw random spans of a document with an expected share of its tokens (section 3.1 of the paper).

    Lengths are uniform in ``low..high`` and drawn until their sum would exceed ``fraction * tokens``; the last length
    is used with probability remaining / length if it fits, which makes the expected share exact. Gaps are uniform, with
    at least one token between two spans.

    Returns:
        ``(first, last)`` pairs in order, ``last`` excluded; empty for fewer than ``low + 2`` tokens.
    """
    if tokens < low + 2:
        return []
    lengths: list[int] = []
    remaining = fraction * tokens
    while True:
        length = int(rng.integers(low, high + 1))
        fits = sum(lengths) + length + len(lengths) < tokens
        if length > remaining:
            if fits and rng.random() < remaining / length:
                lengths.append(length)
            break
        if not fits:
            break
        lengths.append(length)
        remaining -= length
    count = len(lengths)
    free = tokens - sum(lengths) - max(0, count - 1)
    bars = np.sort(rng.choice(free + count, size=count, replace=False)) - np.arange(count)
    spans, used = [], 0
    for index, length in enumerate(lengths):
        first = int(bars[index]) + used + index
        spans.append((first, first + length))
        used += length
    return spans


def prefix_span(tokens: int, rng: np.random.Generator, *, low: int, high: int) -> list[tuple[int, int]]:
    """Draw a prefix of uniform length; empty for fewer than ``low + 2`` tokens."""
    if tokens < low + 2:
        return []
    return [(0, int(rng.integers(low, min(high, tokens - 1) + 1)))]


def causal_spans(_tokens: int, _rng: np.random.Generator) -> list[tuple[int, int]]:
    return []


def longest_span(objective: SemiCausal | CausalLM | PrefixLM) -> int:
    """Tokens of the longest span that an objective draws; 0 if it draws none."""
    if isinstance(objective, SemiCausal):
        return objective.span_length[1]
    return objective.prefix_length[1] if isinstance(objective, PrefixLM) else 0


def span_drawer_of(objective: SemiCausal | CausalLM | PrefixLM) -> SpanDrawer:
    """Function with which an objective draws spans."""
    if isinstance(objective, SemiCausal):
        low, high = objective.span_length
        return partial(semi_causal_spans, low=low, high=high, fraction=objective.span_fraction)
    if isinstance(objective, PrefixLM):
        low, high = objective.prefix_length
        return partial(prefix_span, low=low, high=high)
    return causal_spans


class LanguageObjective(DecoderObjective):
    """Semi-causal, causal or prefix language modelling.

    Args:
        options: The recipe's ``objective``.
        assembly: The model.

    Raises:
        MetalmError: There are several text encoders, and none of them is named ``text``; or the objective docks spans,
            and the model has encoders of images only.
    """

    def __init__(self, options: SemiCausal | CausalLM | PrefixLM, assembly: Assembly) -> None:
        self.options = options
        self.assembly = assembly
        self.processor = _text_processor(assembly.processors)
        if self.processor is None and assembly.processors and self.longest_span() > 0:
            raise MetalmError(
                f"objective {options.name} needs a text encoder",
                where="objective.name",
                why=f"it docks spans of documents, which hold no images; the encoders of the model: "
                f"{', '.join(assembly.processors)}",
                remedy="add a text encoder (model.encoders.text), use a model without encoders of images, or finetune "
                "on tasks with images",
            )

    def writer(self, data: DataConfig, seed: int) -> SessionWriter:
        return self._writer(self.options, data, seed)

    def span_drawer(self, options: SemiCausal | CausalLM | PrefixLM) -> SpanDrawer:
        """Return the function that draws the docked spans of a document.

        Args:
            options: The recipe's ``objective``, or the ``data.validation.objective`` that the validation loss uses.
        """
        return span_drawer_of(options)

    def longest_span(self) -> int:
        """Return the tokens of the longest docked span; 0 if no span is docked."""
        return longest_span(self.options)

    def _writer(self, options: SemiCausal | CausalLM | PrefixLM, data: DataConfig, seed: int) -> SessionWriter:
        return SessionWriter(
            self.assembly.decoder_tokenizer,
            self.processor,
            self.span_drawer(options),
            data.sequence_length,
            isolate=data.isolate_documents,
            packs=self.assembly.model.traits.packs_rows_of(data.sequence_length),
            seed=seed,
            row_format=self.row_format,
        )

    def validation_rows(self, data: DataConfig, texts: Iterable[str]) -> list[Row]:
        """Make rows of one session each, the same windows and spans for every model with this decoder's tokenizer."""
        options = data.validation.objective or self.options
        assert not isinstance(options, MaskedLM | ReplacedTokenDetection), "the schema rejects encoder objectives here"
        writer = self._writer(options, data, 0)
        build = self.row_format.row
        return [build([session], counts=counts) for session, counts in writer.validation_windows(texts)]

    def metrics(self, sums: dict[str, float], counts: dict[str, int], _outputs: list[Any]) -> dict[str, float]:
        """Mean loss over trained tokens in nats, bits per byte of their text, and the divergence from a teacher."""
        values = {"loss": sums["loss"] / max(1, counts["loss"])}
        if counts.get("trained_bytes"):
            values["bits_per_byte"] = sums["loss"] / math.log(2) / counts["trained_bytes"]
        return values | self.teacher_metrics(sums, counts)

    def step_module(self) -> LanguageModelStep:
        return LanguageModelStep(self.assembly.model, self.assembly.processors, self.teacher)

    def longest_rows(self, data: DataConfig, count: int) -> list[Row]:
        """Make rows with as many docks of the longest spans as fit."""
        rng = np.random.default_rng(0)
        tokenizer = self.assembly.decoder_tokenizer
        longest = 0 if self.processor is None else self.longest_span()
        is_packed = data.isolate_documents and self.assembly.model.traits.packs_rows_of(data.sequence_length)
        vocabulary = len(tokenizer.tokenizer)
        if tokenizer.reads_pairs:
            build = row_format_of(tokenizer).row
            return [
                build([random_pair(data.sequence_length, self.longest_span(), vocabulary, rng)]) for _ in range(count)
            ]
        rows = [
            docked_row(data.sequence_length, is_packed, longest, self.processor, vocabulary, rng) for _ in range(count)
        ]
        if self.teacher is None:
            return rows
        taught = self.teacher.rows
        return [taught.counted(with_texts(row, longest, taught.max_length, vocabulary, rng)) for row in rows]

    def check_sample(self, counts: Mapping[str, int]) -> None:
        """Reject rows that use no part that trains, and spans that are all longer than their encoder's input limit."""
        processor = self.processor
        docks = processor is not None and self.longest_span() > 0
        if docks and not counts.get("docked_spans") and counts.get("too_long_spans"):
            self._reject_too_long_spans()
        is_sample_small = counts.get("documents", 0) < MIN_SAMPLED_DOCUMENTS
        docks = docks and (bool(counts.get("docked_spans")) or is_sample_small)
        docked = [processor.encoder] if docks and processor is not None else []
        check_trained_parts_are_used(self.assembly.parts(), docked)
        check_every_encoder_is_used(self.assembly.parts(), docked)
        if self.teacher is not None:
            self.teacher.check_sample(counts.get("distilled_tokens", 0), counts.get("untaught_sessions", 0))

    def _reject_too_long_spans(self) -> NoReturn:
        processor, options = self.processor, self.options
        assert isinstance(processor, TextProcessor), "spans are docked into a text encoder"
        lengths = (f"{key}: {value}" for key, value in options.model_dump().items() if key.endswith("_length"))
        raise MetalmError(
            "every sampled span is longer than the input limit of its encoder",
            where=f"objective.{next(lengths, 'name')}",
            why=f"encoder {processor.encoder} reads {processor.max_length} tokens, special tokens included",
            remedy=f"set shorter spans, or raise model.encoders.{processor.encoder}.max_length if possible",
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.counts["trained_tokens"]} | self.teacher_counts(batch)


def _text_processor(processors: dict[str, Processor]) -> Processor | None:
    text_processors = {
        name: processor for name, processor in processors.items() if isinstance(processor, TextProcessor)
    }
    if len(text_processors) > 1 and "text" not in text_processors:
        raise MetalmError(
            f"several text encoders: {', '.join(text_processors)}",
            where="model.encoders",
            remedy="name the encoder of the documents' spans text",
        )
    return text_processors.get("text") or next(iter(text_processors.values()), None)


class LanguageModelStep(StepModule):
    """Root module of language-model training; its forward pass computes the whole loss.

    Args:
        model: The model.
        processors: Processors of the encoders, for dummy inputs.
        teacher: Teacher that reads the docks of batches that have one.
    """

    gives_target_losses = True

    def __init__(self, model: MetaLM, processors: dict[str, Processor], teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model = model
        self.processors = processors
        self.teacher = teacher

    def forward(self, batch: Batch) -> dict[str, Term]:
        total, target_losses, terms = self.losses(batch)
        return {"loss": Term(total, outputs=(target_losses,) if batch.keep_target_losses else None), **terms}

    def losses(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Term]]:
        """Compute :meth:`MetaLM.losses` and the terms of the teacher, which are none without one.

        With ``touch_unused``, unused encoders run on dummy inputs.
        """
        if not self.touch_unused:
            return self._losses(batch, weights)
        device = batch.decoder.input_ids.device
        unused = [name for name in self.model.encoders if name not in batch.docks]
        dummies = {name: dummy_dock(self.processors[name], device) for name in unused}
        docks = {name: batch.docks[name] if name in batch.docks else dummies[name] for name in self.model.encoders}
        with _without_dropout([self.model.encoders[name] for name in unused]):
            return self._losses(replace(batch, docks=docks), weights)

    def _losses(self, batch: Batch, weights: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Term]]:
        if self.teacher is None or batch.teacher is None:
            return *self.model.losses(batch, weights), {}
        adapted = self.teacher.adapted
        total, target_losses, kl = self.model.distilled_losses(batch, weights, adapted_teacher=adapted)
        return total, target_losses, self.teacher.term(kl)


@contextmanager
def _without_dropout(modules: list[Any]) -> Iterator[None]:
    """Disable dropout, so that dummy inputs consume no random numbers."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    yield
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)


def dummy_dock(processor: Processor, device: torch.device) -> DockTable:
    """Make a dock table of a processor's smallest input without any position, so that its gradients are zero."""
    table = dock_table([(0, processor.dummy())], processor)
    return replace(table, positions=table.positions[:0], content_index=table.content_index[:0]).to(device)
