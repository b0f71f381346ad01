"""Reading of JSONL files, plain or compressed with gzip or zstd, and of JSON files that hold a list of records."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard

from metalm_cli.common.paths import check_regular, read_regular
from metalm_cli.errors import MetalmError

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


CHUNK_BYTES = 1 << 22
COMPRESSED_BYTES = 1 << 13
"""Bytes of a zstd file that are decompressed at once: they can become 30,000 times as many."""
MAX_LINE_BYTES = 1 << 28
"""Maximum bytes of a line."""
MAX_BLANK_LINE_BYTES = 8
MAX_ARRAY_BYTES = 1 << 30
"""Maximum bytes of a file with a list of records, which is held in memory."""
START_BYTES = 1 << 12


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks.

    Raises:
        MetalmError: The file cannot be read, is not a regular file, or is damaged or truncated.
    """
    try:
        check_regular(path)
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
        pieces, size = [], 0
        while data := file.read(COMPRESSED_BYTES):
            while data:
                inside_frame = True
                pieces.append(decompressor.decompress(data))
                size += len(pieces[-1])
                data = b""
                if decompressor.eof:
                    data = decompressor.unused_data
                    decompressor, inside_frame = zstandard.ZstdDecompressor().decompressobj(), False
            if size >= CHUNK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        yield b"".join(pieces)
    if inside_frame:
        raise EOFError("the file ends inside a zstd frame")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of every line that is not blank.

    Raises:
        MetalmError: As :func:`read_chunks`; or a line is longer than 256 MiB.
    """
    unfinished: list[bytes] = []
    number = 0
    for chunk in read_chunks(path):
        if b"\n" not in chunk:
            unfinished.append(chunk)
            if sum(map(len, unfinished)) > MAX_LINE_BYTES:
                raise _too_long_line(path, number + 1)
            continue
        complete_lines = b"".join([*unfinished, chunk]).split(b"\n")
        unfinished = [complete_lines.pop()]
        for line in complete_lines:
            number += 1
            if len(line) > MAX_BLANK_LINE_BYTES or line.strip():
                yield number, line
    remainder = b"".join(unfinished)
    if remainder.strip():
        yield number + 1, remainder


def _too_long_line(path: Path, number: int) -> MetalmError:
    return MetalmError(
        "a line is too long",
        where=f"{path}:{number}",
        why=f"more than {MAX_LINE_BYTES:,} bytes",
        remedy="write one JSON value per line",
    )


class SpelledNumber(float):
    """A number of a JSON text that keeps its spelling: ``str`` of 1.10 is ``1.10``, and of 1e23 ``1e23``."""

    def __new__(cls, spelling: str) -> SpelledNumber:
        number = super().__new__(cls, spelling)
        number.spelling = spelling
        return number

    spelling: str

    def __str__(self) -> str:
        return self.spelling

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.spelling,)


class DuplicateKeyError(ValueError):
    """Error for a JSON object that has the same key twice."""


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DuplicateKeyError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return entries


def parse_json_exactly(raw: str | bytes) -> Any:
    """Parse JSON so that texts made of its values are those of the file.

    Numbers that are not plain integers keep their spelling, and NaN, which other programs write for a missing value,
    is null.

    Raises:
        DuplicateKeyError: An object has the same key twice, of which other parsers drop the first.
        ValueError: The text is not JSON.
    """
    if isinstance(raw, bytes):
        raw = raw.decode(json.detect_encoding(raw), "surrogatepass")
    elif raw.startswith("\ufeff"):
        raise json.JSONDecodeError("a byte order mark begins the text", raw, 0)
    return _EXACT_DECODER.decode(raw)


_EXACT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_duplicates,
    parse_float=SpelledNumber,
    parse_int=lambda digits: SpelledNumber(digits) if digits == "-0" else int(digits),
    parse_constant=lambda name: None if name == "NaN" else float(name),
)


_PARSER = json.JSONDecoder(object_pairs_hook=_object_without_duplicates)


def parse_json(raw: bytes) -> Any:
    """Parse JSON in UTF-8, UTF-16 or UTF-32.

    Raises:
        DuplicateKeyError: An object has the same key twice, of which other parsers drop the first.
        ValueError: The text is not JSON.
    """
    return _PARSER.decode(raw.decode(json.detect_encoding(raw), "surrogatepass"))


def parse_line(raw: bytes, where: str, parse: Callable[[bytes], Any] = parse_json) -> Any:
    """Parse the JSON value of a line.

    Args:
        raw: The line.
        where: Its location.
        parse: Parser of JSON.

    Raises:
        MetalmError: The line is not JSON.
    """
    try:
        return parse(raw)
    except DuplicateKeyError as error:
        raise MetalmError(
            "an object has the same key twice", where=where, why=str(error), remedy="remove or rename one of the two"
        ) from error
    except (ValueError, RecursionError) as error:
        raise MetalmError(
            "a line is not JSON",
            where=where,
            why=f"{error}; it starts with {raw[:60].decode('utf-8', 'replace')!r}",
            remedy=file_format_remedy(raw) or "repair or remove the line",
        ) from error


def file_format_remedy(start: bytes) -> str:
    """Return how to convert a file to JSON lines, given its first bytes; empty if they name no other format."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start[:4]:
        return "save the file as UTF-8; it is UTF-16 or UTF-32"
    if start.lstrip()[:1] == b"[":
        return "write one object per line; jq -c '.[]' FILE converts a JSON array"
    return ""


def is_json_array(path: Path) -> bool:
    """Whether a JSON file begins with a list.

    Raises:
        OSError: The file cannot be read.
    """
    check_regular(path)
    with path.open("rb") as file:
        return file.read(START_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def read_json_array(path: Path) -> list[Any]:
    """Read a JSON file with a list of records, with the exact texts of its values.

    Raises:
        MetalmError: The file cannot be read, is larger than 1 GiB, or is not a JSON list.
    """
    try:
        stat = path.stat()
        if stat.st_size > MAX_ARRAY_BYTES:
            raise MetalmError(
                "a JSON file is too large to be held in memory",
                where=str(path),
                why=f"it has {stat.st_size:,} bytes; the limit is {MAX_ARRAY_BYTES:,}",
                remedy="write one record per line: jq -c '.[]' FILE > FILE.jsonl",
            )
        return _read_version(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise unreadable_file(path, error) from error


@lru_cache(maxsize=4)
def _read_version(path: Path, _modified: int, _size: int) -> list[Any]:
    """Read a file; cached until it changes."""
    try:
        records = parse_json_exactly(read_regular(path).removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise MetalmError(
            "a JSON file cannot be read", where=str(path), why=str(error), remedy="repair the file, or write it again"
        ) from error
    if not isinstance(records, list):
        raise MetalmError("a JSON file is not a list of records", where=str(path), why=f"got {type(records).__name__}")
    return records
