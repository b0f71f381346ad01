"""The row slots of one process of a pretraining run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metalm_cli.data import Corpus
from metalm_cli.data.sampling.row_slots import RowSlot, RowWriter, SlotState


@dataclass
class RowSlotFactory:
    """Factory of the row slots of a process; the slots of a worker share a reader. Picklable."""

    corpus: Corpus
    writer: RowWriter
    slot_count: int
    states: dict[int, SlotState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._readers: dict[frozenset[int], Any] = {}

    def __call__(self, index: int, owned: frozenset[int]) -> RowSlot:
        if owned not in self._readers:
            first_numbers = {slot: self.states[slot].number for slot in owned if slot in self.states}
            self._readers[owned] = self.corpus.reader(OwnedNumbers(owned, self.slot_count, first_numbers))
        return RowSlot(index, self.slot_count, self._readers[owned], self.writer, self.states.get(index))


@dataclass(frozen=True)
class OwnedNumbers:
    """Predicate of the numbers that a set of row slots will read.

    Args:
        slots: Indices of the slots.
        slot_count: Slots of the global batch.
        first_numbers: First number that each resumed slot reads; streams do not buffer earlier numbers.
    """

    slots: frozenset[int]
    slot_count: int
    first_numbers: dict[int, int]

    def __call__(self, number: int) -> bool:
        slot = number % self.slot_count
        return slot in self.slots and number >= self.first_numbers.get(slot, 0)
