"""Base class of the objectives that train a decoder: its rows and batches, and its teacher."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from metalm_cli.config.schema.training import Distillation
from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives.distillation import KL, Teacher
from metalm_cli.sessions import DECODER, Batch, PairFormat, Row, RowFormat, row_format_of


class DecoderObjective:
    """Base class of language modelling and of supervised training.

    Attributes:
        assembly: The model.
        teacher: Teacher that reads the docks as text; None: there is none.
        untaught_tasks: Tasks of rows that have no teacher.
    """

    stream = DECODER
    assembly: Assembly
    teacher: Teacher | None = None
    untaught_tasks: tuple[int, ...] = ()

    def distill(self, options: Distillation) -> None:
        """Add a teacher.

        Args:
            options: The recipe's ``train.distill``.

        Raises:
            MetalmError: See :class:`Teacher`.
        """
        self.teacher = Teacher(options, self.assembly, self.untaught_tasks)

    @property
    def row_format(self) -> RowFormat | PairFormat:
        """How sessions become rows."""
        return row_format_of(self.assembly.decoder_tokenizer) if self.teacher is None else self.teacher.rows

    def collate(self, rows: list[Row], length: int | None = None) -> Batch:
        tokenizer = self.assembly.decoder_tokenizer
        batch = self.row_format.collate(rows, self.assembly.processors, length=length, pad_id=tokenizer.pad_id)
        return batch if self.teacher is None else self.teacher.read(batch, rows)

    def extra_parts(self, root: nn.Module | None) -> dict[str, nn.Module]:
        return {}

    def teacher_counts(self, batch: Batch) -> dict[str, int]:
        """Denominator of the teacher's term; empty without a teacher."""
        return {} if self.teacher is None else {KL: batch.counts.get("distilled_tokens", 0)}

    def teacher_metrics(self, sums: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
        """Mean divergence from the teacher in nats; empty if no token has a teacher."""
        return {KL: sums[KL] / counts[KL]} if counts.get(KL) and KL in sums else {}
