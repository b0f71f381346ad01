"""Task lanes."""

from __future__ import annotations

from dataclasses import dataclass, field

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.sampling.lanes import SlotState
from metalm_cli.errors import Exit, MetalmError


@dataclass
class ExampleSlot:
    """A slot of the batch: one session a step. Picklable.

    Args:
        writer: Makes the sessions.
        state: Where to go on.
        lanes: Sessions of a step.
    """

    writer: SessionBuilder
    state: SlotState
    lanes: int

    def next_row(self) -> TaskSession:
        """The session of the next step.

        Raises:
            MetalmError: As :meth:`TaskWriter.session`, while the run is under way.
        """
        try:
            made = self.writer.session(self.state.number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise
        self.state = SlotState(self.state.number + self.lanes, 0)
        return made


@dataclass
class ExampleSlotFactory:
    """Makes the lanes of a process; those of a worker share a writer and its cache. Picklable."""

    writer: SessionBuilder
    lanes: int
    states: dict[int, SlotState] = field(default_factory=dict)

    def __call__(self, lane: int, _owned: frozenset[int]) -> ExampleSlot:
        return ExampleSlot(self.writer, self.states.get(lane, SlotState(lane, 0)), self.lanes)
