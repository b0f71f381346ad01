"""Aggregates: one number from the scores of several tasks, with its uncertainty.

Legend of shapes: ``b`` resamples (1 for the scores themselves), ``m`` metrics of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metalm_cli.common.registry import aggregates
from metalm_cli.errors import MetalmError


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
    """Function of the scores of tasks, with what it needs. A function alone is an aggregate that needs no chance level.

    Args:
        compute: Function of at least one task, to the aggregates ``[b]``.
        needs_chance: Whether each task needs a chance level below 100.
    """

    compute: Callable[[Sequence[TaskScores]], np.ndarray]
    needs_chance: bool = False


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


CHANCE_NORMALISED = Aggregate(chance_normalised, needs_chance=True)


def load_aggregate(name: str, *, where: str = "") -> Aggregate:
    """Return the aggregate of a registered name.

    Args:
        name: The name.
        where: Location of the name, for the message.

    Raises:
        MetalmError: The name is unknown, or an aggregate of a plug-in cannot be imported.
    """
    target = aggregates.load(name, where=where)
    return target if isinstance(target, Aggregate) else Aggregate(target)


def compute(name: str, tasks: Sequence[TaskScores]) -> np.ndarray:
    """Return an aggregate of at least one task. ``[b]``

    Raises:
        MetalmError: The aggregate fails, or does not return a number for each resample.
    """
    size = tasks[0].values.shape[-1]
    try:
        values = np.asarray(load_aggregate(name).compute(tasks), dtype=float)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MetalmError(f"the aggregate {name} fails", why=f"{type(error).__name__}: {error}") from error
    if values.shape != (size,) or not np.isfinite(values).all():
        why = f"got the shape {values.shape}, or numbers that are not finite, expected {size} numbers"
        raise MetalmError(f"the aggregate {name} returns no number for each resample", why=why)
    return values
