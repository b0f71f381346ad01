"""Identity of an open file or folder, to notice that its path was removed or leads elsewhere."""

from __future__ import annotations

import os
from pathlib import Path


class FileIdentity:
    """Device and inode of an open file or folder.

    Where the file system gives an open file other numbers than its path, only the existence of the path is checked.

    Args:
        path: Path of the file.
        descriptor: Its open descriptor.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        status = os.fstat(descriptor)
        numbers = (status.st_dev, status.st_ino)
        self._numbers = numbers if _numbers(path) == numbers else None

    @classmethod
    def of_folder(cls, path: Path) -> FileIdentity:
        """Identity of a folder.

        Raises:
            OSError: The folder cannot be opened.
        """
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return cls(path, descriptor)
        finally:
            os.close(descriptor)

    def problem(self) -> str:
        """Why the path is not the opened file any more; empty if it is."""
        numbers = _numbers(self._path)
        if numbers is None:
            return "nothing has this path any more"
        return "" if self._numbers in (None, numbers) else "something else has this path now"


def _numbers(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
