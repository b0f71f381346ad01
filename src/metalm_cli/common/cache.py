"""Cache folder of metalm, and atomic writes into it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metalm_cli.errors import MetalmError


def cache_folder(folder: Path | None = None) -> Path:
    """Return ``folder``, else ``$XDG_CACHE_HOME/metalm``, else ``~/.cache/metalm``; the folder is not created."""
    if folder is not None:
        return folder
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metalm"


@contextmanager
def write_to_cache(
    target: Path, describe_error: Callable[[OSError, Path], MetalmError] | None = None
) -> Iterator[BinaryIO]:
    """Context manager of a file that becomes ``target`` atomically at the end, and is removed on an error.

    Args:
        target: Path of the file.
        describe_error: Returns the error to raise when the target's folder cannot be written. Default:
            :func:`cache_write_error`.

    Raises:
        MetalmError: The disk is full, or the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if not _is_write_error(error, target):
            raise
        raise (describe_error or cache_write_error)(error, target.parent) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _is_write_error(error: OSError, target: Path) -> bool:
    """Whether an error comes from writing: it names no file (full disk) or a file in the target's folder."""
    return error.filename is None or str(target.parent) in str(error.filename)


def cache_write_error(error: OSError, folder: Path) -> MetalmError:
    """Return the error for a cache that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MetalmError(
            "no space left for the cache",
            where=str(folder),
            why=error.strerror or str(error),
            remedy="free some space, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
    return MetalmError(
        "the cache cannot be written",
        where=str(folder),
        why=error.strerror or str(error),
        remedy="set XDG_CACHE_HOME to a folder that you may write to",
    )
