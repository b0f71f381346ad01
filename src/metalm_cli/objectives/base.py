"""Protocols of objectives: the rows that they need, their step module, and named loss terms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.data.sampling.row_slots import RowWriter
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Batch, Row


class Term(NamedTuple):
    """One loss term of a batch.

    Args:
        sum: Sum over the items that the term counts. Scalar, differentiable.
        coefficient: Weight of the term in the loss.
        outputs: Further tensors of the same forward pass for validation metrics; None in training.

    The trainer divides by the count of the whole optimiser step, over micro-batches and processes.
    """

    sum: Tensor
    coefficient: float = 1.0
    outputs: tuple[Tensor, ...] | None = None


class Objective(Protocol):
    """An objective of one run."""

    def step_module(self) -> nn.Module:
        """Make the root module that is trained: ``forward(batch) -> dict[str, Term]``."""

    def collate(self, rows: list[Row], length: int | None = None) -> Batch:
        """Collate rows into a batch of the objective's stream."""

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, Any]:
        """Compute validation metrics: numbers, or mappings of numbers; ``loss`` selects the best checkpoint.

        Args:
            sums: Sum of each term over the validation rows.
            counts: Sum of each counter; those of :meth:`counts` under the names of their terms.
            outputs: The terms' ``outputs`` as arrays, one tuple for each batch that has outputs.
        """

    def counts(self, batch: Batch) -> dict[str, int]:
        """Denominator of each term, known before the forward pass."""

    @property
    def assembly(self) -> Assembly:
        """The model that the objective trains."""

    @property
    def stream(self) -> str:
        """Name of the stream that rows belong to."""


class DocumentObjective(Objective, Protocol):
    """An objective whose rows are made from documents."""

    def writer(self, data: DataConfig, seed: int) -> RowWriter:
        """Make the writer that turns documents into rows."""

    def validation_rows(self, data: DataConfig, texts: Iterable[str]) -> list[Row]:
        """Make validation rows, which are the same for every seed."""
