"""Rows: forests of sessions, packing, and the reference of attention masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import DOCKED_ID, ROOT, DockInput, TokenisedSession, build_row, can_attend, pack

quick = settings(max_examples=80, deadline=None, derandomize=True)


def dock(size: int, key: bytes = b"k") -> DockInput:
    ids = np.arange(size + 2)
    return DockInput("text", {"input_ids": ids}, np.arange(1, size + 1), key, {"text": size + 2})


def session(*ids: int, trained: str = "", docks: tuple = (), name: str = "") -> TokenisedSession:
    """``trained`` marks trained positions with t."""
    marks = np.array([mark == "t" for mark in trained.ljust(len(ids))], dtype=bool)
    return TokenisedSession(np.array(ids, dtype=np.int64), marks, docks, name)


@st.composite
def sessions_and_parents(draw) -> tuple[list[TokenisedSession], list[int]]:
    count = draw(st.integers(1, 5))
    sessions, parents = [], []
    for index in range(count):
        size = draw(st.integers(1, 6))
        ids = [100 * index + offset for offset in range(size)]
        docks: tuple = ()
        width = draw(st.integers(0, size))
        if width:
            start = draw(st.integers(0, size - width))
            ids[start : start + width] = [DOCKED_ID] * width
            docks = ((start, dock(width, bytes([draw(st.integers(0, 1)), width]))),)
        trained = [draw(st.booleans()) and token != DOCKED_ID for token in ids]
        sessions.append(TokenisedSession(np.array(ids), np.array(trained), docks))
        parents.append(draw(st.integers(-1, index - 1)))
    return sessions, parents


# -- worked examples --------------------------------------------------------------------------------------------------


def test_two_questions_with_options_under_each():
    # question 1 with options 10 11 and 12, question 2 with option 20; a second answer under the first option
    row = build_row(
        [
            session(1, 2, 3),
            session(10, 11, trained="tt"),
            session(12, trained="t"),
            session(4, 5, trained="t "),
            session(20, trained="t"),
            session(13, 14, trained=" t"),
        ],
        [ROOT, 0, 0, ROOT, 3, 1],
        counts={"source_tokens": 11},
        numbers=[3, 9],
    )
    assert row.ids.tolist() == [1, 2, 3, 10, 11, 12, 4, 5, 20, 13, 14]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 5, 6]
    assert row.segments.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert row.parents.tolist() == [-1, 0, 0, -1, 3, 1]
    assert row.predict_at.tolist() == [2, 3, 2, 7, 9]
    assert row.targets.tolist() == [10, 11, 12, 20, 14]
    assert row.target_segments.tolist() == [1, 1, 2, 4, 5]
    assert row.counts == {"source_tokens": 11, "trained_tokens": 5}
    assert row.numbers == (3, 9)


def test_docks_move_with_their_session():
    first, second = dock(2, b"a"), dock(3, b"b")
    row = build_row(
        [
            session(DOCKED_ID, DOCKED_ID, 7, trained="  t", docks=((0, first),)),
            session(8, DOCKED_ID, DOCKED_ID, DOCKED_ID, 9, trained="    t", docks=((1, second),)),
        ]
    )
    assert [start for start, _ in row.docks] == [0, 4]
    assert [dock_input.key for _, dock_input in row.docks] == [b"a", b"b"]
    assert row.ids.tolist() == [0, 0, 7, 8, 0, 0, 0, 9]
    assert row.predict_at.tolist() == [1, 6]


def test_a_child_of_a_dock_is_predicted_by_the_docks_last_position():
    row = build_row([session(DOCKED_ID, DOCKED_ID, docks=((0, dock(2)),)), session(7, trained="t")], [ROOT, 0])
    assert row.predict_at.tolist() == [1]


def test_the_callers_counts_are_not_changed():
    counts = {"documents": 1}
    build_row([session(1, 2, trained=" t")], counts=counts)
    assert counts == {"documents": 1}


# -- properties -------------------------------------------------------------------------------------------------------


@given(sessions_and_parents())
@quick
def test_rows_keep_every_position_and_every_target(forest):
    sessions, parents = forest
    row = build_row(sessions, parents)
    assert len(row) == sum(map(len, sessions))
    targets = []
    for index, tokenised in enumerate(sessions):
        row_positions = np.flatnonzero(row.segments == index)
        assert (np.diff(row_positions) == 1).all()
        assert row.ids[row_positions].tolist() == np.where(tokenised.ids == DOCKED_ID, 0, tokenised.ids).tolist()
        prefix_length = 0
        parent = parents[index]
        while parent != ROOT:
            prefix_length += len(sessions[parent])
            parent = parents[parent]
        assert row.positions[row_positions].tolist() == list(range(prefix_length, prefix_length + len(tokenised)))
        unpredicted = parents[index] == ROOT and tokenised.trained[0]
        targets += [(index, token) for token in tokenised.ids[tokenised.trained].tolist()][int(unpredicted) :]
        assert [(row_positions[0] + start, dock_input.key) for start, dock_input in tokenised.docks] == [
            (start, dock_input.key) for start, dock_input in row.docks if row_positions[0] <= start <= row_positions[-1]
        ]
    assert list(zip(row.target_segments.tolist(), row.targets.tolist(), strict=True)) == targets
    assert row.counts["trained_tokens"] == len(targets) == len(row.predict_at)


@given(sessions_and_parents())
@quick
def test_a_target_is_predicted_by_the_last_position_it_sees(forest):
    sessions, parents = forest
    row = build_row(sessions, parents)
    visible = can_attend(row.segments, row.positions, row.parents)
    position_of = {
        (owner, target): position for position, (owner, target) in enumerate(zip(row.segments, row.ids, strict=True))
    }
    for predicting, owner, target in zip(row.predict_at, row.target_segments, row.targets, strict=True):
        token = position_of[owner, target]
        assert row.positions[predicting] + 1 == row.positions[token]
        assert visible[token, predicting]
        assert not visible[predicting, token]


@given(sessions_and_parents())
@quick
def test_each_position_attends_to_its_own_chain_as_if_alone(forest):
    sessions, parents = forest
    row = build_row(sessions, parents)
    visible = can_attend(row.segments, row.positions, row.parents)
    for index in range(len(sessions)):
        chain = [index]
        while parents[chain[0]] != ROOT:
            chain.insert(0, parents[chain[0]])
        chain_positions = np.concatenate([np.flatnonzero(row.segments == segment) for segment in chain])
        assert row.positions[chain_positions].tolist() == list(range(len(chain_positions)))
        own = visible[np.ix_(chain_positions, chain_positions)]
        assert (own == np.tril(np.ones_like(own))).all()
        others = np.setdiff1d(np.arange(len(row)), chain_positions)
        assert not visible[np.ix_(np.flatnonzero(row.segments == index), others)].any()


def test_a_worked_example_of_can_attend():
    # root of 2, its child of 1, a root of 1, padding
    visible = can_attend(np.array([0, 0, 1, 2, -1]), np.array([0, 1, 2, 0, 4]), np.array([-1, 0, -1]))
    assert visible.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    bidirectional = can_attend(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([-1, -1]), causal=False)
    assert bidirectional.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


# -- packing ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 12), max_size=30), st.integers(12, 20))
@quick
def test_packing_places_every_session_once_and_no_row_is_too_long(sizes, length):
    sessions = [session(*range(size)) for size in sizes]
    rows = pack(sessions, length)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(row == sorted(row) for row in rows)
    free_positions = [length - sum(sizes[index] for index in row) for row in rows]
    assert all(left >= 0 for left in free_positions)
    for number, row in enumerate(rows):  # first fit: the first session of a row fits in no earlier row
        for earlier in range(number):
            before = sum(sizes[index] for index in rows[earlier] if index < row[0])
            assert length - before < sizes[row[0]]


def test_a_session_longer_than_a_row_is_an_error_that_names_it():
    with pytest.raises(MetalmError, match="question 3 needs 5 positions, but a row has only 4"):
        pack([session(1), session(1, 2, 3, 4, 5, name="question 3")], 4)
