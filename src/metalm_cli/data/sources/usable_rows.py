"""The usable rows of a table: the rows that can be drawn, found in one pass whose result is cached."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metalm_cli.common.cache import write_to_cache

USABLE_ROWS_FORMAT = 1
"""Version of the cached result; increased when the rule by which a filter leaves out rows changes."""
CHUNK_ROWS = 1 << 16
"""Row numbers that are held in memory before they are written."""


@dataclass
class UsableRows:
    """The row numbers of a table that can be drawn, in their order. Picklable.

    Args:
        rows: Rows of the table.
        count: Rows of them that are usable.
        left_out: Number of the other rows, by reason.
        text_bytes: UTF-8 bytes of the usable rows, if the pass measured them.
        index: File of the row numbers (int64); None if every row is usable, or if ``numbers`` is set.
        numbers: Row numbers in memory, int64[count].
        named: Some of the rows that are left out, by reason: what is wrong with them.
    """

    rows: int
    count: int
    left_out: dict[str, int] = field(default_factory=dict)
    text_bytes: int = 0
    index: Path | None = None
    numbers: np.ndarray | None = None
    named: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def every(cls, rows: int) -> UsableRows:
        """All rows of a table without a filter."""
        return cls(rows, rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "numbers": self.numbers if self.index is None else None}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> int:
        """Row number of the usable row at a position."""
        return position if self.count == self.rows else int(self._array()[position])

    def array(self) -> np.ndarray:
        """All row numbers, int64[count]; not copied into memory if they are in a file."""
        return np.arange(self.rows) if self.count == self.rows else self._array()

    def _array(self) -> np.ndarray:
        if self.numbers is None:
            assert self.index is not None, "some rows are left out"
            self.numbers = np.memmap(self.index, np.int64, "r", shape=(self.count,))
        return self.numbers


def find_usable_rows(
    reasons: Iterable[tuple[str, int]],
    rows: int,
    identity: Sequence[object] | None,
    cache: Path,
    named: Mapping[str, list[str]] | None = None,
) -> UsableRows:
    """Find the usable rows of a table, in the cache or in one pass over its rows.

    Args:
        reasons: For each row the reason why it is left out (empty: it is usable) and the bytes of its text. It is
            iterated over only if the cache does not hold the result.
        rows: Rows of the table.
        identity: What determines the result: the content of the rows, and the filter. None: the result is not cached.
        cache: Folder of the cache.
        named: Names of some of the rows that are left out, by reason, which the pass fills.

    Raises:
        MetalmError: A row is broken, or the cache cannot be written.
    """
    if identity is None:
        return _pass_over_rows(reasons, rows, None, named)
    text = json.dumps([USABLE_ROWS_FORMAT, rows, *identity], default=str, sort_keys=True)
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    index, record = cache / "usable" / f"{key}.rows", cache / "usable" / f"{key}.json"
    cached = _cached_result(rows, index, record)
    if cached is not None:
        return cached
    usable_rows = _pass_over_rows(reasons, rows, index, named)
    facts: dict[str, Any] = {"count": usable_rows.count, "left_out": usable_rows.left_out}
    facts |= {"text_bytes": usable_rows.text_bytes, "named": usable_rows.named}
    with write_to_cache(record) as file:
        file.write(json.dumps(facts).encode())
    return usable_rows


def _cached_result(rows: int, index: Path, record: Path) -> UsableRows | None:
    """The result of an earlier pass; None if there is none, or if it is incomplete."""
    try:
        facts = json.loads(record.read_bytes())
        usable_rows = UsableRows(rows, int(facts["count"]), dict(facts["left_out"]), int(facts["text_bytes"]))
        usable_rows.named = dict(facts.get("named", {}))
        if usable_rows.count < rows:
            usable_rows.index = index
            if index.stat().st_size != 8 * usable_rows.count:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return usable_rows


def _pass_over_rows(
    reasons: Iterable[tuple[str, int]], rows: int, index: Path | None, named: Mapping[str, list[str]] | None
) -> UsableRows:
    left_out: Counter[str] = Counter()
    text_bytes = count = 0
    memory = io.BytesIO()
    with write_to_cache(index) if index is not None else nullcontext(memory) as file:
        chunk: list[int] = []
        for row, (reason, size) in enumerate(reasons):
            if reason:
                left_out[reason] += 1
                continue
            chunk.append(row)
            text_bytes += size
            if len(chunk) == CHUNK_ROWS:
                count += _write_chunk(chunk, file)
        count += _write_chunk(chunk, file)
    usable_rows = UsableRows(rows, count, dict(left_out), text_bytes, named=dict(named or {}))
    if count == rows or count == 0:
        if index is not None:
            index.unlink(missing_ok=True)
        usable_rows.numbers = np.zeros(0, np.int64) if count < rows else None
    elif index is not None:
        usable_rows.index = index
    else:
        usable_rows.numbers = np.frombuffer(memory.getvalue(), np.int64)
    return usable_rows


def _write_chunk(chunk: list[int], file: BinaryIO) -> int:
    """Write the row numbers of a chunk and empty it; return how many they were."""
    size = len(chunk)
    file.write(np.array(chunk, np.int64).tobytes())
    chunk.clear()
    return size
