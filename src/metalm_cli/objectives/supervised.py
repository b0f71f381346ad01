"""The objective of finetuning: answers, told apart by task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalm_cli.data.examples.pack_examples import TRAINED
from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives.base import Term
from metalm_cli.objectives.language import LanguageModelStep
from metalm_cli.sessions import DECODER, Batch, Row, collate

TASK = "task_loss."
"""Begins the names of the terms that tell tasks apart."""


@dataclass(frozen=True)
class TaskName:
    """A task and its cluster, for means."""

    name: str
    cluster: str


class SupervisedObjective:
    """Trains the answers of task sessions.

    Args:
        assembly: The model.
        tasks: The tasks, in the order of the rows' groups.
        average: What the loss is a mean over: ``token``, ``example`` or ``task``.
    """

    stream = DECODER

    def __init__(self, assembly: Assembly, tasks: Sequence[TaskName], average: str = "token") -> None:
        self.assembly = assembly
        self.tasks = list(tasks)
        self.average = average

    def step(self) -> SupervisedStep:
        return SupervisedStep(
            self.assembly.model, self.assembly.processors, [one.name for one in self.tasks], self.average
        )

    def collate(self, rows: list[Row], length: int | None = None) -> Batch:
        tokenizer = self.assembly.decoder_tokenizer
        return collate(rows, self.assembly.processors, length=length, pad_id=tokenizer.pad_id)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Trained tokens in all, sessions, and trained tokens of each task."""
        found = {"loss": batch.counts["trained_tokens"]}
        if self.average != "token":
            found[f"{self.average}_average"] = batch.counts["sessions"]
        return found | {TASK + one.name: batch.counts.get(f"{TRAINED}{at}", 0) for at, one in enumerate(self.tasks)}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, Any]:
        """Mean loss of each task, of each cluster over its tasks, and over the clusters: that one is ``loss``."""
        means = {
            one.name: sums[TASK + one.name] / counts[TASK + one.name] for one in self.tasks if counts[TASK + one.name]
        }
        if not means:
            return {}
        clusters = mean_by_cluster(self.tasks, means)
        return {
            "loss": sum(clusters.values()) / len(clusters),
            "token_loss": sums["loss"] / max(1, counts["loss"]),
            "cluster_loss": clusters,
            "task_loss": means,
        }


def mean_by_cluster(tasks: Sequence[TaskName], values: dict[str, float]) -> dict[str, float]:
    """Mean of each cluster over its tasks that have a value."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in tasks:
        if one.name in values:
            found[one.cluster].append(values[one.name])
    return {cluster: sum(each) / len(each) for cluster, each in found.items()}


class SupervisedStep(LanguageModelStep):
    """The root module of finetuning.

    Args:
        model: The model.
        processors: The encoders', for dummies.
        tasks: Names of the tasks.
        average: What the loss is a mean over.
    """

    def __init__(self, model: Any, processors: Any, tasks: Sequence[str], average: str) -> None:
        super().__init__(model, processors)
        self.tasks = list(tasks)
        self.average = average

    def forward(self, batch: Batch) -> dict[str, Term]:
        stream = batch.decoder
        assert stream.task_ids is not None, "task rows carry groups"
        groups = stream.task_ids.flatten()[stream.target_segments]
        total, each = self.losses(batch, self._weights(batch, groups))
        each = each.float()
        by_task = torch.zeros(len(self.tasks), device=each.device).index_add(0, groups, each)
        told = {TASK + name: Term(by_task[at], 0.0) for at, name in enumerate(self.tasks)}
        if self.average == "token":
            return {"loss": Term(total), **told}
        return {"loss": Term(each.sum(), 0.0), f"{self.average}_average": Term(total), **told}

    def _weights(self, batch: Batch, groups: Tensor) -> Tensor | None:
        """What each target counts, so that the weighted sum is the loss times the number of sessions of the step."""
        stream = batch.decoder
        if self.average == "example":
            ones = torch.ones_like(stream.target_segments, dtype=torch.float32)
            sizes = torch.zeros(stream.parent_segments.numel(), device=ones.device).index_add(
                0, stream.target_segments, ones
            )
            return 1.0 / sizes[stream.target_segments]
        if self.average == "task" and batch.totals:
            counts = torch.tensor([batch.totals[TASK + name] for name in self.tasks], device=groups.device)
            present = (counts > 0).sum()
            return (batch.totals["task_average"] / (present * counts.clamp(min=1)).float())[groups]
        return None
