"""JSONL files, plain, gzip or zstd: unpacked once, indexed by row, read by row number or from start to end.

A tar shard is prepared in the same way: in place of an unpacked copy, the cache holds the JSONL listing of its rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from metalm_cli.common.cache import write_to_cache
from metalm_cli.common.file_hash import file_sha256, file_stamp
from metalm_cli.common.jsonl_files import (
    CHUNK_BYTES,
    MAX_BLANK_LINE_BYTES,
    parse_json,
    parse_line,
    read_chunks,
    read_lines,
    unreadable_file,
)
from metalm_cli.common.tar_shards import LISTING_VERSION, SHARD_SUFFIX, list_rows
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.unpacked_files import UNPACKED, hold, remove_unused
from metalm_cli.errors import MetalmError

MAX_OPEN_FILES = 32


@dataclass(frozen=True)
class JsonlFile:
    """A JSONL file, or the listing of a tar shard, that is prepared for reading by row.

    Attributes:
        path: The file as the user named it.
        plain: The lines to read: ``path`` itself, or its unpacked copy or its listing in the cache.
        index: Offsets of the rows in ``plain`` (int64), followed by the size of ``plain``.
        rows: Number of rows, without blank lines.
        sha256: Hash of the bytes of ``path``.
        size: Bytes of ``path``.
        plain_size: Bytes of ``plain``.
    """

    path: Path
    plain: Path
    index: Path
    rows: int
    sha256: str
    size: int
    plain_size: int


def row_starts(pieces: Iterator[bytes]) -> Iterator[np.ndarray]:
    """Offsets (int64) at which rows start, an array per piece; blank lines are not rows."""
    incomplete, offset = b"", 0
    for piece in pieces:
        buffer = incomplete + piece
        cut = buffer.rfind(b"\n") + 1
        incomplete, complete = buffer[cut:], buffer[:cut]
        if complete:
            yield _starts_in_buffer(complete, offset)
        offset += cut
    if incomplete:
        yield _starts_in_buffer(incomplete, offset)


def _starts_in_buffer(buffer: bytes, offset: int) -> np.ndarray:
    breaks = np.flatnonzero(np.frombuffer(buffer, np.uint8) == 10)
    starts = np.concatenate(([0], breaks + 1))
    ends = np.append(breaks, len(buffer))
    is_row = starts < ends
    for index in np.flatnonzero(is_row & (ends - starts <= MAX_BLANK_LINE_BYTES)):
        is_row[index] = bool(buffer[starts[index] : ends[index]].strip())
    return starts[is_row].astype(np.int64) + offset


def prepare(path: Path, cache: Path) -> JsonlFile:
    """Prepare a file for reading by row: hash it, unpack it or list its rows into the cache if necessary, index them.

    Derived files are cached by the hash of the file's content; the hash is cached by :func:`file_stamp`, so an
    unchanged file is not read again. Unpacked copies are in use until this process ends; others are removed above a
    total size (:mod:`~metalm_cli.data.sources.unpacked_files`). Two processes that prepare the same file at the same
    time each write their own copy, and the later replaces the earlier.

    Raises:
        MetalmError: The file cannot be read, is damaged, changes while it is read, or the cache cannot be written.
    """
    try:
        stamp = file_stamp(path)
        key = hashlib.sha256("\n".join(map(str, stamp)).encode("utf-8", "surrogateescape")).hexdigest()
        record = cache / "files" / f"{key[:32]}.json"
        cached = _cached_file(path, record, cache)
        if cached is not None:
            return cached
        sha256 = file_sha256(path)
    except OSError as error:
        raise unreadable_file(path, error) from error
    if _has_copy(path):
        hold(_copy_of(path, sha256, cache), cache)
    rows, plain_size = _unpack_and_index(path, sha256, cache)
    if file_stamp(path) != stamp:
        raise MetalmError(
            "a data file was changed while it was read",
            where=str(path),
            remedy="wait until the file is complete, then start again",
        )
    facts = {"sha256": sha256, "rows": rows, "size": path.stat().st_size, "plain_size": plain_size}
    with write_to_cache(record) as out:
        out.write(json.dumps(facts).encode())
    if _has_copy(path):
        remove_unused(cache)
    return _jsonl_file(path, facts, cache)


def _has_copy(path: Path) -> bool:
    return path.name.endswith((".gz", ".zst", SHARD_SUFFIX))


def _copy_of(path: Path, sha256: str, cache: Path) -> Path:
    """Path of the unpacked copy of a compressed file, or of the listing of a shard."""
    return cache / UNPACKED / f"{sha256}{_listing_version(path)}.jsonl"


def _index_of(path: Path, sha256: str, cache: Path) -> Path:
    return cache / "index" / f"{sha256}{_listing_version(path)}.idx"


def _listing_version(path: Path) -> str:
    return f"-listing-{LISTING_VERSION}" if path.suffix == SHARD_SUFFIX else ""


def _jsonl_file(path: Path, facts: dict[str, Any], cache: Path) -> JsonlFile:
    sha256 = facts["sha256"]
    plain = _copy_of(path, sha256, cache) if _has_copy(path) else path.absolute()
    return JsonlFile(
        path, plain, _index_of(path, sha256, cache), facts["rows"], sha256, facts["size"], facts["plain_size"]
    )


def _cached_file(path: Path, record: Path, cache: Path) -> JsonlFile | None:
    """The file as an earlier run prepared it; None if a derived file is missing or incomplete."""
    try:
        cached = _jsonl_file(path, json.loads(record.read_bytes()), cache)
        if _has_copy(path):
            hold(cached.plain, cache)
        intact = cached.plain.stat().st_size == cached.plain_size and cached.index.stat().st_size == 8 * (
            cached.rows + 1
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cached if intact else None


def _unpack_and_index(path: Path, sha256: str, cache: Path) -> tuple[int, int]:
    """Write the unpacked copy or the listing, if there is one, and the index; return (rows, bytes of the lines)."""
    source = path
    if _has_copy(source):
        path = _copy_of(source, sha256, cache)
        with write_to_cache(path) as out:
            for chunk in list_rows(source) if source.suffix == SHARD_SUFFIX else read_chunks(source):
                out.write(chunk)
    rows = size = 0
    with write_to_cache(_index_of(source, sha256, cache)) as out:
        for starts in row_starts(read_chunks(path)):
            out.write(starts.tobytes())
            rows += len(starts)
        size = path.stat().st_size
        out.write(np.int64(size).tobytes())
    return rows, size


def read_bytes(file: IO[bytes], start: int, size: int) -> bytes:
    """Read bytes of an unbuffered file without its position, which a forked loader shares with its parent."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, start)
    file.seek(start)
    return file.read(size)


def open_unchanged(path: Path, size: int) -> IO[bytes]:
    """Open a file that had a size when it was prepared, without a buffer.

    Raises:
        MetalmError: The file is missing, or has another size.
    """
    try:
        file = path.open("rb", buffering=0)
        actual_size = file.seek(0, 2)
    except OSError as error:
        raise _missing_file(path, error) from error
    if actual_size != size:
        file.close()
        raise MetalmError(
            "a data file was changed while it was read",
            where=str(path),
            why=f"the file has {actual_size} bytes, and had {size} when the run began",
            remedy="do not change data files during a run; start the run again",
        )
    return file


def _missing_file(path: Path, error: OSError) -> MetalmError:
    return MetalmError("a data file is missing", where=str(path), why=error.strerror or str(error))


class JsonlTable(RandomAccessRows):
    """Rows of one or more files by number, in the order of the files. Picklable; files are opened at the first read.

    Args:
        files: The files.
        parse: Parser of a line.
    """

    def __init__(self, files: list[JsonlFile], parse: Callable[[bytes], Any] = parse_json) -> None:
        self.files, self.parse = files, parse
        self._first_rows = np.cumsum([0] + [file.rows for file in files]).tolist()
        self._open: OrderedDict[int, tuple[IO[bytes], np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def rows(self) -> int:
        return self._first_rows[-1]

    @property
    def identity(self) -> list[object] | None:
        return [file.sha256 for file in self.files]

    def load(self, row: int) -> Any:
        """Load the object in a row.

        Raises:
            MetalmError: The line is not JSON, or the file was changed since the run began.
        """
        file_index, row_in_file = self.find(row)
        file, offsets = self._open.get(file_index) or self._open_file(file_index)
        start, end = int(offsets[row_in_file]), int(offsets[row_in_file + 1])
        raw = read_bytes(file, start, end - start)
        try:
            return self.parse(raw)
        except (ValueError, RecursionError):
            return parse_line(raw.rstrip(b"\r\n"), self.where(row), self.parse)

    def find(self, row: int) -> tuple[int, int]:
        """Return the index of the file that has a row, and the number of the row in it."""
        file_index = bisect_right(self._first_rows, row) - 1
        return file_index, row - self._first_rows[file_index]

    def _open_file(self, file_index: int) -> tuple[IO[bytes], np.ndarray]:
        jsonl_file = self.files[file_index]
        file = open_unchanged(jsonl_file.plain, jsonl_file.plain_size)
        try:
            offsets = np.memmap(jsonl_file.index, np.int64, "r")
        except OSError as error:
            raise _missing_file(jsonl_file.index, error) from error
        self._open[file_index] = file, offsets
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1][0].close()
        return file, offsets

    def where(self, row: int) -> str:
        """Location of a row as ``file:line``, found by counting the lines before it."""
        file_index, row_in_file = self.find(row)
        jsonl_file = self.files[file_index]
        offsets = np.memmap(jsonl_file.index, np.int64, "r")
        bytes_left, line = int(offsets[row_in_file]), 1
        with open(jsonl_file.plain, "rb") as file:
            while bytes_left and (chunk := file.read(min(bytes_left, CHUNK_BYTES))):
                bytes_left -= len(chunk)
                line += chunk.count(b"\n")
        return f"{jsonl_file.path}:{line}"


class JsonlStream(SequentialRows):
    """Files read from start to end without unpacking them to disk; each file is a shard. Picklable."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def shards(self) -> int:
        return len(self.paths)

    def read(self, shard: int) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over (shard, line number, unparsed line) of a shard.

        Raises:
            MetalmError: The file is missing, damaged or cut short.
        """
        for number, line in read_lines(self.paths[shard]):
            yield shard, number, line

    def load(self, raw: tuple[int, int, bytes]) -> Any:
        """Parse a row of :meth:`read`.

        Raises:
            MetalmError: The line is not JSON.
        """
        return parse_line(raw[2], self.where(raw))

    def where(self, raw: tuple[int, int, bytes]) -> str:
        return f"{self.paths[raw[0]]}:{raw[1]}"
