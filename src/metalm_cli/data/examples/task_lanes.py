"""Task lanes."""

from __future__ import annotations

from dataclasses import dataclass, field

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.session_writer import TaskWriter
from metalm_cli.data.sampling.lanes import LaneState
from metalm_cli.errors import Exit, MetalmError


@dataclass
class TaskLane:
    """A slot of the batch: one session a step. Picklable.

    Args:
        writer: Makes the sessions.
        state: Where to go on.
        lanes: Sessions of a step.
    """

    writer: TaskWriter
    state: LaneState
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
        self.state = LaneState(self.state.number + self.lanes, 0)
        return made


@dataclass
class TaskLanes:
    """Makes the lanes of a process; those of a worker share a writer and its cache. Picklable."""

    writer: TaskWriter
    lanes: int
    states: dict[int, LaneState] = field(default_factory=dict)

    def __call__(self, lane: int, _owned: frozenset[int]) -> TaskLane:
        return TaskLane(self.writer, self.states.get(lane, LaneState(lane, 0)), self.lanes)
