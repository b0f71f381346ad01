"""Cache folder of metalm, and atomic writes into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metalm_cli.common.atomic_files import open_atomically, write_error
from metalm_cli.errors import Exit, MetalmError


def cache_folder(folder: Path | None = None) -> Path:
    """Return ``folder``, else ``$XDG_CACHE_HOME/metalm``, else ``~/.cache/metalm``; the folder is not created."""
    if folder is not None:
        return folder
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metalm"


def cache_write_error(error: OSError, folder: Path) -> MetalmError:
    """Return the error for a cache that cannot be written."""
    remedy = "free some space, or set XDG_CACHE_HOME to a folder on a larger disk that you may write to"
    return write_error(error, "the cache cannot be written", folder, Exit.USAGE, remedy)


@contextmanager
def write_to_cache(
    target: Path, describe_error: Callable[[OSError, Path], MetalmError] = cache_write_error
) -> Iterator[BinaryIO]:
    """Context manager of a file that becomes ``target`` atomically at the end, and is removed on an error.

    Args:
        target: Path of the file, which only its owner may read; its folder is created if necessary.
        describe_error: Returns the error to raise when the target's folder cannot be written.

    Raises:
        MetalmError: The disk is full, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(target, mode=0o600) as file:
            yield file
    except OSError as error:
        # An error of writing names no file (full disk) or a file in the target's folder; others come from reading.
        if error.filename is not None and str(target.parent) not in str(error.filename):
            raise
        raise describe_error(error, target.parent) from error
