"""What an objective is to the training loop: rows it needs, a step module, named loss terms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from metalm_cli.config.schema.data import Data
from metalm_cli.data.sampling.lanes import RowWriter
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Batch, Row


class Term(NamedTuple):
    """One loss term of a batch.

    Args:
        sum: Sum over what the term counts. Scalar, differentiable.
        coefficient: Its weight in the loss.
        outputs: What else validation reads of the same pass, a tensor each; None in training.

    The loop divides by the count of the whole optimiser step, over micro-batches and processes.
    """

    sum: Tensor
    coefficient: float = 1.0
    outputs: tuple[Tensor, ...] | None = None


class Objective(Protocol):
    """An objective, made for one run."""

    def step(self) -> nn.Module:
        """The module that trains: ``forward(batch) -> dict[str, Term]``."""

    def collate(self, rows: list[Row], length: int | None = None) -> Batch:
        """Rows as a batch of the objective's stream."""

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, Any]:
        """What validation reports: numbers, or mappings of numbers; ``loss`` is what the best is chosen by.

        Args:
            sums: Each term's sum over the validation rows.
            counts: Each counter's, those of :meth:`counts` under their terms' names.
            outputs: The terms' ``outputs`` as arrays, a tuple for each batch that has any.
        """

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each term is divided by, known before the forward pass."""

    @property
    def assembly(self) -> Assembly:
        """The model that the objective trains."""

    @property
    def stream(self) -> str:
        """Name of the stream that rows go to."""


class DocumentObjective(Objective, Protocol):
    """An objective whose rows are made of documents."""

    def writer(self, data: Data, seed: int) -> RowWriter:
        """What turns documents into rows."""

    def validation_rows(self, data: Data, texts: Iterable[str]) -> list[Row]:
        """Rows to validate on: the same for every seed."""
