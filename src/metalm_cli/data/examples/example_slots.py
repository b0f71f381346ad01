"""The example slots of one process of a finetuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.errors import Exit, MetalmError


@dataclass
class ExampleSlot:
    """A slot of the batch that yields a session per step. Picklable.

    Args:
        builder: Builds the sessions.
        number: Number in the index plan of the next session.
        slot_count: Sessions per step.
    """

    builder: SessionBuilder
    number: int
    slot_count: int
    state: ClassVar[None] = None

    def next_row(self) -> TaskSession:
        """The session of the next step.

        Raises:
            MetalmError: As :meth:`SessionBuilder.session`, with the exit code of a failed run.
        """
        try:
            session = self.builder.session(self.number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise
        self.number += self.slot_count
        return session


@dataclass
class ExampleSlotFactory:
    """Factory of the example slots of a process; the slots of a worker share a builder and its cache. Picklable.

    Args:
        builder: Builds the sessions.
        slot_count: Sessions per step.
        steps_done: Steps of the run that are done.
    """

    builder: SessionBuilder
    slot_count: int
    steps_done: int

    def __call__(self, index: int, _owned: frozenset[int]) -> ExampleSlot:
        return ExampleSlot(self.builder, self.steps_done * self.slot_count + index, self.slot_count)
