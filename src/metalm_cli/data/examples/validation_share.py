"""The share of its training rows that a task without a validation split gives up for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.usable_rows import find_usable_rows
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Example, ExampleMaker

SEED = b"validation share"
"""Seed of the hash; it must not change, or rows would change sides."""
UNUSED = 0
"""Hash of rows that the card leaves out or that do not fit it, which stay on the side of training."""


def validation_rows(
    make_example: ExampleMaker, table: RandomAccessRows, rows: range, identity: Sequence[object] | None, cache: Path
) -> list[int]:
    """Choose the rows for validation: those of which the hash of the fields is in the card's ``validation_share``.

    A row stays on its side when other rows are added, removed or reordered, and equal inputs are on one side. If the
    share of a small file is empty, the rows with the smallest hash are chosen; if it is everything, those with the
    largest are not.

    Args:
        make_example: Converter of the rows.
        table: All rows.
        rows: Rows that are divided.
        identity: What determines the result; None: it is not cached.
        cache: Folder of the cache.
    """

    def reasons() -> Iterator[tuple[str, int]]:
        hashes = np.fromiter(_hashes(make_example, table, rows), np.uint64, len(rows))
        for chosen in _choose(hashes, make_example.card.validation_share).tolist():
            yield "" if chosen else "training", 0

    positions = find_usable_rows(reasons(), len(rows), identity, cache).array()
    return [rows[position] for position in positions.tolist()]


def without(rows: range, left_out: Sequence[int]) -> list[int]:
    """Rows without some of them, in their order."""
    excluded = set(left_out)
    return [row for row in rows if row not in excluded]


def _hashes(make_example: ExampleMaker, table: RandomAccessRows, rows: range) -> Iterator[int]:
    for row, columns in zip(rows, table.scan(rows), strict=True):
        try:
            example = make_example(columns, row, partial(table.where, row))
        except MetalmError:
            example = None
        yield UNUSED if example is None else _hash("\0".join(_input_texts(example)))


def _input_texts(example: Example) -> Iterator[str]:
    yield from example.fields.values()
    for image in chain.from_iterable(example.images.values()):
        yield image.name if image.data is None else hashlib.sha256(image.data).hexdigest()


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=SEED).digest()
    return int.from_bytes(digest, "big") or 1


def _choose(hashes: np.ndarray, share: float) -> np.ndarray:
    """Choose rows by their hashes, uint64[n] -> bool[n]."""
    used = hashes != UNUSED
    distinct = np.unique(hashes[used])
    if len(distinct) < 2:
        return np.zeros(len(hashes), bool)
    chosen = used & (hashes <= np.uint64(min(int(share * 2**64), 2**64 - 1)))
    if not chosen.any():
        return hashes == distinct[0]
    return chosen if (chosen != used).any() else used & (hashes != distinct[-1])
