"""Optimiser, learning rate schedule, and what belongs to a step: its seed, what is due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.training import TrainingConfig
from metalm_cli.models.trainable import TrainPolicy, parameter_groups, transformer_layers
from metalm_cli.objectives import Objective


def make_optimizer(
    parts: Mapping[str, nn.Module], policy: Mapping[str, TrainPolicy], options: TrainingConfig
) -> torch.optim.Optimizer:
    """Make AdamW over the trained parameters; fused, because the fused kernel skips updates without a host sync."""
    groups = parameter_groups(parts, policy, options.learning_rate, options.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=(options.betas[0], options.betas[1]), eps=options.epsilon, fused=True)


def schedule(options: TrainingConfig, step: int, steps: int) -> float:
    """Factor of the learning rate in the optimiser step that follows ``step`` completed steps.

    Linear warm-up, then ``linear`` or ``cosine`` decay to 0 at ``steps``, or ``constant``.

    Example:
        >>> from metalm_cli.config.schema.training import TrainingConfig
        >>> options = TrainingConfig(steps=10, warmup_steps=2, schedule="linear")
        >>> [round(schedule(options, step, 10), 3) for step in range(10)]
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    warmup = options.warmup_of(steps)
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    return 1.0 - progress if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Any, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def logged_rates(optimizer: Any, options: TrainingConfig, factor: float) -> dict[str, Any]:
    """Return the rates of a step for its record: ``learning_rates`` of the trained parts, and ``lr``.

    ``lr`` is the rate of the run, or the highest one if no part trains at it, as with adapters alone.
    """
    bases = {group["name"].rpartition(".")[0]: group["base_lr"] for group in optimizer.param_groups}
    rate = options.learning_rate if options.learning_rate in bases.values() else max(bases.values())
    return {"lr": rate * factor, "learning_rates": {name: base * factor for name, base in bases.items()}}


def gate_update(optimizer: Any, found_inf: torch.Tensor) -> None:
    """Make the next update a no-op if ``found_inf`` is not 0, decided on the device to avoid a host sync.

    Args:
        optimizer: A fused optimiser, or Accelerate's wrapper of one.
        found_inf: Scalar float32 on the parameters' device.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    inner.grad_scale, inner.found_inf = None, found_inf


def trained_parts(objective: Objective, root: Any) -> tuple[dict[str, nn.Module], dict[str, TrainPolicy]]:
    """Parts of the optimiser and their policies: the model's, and those that the objective adds."""
    extra_parts = objective.extra_parts(root)
    policy = {**objective.assembly.policy, **{name: TrainPolicy() for name in extra_parts}}
    return {**objective.assembly.parts(), **extra_parts}, policy


def layer_classes(parts: dict[str, nn.Module]) -> list[str]:
    """Class names of the transformer layers in all stacks; sharding wraps each layer as one unit."""
    stacks = [part for name, part in parts.items() if not name.startswith("connectors.")]
    return sorted({type(layer).__name__ for stack in stacks for layer in transformer_layers(stack)})


def is_due(every: int, step: int) -> bool:
    """Whether a step is a multiple of a number of steps; 0: never."""
    return every > 0 and step % every == 0


def to_seconds(limit: str | None) -> float | None:
    """Convert a recipe's time limit (``90s``, ``30m``, ``2h``) to seconds."""
    if limit is None:
        return None
    return float(limit[:-1]) * {"s": 1, "m": 60, "h": 3600}[limit[-1]]


def step_seed(seed: int, step: int, rank: int, micro: int) -> int:
    """Dropout seed of a micro-batch: unique within a run, and the same in every repetition of the run."""
    mixed_seed = 0
    for value in (seed, step, rank, micro):
        mixed_seed = (mixed_seed * 1_000_003 + value + 1) & 0x7FFF_FFFF_FFFF_FFFF
    return mixed_seed
