"""The index plan: an endless numbered list of rows, a pure function of weights, row counts and seed.

An order depends only on integer arithmetic and a hash defined here, so the same recipe reads the same rows with any
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

MIN_BLOCK_SIZE = 4096
MAX_BLOCK_SIZE = 1 << 18
MAX_CACHED_BLOCKS = 64
FEISTEL_ROUNDS = 6

_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_ROUND_CONSTANTS = (np.arange(1, FEISTEL_ROUNDS + 1, dtype=np.uint64) * _GOLDEN_RATIO)[:, None]
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_INT_ROUND_CONSTANTS, _INT_MULTIPLIER_1, _INT_MULTIPLIER_2 = (
    _ROUND_CONSTANTS.ravel().tolist(),
    int(_MULTIPLIER_1),
    int(_MULTIPLIER_2),
)
_MASK_64 = (1 << 64) - 1


def key_of(*parts: object) -> int:
    """64-bit key of the printed parts, the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def hash64(values: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64: a bijective hash of uint64 values."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIER_1
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIER_2
    return values ^ (values >> np.uint64(31))


def permutation(size: int, key: int) -> np.ndarray:
    """Permutation of ``0 … size - 1`` (int64) as an array, for blocks."""
    ranks = hash64((np.arange(size, dtype=np.uint64) + np.uint64(1)) * _GOLDEN_RATIO + np.uint64(key))
    return np.argsort(ranks, kind="stable")


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Image of each position under a keyed permutation of ``0 … size - 1``, in constant memory.

    The permutation is a Feistel network over the next power of four, applied until the value is below ``size``.

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
        for salt in _ROUND_CONSTANTS + keys[pending]:
            left, right = right, left ^ (hash64(right * _MULTIPLIER_1 + salt) & mask)
        values[pending] = (left << shift) | right
        pending = pending[values[pending] >= np.uint64(size)]
    return values.astype(np.int64)


def permute_one(position: int, size: int, key: int) -> int:
    """:func:`permute` of a single position; plain integers take a tenth of the time of arrays of length 1."""
    half = max(1, math.ceil(max(size - 1, 1).bit_length() / 2))
    mask = (1 << half) - 1
    salts = [(constant + key) & _MASK_64 for constant in _INT_ROUND_CONSTANTS]
    value = position
    while True:
        left, right = value >> half, value & mask
        for salt in salts:
            mixed = (right * _INT_MULTIPLIER_1 + salt) & _MASK_64
            mixed = ((mixed ^ (mixed >> 30)) * _INT_MULTIPLIER_1) & _MASK_64
            mixed = ((mixed ^ (mixed >> 27)) * _INT_MULTIPLIER_2) & _MASK_64
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        value = (left << half) | right
        if value < size:
            return value


@dataclass(frozen=True)
class PlannedRow:
    """The row at a number of the plan.

    Attributes:
        source: Index of the source.
        epoch: Pass over a table; 0 for a stream, whose length is unknown.
        row: Row of a table; for a stream the n of the n-th row read.
        draw: Number of earlier rows of this source, over all epochs.
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
    """Mapping from numbers to (source, epoch, row, draw).

    Numbers are assigned in blocks. The rows of each source in the first n blocks are apportioned by weight (a binary
    tree of roundings, monotone, with an error of at most half a row per level); in a block the rows of each source are
    spread by a seeded permutation.

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
        needed_size = (1 + levels) * sum(self.weights) / min(self.weights)
        self.block_size = MIN_BLOCK_SIZE
        while self.block_size < min(needed_size, MAX_BLOCK_SIZE):
            self.block_size *= 2
        self._row_keys = [key_of("rows", seed, name) for name in names]
        self._block_key = key_of("blocks", seed)
        self._blocks: OrderedDict[int, PlanBlock] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": OrderedDict()}

    def counts(self, numbers: int) -> list[int]:
        """Rows of each source among the first ``numbers`` numbers (a multiple of the block size)."""
        counts = [0] * len(self.weights)
        pending = [(0, len(self.weights), numbers)]
        while pending:
            low, high, share = pending.pop()
            if high - low == 1:
                counts[low] = share
                continue
            middle = (low + high) // 2
            left_weight, total_weight = sum(self.weights[low:middle]), sum(self.weights[low:high])
            left_share = (share * left_weight + total_weight // 2) // total_weight
            pending += [(low, middle, left_share), (middle, high, share - left_share)]
        return counts

    def block(self, index: int) -> PlanBlock:
        """The ``index``-th block: numbers from ``index · block_size``."""
        block = self._blocks.get(index)
        if block is None:
            block = self._build_block(index)
            self._blocks[index] = block
            if len(self._blocks) > MAX_CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(index)
        return block

    def _build_block(self, index: int) -> PlanBlock:
        size = self.block_size
        before, after = self.counts(index * size), self.counts((index + 1) * size)
        source_counts = np.array([high - low for low, high in zip(before, after, strict=True)])
        source = np.repeat(np.arange(len(source_counts)), source_counts)[
            permutation(size, key_of(self._block_key, index))
        ]
        draw, epoch, row = (np.zeros(size, np.int64) for _ in range(3))
        for source_index, rows in enumerate(self.rows):
            positions = np.flatnonzero(source == source_index)
            draws = before[source_index] + np.arange(len(positions), dtype=np.int64)
            draw[positions] = draws
            if rows is None:
                row[positions] = draws
                continue
            epochs = draws // rows
            keys = hash64(epochs.astype(np.uint64) * _GOLDEN_RATIO + np.uint64(self._row_keys[source_index]))
            epoch[positions], row[positions] = epochs, permute(draws % rows, rows, keys)
        return PlanBlock(source, epoch, row, draw)

    def planned_row(self, number: int) -> PlannedRow:
        """The row at ``number``.

        Raises:
            ValueError: The number is negative.
        """
        if number < 0:
            raise ValueError(f"numbers start at 0, got {number}")
        block = self.block(number // self.block_size)
        position = number % self.block_size
        return PlannedRow(
            int(block.source[position]), int(block.epoch[position]), int(block.row[position]), int(block.draw[position])
        )

    def numbers_of(self, source: int) -> Iterator[int]:
        """Iterate over the numbers of ``source``, in the order of its draws, without end."""
        index = 0
        while True:
            positions = np.flatnonzero(self.block(index).source == source)
            yield from (positions + index * self.block_size).tolist()
            index += 1
