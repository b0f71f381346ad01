"""Loop of the benchmarks that train an encoder with mean pooling and a linear head, over transformers alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def mean_pooled(encoder: Any, inputs: Any) -> Tensor:
    """Mean of the encoder's outputs over the tokens of each text: ``[b, width]``."""
    mask = inputs["attention_mask"][..., None]
    pooled: Tensor = (encoder(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    return pooled


def fit(model: Any, groups: list[dict[str, Any]], batches: Iterable[list[dict[str, Any]]], steps: int) -> None:
    """Train a model that gives logits and labels of rows.

    AdamW, a warm-up of a tenth of the steps, then linear decay to 0; gradients are clipped to norm 1.

    Args:
        model: Maps a list of rows to logits ``[b, c]`` and labels ``[b]``.
        groups: Parameters and rates, as of the optimizer.
        batches: Rows of each step.
        steps: Number of steps.
    """
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    for rows in batches:
        loss = nn.functional.cross_entropy(*model(rows))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def accuracy(model: Any, rows: list[dict[str, Any]], batch: int = 50) -> float:
    """Accuracy of a model of :func:`fit` on rows, 0 to 1."""
    model.eval()
    with torch.no_grad():
        parts = [model(rows[start : start + batch]) for start in range(0, len(rows), batch)]
    return sum(int((logits.argmax(1) == labels).sum()) for logits, labels in parts) / len(rows)
