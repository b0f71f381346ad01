"""Aggregation of the scores in a result file by the aggregates of a suite, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from metalm_cli.common.registry import aggregates
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.metrics.aggregates import TaskScores, compute, load_aggregate
from metalm_cli.evaluation.metrics.bootstrap import (
    MIN_WIDTH,
    RESAMPLES,
    Observations,
    common_rows,
    percentiles,
    task_samples,
    two_sided_p,
)
from metalm_cli.evaluation.results.comparison import Comparison, MeanDifference
from metalm_cli.evaluation.results.schema import (
    AggregateRecord,
    ResultRecord,
    SettingRecord,
    SuiteRecord,
    TaskRecord,
    TemplateRecord,
    damaged_file,
)


def with_aggregates(record: ResultRecord, suite: SuiteRecord, names: Sequence[str]) -> ResultRecord:
    """Return a record with a suite and its aggregates for each number of demonstrations.

    Args:
        record: The record.
        suite: The suite, without aggregates.
        names: Names of the aggregates.
    """
    values = {str(shots): [aggregate_record(record, suite, name, shots) for name in names] for shots in record.shots}
    return record.model_copy(update={"suite": suite.model_copy(update={"aggregates": values})})


def aggregate_record(record: ResultRecord, suite: SuiteRecord, name: str, shots: int) -> AggregateRecord:
    """Return an aggregate of the scored tasks, with the standard error and the 95% interval of its resamples."""
    tasks = [task for task in suite.tasks if _has_scores(record.tasks, suite, task, shots)]
    point = [_point_scores(record.tasks, suite, task, shots) for task in tasks]
    if not _can_compute(name, point):
        return AggregateRecord(name=name, value=None, of=tasks)
    value = float(compute(name, point)[0])
    observations = {task: task_observations(record, suite, task, shots) for task in tasks}
    if any(len(columns.rows) < 2 for metrics in observations.values() for each in metrics for columns in each):
        return AggregateRecord(name=name, value=value, of=tasks)
    samples = compute(name, _resampled(point, observations, list(suite.tasks), RESAMPLES))
    low, high = percentiles(samples)
    return AggregateRecord(
        name=name,
        value=value,
        error=round(float(samples.std(ddof=1)), 4),
        interval=[round(low, 4), round(high, 4)] if high - low > MIN_WIDTH else None,
        of=tasks,
    )


def _can_compute(name: str, tasks: Sequence[TaskScores]) -> bool:
    """Whether the tasks have all numbers that an aggregate needs."""
    return bool(tasks) and not (
        load_aggregate(name).needs_chance and any(task.chance is None or task.chance >= 100 for task in tasks)
    )


def aggregate_values(
    tasks: Mapping[str, TaskRecord], suite: SuiteRecord, names: Sequence[str], shots: int
) -> dict[str, float | None]:
    """Return aggregates by name, without intervals; None for those that lack a number.

    Args:
        tasks: Results by task.
        suite: The suite.
        names: Names of the aggregates.
        shots: Number of demonstrations.

    Raises:
        MetalmError: An aggregate of a plug-in fails.
    """
    scored = [
        _point_scores(tasks, suite, task, shots) for task in suite.tasks if _has_scores(tasks, suite, task, shots)
    ]
    return {name: float(compute(name, scored)[0]) if _can_compute(name, scored) else None for name in names}


def _setting(tasks: Mapping[str, TaskRecord], task: str, shots: int) -> SettingRecord | None:
    return tasks[task].with_shots(shots) if task in tasks else None


def _has_scores(tasks: Mapping[str, TaskRecord], suite: SuiteRecord, task: str, shots: int) -> bool:
    """Whether a task has a score by each of its metrics."""
    setting = _setting(tasks, task, shots)
    if setting is None or setting.score is None:
        return False
    return set(suite.tasks[task].metrics[1:]) <= set(setting.extra)


def _point_scores(tasks: Mapping[str, TaskRecord], suite: SuiteRecord, task: str, shots: int) -> TaskScores:
    setting = _setting(tasks, task, shots)
    assert setting is not None, "the task has scores"
    others = [setting.extra[metric] for metric in suite.tasks[task].metrics[1:]]
    values = np.array([setting.score, *others], dtype=float)[:, None]
    return TaskScores(task, tasks[task].cluster, suite.tasks[task].group, setting.n, setting.chance.uniform, values)


def task_observations(record: ResultRecord, suite: SuiteRecord, task: str, shots: int) -> list[list[Observations]]:
    """Return the observations of a task by metric and template.

    Raises:
        MetalmError: The file is damaged.
    """
    setting = _setting(record.tasks, task, shots)
    templates = [] if setting is None else setting.scored_templates
    return [
        [_metric_observations(record, task, metric, template) for template in templates]
        for metric in suite.tasks[task].metrics
    ]


def _metric_observations(record: ResultRecord, task: str, metric: str, template: TemplateRecord) -> Observations:
    columns = template.each if metric == record.tasks[task].metric else template.also_each.get(metric, {})
    try:
        return task_metrics.observations(metric, columns)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        why = f"tasks.{task}, template {template.template}, {metric}: {error}"
        raise damaged_file(record.name, why) from error


def _resampled(
    point: Sequence[TaskScores],
    observations: Mapping[str, Sequence[Sequence[Observations]]],
    order: Sequence[str],
    resamples: int,
) -> list[TaskScores]:
    """Return scores of resamples. Tasks are resampled independently, the metrics and templates of a task together."""
    return [
        replace(
            task,
            values=100
            * np.array(
                [
                    task_samples(by_template, seed=order.index(task.name), resamples=resamples)
                    for by_template in observations[task.name]
                ]
            ),
        )
        for task in point
    ]


def aggregate_differences(comparison: Comparison, resamples: int = RESAMPLES) -> list[MeanDifference]:
    """Return the differences of the aggregates of two evaluations of the same suite, over their comparable tasks.

    Both are computed on the same resamples of their common rows.

    Args:
        comparison: The comparison of the tasks.
        resamples: Number of resamples.

    Returns:
        One difference for each aggregate and number of demonstrations; none if the suites differ.
    """
    first, second = comparison.first, comparison.second
    if first.suite is None or second.suite is None or first.suite.sha256 != second.suite.sha256:
        return []
    differences = []
    for shots in dict.fromkeys(task.shots for task in comparison.tasks):
        names = [
            task.task
            for task in comparison.tasks
            if task.shots == shots and task.test is not None and not task.obstacles and task.task in first.suite.tasks
        ]
        for aggregate in first.suite.aggregates.get(str(shots), []):
            if aggregates.get(aggregate.name) is None:
                continue  # the aggregate of a plug-in that is not installed
            difference = _aggregate_difference(first, second, names, aggregate.name, shots, resamples)
            differences += [] if difference is None else [difference]
    return differences


def _aggregate_difference(
    first: ResultRecord, second: ResultRecord, names: Sequence[str], aggregate_name: str, shots: int, resamples: int
) -> MeanDifference | None:
    """Return the difference of an aggregate; None if no task has the numbers that it needs."""
    suite = first.suite
    assert suite is not None, "both evaluations are of a suite"
    names = [name for name in names if all(_has_scores(record.tasks, suite, name, shots) for record in (first, second))]
    values: list[float] = []
    samples = []
    for record, other in ((first, second), (second, first)):
        observations = {name: _common_observations(record, other, suite, name, shots) for name in names}
        tasks = [_scores_of(record, suite, name, shots, observations[name]) for name in names]
        if not _can_compute(aggregate_name, tasks):
            return None
        values.append(float(compute(aggregate_name, tasks)[0]))
        samples.append(compute(aggregate_name, _resampled(tasks, observations, list(suite.tasks), resamples)))
    differences = samples[0] - samples[1]
    interval, p = percentiles(differences), two_sided_p(differences)
    return MeanDifference(suite.name, shots, values[0], values[1], interval, p, tuple(names), aggregate_name)


def _common_observations(
    record: ResultRecord, other: ResultRecord, suite: SuiteRecord, task: str, shots: int
) -> list[list[Observations]]:
    """Return the observations of a task, by metric and template, on the rows that both records have."""
    ours, theirs = (task_observations(side, suite, task, shots) for side in (record, other))
    return [
        [columns.select(common_rows(our_metric, their_metric)) for columns in our_metric]
        for our_metric, their_metric in zip(ours, theirs, strict=True)
    ]


def _scores_of(
    record: ResultRecord, suite: SuiteRecord, task: str, shots: int, observations: Sequence[Sequence[Observations]]
) -> TaskScores:
    """Return the scores of a task by its observations, by metric and template."""
    point = _point_scores(record.tasks, suite, task, shots)
    means = [[100 * np.mean([columns.score for columns in by_template])] for by_template in observations]
    return replace(point, examples=len(observations[0][0].rows), values=np.array(means))
