"""Supervised objective of finetuning: loss on answers, reported per task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives.base import Term
from metalm_cli.objectives.decoder_objective import DecoderObjective
from metalm_cli.objectives.distillation import Teacher
from metalm_cli.objectives.language import LanguageModelStep
from metalm_cli.sessions import Batch


@dataclass(frozen=True)
class TaskName:
    """Name of a task and of its cluster."""

    name: str
    cluster: str


class SupervisedObjective(DecoderObjective):
    """Supervised training on the answers of task sessions.

    Args:
        assembly: The model.
        tasks: The tasks, in the order of the rows' task ids.
        average: Unit that the loss is averaged over: ``token``, ``example`` or ``task``.
    """

    def __init__(self, assembly: Assembly, tasks: Sequence[TaskName], average: str = "token") -> None:
        self.assembly = assembly
        self.tasks = list(tasks)
        self.average = average

    def step_module(self) -> SupervisedStep:
        return SupervisedStep(
            self.assembly.model,
            self.assembly.processors,
            [task.name for task in self.tasks],
            self.average,
            self.teacher,
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """Number of trained tokens, of sessions (unless tokens are averaged), and of each task's trained tokens."""
        counts = {"loss": batch.counts["trained_tokens"]} | self.teacher_counts(batch)
        if self.average != "token":
            counts[f"{self.average}_average"] = batch.counts["sessions"]
        return counts | {
            task_term(task.name): batch.task_targets.get(index, 0) for index, task in enumerate(self.tasks)
        }

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, Any]:
        """Mean loss of each task, of each cluster over its tasks, and over all clusters (``loss``)."""
        task_means = {
            task.name: sums[task_term(task.name)] / counts[task_term(task.name)]
            for task in self.tasks
            if counts[task_term(task.name)]
        }
        if not task_means:
            return {}
        cluster_means = mean_by_cluster(self.tasks, task_means)
        return {
            "loss": sum(cluster_means.values()) / len(cluster_means),
            "token_loss": sums["loss"] / max(1, counts["loss"]),
            "cluster_loss": cluster_means,
            "task_loss": task_means,
            **self.teacher_metrics(sums, counts),
        }


def task_term(task: str) -> str:
    """Name of the loss term of a task, as stored in checkpoints."""
    return f"task_loss.{task}"


def mean_by_cluster(tasks: Sequence[TaskName], values: dict[str, float]) -> dict[str, float]:
    """Mean of each cluster over those of its tasks that have a value."""
    cluster_values: dict[str, list[float]] = defaultdict(list)
    for task in tasks:
        if task.name in values:
            cluster_values[task.cluster].append(values[task.name])
    return {cluster: sum(members) / len(members) for cluster, members in cluster_values.items()}


class SupervisedStep(LanguageModelStep):
    """Root module of finetuning.

    Args:
        model: The model.
        processors: Processors of the encoders, for dummy inputs.
        tasks: Names of the tasks.
        average: Unit that the loss is averaged over.
        teacher: Teacher that reads the docks; None: there is none.
    """

    def __init__(
        self, model: Any, processors: Any, tasks: Sequence[str], average: str, teacher: Teacher | None = None
    ) -> None:
        super().__init__(model, processors, teacher)
        self.tasks = list(tasks)
        self.average = average

    def forward(self, batch: Batch) -> dict[str, Term]:
        stream = batch.decoder
        assert stream.task_ids is not None, "task rows have task ids"
        task_ids = stream.task_ids.flatten()[stream.target_segments]
        total, token_losses, teacher_terms = self.losses(batch, self._weights(batch, task_ids))
        token_losses = token_losses.float()
        task_sums = torch.zeros(len(self.tasks), device=token_losses.device).index_add(0, task_ids, token_losses)
        task_terms = {
            task_term(name): Term(task_sums[index], 0.0, metric="task_loss", task=name)
            for index, name in enumerate(self.tasks)
        } | teacher_terms
        outputs = (token_losses,) if batch.keep_target_losses else None
        if self.average == "token":
            return {"loss": Term(total, outputs=outputs), **task_terms}
        average = f"{self.average}_average"
        mean_term = Term(token_losses.sum(), 0.0, outputs)
        return {"loss": mean_term, average: Term(total, metric=average), **task_terms}

    def _weights(self, batch: Batch, task_ids: Tensor) -> Tensor | None:
        """Weight of each target, so that the weighted sum is the loss times the number of sessions of the step.

        None: all weigh the same, as in validation, which reports the mean of each task.
        """
        stream = batch.decoder
        if self.average == "example":
            ones = torch.ones_like(stream.target_segments, dtype=torch.float32)
            sizes = torch.zeros(stream.parent_segments.numel(), device=ones.device).index_add(
                0, stream.target_segments, ones
            )
            return 1.0 / sizes[stream.target_segments]
        if self.average == "task" and batch.step_counts is not None:
            counts = torch.tensor([batch.step_counts[task_term(name)] for name in self.tasks], device=task_ids.device)
            present = (counts > 0).sum()
            return (batch.step_counts["task_average"] / (present * counts.clamp(min=1)).float())[task_ids]
        return None
