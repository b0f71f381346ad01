"""Row slots: the numbers that they read, and their states."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.data.sampling.row_slots import RowSegment, RowSlot, SlotState, numpy_generator, text_bytes
from metalm_cli.sessions import ROOT, Row, TokenisedDocument
from row_fixtures import Shelf

quick = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass
class Letters:
    """A writer of a position per character, with an end mark; it begins a document in ``min_positions`` or more."""

    length: int
    min_positions: int = 1
    read_numbers: list[int] | None = None

    def read(self, text: str, number: int) -> str:
        if self.read_numbers is not None:
            self.read_numbers.append(number)
        return text + "."

    def take(self, document: str, offset: int, free_positions: int, row_is_empty: bool) -> RowSegment | None:
        if not row_is_empty and free_positions < self.min_positions:
            return None
        text = document[offset : offset + free_positions]
        end = offset + len(text)
        ids = np.array([ord(letter) for letter in text])
        return RowSegment(ids, end, end == len(document), None, Counter(letters=len(text)))

    def write(self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        ids = np.concatenate([row_segment.ids for row_segment in row_segments])
        zeros = np.zeros(len(ids), dtype=np.int64)
        parents = np.full(1, ROOT)
        return Row(ids, zeros, zeros, parents, (), zeros, zeros, zeros, counts=dict(counts), numbers=tuple(numbers))


def text_of(row: Row) -> str:
    return "".join(map(chr, row.ids))


def test_a_worked_row_slot():
    shelf = Shelf(["abcdef", "other", "gh", "xyz"])
    slot = RowSlot(0, 2, shelf, Letters(5))
    rows = [slot.next_row() for _ in range(4)]
    # Slot 0 of 2 reads the even numbers: abcdef, gh, abcdef, gh, ...
    assert [text_of(row) for row in rows] == ["abcde", "f.gh.", "abcde", "f.gh."]
    assert [row.numbers for row in rows] == [(0,), (0, 2), (4,), (4, 6)]
    assert [row.counts for row in rows] == [{"letters": 5, "split_documents": 1}, {"letters": 5}] * 2
    assert slot.state == SlotState(8, 0)


@given(
    st.lists(st.text("abc", max_size=9), min_size=1, max_size=7),
    st.integers(1, 4),
    st.integers(1, 11),
    st.integers(1, 6),
)
@quick
def test_row_slots_divide_the_numbers(documents, count, length, least):
    for index in range(count):
        slot = RowSlot(index, count, Shelf(documents), Letters(length, least))
        states, rows = [], []
        for _ in range(9):
            states.append(slot.state)
            rows.append(slot.next_row())
        text = "".join(map(text_of, rows))
        expected, number = "", index
        while len(expected) < len(text):
            expected += documents[number % len(documents)] + "."
            number += count
        assert text == expected[: len(text)]
        assert all(number % count == index for row in rows for number in row.numbers)
        assert all(len(row) <= length for row in rows)
        for restart in (0, 3, 8):
            restarted = RowSlot(index, count, Shelf(documents), Letters(length, least), states[restart])
            assert [text_of(restarted.next_row()) for _ in rows[restart:]] == list(map(text_of, rows[restart:]))


def test_a_document_is_read_once_however_many_rows_it_fills():
    writer = Letters(4, read_numbers=[])
    shelf = Shelf(["a" * 30, "b"])
    slot = RowSlot(0, 1, shelf, writer)
    for _ in range(8):
        slot.next_row()
    assert writer.read_numbers == shelf.requested_numbers == [0, 1]


def test_a_document_that_continues_in_later_rows_is_counted_as_split_once():
    slot = RowSlot(0, 1, Shelf(["a" * 30, "b"]), Letters(4))
    assert sum(slot.next_row().counts.get("split_documents", 0) for _ in range(7)) == 1


def test_a_row_ends_where_too_few_positions_are_left_for_the_next_document():
    slot = RowSlot(0, 1, Shelf(["abc", "defgh"]), Letters(6, min_positions=3))
    assert text_of(slot.next_row()) == "abc."
    assert slot.state == SlotState(1, 0)
    assert text_of(slot.next_row()) == "defgh."


def test_random_numbers_depend_on_every_part():
    drawn = {numpy_generator(*key).random() for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 1, 2, 0)]}
    assert len(drawn) >= 4
    assert numpy_generator(0, 1, 2).random() == numpy_generator(0, 1, 2).random()
    assert len({numpy_generator(0, 1, number).random() for number in range(500)}) == 500


def test_bytes_of_tokens():
    ends = np.array([1, 3, 4, 6])
    document = TokenisedDocument("aé日 b ", np.arange(4), np.array([0, 1, 3, 4]), ends)
    assert text_bytes(document, 0, 4) == len("aé日 b ".encode())
    assert [text_bytes(document, index, index + 1) for index in range(4)] == [1, 5, 1, 2]
    assert text_bytes(document, 2, 2) == 0


def has_plain_integers(state: Any) -> bool:
    return type(state.number) is int and type(state.offset) is int


def test_a_state_is_two_plain_numbers():
    slot = RowSlot(1, 3, Shelf(["abcdef"]), Letters(4))
    for _ in range(5):
        slot.next_row()
        assert has_plain_integers(slot.state)
        assert slot.state == tuple(slot.state)
