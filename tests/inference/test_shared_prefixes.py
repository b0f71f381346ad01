"""Shared prefixes: they are common to a run of prompts, and save at least as much as any single run."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metalm_cli.inference.scoring.shared_prefixes import MIN_SHARED_TOKENS, shared_prefixes

prefixes = st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=9)


def arrays(id_lists: list[list[int]]) -> list[np.ndarray]:
    return [np.array(ids, dtype=np.int64) for ids in id_lists]


def test_demonstrations_are_detected_for_each_task() -> None:
    first, second = list(range(50)), list(range(100, 160))
    id_arrays = arrays([[*first, 1, 2], [*second, 3], [*first, 4], [9] * 70, [*second, 5, 6, 7]])
    assert shared_prefixes(id_arrays) == [50, 60, 50, 0, 60]


def test_a_short_beginning_is_not_worth_a_cache() -> None:
    preamble = list(range(MIN_SHARED_TOKENS - 1))
    assert shared_prefixes(arrays([[*preamble, 1, 2], [*preamble, 3]])) == [0, 0]


def test_a_prefix_keeps_a_token_for_itself() -> None:
    shots = list(range(40))
    assert shared_prefixes(arrays([shots, [*shots, 7], shots])) == [39, 39, 39]


def test_nested_prefixes_use_the_length_that_saves_more() -> None:
    """Three prefixes share 8 tokens (16 saved); with three others they share 2 (10 saved), with nine others 22."""
    near = [[1, 1, 2, 2, 2, 2, 2, 2, index] for index in range(3)]
    far = [[1, 1, 3 + index, 0] for index in range(9)]
    assert shared_prefixes(arrays(near + far[:3]), min_tokens=1) == [8, 8, 8, 0, 0, 0]
    assert shared_prefixes(arrays(near + far), min_tokens=1) == [2] * 12


@given(prefixes, st.integers(1, 3))
def test_prefixes_are_common_and_save_no_less_than_any_single_run(id_lists: list[list[int]], min_tokens: int) -> None:
    lengths = shared_prefixes(arrays(id_lists), min_tokens)
    assert all(0 <= length < max(len(ids), 1) for length, ids in zip(lengths, id_lists, strict=True))
    counts = Counter(tuple(ids[:length]) for length, ids in zip(lengths, id_lists, strict=True) if length)
    assert all(len(head) >= min_tokens and count > 1 for head, count in counts.items())
    best = 0
    for ids in id_lists:
        for size in range(min_tokens, len(ids)):
            best = max(best, size * (sum(other[:size] == ids[:size] and len(other) > size for other in id_lists) - 1))
    assert sum((count - 1) * len(head) for head, count in counts.items()) >= best
