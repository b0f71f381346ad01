"""The index plan: shares, uniqueness, purity."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.data.sampling.index_plan import (
    MAX_BLOCK_SIZE,
    IndexPlan,
    PlannedRow,
    key_of,
    permutation,
    permute,
    permute_one,
)

quick = settings(max_examples=30, deadline=None)
weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=9)


def plan_of(weights: list[float], rows: list[int | None], seed: int = 0) -> IndexPlan:
    return IndexPlan([f"s{i}" for i in range(len(weights))], weights, rows, seed)


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
@quick
def test_permute_is_a_permutation(size, key):
    keys = np.full(size, key, np.uint64)
    assert sorted(permute(np.arange(size), size, keys).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 10_001])
@pytest.mark.parametrize("key", [0, 7, 2**64 - 1, key_of("cap", "rte")])
def test_a_single_position_goes_where_the_array_sends_it(size, key):
    rows = range(0, size, max(1, size // 100))
    keys = np.full(len(rows), key, dtype=np.uint64)
    assert [permute_one(row, size, key) for row in rows] == permute(np.array(rows), size, keys).tolist()


def test_permute_spreads_and_depends_on_its_key():
    size = 4000
    orders = [permute(np.arange(size), size, np.full(size, key, np.uint64)) for key in (1, 2)]
    assert (orders[0] == orders[1]).sum() < 20
    for order in orders:
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.06
        assert (np.diff(order) == 1).sum() < 10


def test_every_order_of_three_rows_occurs_about_equally_often():
    trials = 6000
    keys = np.repeat(np.arange(trials, dtype=np.uint64), 3)
    orders = permute(np.tile(np.arange(3), trials), 3, keys).reshape(trials, 3)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 800
    assert counts.max() < 1200


def test_known_values_hold_between_versions():
    assert permutation(8, 42).tolist() == [4, 1, 6, 2, 3, 0, 7, 5]
    plan = plan_of([3.0, 1.0], [10, None], seed=7)
    assert [(p.source, p.epoch, p.row) for p in map(plan.planned_row, range(6))] == [
        (0, 0, 8),
        (0, 0, 2),
        (1, 0, 0),
        (0, 0, 5),
        (1, 0, 1),
        (1, 0, 2),
    ]


@given(weights, st.integers(0, 40))
@quick
def test_shares_are_exact_in_each_block(weights, index):
    plan = plan_of(weights, [None] * len(weights))
    counts = np.bincount(plan.block(index).source, minlength=len(weights))
    exact = np.array(weights) / sum(weights) * plan.block_size
    assert counts.sum() == plan.block_size
    assert np.abs(counts - exact).max() <= 5
    if plan.block_size < MAX_BLOCK_SIZE:
        assert counts.min() >= 1
    so_far = np.array(plan.counts((index + 1) * plan.block_size))
    assert np.abs(so_far - exact * (index + 1)).max() <= 2.5


def test_a_share_of_one_in_ten_million_gets_its_rows_on_time():
    plan = plan_of([1.0, 1e-7], [None, None])
    assert plan.counts(100_000_000 // plan.block_size * plan.block_size)[1] in (9, 10, 11)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=4), st.integers(0, 5))
@quick
def test_each_epoch_covers_each_row_once(rows, seed):
    plan = plan_of([float(count) for count in rows], list(rows), seed)
    planned_rows = [plan.planned_row(number) for number in range(3 * sum(rows) + plan.block_size)]
    for source, count in enumerate(rows):
        rows_of_source = [place for place in planned_rows if place.source == source]
        assert [place.draw for place in rows_of_source] == list(range(len(rows_of_source)))
        assert [place.epoch for place in rows_of_source] == [place.draw // count for place in rows_of_source]
        for epoch in range(2):
            seen = [place.row for place in rows_of_source if place.epoch == epoch]
            assert sorted(seen) == list(range(count))


def test_epochs_and_seeds_have_different_orders():
    plan = plan_of([1.0], [1000])
    epochs = [[plan.planned_row(e * 1000 + n).row for n in range(1000)] for e in range(2)]
    other = plan_of([1.0], [1000], seed=1)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [other.planned_row(n).row for n in range(1000)]


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=40))
@quick
def test_random_access_equals_sequential(numbers):
    def fresh() -> IndexPlan:
        return plan_of([2.0, 1.0, 1.0], [900, None, 50], seed=3)

    plan = fresh()
    expected = {number: plan.planned_row(number) for number in numbers}
    plan = pickle.loads(pickle.dumps(plan))
    for number in sorted(expected):
        assert plan.planned_row(number) == expected[number] == fresh().planned_row(number)


def test_numbers_of_a_source_are_its_draws_in_order():
    plan = plan_of([1.0, 3.0], [None, None])
    numbers = plan.numbers_of(0)
    for draw in range(3000):
        assert plan.planned_row(next(numbers)) == PlannedRow(0, 0, draw, draw)


def test_a_source_keeps_its_order_when_another_is_added():
    alone, both = IndexPlan(["a"], [1], [50], 0), IndexPlan(["b", "a"], [1, 1], [60, 50], 0)
    mine = [place for place in map(both.planned_row, range(400)) if place.source == 1]
    assert [p.row for p in mine] == [alone.planned_row(n).row for n in range(len(mine))]


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="start at 0"):
        plan_of([1.0], [3]).planned_row(-1)
