"""The index plan: an endless numbered list of rows, a pure function of weights, row counts and seed.

Only integer arithmetic and our own hash decide an order, so the same recipe reads the same rows whatever the
version of any library.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

SMALLEST_BLOCK = 4096
LARGEST_BLOCK = 1 << 18
CACHED_BLOCKS = 64
ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TURNS = (np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN)[:, None]
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_PLAIN_TURNS, _PLAIN_1, _PLAIN_2 = _TURNS.ravel().tolist(), int(_MIX_1), int(_MIX_2)
_WORD = (1 << 64) - 1


def key_of(*parts: object) -> int:
    """A 64-bit key for anything that prints stably, the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def hash64(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 in, well-spread uint64 out (bijective)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def permutation(size: int, key: int) -> np.ndarray:
    """A permutation of ``0 … size - 1`` (int64), materialised; for blocks."""
    ranks = hash64((np.arange(size, dtype=np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(key))
    return np.argsort(ranks, kind="stable")


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of ``0 … size - 1`` sends each position, in constant memory.

    A Feistel network over the next power of four, walked until it falls back inside ``size``.

    Args:
        positions: ``[n]`` integers in ``0 … size - 1``.
        size: Length of the permuted range.
        keys: ``[n]`` uint64; positions with equal keys share one permutation.

    Returns:
        ``[n]`` int64 in ``0 … size - 1``.
    """
    half = max(1, math.ceil(max(size - 1, 1).bit_length() / 2))
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    values = positions.astype(np.uint64)
    pending = np.arange(len(values))
    while len(pending):
        left, right = values[pending] >> shift, values[pending] & mask
        for salt in _TURNS + keys[pending]:
            left, right = right, left ^ (hash64(right * _MIX_1 + salt) & mask)
        values[pending] = (left << shift) | right
        pending = pending[values[pending] >= np.uint64(size)]
    return values.astype(np.int64)


def permute_one(position: int, size: int, key: int) -> int:
    """Where :func:`permute` sends a single position; plain integers take a tenth of the time of arrays of one."""
    half = max(1, math.ceil(max(size - 1, 1).bit_length() / 2))
    mask = (1 << half) - 1
    salts = [(turn + key) & _WORD for turn in _PLAIN_TURNS]
    value = position
    while True:
        left, right = value >> half, value & mask
        for salt in salts:
            mixed = (right * _PLAIN_1 + salt) & _WORD
            mixed = ((mixed ^ (mixed >> 30)) * _PLAIN_1) & _WORD
            mixed = ((mixed ^ (mixed >> 27)) * _PLAIN_2) & _WORD
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        value = (left << half) | right
        if value < size:
            return value


@dataclass(frozen=True)
class PlannedRow:
    """What stands at a number.

    Attributes:
        source: Index of the source.
        epoch: Pass over a table; 0 for a stream, whose length is unknown.
        row: Row of a table; for a stream the n of the n-th row read.
        draw: How many rows of this source came before, over all epochs.
    """

    source: int
    epoch: int
    row: int
    draw: int


@dataclass(frozen=True)
class PlanBlock:
    """Consecutive numbers of the plan; four ``[block_size]`` arrays with the meaning of :class:`PlannedRow`."""

    source: np.ndarray
    epoch: np.ndarray
    row: np.ndarray
    draw: np.ndarray


class IndexPlan:
    """Number -> (source, epoch, row, draw).

    Numbers are dealt in blocks. How many rows of each source the first n blocks hold is apportioned from the
    weights (a binary tree of roundings, monotone and never off by more than half a row a level); inside its
    block each source's rows are spread by a seeded permutation.

    Args:
        names: Name of each source; an order depends on its name, not on its position.
        weights: Share of documents drawn from each source; any positive scale.
        rows: Row count of each table, None for a stream.
        seed: Seed of every order.
    """

    def __init__(self, names: list[str], weights: list[float], rows: list[int | None], seed: int) -> None:
        self.names, self.rows, self.seed = names, rows, seed
        fractions = [Fraction(weight) for weight in weights]
        scale = math.lcm(*(fraction.denominator for fraction in fractions))
        self.weights = [int(fraction * scale) for fraction in fractions]
        levels = max(1, math.ceil(math.log2(max(2, len(weights)))))
        needed = (1 + levels) * sum(self.weights) / min(self.weights)
        self.block_size = SMALLEST_BLOCK
        while self.block_size < min(needed, LARGEST_BLOCK):
            self.block_size *= 2
        self._row_keys = [key_of("rows", seed, name) for name in names]
        self._block_key = key_of("blocks", seed)
        self._blocks: OrderedDict[int, PlanBlock] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": OrderedDict()}

    def counts(self, numbers: int) -> list[int]:
        """How many of the first ``numbers`` numbers (a whole number of blocks) each source holds."""
        counts = [0] * len(self.weights)
        parts = [(0, len(self.weights), numbers)]
        while parts:
            low, high, share = parts.pop()
            if high - low == 1:
                counts[low] = share
                continue
            middle = (low + high) // 2
            left, whole = sum(self.weights[low:middle]), sum(self.weights[low:high])
            taken = (share * left + whole // 2) // whole
            parts += [(low, middle, taken), (middle, high, share - taken)]
        return counts

    def block(self, index: int) -> PlanBlock:
        """The ``index``-th block: numbers ``index · block_size`` and on."""
        found = self._blocks.get(index)
        if found is None:
            found = self._deal(index)
            self._blocks[index] = found
            if len(self._blocks) > CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(index)
        return found

    def _deal(self, index: int) -> PlanBlock:
        size = self.block_size
        before, after = self.counts(index * size), self.counts((index + 1) * size)
        dealt = np.array([high - low for low, high in zip(before, after, strict=True)])
        source = np.repeat(np.arange(len(dealt)), dealt)[permutation(size, key_of(self._block_key, index))]
        draw, epoch, row = (np.zeros(size, np.int64) for _ in range(3))
        for which, rows in enumerate(self.rows):
            at = np.flatnonzero(source == which)
            draws = before[which] + np.arange(len(at), dtype=np.int64)
            draw[at] = draws
            if rows is None:
                row[at] = draws
                continue
            epochs = draws // rows
            keys = hash64(epochs.astype(np.uint64) * _GOLDEN + np.uint64(self._row_keys[which]))
            epoch[at], row[at] = epochs, permute(draws % rows, rows, keys)
        return PlanBlock(source, epoch, row, draw)

    def place(self, number: int) -> PlannedRow:
        """What stands at ``number``.

        Raises:
            ValueError: The number is negative.
        """
        if number < 0:
            raise ValueError(f"numbers start at 0, got {number}")
        block = self.block(number // self.block_size)
        at = number % self.block_size
        return PlannedRow(int(block.source[at]), int(block.epoch[at]), int(block.row[at]), int(block.draw[at]))

    def numbers_of(self, source: int) -> Iterator[int]:
        """The numbers that hold ``source``, in the order of its draws, without end."""
        index = 0
        while True:
            at = np.flatnonzero(self.block(index).source == source)
            yield from (at + index * self.block_size).tolist()
            index += 1
