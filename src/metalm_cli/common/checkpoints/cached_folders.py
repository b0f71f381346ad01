"""Folders of the cache that are made from packages and GGUF files, atomically and once."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from metalm_cli.common.atomic_files import TEMPORARY_MARKER, explain_write_errors, fsync_tree, temporary_path
from metalm_cli.common.cache import cache_folder, cache_write_error
from metalm_cli.common.checkpoints.origin import Origin, is_complete, write_origin
from metalm_cli.errors import Exit, MetalmError

STALE_S = 3600.0
"""Age from which an incomplete folder is taken for the remains of a process that was killed."""


def checkpoints_folder() -> Path:
    """Folder of the cache that holds checkpoints; it is not created."""
    return cache_folder() / "checkpoints"


def cached_folder(key: str, origin: Origin, num_bytes: int, fill: Callable[[Path], None]) -> Path:
    """Return the folder of the cache with a key; it is made if it does not exist or is damaged.

    Two processes that make the same folder at the same time each write their own copy, and one of the two remains.

    Args:
        key: Name of the folder, which determines its content.
        origin: Recorded in the folder.
        num_bytes: Space that the folder needs.
        fill: Writes the files into a new folder.

    Raises:
        MetalmError: There is too little space, the cache cannot be written, or ``fill`` raises it; nothing is left.
    """
    folder = checkpoints_folder() / key
    if is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        _check_space(folder.parent, num_bytes, origin)
        temporary = temporary_path(folder)
        temporary.mkdir()
        try:
            with explain_write_errors(folder.parent, "the cache cannot be written", Exit.USAGE):
                fill(temporary)
                write_origin(temporary, origin)
                fsync_tree(temporary)
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise cache_write_error(error, folder.parent) from error
    return folder


def _move(temporary: Path, folder: Path) -> None:
    """Rename a complete folder; a copy of another process is used instead, and a damaged one removed."""
    if folder.is_dir() and not is_complete(folder):
        shutil.rmtree(folder)
    try:
        os.rename(temporary, folder)
    except OSError:
        if not is_complete(folder):
            raise


def _remove_stale(folder: Path) -> None:
    for path in folder.parent.glob(f".{folder.name}{TEMPORARY_MARKER}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)


def _check_space(parent: Path, num_bytes: int, origin: Origin) -> None:
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise MetalmError(
            "no space left to unpack a checkpoint",
            where=str(parent),
            why=f"the {origin} takes {num_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free",
            remedy="free some space, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
