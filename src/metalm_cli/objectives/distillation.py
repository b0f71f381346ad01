"""Distillation of docks: the teacher is the same decoder, which reads the docks as text.

The student predicts each trained token from docks, the teacher from their texts. Their Kullback–Leibler divergence is
weighed beside the usual loss, 2 : 1 as in xRAG (arXiv 2405.13792) and CEPE (arXiv 2402.16617).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from metalm_cli.config.schema.training import Distillation
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives.base import Term
from metalm_cli.sessions import Batch, Row, TaughtRows, TextProcessor

KL = "kl"
"""Name of the loss term, and of its mean in records: nats per token that follows a dock."""


class Teacher:
    """Teacher of an objective.

    Args:
        options: The recipe's ``train.distill``.
        assembly: The model.
        skipped_tasks: Tasks of rows that have no teacher.

    Raises:
        MetalmError: The model has no encoder that reads text, or no adapters where the options need some.
    """

    def __init__(self, options: Distillation, assembly: Assembly, skipped_tasks: tuple[int, ...] = ()) -> None:
        self.weight = options.weight
        self.adapted = options.teacher == "current"
        self.assembly = assembly
        if not any(isinstance(processor, TextProcessor) for processor in assembly.processors.values()):
            encoders = ", ".join(assembly.processors)
            raise MetalmError(
                "the model has no encoder that reads text, so nothing can be distilled",
                where="train.distill",
                why=f"the teacher reads docks as text; the encoders of the model: {encoders or 'none'}",
                remedy="remove train.distill, or use a model with a text encoder",
            )
        if not self.adapted and (assembly.lora_targets is None or "decoder" not in assembly.lora_targets.targets):
            raise MetalmError(
                "the decoder has no adapters",
                where="train.distill.teacher: base",
                why="this teacher is the decoder without its adapters",
                remedy="set train.distill.teacher=current, or add the adapters: model.lora={}",
            )
        self.rows = TaughtRows(assembly.model.max_positions, skipped_tasks)

    def read(self, batch: Batch, rows: Sequence[Row]) -> Batch:
        """Add what the teacher reads to a batch of these rows."""
        model, pad_id = self.assembly.model, self.assembly.decoder_tokenizer.pad_id
        teacher = self.rows.teacher_tokens(
            rows,
            packs=model.traits.supports_packing and model.traits.length_switch is None,
            pass_positions=model.pass_positions(model.device),
            pad_id=pad_id,
        )
        return replace(batch, teacher=teacher)

    def term(self, divergence: Tensor) -> dict[str, Term]:
        """Return the loss term of a sum of divergences."""
        return {KL: Term(divergence, self.weight, metric=KL)}

    def check_sample(self, distilled_tokens: int, untaught_sessions: int) -> None:
        """Check that a sample of rows has tokens with a teacher.

        Raises:
            MetalmError: It has none.
        """
        if distilled_tokens:
            return
        why = "no sampled session has trained tokens after a dock"
        if untaught_sessions:
            why = (
                "all sampled sessions are as text longer than the decoder reads "
                f"({self.rows.max_length} positions), or dock something that is not text"
            )
        raise MetalmError(
            "nothing can be distilled",
            where="train.distill",
            why=why,
            remedy="remove train.distill, or dock shorter texts",
        )
