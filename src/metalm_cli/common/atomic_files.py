"""Atomic writing of files and folders that also survives a power failure."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metalm_cli.errors import Exit, MetalmError

TEMPORARY_MARKER = ".tmp-"
"""Part of the name of every file and folder that is not complete yet."""
_NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def temporary_path(path: Path) -> Path:
    """New path beside ``path`` for its content until it is complete."""
    return path.parent / f".{path.name}{TEMPORARY_MARKER}{secrets.token_hex(4)}"


@contextmanager
def open_atomically(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Context manager of a temporary file that is synced and renamed to ``path``, or removed on an error.

    Args:
        path: Path of the file, in an existing folder. Readers see the old content or the new, never a part.
        mode: Permissions of a new file, less the umask.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file with :func:`open_atomically`, and sync its folder.

    Raises:
        MetalmError: The file cannot be written; an existing file is unchanged.
    """
    with explain_write_errors(path, f"cannot write {path.name}", Exit.FAILED):
        with open_atomically(path) as file:
            file.write(data)
        fsync_folder(path.parent)


def replace_folder(temporary: Path, path: Path) -> None:
    """Rename a synced folder to ``path``, replacing an existing folder.

    An existing folder is first renamed to ``.<name>.replaced``; if the process dies between the two renames,
    :func:`restore_folder` undoes the first.
    """
    backup = backup_folder(path)
    if path.is_dir():
        shutil.rmtree(backup, ignore_errors=True)
        os.rename(path, backup)
    os.rename(temporary, path)
    fsync_folder(path.parent)
    shutil.rmtree(backup, ignore_errors=True)


def backup_folder(path: Path) -> Path:
    """Where :func:`replace_folder` moves the folder that it replaces."""
    return path.parent / f".{path.name}.replaced"


def restore_folder(path: Path) -> None:
    """Finish or undo a :func:`replace_folder` that was interrupted."""
    backup = backup_folder(path)
    if backup.is_dir():
        if path.is_dir():
            shutil.rmtree(backup, ignore_errors=True)
        else:
            os.rename(backup, path)


def fsync_folder(path: Path) -> None:
    """Sync a folder, so that the names in it survive a power failure."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Sync every file and folder below ``path``."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            with open(Path(folder) / name, "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(folder))


def is_disk_full(error: OSError) -> bool:
    """Whether an error means that the disk or the user's quota is full."""
    return error.errno in _NO_SPACE_ERRNOS


def write_error(error: OSError, what: str, where: Path, exit_code: Exit, remedy: str = "") -> MetalmError:
    """Return the error for a file that cannot be written: no space, no permission, a broken disk."""
    if is_disk_full(error):
        return MetalmError(
            f"no space left: {what}",
            where=str(where),
            why=os.strerror(error.errno or 0),
            remedy=remedy or "free some space, then run the command again",
            exit_code=exit_code,
        )
    return MetalmError(
        what,
        where=str(where),
        why=f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}",
        remedy=remedy or "choose a path that can be written",
        exit_code=exit_code,
    )


@contextmanager
def explain_write_errors(where: Path, what: str, exit_code: Exit) -> Iterator[None]:
    """Context manager that turns an ``OSError`` into a :class:`MetalmError`, with :func:`write_error`."""
    try:
        yield
    except OSError as error:
        raise write_error(error, what, where, exit_code) from error
    except MetalmError:
        raise
    except Exception as error:
        # The writers of safetensors and tokenizers give the system's error number only in their message.
        match = _OS_ERROR.search(str(error))
        if match is None:
            raise
        os_error = OSError(int(match[1]), os.strerror(int(match[1])))
        raise write_error(os_error, what, where, exit_code) from error
