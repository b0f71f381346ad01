"""Suites in an evaluation: whether its tasks have what the aggregates need, and the suite in the result file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.metrics.aggregates import load_aggregate
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.results.aggregation import with_aggregates
from metalm_cli.evaluation.results.schema import ResultRecord, SuiteRecord, SuiteTaskRecord
from metalm_cli.evaluation.suites import SuiteSelection
from metalm_cli.tasks.card import MetricName


def check_aggregates(selection: SuiteSelection, tasks: Sequence[EvaluatedTask]) -> None:
    """Check that opened tasks have the numbers that the aggregates of their suite need.

    Raises:
        MetalmError: A metric does not fit the examples of its task, or a chance level is missing.
    """
    metrics = {task.card.name: task.metrics for task in selection.tasks}
    for task in tasks:
        for metric in metrics[task.card.name]:
            task_metrics.check_metric(cast(MetricName, metric), task.examples)
    needing = [name for name in selection.suite.aggregates if load_aggregate(name).needs_chance]
    if not needing:
        return
    levels = {task.card.name: task_metrics.chance(task.card.metric.name, task.examples).uniform for task in tasks}
    without = [name for name, level in levels.items() if level is None or level >= 100]
    if without:
        raise MetalmError(
            f"the aggregate {needing[0]} needs the chance level of every task",
            where=str(selection.suite.path),
            why=f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} none: "
            "open answers, or a metric without one",
            remedy="leave out these tasks, or use another aggregate, such as mean_over_tasks",
        )


def with_suite(record: ResultRecord, selection: SuiteSelection) -> ResultRecord:
    """Return the record of an evaluation with its suite, and with the aggregates of the suite.

    Raises:
        MetalmError: An aggregate of a plug-in fails.
    """
    return with_aggregates(record, suite_record(selection), selection.suite.aggregates)


def suite_record(selection: SuiteSelection) -> SuiteRecord:
    """Return the record of a suite, without aggregates."""
    suite = selection.suite
    return SuiteRecord(
        name=suite.name,
        sha256=suite.sha256,
        source=suite.file.source,
        tasks={
            task.card.name: SuiteTaskRecord(group=task.group, metrics=list(task.metrics)) for task in selection.tasks
        },
        changed=list(selection.changed),
    )
