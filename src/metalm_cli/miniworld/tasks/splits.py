"""Drawing the rows of a task, and dividing them into splits that share nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.miniworld.rng import SeededRandom, stable_hash
from metalm_cli.miniworld.world import World

SPLIT_SIZES = {"train": 2000, "validation": 200, "test": 200}
"""Rows of each split; a group that is begun is finished."""
TASK_WORLD_SEEDS = range(101, 109)
"""Worlds that texts are about: none whose documents a default recipe trains on."""
MAX_ATTEMPTS = 60_000
_BUCKETS = 24

RowDict = dict[str, Any]
RowGroup = tuple[tuple[str, ...], list[RowDict]]
"""What the rows are about, which decides their split, and the rows."""
GroupMaker = Callable[[World, SeededRandom], RowGroup | None]
"""Writes a group of rows about a world; None where the draw does not fit."""


@lru_cache(maxsize=1)
def task_worlds() -> tuple[World, ...]:
    """The worlds that tasks with a text are about."""
    return tuple(World(seed) for seed in TASK_WORLD_SEEDS)


def assign_split(task: str, key: tuple[str, ...]) -> str:
    """The split of what rows are about: one in twelve to validation, one in twelve to test."""
    bucket = stable_hash("split of a task", task, *key) % _BUCKETS
    return "validation" if bucket < 2 else "test" if bucket < 4 else "train"


def collect_rows(task: str, make_group: GroupMaker) -> dict[str, tuple[RowDict, ...]]:
    """Draw groups until every split is full; texts never occur twice, in one split or two.

    Args:
        task: Name of the task, the seed of its draws.
        make: Writes a group.
    """
    rows_by_split: dict[str, list[RowDict]] = {split: [] for split in SPLIT_SIZES}
    seen: set[str] = set()
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
        if len(rows_by_split[split]) >= SPLIT_SIZES[split] or seen.intersection(texts):
            continue
        seen.update(texts)
        rows_by_split[split] += rng.shuffled(rows)
    return {split: tuple(rows) for split, rows in rows_by_split.items()}
