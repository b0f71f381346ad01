"""Shared beginnings: what is put in front is common to its run, and saves no less than any one run."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metalm_cli.inference.scoring.shared_prefixes import LEAST, shared_prefixes

prefixes = st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=9)


def arrays(found: list[list[int]]) -> list[np.ndarray]:
    return [np.array(ids, dtype=np.int64) for ids in found]


def test_demonstrations_are_found_for_each_task() -> None:
    first, second = list(range(50)), list(range(100, 160))
    found = arrays([[*first, 1, 2], [*second, 3], [*first, 4], [9] * 70, [*second, 5, 6, 7]])
    assert shared_prefixes(found) == [50, 60, 50, 0, 60]


def test_a_short_beginning_is_not_worth_a_cache() -> None:
    preamble = list(range(LEAST - 1))
    assert shared_prefixes(arrays([[*preamble, 1, 2], [*preamble, 3]])) == [0, 0]


def test_a_prefix_keeps_a_token_for_itself() -> None:
    shots = list(range(40))
    assert shared_prefixes(arrays([shots, [*shots, 7], shots])) == [39, 39, 39]


def test_nested_beginnings_take_the_cut_that_saves_more() -> None:
    """Three prefixes share 8 tokens (16 saved); with three others they share 2 (10 saved), with nine others 22."""
    near = [[1, 1, 2, 2, 2, 2, 2, 2, at] for at in range(3)]
    far = [[1, 1, 3 + at, 0] for at in range(9)]
    assert shared_prefixes(arrays(near + far[:3]), least=1) == [8, 8, 8, 0, 0, 0]
    assert shared_prefixes(arrays(near + far), least=1) == [2] * 12


@given(prefixes, st.integers(1, 3))
def test_what_is_put_in_front_is_common_and_saves_no_less_than_any_one_run(found: list[list[int]], least: int) -> None:
    got = shared_prefixes(arrays(found), least)
    assert all(0 <= front < max(len(ids), 1) for front, ids in zip(got, found, strict=True))
    counts = Counter(tuple(ids[:front]) for front, ids in zip(got, found, strict=True) if front)
    assert all(len(head) >= least and count > 1 for head, count in counts.items())
    best = 0
    for ids in found:
        for size in range(least, len(ids)):
            best = max(best, size * (sum(one[:size] == ids[:size] and len(one) > size for one in found) - 1))
    assert sum((count - 1) * len(head) for head, count in counts.items()) >= best
