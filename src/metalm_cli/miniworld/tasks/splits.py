"""Drawing the rows of a task, and dividing them into splits that share nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.miniworld.rng import SeededRandom, stable_hash
from metalm_cli.miniworld.world import World

SPLITS = {"train": 2000, "validation": 200, "test": 200}
"""Rows of each split; a group that is begun is finished."""
SEEDS = range(101, 109)
"""Worlds that texts are about: none whose documents a default recipe trains on."""
TRIES = 60_000
_LOTS = 24

RowDict = dict[str, Any]
RowGroup = tuple[tuple[str, ...], list[RowDict]]
"""What the rows are about, which decides their split, and the rows."""
Maker = Callable[[World, SeededRandom], RowGroup | None]
"""Writes a group of rows about a world; None where the draw does not fit."""


@lru_cache(maxsize=1)
def worlds() -> tuple[World, ...]:
    """The worlds that tasks with a text are about."""
    return tuple(World(seed) for seed in SEEDS)


def split_of(task: str, key: tuple[str, ...]) -> str:
    """The split of what rows are about: one in twelve to validation, one in twelve to test."""
    lot = stable_hash("split of a task", task, *key) % _LOTS
    return "validation" if lot < 2 else "test" if lot < 4 else "train"


def collect_rows(task: str, make: Maker) -> dict[str, tuple[RowDict, ...]]:
    """Draw groups until every split is full; texts never occur twice, in one split or two.

    Args:
        task: Name of the task, the seed of its draws.
        make: Writes a group.
    """
    found: dict[str, list[RowDict]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    pool = worlds()
    for turn in range(TRIES):
        if all(len(found[split]) >= size for split, size in SPLITS.items()):
            break
        dice = SeededRandom("task", task, turn)
        group = make(dice.pick(pool), dice)
        if group is None:
            continue
        key, rows = group
        split = split_of(task, key)
        written = [repr(sorted(row.items())) for row in rows]
        if len(found[split]) >= SPLITS[split] or seen.intersection(written):
            continue
        seen.update(written)
        found[split] += dice.shuffled(rows)
    return {split: tuple(rows) for split, rows in found.items()}
