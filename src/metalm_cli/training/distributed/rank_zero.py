"""Several processes of one run: what one of them finds out is told to all, and one alone speaks of a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from metalm_cli.errors import Exit, MetalmError

_FAILED = "metalm/failed"


def is_rank_zero() -> bool:
    """Whether this is the process that prints and writes, as launchers number them."""
    return os.environ.get("RANK", "0") == "0"


def broadcast_from_rank_zero(find: Callable[[], Any]) -> Any:
    """What the first process finds, in every process.

    Args:
        find: Called in the first process alone; its result must pickle.

    Raises:
        MetalmError: It raised one in the first process.
    """
    import torch

    if not torch.distributed.is_initialized():
        return find()
    answer: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            answer[0] = find()
        except MetalmError as error:
            answer[1] = error
    torch.distributed.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


@contextmanager
def report_errors_once() -> Iterator[None]:
    """Let the first process to fail tell what went wrong.

    The others fail because they have found the same, or because their connections broke when it left; they end
    without a word.
    """
    try:
        yield
    except Exception as error:
        if _told():
            code = error.exit_code if isinstance(error, MetalmError) else Exit.FAILED
            raise SystemExit(int(code)) from error
        raise


def _told() -> bool:
    """Whether another process speaks; if none does, this one does from now on."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return not is_rank_zero()  # nothing is shared yet: all read the same recipe, and fail alike
    try:
        return distributed.distributed_c10d._get_default_store().add(_FAILED, 1) > 1
    except RuntimeError:
        return True  # the store went with the process that held it
