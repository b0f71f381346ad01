"""Downloads from the hub: limits of the time without data, and the check of downloaded files against their hashes."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import cache_folder, write_to_cache
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.errors import MetalmError

TIMEOUT_S = 10.0
"""Time limit for a connection, and for the next bytes of a response."""
STALL_S = 20.0
"""Time after which a request without enough data fails and is not repeated."""
MIN_BYTES = 20_000
"""Bytes that a response must deliver in each period of :data:`STALL_S` seconds of waiting."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@contextlib.contextmanager
def limited_waiting() -> Iterator[None]:
    """Context manager that limits the time that ``huggingface_hub`` waits for data.

    The library has no limit for a server that sends a few bytes now and then, and repeats requests without an answer.
    Inside the context such requests raise :class:`TimeoutError`, which the library does not catch.
    """
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks
    limits = _RequestLimits()
    hooks["request"].append(limits.before_request)
    hooks["response"].append(limits.after_headers)
    try:
        yield
    finally:
        hooks["request"].remove(limits.before_request)
        hooks["response"].remove(limits.after_headers)


class _RequestLimits:
    """Hooks of the library's HTTP client (httpx or httpx2) that limit the time without data of each address."""

    def __init__(self) -> None:
        self._waiting_since: dict[str, float] = {}

    def before_request(self, request: Any) -> None:
        """Limit the timeouts of a request, and refuse one that has been repeated for too long."""
        limits = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            kind: min(limits.get(kind) or TIMEOUT_S, TIMEOUT_S) for kind in ("connect", "read", "write", "pool")
        }
        waited = time.monotonic() - self._waiting_since.setdefault(_address(request), time.monotonic())
        if waited > STALL_S:
            raise _timeout(request, waited)

    def after_headers(self, response: Any) -> None:
        """Limit the time that the content of a response takes."""
        address = _address(response.request)
        if response.request.method != "GET" or not response.is_success:
            self._waiting_since.pop(address, None)
            return
        client_module = sys.modules[type(response).__module__.partition(".")[0]]

        class LimitedStream(client_module.SyncByteStream):  # type: ignore[name-defined]
            """Content of a response, which fails if it arrives too slowly."""

            def __init__(self, limits: _RequestLimits, stream: Any) -> None:
                self.limits = limits
                self.stream = stream

            def __iter__(self) -> Iterator[bytes]:
                return self.limits.read(self.stream, response.request)

            def close(self) -> None:
                self.stream.close()

        response.stream = LimitedStream(self, response.stream)

    def read(self, stream: Any, request: Any) -> Iterator[bytes]:
        """Yield the chunks of a stream; only the time that the server takes counts.

        Raises:
            TimeoutError: Too few bytes arrive.
        """
        waited, received = 0.0, 0
        chunks = iter(stream)
        while True:
            begin = time.monotonic()
            chunk = next(chunks, None)
            now = time.monotonic()
            if chunk is None:
                self._waiting_since.pop(_address(request), None)
                return
            waited, received = waited + now - begin, received + len(chunk)
            self._waiting_since[_address(request)] = now
            yield chunk
            if waited > STALL_S:
                if received < MIN_BYTES:
                    raise _timeout(request, waited)
                waited, received = 0.0, 0


def _address(request: Any) -> str:
    """Return the method and the address of a request, without the query, in which a signature may change."""
    return f"{request.method} {request.url.host}{request.url.path}"


def _timeout(request: Any, waited: float) -> TimeoutError:
    return TimeoutError(f"too little data from {request.url.host}{request.url.path} in {waited:.0f} s")


def check_downloaded_files(name: str, folder: Path) -> None:
    """Check the large files of a snapshot in the hub's cache against the SHA-256 that the hub announced.

    ``huggingface_hub`` compares sizes only. It names the file of a large object in its cache by its SHA-256; each file
    is read once, and the result is kept in metalm's cache. A snapshot of plain files, without links into such a cache,
    is not checked.

    Args:
        name: Name of the model, for messages.
        folder: The snapshot.

    Raises:
        MetalmError: A file has other content; it has been removed from the hub's cache.
    """
    for path in sorted(folder.rglob("*")):
        content = path.resolve()
        if not (path.is_symlink() and _SHA256.fullmatch(content.name) and content.is_file()) or _is_checked(content):
            continue
        actual = file_sha256(content)
        if actual != content.name:
            raise _damaged_file_error(name, path, content, actual)
        with contextlib.suppress(MetalmError), write_to_cache(_record(content)) as file:
            file.write(_state(content))


def _record(content: Path) -> Path:
    return cache_folder() / "checked-downloads" / content.name


def _state(content: Path) -> bytes:
    """Return what identifies a version of a file without its content."""
    status = content.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode()


def _is_checked(content: Path) -> bool:
    try:
        return _record(content).read_bytes() == _state(content)
    except OSError:
        return False


def _damaged_file_error(name: str, path: Path, content: Path, actual: str) -> MetalmError:
    try:
        content.unlink()
        path.unlink()
        remedy = "the damaged copy has been removed; run the command again to repeat the download"
    except OSError as error:
        remedy = f"remove {content} ({error.strerror}), and run the command again to repeat the download"
    return MetalmError(
        f"the downloaded copy of {name} is damaged",
        where=str(path),
        why=f"the SHA-256 of {path.name} is {actual[:16]}…, the hub announced {content.name[:16]}…",
        remedy=remedy,
    )
