"""The example slots of one process of a finetuning run."""

from __future__ import annotations

from dataclasses import dataclass, field

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.sampling.row_slots import SlotState
from metalm_cli.errors import Exit, MetalmError


@dataclass
class ExampleSlot:
    """A slot of the batch that yields a session per step. Picklable.

    Args:
        builder: Builds the sessions.
        state: State to continue from.
        slot_count: Sessions per step.
    """

    builder: SessionBuilder
    state: SlotState
    slot_count: int

    def next_row(self) -> TaskSession:
        """The session of the next step.

        Raises:
            MetalmError: As :meth:`SessionBuilder.session`, with the exit code of a failed run.
        """
        try:
            session = self.builder.session(self.state.number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise
        self.state = SlotState(self.state.number + self.slot_count, 0)
        return session


@dataclass
class ExampleSlotFactory:
    """Factory of the example slots of a process; the slots of a worker share a builder and its cache. Picklable."""

    builder: SessionBuilder
    slot_count: int
    states: dict[int, SlotState] = field(default_factory=dict)

    def __call__(self, index: int, _owned: frozenset[int]) -> ExampleSlot:
        return ExampleSlot(self.builder, self.states.get(index, SlotState(index, 0)), self.slot_count)
