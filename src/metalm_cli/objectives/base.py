"""Protocols of objectives: the rows that they need, their step module, and named loss terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        metric: Key of the term's mean in a training record; default: the term's name followed by ``_loss``.
        task: Task of a per-task term, whose mean the record has under ``metric`` and the task; None: no such term.

    The trainer divides by the count of the whole optimiser step, over micro-batches and processes.
    """

    sum: Tensor
    coefficient: float = 1.0
    outputs: tuple[Tensor, ...] | None = None
    metric: str | None = None
    task: str | None = None


class StepModule(nn.Module):
    """Base class of the root modules that are trained: ``forward(batch) -> dict[str, Term]``."""

    touch_unused = False
    """Run the parts that a batch does not use on a dummy input without effect on the loss: distributed training needs
    every part to run, in the same order in every process. Modules whose parts all run ignore it."""
    gives_target_losses = False
    """Whether, for a batch with ``keep_target_losses``, the ``outputs`` of its term ``loss`` are the loss of each
    target in nats. ``[m]``"""

    def after_update(self) -> None:
        """Change weights in place after every step of the optimiser, such as to keep them within limits."""


class Objective(Protocol):
    """An objective of one run."""

    def step_module(self) -> StepModule:
        """Make the root module that is trained."""

    def extra_parts(self, root: nn.Module | None) -> dict[str, nn.Module]:
        """Modules that train besides the parts of the model, each saved in a folder of its name.

        Args:
            root: The step module; None: modules of the same shapes on the meta device.
        """

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

    def longest_rows(self, data: DataConfig, count: int) -> list[Row]:
        """Make full rows of random tokens that take the most memory, the same in every run."""

    def check_sample(self, counts: Mapping[str, int]) -> None:
        """Raise a MetalmError if the counts of sampled rows show that the objective would not train."""
