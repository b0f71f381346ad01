"""Aggregates: one number from the scores of several tasks, with its uncertainty.

Legend of shapes: ``b`` resamples (1 for the scores themselves), ``m`` metrics of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TaskScores:
    """Scores of a task, as aggregates read them.

    Args:
        name: Name of the task.
        cluster: Cluster of the task.
        group: Group of the task; tasks of a group are averaged first. Default: the task itself.
        examples: Number of scored examples.
        chance: Expected score of a uniform random choice, 0 to 100; None if it is not defined.
        values: Scores by metric, the primary metric first, 0 to 100 (correlations from -100). ``[m, b]``
    """

    name: str
    cluster: str
    group: str
    examples: int
    chance: float | None
    values: np.ndarray


@dataclass(frozen=True)
class Aggregate:
    """Named function of the scores of tasks.

    Args:
        compute: Function of at least one task, to the aggregates ``[b]``.
        description: What it computes, in a line.
        needs_chance: Whether each task needs a chance level below 100.
        uses_all_metrics: Whether it reads other metrics than the primary one.
    """

    compute: Callable[[Sequence[TaskScores]], np.ndarray]
    description: str
    needs_chance: bool = False
    uses_all_metrics: bool = False


def _mean_of_groups(values: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Return the mean over groups of the means over their members. ``[b]``"""
    groups: dict[str, list[np.ndarray]] = {}
    for name, value in values:
        groups.setdefault(name, []).append(value)
    return np.mean([np.mean(members, axis=0) for members in groups.values()], axis=0)


def mean_over_tasks(tasks: Sequence[TaskScores]) -> np.ndarray:
    """Return the mean over tasks. ``[b]``"""
    return _mean_of_groups([(task.group, task.values[0]) for task in tasks])


def mean_over_clusters(tasks: Sequence[TaskScores]) -> np.ndarray:
    """Return the mean over clusters of the means over their tasks. ``[b]``"""
    clusters: dict[str, list[TaskScores]] = {}
    for task in tasks:
        clusters.setdefault(task.cluster, []).append(task)
    return np.mean([mean_over_tasks(members) for members in clusters.values()], axis=0)


def metrics_then_tasks(tasks: Sequence[TaskScores]) -> np.ndarray:
    """Return the mean over tasks of the means over their metrics. ``[b]``

    Source: Wang et al. 2018 (GLUE), Wang et al. 2019 (SuperGLUE).
    """
    return _mean_of_groups([(task.group, task.values.mean(axis=0)) for task in tasks])


def chance_normalised(tasks: Sequence[TaskScores]) -> np.ndarray:
    """Return the mean over tasks of scores that are 0 at chance and 100 at best. ``[b]``

    Source: Srivastava et al. 2022 (BIG-bench), normalised preferred metric.
    """
    return _mean_of_groups(
        [
            (task.group, 100 * (task.values[0] - task.chance) / (100 - task.chance))
            for task in tasks
            if task.chance is not None
        ]
    )


def weighted_by_examples(tasks: Sequence[TaskScores]) -> np.ndarray:
    """Return the mean over tasks, weighted by their numbers of examples; of accuracies, the mean over examples. ``[b]``

    Source: Hendrycks et al. 2021 (MMLU): ``evaluate.py`` averages the questions of all subjects.
    """
    return np.average([task.values[0] for task in tasks], axis=0, weights=[task.examples for task in tasks])


AGGREGATES: Mapping[str, Aggregate] = {
    "mean_over_clusters": Aggregate(mean_over_clusters, "mean over clusters of the means over their tasks"),
    "mean_over_tasks": Aggregate(mean_over_tasks, "mean over tasks"),
    "metrics_then_tasks": Aggregate(
        metrics_then_tasks, "mean over tasks of the means over their metrics", uses_all_metrics=True
    ),
    "chance_normalised": Aggregate(
        chance_normalised, "mean over tasks of scores from 0 (chance) to 100", needs_chance=True
    ),
    "weighted_by_examples": Aggregate(weighted_by_examples, "mean over tasks, weighted by their numbers of examples"),
}
"""Aggregates by name."""


def load_aggregate(name: str) -> Aggregate:
    """Return the aggregate of this name."""
    return AGGREGATES[name]
