"""Masked language modelling of an encoder, and the base class of encoder objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.objectives import MaskedLM, ReplacedTokenDetection
from metalm_cli.data.documents.masked_rows import EncoderWriter
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.capabilities import measure_encoder_packing, measure_masked_head
from metalm_cli.models.families.encoder_only import encode, row_inputs
from metalm_cli.models.loss import linear_cross_entropy
from metalm_cli.models.mlm_heads import masked_head
from metalm_cli.objectives.base import StepModule, Term
from metalm_cli.objectives.longest_rows import masked_row
from metalm_cli.sessions import Batch, PackedTokens, Row, TextProcessor, collate


class EncoderObjective:
    """Base class of masked language modelling and replaced token detection: one text encoder, rows of its tokens.

    Args:
        options: The recipe's ``objective``.
        assembly: The encoder with its head, and its processor.
    """

    def __init__(self, options: MaskedLM | ReplacedTokenDetection, assembly: Assembly) -> None:
        self.options = options
        self.assembly = assembly
        (self.stream,) = assembly.processors
        processor = assembly.processors[self.stream]
        assert isinstance(processor, TextProcessor)
        self.processor = processor
        self.packs = measure_encoder_packing(assembly.model)

    def writer(self, data: DataConfig, seed: int) -> EncoderWriter:
        masked_lm = self.options if isinstance(self.options, MaskedLM) else None
        return EncoderWriter(
            self.processor,
            data.sequence_length,
            mask_rate=self.options.mask_rate,
            keep_rate=masked_lm.keep_rate if masked_lm else 0.0,
            random_rate=masked_lm.random_rate if masked_lm else 0.0,
            isolate=data.isolate_documents,
            packs=self.packs,
            seed=seed,
        )

    def validation_rows(self, data: DataConfig, texts: Iterable[str]) -> list[Row]:
        """Make rows of one document window each, with the same masks for every seed."""
        return self.writer(data, 0).validation_rows(texts)

    def extra_parts(self, root: nn.Module | None) -> dict[str, nn.Module]:
        return {}

    def longest_rows(self, data: DataConfig, count: int) -> list[Row]:
        rng = np.random.default_rng(0)
        vocabulary = len(self.processor.tokenizer)
        writer = self.writer(data, 0)
        return [masked_row(writer, vocabulary, rng, number) for number in range(count)]

    def check_sample(self, counts: Mapping[str, int]) -> None:
        """Accept every sample: masks are drawn in any document."""

    def collate(self, rows: list[Row], length: int | None = None) -> Batch:
        return collate(rows, {}, length=length, stream=self.stream, pad_id=self.processor.pad_id)


class MaskedLMObjective(EncoderObjective):
    """Masked language modelling."""

    def step_module(self) -> MaskedStep:
        return MaskedStep(self.assembly.model, self.stream)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.counts["trained_tokens"]}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, float]:
        """Mean cross-entropy of masked tokens, in nats."""
        return {"loss": sums["loss"] / max(1, counts["loss"])}


class MaskedStep(StepModule):
    """Root module of masked language modelling."""

    def __init__(self, model: Any, stream: str) -> None:
        super().__init__()
        self.model = model
        self.stream = stream
        self.compact = measure_masked_head(model)

    def forward(self, batch: Batch) -> dict[str, Term]:
        stream = batch.streams[self.stream]
        return {"loss": Term(masked_loss(self.model, stream, self.compact)[0])}


def masked_loss(model: Any, stream: PackedTokens, compact: bool) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy at the masked positions.

    Args:
        model: A masked language model.
        stream: Masked rows.
        compact: Its head is known, so that logits are computed only at masked positions.

    Returns:
        The sum in nats, and the input states of the output projection (compact) or the logits. ``[m, h or v]``
    """
    if not compact:
        logits = model(**row_inputs(model, stream.input_ids, stream)).logits
        masked_logits = logits.flatten(0, 1)[stream.predict_at]
        return cross_entropy(masked_logits.float(), stream.targets, reduction="sum"), masked_logits
    head_parts = masked_head(model)
    assert head_parts is not None, "compact implies that the head is known"
    transform, head = head_parts
    hidden = encode(model, stream.input_ids, stream).flatten(0, 1)[stream.predict_at]
    states = transform(hidden)
    return linear_cross_entropy(states, head, stream.targets)[0], states
