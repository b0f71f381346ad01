"""Reading of JSONL files, plain or compressed with gzip or zstd."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from metalm_cli.errors import MetalmError

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


CHUNK_BYTES = 1 << 22


MAX_BLANK_LINE_BYTES = 8


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks.

    Raises:
        MetalmError: The file cannot be read, or is damaged or truncated.
    """
    try:
        if path.name.endswith(".zst"):
            yield from _zstd_chunks(path)
            return
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise MetalmError(
            "a compressed file is damaged or truncated",
            where=str(path),
            why=str(error),
            remedy="download or copy the file again",
        ) from error
    except OSError as error:
        raise unreadable_file(path, error) from error


def unreadable_file(path: Path, error: OSError) -> MetalmError:
    return MetalmError(
        "a data file cannot be read",
        where=str(path),
        why=error.strerror or str(error),
        remedy="check the path and its permissions",
    )


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    """Decompress frame by frame: the library's own reader takes a truncated frame for the end of the file."""
    decompressor, inside_frame = zstandard.ZstdDecompressor().decompressobj(), False
    with open(path, "rb") as file:
        while data := file.read(CHUNK_BYTES // 4):
            while data:
                inside_frame = True
                yield decompressor.decompress(data)
                data = b""
                if decompressor.eof:
                    data = decompressor.unused_data
                    decompressor, inside_frame = zstandard.ZstdDecompressor().decompressobj(), False
    if inside_frame:
        raise EOFError("the file ends inside a zstd frame")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of every line that is not blank."""
    remainder, number = b"", 0
    for chunk in read_chunks(path):
        complete_lines = (remainder + chunk).split(b"\n")
        remainder = complete_lines.pop()
        for line in complete_lines:
            number += 1
            if len(line) > MAX_BLANK_LINE_BYTES or line.strip():
                yield number, line
    if remainder.strip():
        yield number + 1, remainder


def parse_line(raw: bytes, where: str) -> Any:
    """Parse the JSON value of a line.

    Raises:
        MetalmError: The line is not JSON.
    """
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        start = raw[:60].decode("utf-8", "replace")
        raise MetalmError(
            "a line is not JSON",
            where=where,
            why=f"{error}; it starts with {start!r}",
            remedy="repair or remove the line",
        ) from error
