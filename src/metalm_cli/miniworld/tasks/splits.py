"""Sampling of a task's rows, and their assignment to disjoint splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.miniworld.rng import SeededRandom, stable_hash
from metalm_cli.miniworld.world import World

SPLIT_SIZES = {"train": 2000, "validation": 200, "test": 200}
"""Number of rows of each split; the last group may exceed it."""
TASK_WORLD_SEEDS = range(101, 109)
"""Seeds of the worlds in passages; the documents of default recipes are from other worlds."""
MAX_ATTEMPTS = 60_000
_BUCKETS = 24

RowDict = dict[str, Any]
RowGroup = tuple[tuple[str, ...], list[RowDict]]
"""The subject of the rows, which determines their split, and the rows."""
GroupMaker = Callable[[World, SeededRandom], RowGroup | None]
"""Function that makes a group of rows about a world, or None if the sampled values do not fit."""


@lru_cache(maxsize=1)
def task_worlds() -> tuple[World, ...]:
    """Return the worlds of tasks with passages."""
    return tuple(World(seed) for seed in TASK_WORLD_SEEDS)


def assign_split(task: str, key: tuple[str, ...]) -> str:
    """Return the split of a subject: validation for one in twelve, test for one in twelve, else train."""
    bucket = stable_hash("split of a task", task, *key) % _BUCKETS
    return "validation" if bucket < 2 else "test" if bucket < 4 else "train"


def collect_rows(task: str, make_group: GroupMaker) -> dict[str, tuple[RowDict, ...]]:
    """Sample groups until every split is full; all rows are different, within and across splits.

    Args:
        task: Name of the task; it seeds the sampling.
        make_group: Function that makes a group of rows.
    """
    rows_by_split: dict[str, list[RowDict]] = {split: [] for split in SPLIT_SIZES}
    seen_texts: set[str] = set()
    worlds = task_worlds()
    for attempt in range(MAX_ATTEMPTS):
        if all(len(rows_by_split[split]) >= size for split, size in SPLIT_SIZES.items()):
            break
        rng = SeededRandom("task", task, attempt)
        group = make_group(rng.choice(worlds), rng)
        if group is None:
            continue
        key, rows = group
        split = assign_split(task, key)
        texts = [repr(sorted(row.items())) for row in rows]
        if len(rows_by_split[split]) >= SPLIT_SIZES[split] or seen_texts.intersection(texts):
            continue
        seen_texts.update(texts)
        rows_by_split[split] += rng.shuffled(rows)
    return {split: tuple(rows) for split, rows in rows_by_split.items()}
