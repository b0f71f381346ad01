"""Splitting a step's padded rows into passes."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalm_cli.data.sampling.micro_batching import ATTENTION_LENGTH, PASS_COST, cheapest_split, split_micro_batches


def cost_of_cuts(lengths: list[int], cuts: list[int]) -> float:
    """Cost of all passes: padded positions, attention, and the constant cost of a pass."""
    edges = [0, *cuts, len(lengths)]
    parts = [lengths[begin:end] for begin, end in pairwise(edges)]
    return sum(PASS_COST + len(part) * max(part) * (1 + max(part) / ATTENTION_LENGTH) for part in parts)


def cheapest_cost(lengths: list[int]) -> float:
    """Cost of the cheapest of all splits."""
    inner = range(1, len(lengths))
    return min(
        cost_of_cuts(lengths, list(cuts)) for count in range(len(lengths)) for cuts in combinations(inner, count)
    )


@given(st.lists(st.integers(1, 600), min_size=1, max_size=9))
def test_no_other_cuts_cost_less(lengths: list[int]) -> None:
    for order in (lengths, sorted(lengths, reverse=True)):
        passes = split_micro_batches(order)
        rows = [row for rows_of_pass in passes for row in range(len(order))[rows_of_pass]]
        assert rows == list(range(len(order)))
        assert cheapest_split(order)[0] == pytest.approx(cheapest_cost(order))
        assert cost_of_cuts(order, [rows_of_pass.start for rows_of_pass in passes[1:]]) == pytest.approx(
            cheapest_cost(order)
        )


@pytest.mark.parametrize("length", [16, 512])
def test_rows_of_one_length_are_one_pass(length: int) -> None:
    assert split_micro_batches([length] * 64) == [slice(0, 64)]


def test_one_long_row_has_a_pass_of_its_own() -> None:
    assert split_micro_batches([500] + [40] * 15) == [slice(0, 1), slice(1, 16)]


def test_no_rows_need_no_pass() -> None:
    assert split_micro_batches([]) == []
