"""The lanes of one process of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metalm_cli.data import Corpus
from metalm_cli.data.sampling.lanes import RowSlot, RowWriter, SlotState


@dataclass
class RowSlotFactory:
    """Makes the lanes of one process; the lanes of a worker share a reader. Picklable."""

    corpus: Corpus
    writer: RowWriter
    lanes: int
    states: dict[int, SlotState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._readers: dict[frozenset[int], Any] = {}

    def __call__(self, lane: int, owned: frozenset[int]) -> RowSlot:
        if owned not in self._readers:
            begins = {index: self.states[index].number for index in owned if index in self.states}
            self._readers[owned] = self.corpus.reader(OwnedNumbers(owned, self.lanes, begins))
        return RowSlot(lane, self.lanes, self._readers[owned], self.writer, self.states.get(lane))


@dataclass(frozen=True)
class OwnedNumbers:
    """Which numbers a set of lanes will read.

    Args:
        lanes: The lanes.
        count: Lanes of the whole batch.
        begins: The first number that a resumed lane reads; a stream keeps nothing of those before.
    """

    lanes: frozenset[int]
    count: int
    begins: dict[int, int]

    def __call__(self, number: int) -> bool:
        lane = number % self.count
        return lane in self.lanes and number >= self.begins.get(lane, 0)
