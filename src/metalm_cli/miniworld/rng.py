"""Seeded choices that are the same in every process and every Python version."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def stable_hash(*parts: object) -> int:
    """A 64-bit number that depends on nothing but the written form of ``parts``."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class SeededRandom:
    """Choices drawn from ``random.Random.random`` alone, the one method whose sequence Python guarantees.

    Args:
        parts: What the choices depend on, for example a seed and a row number.
    """

    __slots__ = ("random",)

    def __init__(self, *parts: object) -> None:
        self.random = random.Random(stable_hash(*parts)).random
        """A float in [0, 1)."""

    def randbelow(self, limit: int) -> int:
        """An integer in [0, limit)."""
        return int(self.random() * limit)

    def randint(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + int(self.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, each equally likely."""
        return options[int(self.random() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Up to ``count`` different options, in random order."""
        pool = list(options)
        size = len(pool)
        count = min(count, size)
        for index in range(count):
            swap_index = index + int(self.random() * (size - index))
            pool[index], pool[swap_index] = pool[swap_index], pool[index]
        return pool[:count]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        return self.sample(options, len(options))
