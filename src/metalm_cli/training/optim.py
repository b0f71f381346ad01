"""The optimiser and its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.training import Training
from metalm_cli.models.trainable import TrainPolicy, parameter_groups


def make_optimizer(
    parts: Mapping[str, nn.Module], policy: Mapping[str, TrainPolicy], options: Training
) -> torch.optim.Optimizer:
    """AdamW over what trains; fused, because the fused kernel can skip an update without asking the host."""
    groups = parameter_groups(parts, policy, options.learning_rate, options.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=(options.betas[0], options.betas[1]), eps=options.epsilon, fused=True)


def schedule(options: Training, step: int, steps: int) -> float:
    """Factor of the learning rate in the optimiser step after ``step`` done ones.

    Linear warm-up, then ``linear`` or ``cosine`` decay to 0 at ``steps``, or ``constant``.

    Example:
        >>> options = Training(steps=10, warmup_steps=2, schedule="linear")
        >>> [round(schedule(options, step, 10), 3) for step in range(10)]
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    warmup = options.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: Any, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def gate(optimizer: Any, bad: torch.Tensor) -> None:
    """Make the next update a no-op if ``bad`` is not 0, on the device: a host that asked would wait for it.

    Args:
        optimizer: A fused optimiser, or Accelerate's wrapper of one.
        bad: Scalar float32 on the parameters' device.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    inner.grad_scale, inner.found_inf = None, bad
