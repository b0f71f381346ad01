"""Bounded folder of tensors by key, which several processes read and write at the same time.

Each entry is a safetensors file of its own, written under a temporary name and renamed. A process that is killed leaves
at most a temporary file. An entry whose checksum differs, as a power failure may leave it, is missing, and is written
again. A file that cannot be written is left out: the cache never stops a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from metalm_cli.common.atomic_files import TEMPORARY_MARKER, temporary_path

SUFFIX = ".safetensors"
TENSOR = "outputs"
"""Name of the tensor of an entry."""
SPARE_SHARE = 1 / 8
"""Share of the bound that stays free when entries are removed, for what processes write until the next count."""
WRITTEN_SHARE = 1 / 16
"""Share of the bound that a process writes between two counts."""
USE_INTERVAL_S = 3600.0
"""The time of the last use of an entry is noted to this interval; older temporary files belong to no process."""


class OutputStore:
    """Tensors by key in a section of a folder.

    Args:
        folder: Folder of all sections, which share the bound.
        section: Name of the section.
        max_bytes: Maximum size of all sections together; the entries that were not used for longest are removed. Up to
            two processes keep it, each further one may exceed it by :data:`WRITTEN_SHARE`. 0: nothing is read or
            written.

    Attributes:
        damaged: Number of entries whose checksum differed.
        problem: Why the store has stopped writing entries; empty while it writes them.
    """

    def __init__(self, folder: Path, section: str, max_bytes: int) -> None:
        self.folder, self.section, self.max_bytes = folder, folder / section, max_bytes
        self.damaged = 0
        self.problem = ""
        self._uncounted: int | None = None

    def get(self, key: str) -> Tensor | None:
        """Return the tensor of a key; None if it is missing."""
        if not self.max_bytes:
            return None
        try:
            with open(self._path(key), "rb") as file:
                content = file.read()
                if os.fstat(file.fileno()).st_mtime < time.time() - USE_INTERVAL_S:
                    with suppress(OSError):
                        os.utime(file.fileno())
        except OSError:
            return None
        tensor = _tensor_of(content, key)
        self.damaged += tensor is None
        return tensor

    def put(self, key: str, tensor: Tensor) -> None:
        """Write an entry; an error of the disk ends the writing."""
        tensor = tensor.detach().cpu().contiguous()
        size = tensor.numel() * tensor.element_size()
        if self.problem or size > self.max_bytes * WRITTEN_SHARE:
            return
        path = self._path(key)
        temporary = temporary_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._uncounted is None or self._uncounted + size > self.max_bytes * WRITTEN_SHARE:
                self._remove_oldest()
                self._uncounted = 0
            temporary.write_bytes(save({TENSOR: tensor}, {"sha256": _checksum(key, _bytes_of(tensor))}))
            os.replace(temporary, path)
            self._uncounted += size
        except OSError as error:
            self.problem = f"{error.strerror or error}: {self.folder}"
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def drop_from_memory(self) -> None:
        """Write the entries of the section to disk, and drop them from the system's memory where it allows this."""
        for _, _, path in _files(self.section):
            with open(path, "rb") as file, suppress(OSError):
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _path(self, key: str) -> Path:
        return self.section / key[:2] / f"{key}{SUFFIX}"

    def _remove_oldest(self) -> None:
        """Remove the entries of all sections that were not used for longest, unless another process is doing so."""
        with _locked(self.folder / "lock") as is_locked:
            if not is_locked:
                return
            entries = sorted(_files(self.folder))
            total = sum(size for _, size, _ in entries)
            limit = self.max_bytes * (1 - SPARE_SHARE)
            for used, size, path in entries:
                is_left_over = TEMPORARY_MARKER in path.name and used < time.time() - USE_INTERVAL_S
                if is_left_over or (total > limit and TEMPORARY_MARKER not in path.name):
                    path.unlink(missing_ok=True)
                    total -= size


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield the time of the last use, size and path of each entry and temporary file."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if name.endswith(SUFFIX) or TEMPORARY_MARKER in name:
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path


def _tensor_of(content: bytes, key: str) -> Tensor | None:
    """Return the tensor of a file; None if the file is not what was written under the key."""
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        checksum = json.loads(content[8:start])["__metadata__"]["sha256"]
        if checksum != _checksum(key, content[start:]):
            return None
        return load(content)[TENSOR]
    except Exception:  # damaged headers fail in many ways
        return None


def _checksum(key: str, data: bytes | memoryview) -> str:
    state = hashlib.sha256(key.encode())
    state.update(data)
    return state.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Context manager that yields whether no other process has the lock."""
    import fcntl

    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
