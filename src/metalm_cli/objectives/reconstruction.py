"""Reconstruction of docked texts, alone or together with continuation, to align a connector with its decoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.objectives import Mixed, Reconstruct, Reconstruction
from metalm_cli.config.schema.training import Distillation
from metalm_cli.data.documents.reconstruction_rows import KINDS, MixedRows, ReconstructionRows, ReconstructionWriter
from metalm_cli.data.sampling.row_slots import RowWriter, SpanDrawer
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives.base import Term
from metalm_cli.objectives.language import LanguageModelStep, LanguageObjective, longest_span
from metalm_cli.sessions import Batch, Row


class ReconstructionObjective(LanguageObjective):
    """Each text of a document is docked, and predicted again after a mark.

    Args:
        options: The recipe's ``objective``.
        assembly: The model.

    Raises:
        MetalmError: The model has no text encoder.
    """

    options: Any

    def __init__(self, options: Reconstruct | Mixed, assembly: Assembly) -> None:
        super().__init__(options, assembly)  # type: ignore[arg-type]
        if self.processor is None:
            raise MetalmError(
                f"objective {options.name} needs a text encoder",
                where="objective.name",
                why=f"it docks texts; the encoders of the model: {', '.join(assembly.processors) or 'none'}",
                remedy="use a model with a text encoder, or set objective.name=causal",
            )

    @property
    def reconstruction(self) -> Reconstruction:
        """How documents are cut."""
        return self.options

    def distill(self, options: Distillation) -> None:
        raise MetalmError(
            f"objective {self.options.name} has no teacher",
            where="train.distill",
            why="the docked text itself is what it predicts; a teacher that reads the text adds nothing",
            remedy="remove train.distill, or set objective.name=mixed: its continuations have a teacher",
        )

    def longest_span(self) -> int:
        return self.reconstruction.span_length[1]

    def reconstruction_writer(self, data: DataConfig, seed: int) -> ReconstructionWriter:
        """Make the writer of the sessions that reconstruct a document."""
        assert self.processor is not None
        return ReconstructionWriter(
            self.assembly.decoder_tokenizer,
            self.processor,
            self.reconstruction,
            data.sequence_length,
            packs=self.assembly.model.traits.packs_rows_of(data.sequence_length),
            seed=seed,
        )

    def writer(self, data: DataConfig, seed: int) -> RowWriter:  # type: ignore[override]
        return ReconstructionRows(self.reconstruction_writer(data, seed), self.row_format)

    def validation_rows(self, data: DataConfig, texts: Iterable[str]) -> list[Row]:
        """Make rows of one session each, the same for every seed."""
        if data.validation.objective is not None:
            return super().validation_rows(data, texts)
        return self.reconstructed_rows(data, texts)

    def reconstructed_rows(self, data: DataConfig, texts: Iterable[str], **options: Any) -> list[Row]:
        """Make validation rows that reconstruct texts; ``options`` as for the row format."""
        sessions = self.reconstruction_writer(data, 0).validation_sessions(texts)
        return [self.row_format.row([session], counts=counts, **options) for session, counts in sessions]


class MixedObjective(ReconstructionObjective):
    """Continuation of some documents, and reconstruction of the others.

    The loss is the mean over all trained tokens; that of each kind is recorded besides.
    """

    untaught_tasks = (KINDS.index("reconstruction"),)

    @property
    def reconstruction(self) -> Reconstruction:
        return self.options.reconstruction

    def distill(self, options: Distillation) -> None:
        LanguageObjective.distill(self, options)

    def longest_span(self) -> int:
        return max(self.reconstruction.span_length[1], longest_span(self.options.continuation))

    def span_drawer(self, options: Any) -> SpanDrawer:
        return super().span_drawer(options.continuation if isinstance(options, Mixed) else options)

    def writer(self, data: DataConfig, seed: int) -> RowWriter:  # type: ignore[override]
        continuation = self._writer(self.options, data, seed)
        share = self.options.reconstruction_share
        return MixedRows(continuation, self.reconstruction_writer(data, seed), share, seed=seed)

    def validation_rows(self, data: DataConfig, texts: Iterable[str]) -> list[Row]:
        """Make rows of one session each: every text is continued and reconstructed."""
        if data.validation.objective is not None:
            return super().validation_rows(data, texts)
        texts = list(texts)
        windows = self._writer(self.options, data, 0).validation_windows(texts)
        continued = [self.row_format.row([session], counts=counts, task_ids=[0]) for session, counts in windows]
        return continued + self.reconstructed_rows(data, texts, task_ids=[1])

    def step_module(self) -> MixedStep:
        return MixedStep(self.assembly.model, self.assembly.processors, self.teacher)

    def counts(self, batch: Batch) -> dict[str, int]:
        return super().counts(batch) | {kind: batch.task_targets.get(index, 0) for index, kind in enumerate(KINDS)}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, float]:
        """As of language modelling, with the loss of each kind of sessions."""
        kinds = {f"{kind}_loss": sums[kind] / counts[kind] for kind in KINDS if counts.get(kind) and kind in sums}
        return super().metrics(sums, counts, outputs) | kinds


class MixedStep(LanguageModelStep):
    """Root module of mixed training."""

    def forward(self, batch: Batch) -> dict[str, Term]:
        total, target_losses, teacher_terms = self.losses(batch)
        outputs = (target_losses,) if batch.keep_target_losses else None
        terms = {"loss": Term(total, outputs=outputs), **teacher_terms}
        stream = batch.decoder
        if stream.task_ids is not None:  # validation may have an objective of its own
            kinds = stream.task_ids.flatten()[stream.target_segments]
            sums: Tensor = torch.zeros(len(KINDS), device=target_losses.device)
            sums = sums.index_add(0, kinds, target_losses.float())
            terms |= {kind: Term(sums[index], 0.0) for index, kind in enumerate(KINDS)}
        return terms
