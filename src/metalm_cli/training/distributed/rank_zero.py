"""Distributed helpers: broadcast a value from rank zero, and print errors from one rank only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from metalm_cli.errors import Exit, MetalmError

_FAILURE_KEY = "metalm/failed"


def is_rank_zero() -> bool:
    """Whether this is rank zero, the process that prints and writes, by the launcher's ``RANK``."""
    return os.environ.get("RANK", "0") == "0"


def broadcast_from_rank_zero(function: Callable[[], Any]) -> Any:
    """Run a function on rank zero and broadcast its result (or its error) to all ranks.

    Args:
        function: Called on rank zero only; its result must be picklable.

    Raises:
        MetalmError: The function raised it on rank zero.
    """
    import torch

    if not torch.distributed.is_initialized():
        return function()
    result_and_error: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            result_and_error[0] = function()
        except MetalmError as error:
            result_and_error[1] = error
    torch.distributed.broadcast_object_list(result_and_error, src=0)
    if result_and_error[1] is not None:
        raise result_and_error[1]
    return result_and_error[0]


@contextmanager
def report_errors_once() -> Iterator[None]:
    """Report an error only from the first process that fails.

    The other processes fail for the same reason, or because their connections broke when it exited; they exit
    silently.
    """
    try:
        yield
    except Exception as error:
        if _already_reported():
            code = error.exit_code if isinstance(error, MetalmError) else Exit.FAILED
            raise SystemExit(int(code)) from error
        raise


def _already_reported() -> bool:
    """Whether another process has reported an error; if not, marks this process as the reporting one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return not is_rank_zero()  # before initialisation all ranks read the same recipe and fail alike
    try:
        return distributed.distributed_c10d._get_default_store().add(_FAILURE_KEY, 1) > 1
    except RuntimeError:
        return True  # the store is gone with the process that hosted it
