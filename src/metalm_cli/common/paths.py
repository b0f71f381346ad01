"""Paths as users write them, and reading of the files that they name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def expand_user(path: str | Path) -> Path:
    """Return a path with the home folder in place of ``~``; the name of an unknown user stays in it.

    ``Path.expanduser`` raises RuntimeError there; a path that does not exist is an error that names the path.
    """
    return Path(os.path.expanduser(path))


def check_regular(path: Path) -> None:
    """Raise an error for a pipe, a socket or a device, because reading one may never end.

    A folder gets its own error when it is opened.

    Raises:
        OSError: The path is neither a regular file nor a folder, or cannot be inspected.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_regular(path: Path) -> bytes:
    """Read a regular file as a whole.

    Raises:
        OSError: The path is not a regular file, or cannot be read.
    """
    check_regular(path)
    return path.read_bytes()
