"""Hash and identity of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from metalm_cli.common.paths import check_regular


def file_sha256(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> tuple[str | int, ...]:
    """Stamp of a file that changes whenever its content may have changed.

    The size and the modification time alone do not suffice: archives and ``cp -p`` restore the time. The inode changes
    with a file that replaces another, and no program can set the time of the last change of the inode.

    Raises:
        OSError: The file does not exist.
    """
    stat = path.stat()
    return str(path.resolve()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
