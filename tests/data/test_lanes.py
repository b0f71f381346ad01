"""Lanes: which numbers they read, where they stand, when they give up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.data.sampling import lanes
from metalm_cli.data.sampling.lanes import RowSegment, RowSlot, SlotState, numpy_generator, text_bytes
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.sessions import ROOT, Row, TokenisedDocument
from row_fixtures import Shelf, lane_rows

quick = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass
class Letters:
    """A writer of one position a character, with an end mark; begins nothing in less than ``least`` positions."""

    length: int
    least: int = 1
    read_numbers: list[int] | None = None

    def read(self, text: str, number: int) -> str:
        if self.read_numbers is not None:
            self.read_numbers.append(number)
        return text + "."

    def take(self, document: str, offset: int, room: int, first: bool) -> RowSegment | None:
        if not first and room < self.least:
            return None
        part = document[offset : offset + room]
        end = offset + len(part)
        ids = np.array([ord(one) for one in part])
        return RowSegment(ids, end, end == len(document), None, Counter(letters=len(part)))

    def write(self, pieces: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        ids = np.concatenate([piece.ids for piece in pieces])
        zeros = np.zeros(len(ids), dtype=np.int64)
        parents = np.full(1, ROOT)
        return Row(ids, zeros, zeros, parents, (), zeros, zeros, zeros, counts=dict(counts), numbers=tuple(numbers))


def words(row: Row) -> str:
    return "".join(map(chr, row.ids))


def test_a_worked_lane():
    shelf = Shelf(["abcdef", None, "gh", "xyz"])
    lane = RowSlot(0, 2, shelf, Letters(5))
    rows = [lane.next_row() for _ in range(4)]
    # Lane 0 of 2 reads the even numbers: abcdef, gh, abcdef, gh, ...
    assert [words(row) for row in rows] == ["abcde", "f.gh.", "abcde", "f.gh."]
    assert [row.numbers for row in rows] == [(0,), (0, 2), (4,), (4, 6)]
    assert [row.counts for row in rows] == [{"letters": 5, "split_documents": 1}, {"letters": 5}] * 2
    assert lane.state == SlotState(8, 0)


@given(
    st.lists(st.one_of(st.none(), st.text("abc", max_size=9)), min_size=1, max_size=7),
    st.integers(1, 4),
    st.integers(1, 11),
    st.integers(1, 6),
)
@quick
def test_lanes_share_the_numbers_out_and_skip_empty_ones(documents, count, length, least):
    if all(one is None for one in documents):
        return
    if count > 1:
        documents = documents + ["b"] * (-len(documents) % count)
        documents = [one if one is not None else "a" for one in documents[:count]] + documents[count:]
    for index in range(count):
        lane = RowSlot(index, count, Shelf(documents), Letters(length, least))
        states, rows = [], []
        for _ in range(9):
            states.append(lane.state)
            rows.append(lane.next_row())
        text = "".join(map(words, rows))
        expected, number = "", index
        while len(expected) < len(text):
            found = documents[number % len(documents)]
            expected += "" if found is None else found + "."
            number += count
        assert text == expected[: len(text)]
        assert all(number % count == index for row in rows for number in row.numbers)
        assert all(len(row) <= length for row in rows)
        for at in (0, 3, 8):
            again = RowSlot(index, count, Shelf(documents), Letters(length, least), states[at])
            assert [words(again.next_row()) for _ in rows[at:]] == list(map(words, rows[at:]))


def test_numbers_without_a_document_are_counted_where_they_are_met():
    lane = RowSlot(0, 1, Shelf(["ab", None, None, "cdefg"], reason="excluded"), Letters(5, least=3))
    rows, states = lane_rows(lane, 3)
    # ab. leaves room for less than is worth beginning: cdefg, behind the two that are left out, begins a row
    assert [words(row) for row in rows] == ["ab.", "cdefg", ".ab."]
    assert [row.counts["letters"] for row in rows] == [3, 5, 4]
    assert [row.counts.get("excluded_documents", 0) for row in rows] == [2, 0, 2]
    assert states[1] == (3, 0)


def test_a_document_is_read_once_however_many_rows_it_fills():
    writer = Letters(4, read_numbers=[])
    shelf = Shelf(["a" * 30, "b"])
    lane = RowSlot(0, 1, shelf, writer)
    for _ in range(8):
        lane.next_row()
    assert writer.read_numbers == shelf.asked == [0, 1]


def test_a_document_that_goes_on_in_later_rows_is_counted_as_split_once():
    lane = RowSlot(0, 1, Shelf(["a" * 30, "b"]), Letters(4))
    assert sum(lane.next_row().counts.get("split_documents", 0) for _ in range(7)) == 1


def test_a_row_ends_where_the_next_piece_is_not_worth_beginning():
    lane = RowSlot(0, 1, Shelf(["abc", "defgh"]), Letters(6, least=3))
    assert words(lane.next_row()) == "abc."
    assert lane.state == SlotState(1, 0)
    assert words(lane.next_row()) == "defgh."


def test_a_lane_gives_up_on_sources_that_give_nothing(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_CONSECUTIVE_EMPTY", 50)
    shelf = Shelf(["a", *[None] * 200])
    lane = RowSlot(0, 1, shelf, Letters(2))
    assert words(lane.next_row()) == "a."
    with pytest.raises(MetalmError, match="50 documents in a row are empty, excluded or held out") as caught:
        lane.next_row()
    assert caught.value.exit_code == Exit.FAILED
    assert caught.value.where == "data.sources"
    assert len(shelf.asked) == 51


def test_random_numbers_depend_on_every_part():
    drawn = {numpy_generator(*key).random() for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 1, 2, 0)]}
    assert len(drawn) >= 4
    assert numpy_generator(0, 1, 2).random() == numpy_generator(0, 1, 2).random()
    assert len({numpy_generator(0, 1, number).random() for number in range(500)}) == 500


def test_bytes_of_tokens():
    ends = np.array([1, 3, 4, 6])
    document = TokenisedDocument("aé日 b ", np.arange(4), np.array([0, 1, 3, 4]), ends)
    assert text_bytes(document, 0, 4) == len("aé日 b ".encode())
    assert [text_bytes(document, at, at + 1) for at in range(4)] == [1, 5, 1, 2]
    assert text_bytes(document, 2, 2) == 0


def states_are_plain(state: Any) -> bool:
    return type(state.number) is int and type(state.offset) is int


def test_a_state_is_two_plain_numbers():
    lane = RowSlot(1, 3, Shelf(["abcdef"]), Letters(4))
    for _ in range(5):
        lane.next_row()
        assert states_are_plain(lane.state)
        assert lane.state == tuple(lane.state)
