"""Language modelling of a decoder: semi-causal (equation 1 of the paper), causal, and with a docked prefix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalm_cli.config.schema.data import Data
from metalm_cli.config.schema.objectives import CausalLM, MaskedLM, PrefixLM, ReplacedTokens, SemiCausal
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.lanes import Draw
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.metalm import MetaLM
from metalm_cli.objectives.base import Term
from metalm_cli.sessions import DECODER, Batch, DockTable, Processor, Row, TextProcessor, build_row, collate


def semi_causal_spans(
    tokens: int, rng: np.random.Generator, *, low: int, high: int, fraction: float
) -> list[tuple[int, int]]:
    """Random spans of a document, with an expected share of its tokens (section 3.1 of the paper).

    Lengths are uniform in ``low..high`` and drawn until their sum would pass ``fraction * tokens``; the last one is
    kept with probability remaining / length if it fits, which makes the expected share exact. Gaps are uniform, with
    at least one token between two spans.

    Returns:
        ``(first, last)`` pairs in order, ``last`` excluded; none for fewer than ``low + 2`` tokens.
    """
    if tokens < low + 2:
        return []
    lengths: list[int] = []
    left = fraction * tokens
    while True:
        length = int(rng.integers(low, high + 1))
        fits = sum(lengths) + length + len(lengths) < tokens
        if length > left:
            if fits and rng.random() < left / length:
                lengths.append(length)
            break
        if not fits:
            break
        lengths.append(length)
        left -= length
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
    """A prefix of uniform length; none for fewer than ``low + 2`` tokens."""
    if tokens < low + 2:
        return []
    return [(0, int(rng.integers(low, min(high, tokens - 1) + 1)))]


def causal_spans(_tokens: int, _rng: np.random.Generator) -> list[tuple[int, int]]:
    return []


def span_drawer_of(objective: SemiCausal | CausalLM | PrefixLM) -> Draw:
    """How an objective draws spans."""
    if isinstance(objective, SemiCausal):
        low, high = objective.span_length
        return partial(semi_causal_spans, low=low, high=high, fraction=objective.span_fraction)
    if isinstance(objective, PrefixLM):
        low, high = objective.prefix_length
        return partial(prefix_span, low=low, high=high)
    return causal_spans


class LanguageObjective:
    """Semi-causal, causal or prefix language modelling.

    Args:
        options: The recipe's ``objective``.
        assembly: The model.

    Raises:
        MetalmError: There is more than one text encoder, and none is named ``text``.
    """

    stream = DECODER

    def __init__(self, options: SemiCausal | CausalLM | PrefixLM, assembly: Assembly) -> None:
        self.options = options
        self.assembly = assembly
        self.processor = _text_processor(assembly.processors)

    def writer(self, data: Data, seed: int) -> SessionWriter:
        return self._writer(self.options, data, seed)

    def _writer(self, options: SemiCausal | CausalLM | PrefixLM, data: Data, seed: int) -> SessionWriter:
        return SessionWriter(
            self.assembly.decoder_tokenizer,
            self.processor,
            span_drawer_of(options),
            data.sequence_length,
            isolate=data.isolate_documents,
            packs=self.assembly.model.traits.packs,
            seed=seed,
        )

    def validation_rows(self, data: Data, texts: Iterable[str]) -> list[Row]:
        """One session a row, cut and divided alike for every model with this decoder's tokenizer."""
        options = data.validation.objective or self.options
        assert not isinstance(options, MaskedLM | ReplacedTokens), "the schema refuses encoder objectives here"
        writer = self._writer(options, data, 0)
        return [build_row([session], counts=counts) for session, counts in writer.validation_windows(texts)]

    def collate(self, rows: list[Row], length: int | None = None) -> Batch:
        tokenizer = self.assembly.decoder_tokenizer
        return collate(rows, self.assembly.processors, length=length, pad_id=tokenizer.pad_id)

    def metrics(self, sums: dict[str, float], counts: dict[str, int], _outputs: list[Any]) -> dict[str, float]:
        """Mean loss over trained tokens in nats, and bits per byte of the text that they stand for."""
        found = {"loss": sums["loss"] / max(1, counts["loss"])}
        if counts.get("trained_bytes"):
            found["bits_per_byte"] = sums["loss"] / math.log(2) / counts["trained_bytes"]
        return found

    def step(self) -> LanguageModelStep:
        return LanguageModelStep(self.assembly.model, self.assembly.processors)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.counts["trained_tokens"]}


def _text_processor(processors: dict[str, Processor]) -> Processor | None:
    texts = {name: one for name, one in processors.items() if isinstance(one, TextProcessor)}
    if len(texts) > 1 and "text" not in texts:
        raise MetalmError(
            f"several text encoders: {', '.join(texts)}",
            where="model.encoders",
            remedy="name the one that documents' spans are docked into text",
        )
    return texts.get("text") or next(iter(texts.values()), None)


class LanguageModelStep(nn.Module):
    """The root module of language-model training: all of the loss is computed inside its forward pass.

    Args:
        model: The model.
        processors: The encoders', for dummies.
    """

    def __init__(self, model: MetaLM, processors: dict[str, Processor]) -> None:
        super().__init__()
        self.model = model
        self.processors = processors
        self.touch_unused = False
        """Run encoders that a batch does not use on a dummy that goes nowhere; distributed training waits for every
        part, in the same order in every process."""

    def forward(self, batch: Batch) -> dict[str, Term]:
        return {"loss": Term(self.losses(batch)[0])}

    def losses(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`MetaLM.losses`; with the encoders that the batch does not use, where that is needed."""
        if not self.touch_unused:
            return self.model.losses(batch, weights)
        device = batch.decoder.input_ids.device
        unused = [name for name in self.model.encoders if name not in batch.docks]
        dummies = {name: dummy_dock(self.processors[name], device) for name in unused}
        docks = {name: batch.docks[name] if name in batch.docks else dummies[name] for name in self.model.encoders}
        with _without_dropout([self.model.encoders[name] for name in unused]):
            return self.model.losses(replace(batch, docks=docks), weights)


@contextmanager
def _without_dropout(modules: list[Any]) -> Iterator[None]:
    """A dummy uses up no random numbers."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    yield
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)


def dummy_dock(processor: Processor, device: torch.device) -> DockTable:
    """The smallest content that a processor knows, docked at no position: its gradients are zeros."""
    dock = processor.dummy()
    inputs = {key: torch.from_numpy(value).to(device) for key, value in processor.collate([dock]).items()}
    first, none = (torch.zeros(size, dtype=torch.long, device=device) for size in (1, 0))
    return DockTable(inputs, first, first, none, none)
