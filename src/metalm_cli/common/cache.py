"""The cache folder, and writing into it so that nothing half-written is ever found there."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metalm_cli.errors import MetalmError


def cache_folder(given: Path | None = None) -> Path:
    """``given``, else ``$XDG_CACHE_HOME/metalm``, else ``~/.cache/metalm``. Not created here."""
    if given is not None:
        return given
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metalm"


@contextmanager
def write_to_cache(target: Path, problem: Callable[[OSError, Path], MetalmError] | None = None) -> Iterator[BinaryIO]:
    """A file that becomes ``target`` all at once when the block ends well, and vanishes otherwise.

    Args:
        target: The file.
        problem: What to say of an error in writing into the target's folder; default: that the cache cannot.

    Raises:
        MetalmError: The disk is full, or the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if not _is_ours(error, target):
            raise
        raise (problem or explain_write_failure)(error, target.parent) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _is_ours(error: OSError, target: Path) -> bool:
    """Writing gives no file name (a full disk) or one in the target's folder; reading names its own file."""
    return error.filename is None or str(target.parent) in str(error.filename)


def explain_write_failure(error: OSError, folder: Path) -> MetalmError:
    """The message for a cache that cannot take what should be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MetalmError(
            "No space left for the cache",
            where=str(folder),
            why=error.strerror or str(error),
            remedy="free some space, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
    return MetalmError(
        "The cache cannot be written",
        where=str(folder),
        why=error.strerror or str(error),
        remedy="set XDG_CACHE_HOME to a folder that you may write to",
    )
