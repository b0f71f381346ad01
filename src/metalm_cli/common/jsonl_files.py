"""Jsonl files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from metalm_cli.errors import MetalmError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


CHUNK = 1 << 22


SHORT_LINE = 8


def chunks(path: Path) -> Iterator[bytes]:
    """The unpacked bytes of a file, in pieces.

    Raises:
        MetalmError: The file cannot be read, or is damaged or cut short.
    """
    try:
        if path.name.endswith(".zst"):
            yield from _zstd_chunks(path)
            return
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise MetalmError(
            "A compressed file is damaged or cut short",
            where=str(path),
            why=str(error),
            remedy="get the file again",
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> MetalmError:
    return MetalmError(
        "A data file cannot be read",
        where=str(path),
        why=error.strerror or str(error),
        remedy="check the path and its permissions",
    )


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    """Frame by frame: the library's own reader takes a cut frame for the end of the file."""
    unpacker, inside = zstandard.ZstdDecompressor().decompressobj(), False
    with open(path, "rb") as file:
        while piece := file.read(CHUNK // 4):
            while piece:
                inside = True
                yield unpacker.decompress(piece)
                piece = b""
                if unpacker.eof:
                    piece = unpacker.unused_data
                    unpacker, inside = zstandard.ZstdDecompressor().decompressobj(), False
    if inside:
        raise EOFError("the file ends inside a zstd frame")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank, read from start to end."""
    rest, number = b"", 0
    for chunk in chunks(path):
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            number += 1
            if len(piece) > SHORT_LINE or piece.strip():
                yield number, piece
    if rest.strip():
        yield number + 1, rest


def parse(raw: bytes, where: str) -> Any:
    """The object on a line.

    Raises:
        MetalmError: The line is not JSON.
    """
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        start = raw[:60].decode("utf-8", "replace")
        raise MetalmError(
            "A line is not JSON",
            where=where,
            why=f"{error}; it starts with {start!r}",
            remedy="repair or remove the line",
        ) from error
