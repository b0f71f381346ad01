"""Autocast over the passes of a step: every trained weight is cast to bf16 once per step instead of once per pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metalm_cli.models.loss import shared_head_casts


@contextmanager
def casts_of_step(accelerator: Any) -> Iterator[None]:
    """Context manager of the passes of a step, in which no weight may change.

    Autocast keeps the casts of trained weights until its outermost context ends. Each pass enters a context of its
    own inside this one. Sharded models cast their shards before they gather them, so there is nothing to keep.
    """
    if accelerator.mixed_precision == "no" or accelerator.distributed_type == "FSDP":
        yield
        return
    with accelerator.autocast(), shared_head_casts():
        yield


def backward(accelerator: Any, loss: Tensor) -> None:
    """Run the backward pass of a loss inside :func:`casts_of_step`: outside autocast, without ending its context."""
    with torch.autocast(accelerator.device.type, enabled=False):
        accelerator.backward(loss)
