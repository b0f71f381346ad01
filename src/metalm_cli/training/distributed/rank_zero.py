"""Errors of several processes: one message is printed, by rank zero or by the first process that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from metalm_cli.errors import Exit, LostProcessError, MetalmError

_FAILURE_KEY = "metalm/failed"


def is_rank_zero() -> bool:
    """Whether this is rank zero, the process that prints and writes, by the launcher's ``RANK``."""
    return os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def report_errors_once() -> Iterator[None]:
    """Report an error only from one process: rank zero if all raise it, else the first process that fails.

    The other processes fail because their connections broke when that process ended; they exit silently.
    """
    try:
        yield
    except Exception as error:
        if not _is_reported_here(error):
            code = error.exit_code if isinstance(error, MetalmError) else Exit.FAILED
            raise SystemExit(int(code)) from error
        raise


def _is_reported_here(error: Exception) -> bool:
    """Whether this process prints an error."""
    if isinstance(error, MetalmError) and error.is_shared:
        return is_rank_zero()
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return True
    try:
        with _without_native_messages():
            return distributed.distributed_c10d._get_default_store().add(_FAILURE_KEY, 1) == 1
    except RuntimeError:
        # The store is gone with rank zero, which has printed its error unless it was killed.
        if isinstance(error, LostProcessError):
            sys.stderr.write(f"{error.what}; {error.remedy}\n")
        return False


@contextmanager
def _without_native_messages() -> Iterator[None]:
    """Context manager that discards what native code writes to standard error, such as its stack traces."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
