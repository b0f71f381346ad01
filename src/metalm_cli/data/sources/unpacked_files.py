"""The unpacked copies of compressed files in the cache: which are in use, and the limit of their total size.

Each process lists the copies that it may read in a file of ``in-use/``, which it locks until it ends. A process that
unpacks a file removes the copies that were not used for longest, until all of them together are within the limit. It
removes none that another process lists, or that it lists itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metalm_cli.errors import MetalmError

LIMIT_VARIABLE = "METALM_UNPACKED_GB"
DEFAULT_LIMIT_GB = 100.0
"""Total size of the unpacked copies, in GB of 10^9 bytes."""
UNPACKED = "unpacked"
IN_USE = "in-use"
COPY_SUFFIXES = (".jsonl", ".arrow")

_open_lists: dict[Path, tuple[int, tuple[int, int]]] = {}
"""Descriptor, device and inode of the list of this process in each cache; forked processes share it, with its lock."""


def hold(copy: Path, cache: Path) -> None:
    """List a copy as in use by this process until it ends, whether it exists yet or not; and note the time of use.

    Without locks (on another system than POSIX, or a file system without them), nothing is listed, and nothing is
    removed.
    """
    with _locked(cache) as is_locked, suppress(OSError):  # a full disk or a read-only cache
        if not is_locked:
            return
        descriptor = _open_list(cache)
        if descriptor is None:
            path = cache / IN_USE / f"{os.getpid()}-{secrets.token_hex(4)}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            _lock(descriptor)
            _open_lists[cache] = descriptor, _identity(descriptor)
        os.write(descriptor, f"{copy.name}\n".encode())
    with suppress(OSError):
        os.utime(copy)


def remove_unused(cache: Path, limit_bytes: int | None = None) -> list[Path]:
    """Remove the copies that were not used for longest, until the rest is within the limit. None in use is removed.

    Args:
        cache: Folder of the cache.
        limit_bytes: Maximum size of all copies together; default: that of the environment.

    Returns:
        The removed copies.

    Raises:
        MetalmError: The limit in the environment is not a number.
    """
    limit = _limit_of_environment() if limit_bytes is None else limit_bytes
    with _locked(cache) as is_locked:
        copies = _copies(cache)
        total = sum(size for _, size, _ in copies)
        if not is_locked or total <= limit:
            return []
        used = _names_in_use(cache)
        removed = []
        for _, size, copy in copies:
            if total <= limit:
                break
            if copy.name in used:
                continue
            with suppress(OSError):
                copy.unlink()
                removed.append(copy)
                total -= size
        return removed


def _copies(cache: Path) -> list[tuple[float, int, Path]]:
    """Time of the last use, size and path of each copy, the one that was not used for longest first."""
    copies = []
    with suppress(OSError):
        for path in (path for suffix in COPY_SUFFIXES for path in (cache / UNPACKED).glob(f"*{suffix}")):
            status = path.stat()
            copies.append((status.st_mtime, status.st_size, path))
    return sorted(copies)


def _names_in_use(cache: Path) -> set[str]:
    """Names of the copies that running processes list; the lists of ended processes are removed."""
    own = {identity for open_cache, (_, identity) in _open_lists.items() if _open_list(open_cache) is not None}
    names: set[str] = set()
    for path in (cache / IN_USE).iterdir():
        if path.name == "lock":
            continue
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        except OSError:  # a list of another user, which may name any copy
            return {copy.name for _, _, copy in _copies(cache)}
        try:
            if _identity(descriptor) not in own and _lock(descriptor):
                path.unlink(missing_ok=True)
            else:
                names.update(path.read_text(encoding="utf-8").splitlines())
        finally:
            os.close(descriptor)
    return names


def _open_list(cache: Path) -> int | None:
    """Descriptor of the list of this process; None if it has none, or if other code has closed the descriptor."""
    descriptor, identity = _open_lists.get(cache, (-1, (-1, -1)))
    try:
        return descriptor if _identity(descriptor) == identity else None
    except OSError:
        return None


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@contextmanager
def _locked(cache: Path) -> Iterator[bool]:
    """Context manager in which no other process lists or removes copies; yields False where files cannot be locked."""
    try:
        import fcntl

        (cache / IN_USE).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(cache / IN_USE / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a list until its descriptor is closed in all processes; return whether no other process has it locked."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _limit_of_environment() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        gigabytes = float(text) if text else DEFAULT_LIMIT_GB
        if not 0 <= gigabytes < float("inf"):
            raise ValueError
    except ValueError as error:
        raise MetalmError(
            f"{LIMIT_VARIABLE} is {text!r}, expected a number of GB",
            where="environment",
            remedy=f"set the total size of unpacked files in the cache, such as {DEFAULT_LIMIT_GB:g}, or unset it",
        ) from error
    return int(gigabytes * 1e9)
