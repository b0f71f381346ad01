"""WebDataset shards: the rows of a tar file, listed by the offsets of their members; nothing is extracted.

Members of one key are a row. The key is the path up to the first dot of the base name, the rest is the column:
``a/000.jpg`` and ``a/000.txt`` are the columns ``jpg`` and ``txt`` of the row ``a/000``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from metalm_cli.common.jsonl_files import CHUNK_BYTES, MAX_LINE_BYTES, unreadable_file
from metalm_cli.common.paths import check_regular
from metalm_cli.errors import MetalmError

SHARD_SUFFIX = ".tar"
COMPRESSED_SHARD_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
KEY_COLUMN = "__key__"
"""Column of the key of a row."""
IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Columns of the bytes of an image."""
TEXT_COLUMNS = ("txt", "text", "json", "cls")
LISTING_VERSION = 1
"""Version of :func:`list_rows`; increased when the lines for the same file change."""
MAX_HEADER_BYTES = 1 << 16
"""Maximum bytes of an extended header, which tarfile reads into memory and searches."""
MAX_COLUMNS = 1000
"""Maximum columns of a row."""
BLOCK_BYTES = 512
COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""First bytes of files of gzip, bzip2, xz and zstd."""


def list_rows(path: Path) -> Iterator[bytes]:
    """Yield a line of JSON per row: its ``key``, and ``members``: offset and size in bytes of each column.

    Only headers are read. Members of other columns than :data:`IMAGE_COLUMNS` and :data:`TEXT_COLUMNS` are ignored.

    Raises:
        MetalmError: The file is not a tar file, is compressed, truncated or damaged; a member is not a regular file, is
            named by an absolute path or one with ``..``, or is too large; members of a key are not next to each other,
            or two have the same name.
    """
    row_key, columns, seen = None, dict[str, tuple[int, int]](), set[int]()
    for member in _members(path):
        parts = None if member.isdir() else split_name(member.name)
        if parts is None:
            continue
        key, column = parts
        _check_member(path, member, column)
        if key != row_key:
            if row_key is not None:
                yield _line(row_key, columns)
            if hash(key) in seen:
                raise _member_error(
                    path,
                    member,
                    f"the members of the key {_printable(key)[:300]} are not next to each other",
                    "another key comes between them",
                    "write the shard again with its members in the order of their names (tar --sort=name)",
                )
            row_key, columns = key, {}
            seen.add(hash(key))
        if column in columns or len(columns) == MAX_COLUMNS:
            raise _member_error(
                path,
                member,
                f"a key has the column {column} twice"
                if column in columns
                else f"a key has over {MAX_COLUMNS} columns",
                "each member is a column of the row of its key, and upper and lower case are the same",
                "write the shard again with a key of its own for each row",
            )
        columns[column] = member.offset_data, member.size
    if row_key is not None:
        yield _line(row_key, columns)


def split_name(name: str) -> tuple[str, str] | None:
    """Return the key and the column of a member; None for a member that is not read.

    >>> split_name("./a/000.Jpg"), split_name("000.left.png"), split_name("a/.000.jpg"), split_name("notes.pdf")
    (('a/000', 'jpg'), ('000', 'left.png'), None, None)
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, column = base.partition(".")
    column = column.lower()
    return (folder + slash + stem, column) if stem and kind_of(column) in (*IMAGE_COLUMNS, *TEXT_COLUMNS) else None


def kind_of(column: str) -> str:
    """Return the last suffix of a column, which determines how its values are read."""
    return column.rpartition(".")[2]


def compressed_shard_error(path: Path) -> MetalmError:
    return MetalmError(
        "a compressed tar file is not read",
        where=str(path),
        why="rows are read at their offsets in the file",
        remedy="uncompress it once (gunzip, unzstd); images hardly shrink by compression",
    )


class _HeaderFile:
    """File of which tarfile reads headers only, each of bounded size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
        return self._file.read(size)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        check_regular(path)
        with path.open("rb") as file:
            if file.read(6).startswith(COMPRESSED_STARTS):
                raise compressed_shard_error(path)
            size = file.seek(0, 2)
            file.seek(0)
            header_file: Any = _HeaderFile(file)
            with tarfile.open(fileobj=header_file, mode="r:", encoding="utf-8") as archive:
                tar: Any = archive
                while (member := tar.next()) is not None:
                    tar.members.clear()  # tarfile would keep every header in memory
                    if member.size < 0 or member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"the file ends inside the member {_printable(member.name)[:300]}")
                    yield member
                end = tar.offset
            _check_end(file, end)
    except OSError as error:
        raise unreadable_file(path, error) from error
    except (tarfile.TarError, EOFError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise MetalmError(
            "a tar file is damaged or truncated",
            where=str(path),
            why=str(error),
            remedy="download or write the file again",
        ) from error


def _check_end(file: IO[bytes], offset: int) -> None:
    """Check that an archive ends with zeros: tarfile takes damage, or the end of the file, for the end of it."""
    file.seek(offset)
    block = file.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise tarfile.ReadError("the file ends without the blocks of zeros that end a tar file")
    if any(block):
        raise tarfile.ReadError(f"no header of a member begins at byte {offset:,}")
    while chunk := file.read(CHUNK_BYTES):
        if chunk.count(0) < len(chunk):
            raise tarfile.ReadError(
                "data follow the end of the archive, as in tar files that are joined with cat: keep them apart"
            )


def _check_member(path: Path, member: tarfile.TarInfo, column: str) -> None:
    if not member.isreg() or member.issparse():
        kind = "a link" if member.islnk() or member.issym() else "not an ordinary file"
        raise _member_error(
            path,
            member,
            "a member of a shard is not a regular file",
            f"it is {kind}, and nothing is extracted",
            "write the shard again with copies of the files (tar --dereference --hard-dereference)",
        )
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise _member_error(
            path,
            member,
            "a member of a shard has a path that leads out of it",
            "expected a relative path without ..",
            "write the shard again with relative paths (tar -C FOLDER)",
        )
    if kind_of(column) in TEXT_COLUMNS and member.size > MAX_LINE_BYTES:
        raise _member_error(
            path,
            member,
            "a text of a shard is too large",
            f"it has {member.size:,} bytes; at most {MAX_LINE_BYTES:,} are read",
            "divide it, or leave it out",
        )


def _member_error(path: Path, member: tarfile.TarInfo, what: str, why: str, remedy: str) -> MetalmError:
    return MetalmError(what, where=f"{path}, member {_printable(member.name)[:300]}", why=why, remedy=remedy)


def _printable(name: str) -> str:
    """Return a name with U+FFFD in place of bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _line(key: str, columns: dict[str, tuple[int, int]]) -> bytes:
    return json.dumps({"key": _printable(key), "members": columns}).encode() + b"\n"
