"""Packing the sessions of a step into rows: every session once and complete, in rows that are long enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalm_cli.data.examples.pack_examples import RowPacking, TaskSession, encoder_positions
from metalm_cli.data.sampling.micro_batching import cheapest_split
from metalm_cli.sessions import Row, TokenisedSession
from metalm_cli.sessions.processors import DockInput

sizes = st.lists(st.integers(2, 200), min_size=1, max_size=40)


def make_session(length: int, number: int) -> TaskSession:
    """A session with a dock of half the length, and trained tokens."""
    half = length // 2
    dock = DockInput("text", {}, np.arange(half), bytes([number]), {"text": half + 2})
    trained = np.arange(length) >= half
    tokenised = TokenisedSession(np.where(trained, number, -1), trained, ((0, dock),))
    return TaskSession(tokenised, 0, {"source_tokens": length}, number)


def packed_rows(packing: RowPacking, lengths: list[int]) -> list[Row]:
    sessions = [make_session(length, number) for number, length in enumerate(lengths)]
    rows = packing.rows(sessions)
    assert sorted(number for row in rows for number in row.numbers) == list(range(len(lengths)))
    assert sum(map(len, rows)) == sum(lengths)
    for row in rows:
        assert [int((row.segments == index).sum()) for index in range(len(row.numbers))] == [
            lengths[n] for n in row.numbers
        ]
    return rows


@given(sizes)
def test_padded_rows_hold_one_session_each_the_longest_first(lengths: list[int]) -> None:
    assert [len(row) for row in packed_rows(RowPacking(False, 200), lengths)] == sorted(lengths, reverse=True)


@given(sizes)
def test_packed_rows_are_filled_up_to_their_length(lengths: list[int]) -> None:
    rows = packed_rows(RowPacking(True, 200), lengths)
    assert max(map(len, rows)) <= 200
    # If two rows were at most half full, the sessions of the second would have been put into the first.
    assert sum(2 * len(row) <= 200 for row in rows) <= 1


@given(sizes, st.sampled_from([None, 110]))
def test_shortened_rows_cost_no_more_than_rows_of_the_longest_session(lengths: list[int], bound) -> None:
    packing = RowPacking(True, 200, bound, shorten_rows=True)
    rows = packed_rows(packing, lengths)
    cost = cheapest_split([len(row) for row in rows])[0]
    assert max(map(len, rows)) <= max(lengths)
    if bound is None:
        assert (
            cost <= cheapest_split([len(row) for row in packed_rows(RowPacking(True, max(lengths)), lengths)])[0] + 1e-6
        )
    for row in rows:
        assert bound is None or sum(dock.cost["text"] for _, dock in row.docks) <= bound


@given(sizes, st.sampled_from([None, 110]))
def test_all_sessions_are_one_row_within_the_limit_of_encoder_tokens(lengths: list[int], bound) -> None:
    rows = packed_rows(RowPacking(True, 200, bound, shorten_rows=True, one_row=True), lengths)
    if bound is None:
        assert [len(row) for row in rows] == [sum(lengths)]
    else:
        assert all(sum(dock.cost["text"] for _, dock in row.docks) <= bound for row in rows)


def test_a_long_session_has_a_row_of_its_own_where_that_is_cheaper() -> None:
    rows = packed_rows(RowPacking(True, 1000, shorten_rows=True), [900, *[100] * 12])
    assert max(len(row) for row in rows[1:]) < 900 == len(rows[0])
    assert len(rows) > 2


def test_no_sessions_give_no_rows() -> None:
    assert RowPacking(True, 100, shorten_rows=True).rows([]) == []


@pytest.mark.parametrize("length", [2, 9])
def test_the_cost_of_a_session_is_that_of_its_docks(length: int) -> None:
    assert encoder_positions(make_session(length, 1).tokenised) == length // 2 + 2
