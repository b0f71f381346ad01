"""Files that are written whole or not at all, and survive a power failure."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metalm_cli.errors import Exit, MetalmError

TEMPORARY = ".tmp-"
"""Stands in the name of everything that is not whole yet."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file beside its place, syncs it and renames it: readers see the old or the new, never a part.

    Raises:
        MetalmError: It cannot be written; the file is as it was.
    """
    temporary = path.parent / f".{path.name}{TEMPORARY}{secrets.token_hex(4)}"
    with explain_write_errors(path, f"cannot write {path.name}", Exit.FAILED):
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def replace_folder(temporary: Path, path: Path) -> None:
    """Renames a synced folder to ``path``. A folder that stands there gives way only for that instant.

    It is moved to ``.<name>.replaced`` first; if we die between the two renames, :func:`restore_folder` undoes it.
    """
    aside = replaced_folder(path)
    if path.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    os.rename(temporary, path)
    fsync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def replaced_folder(path: Path) -> Path:
    """Where :func:`replace_folder` moves the folder that it replaces."""
    return path.parent / f".{path.name}.replaced"


def restore_folder(path: Path) -> None:
    """Finishes or undoes a :func:`replace_folder` that was cut short."""
    aside = replaced_folder(path)
    if aside.is_dir():
        if path.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, path)


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder survive a power failure."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Makes every file and folder under ``path`` survive a power failure."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            with open(Path(folder) / name, "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(folder))


def write_error(error: OSError, what: str, where: Path, exit_code: Exit, remedy: str = "") -> MetalmError:
    """The message for a file that cannot be written: no space, no permission, a broken disk."""
    if error.errno in _NO_SPACE:
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
        remedy=remedy or "choose a place that can be written",
        exit_code=exit_code,
    )


@contextmanager
def explain_write_errors(where: Path, what: str, exit_code: Exit) -> Iterator[None]:
    """Turns an error of the system inside it into a :class:`MetalmError`, by :func:`write_error`."""
    try:
        yield
    except OSError as error:
        raise write_error(error, what, where, exit_code) from error
    except MetalmError:
        raise
    except Exception as error:
        # The writers of safetensors and tokenizers hide the system's error number in their texts.
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        system = OSError(int(number[1]), os.strerror(int(number[1])))
        raise write_error(system, what, where, exit_code) from error
