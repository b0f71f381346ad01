"""Seeded random numbers that are the same in every process and every Python version."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def stable_hash(*parts: object) -> int:
    """Return a 64-bit hash of the string forms of ``parts``, the same in every process."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class SeededRandom:
    """Random generator on top of ``random.Random.random``, the only method whose sequence Python guarantees.

    Args:
        parts: Values that determine the sequence, for example a seed and a row number.
    """

    __slots__ = ("random",)

    def __init__(self, *parts: object) -> None:
        self.random = random.Random(stable_hash(*parts)).random
        """Return a float in [0, 1)."""

    def randbelow(self, limit: int) -> int:
        """Return an integer in [0, limit)."""
        return int(self.random() * limit)

    def randint(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both ends included."""
        return low + int(self.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.random() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, each with the same probability."""
        return options[int(self.random() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Return up to ``count`` different options in random order."""
        pool = list(options)
        size = len(pool)
        count = min(count, size)
        for index in range(count):
            swap_index = index + int(self.random() * (size - index))
            pool[index], pool[swap_index] = pool[swap_index], pool[index]
        return pool[:count]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return all options in random order."""
        return self.sample(options, len(options))
