"""Reading of files that users name: reading a pipe or a device may never end, so these are refused."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def check_regular(path: Path) -> None:
    """Raise an error for a pipe, a socket or a device; a folder gets its own error when it is opened.

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
