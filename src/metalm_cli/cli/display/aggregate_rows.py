"""Rows, data and notes of a suite's aggregates in tables of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.comparison import Comparison
    from metalm_cli.evaluation.results.schema import AggregateRecord, ResultRecord, SuiteRecord


def aggregates_of(record: ResultRecord, shots: int) -> list[AggregateRecord]:
    """Aggregates of a result file for a number of demonstrations; empty without a suite."""
    return [] if record.suite is None else record.suite.aggregates.get(str(shots), [])


def shows_clusters(record: ResultRecord) -> bool:
    """Whether cluster means belong in the table: without a suite, or if an aggregate of the suite is over clusters."""
    if record.suite is None:
        return True
    return any(
        aggregate.name == "mean_over_clusters" for shots in record.shots for aggregate in aggregates_of(record, shots)
    )


def describe_count(suite: SuiteRecord, aggregate: AggregateRecord) -> str:
    """Describe how many of the suite's tasks an aggregate includes."""
    count, total = len(aggregate.of), len(suite.tasks)
    return f"of {total}" if count == total else f"partial: {count} of {total} tasks"


def suite_line(suite: SuiteRecord) -> str:
    """Line about a suite for the head of a table."""
    return f"suite    {suite.name} ({suite.sha256[:12]}), {len(suite.tasks)} tasks"


def suite_notes(suite: SuiteRecord) -> list[str]:
    """Notes about a suite: what options changed, and which tasks its aggregates lack."""
    notes = [f"not as the suite {suite.name} says: {', '.join(suite.changed)}"] if suite.changed else []
    for shots, aggregates in suite.aggregates.items():
        lacking = dict.fromkeys(
            task for aggregate in aggregates for task in suite.tasks if task not in set(aggregate.of)
        )
        if lacking:
            notes.append(f"partial, {shots}-shot: the aggregates of {suite.name} lack {', '.join(lacking)}")
    return list(dict.fromkeys(notes))


def comparison_notes(comparison: Comparison) -> list[str]:
    """Notes about the suites of two result files: differences, and what their options changed."""
    suites = [(letter, record.suite) for letter, record in (("A", comparison.first), ("B", comparison.second))]
    notes = [f"{letter}: {note}" for letter, suite in suites if suite is not None for note in suite_notes(suite)]
    first, second = (suite for _, suite in suites)
    if first is not None and second is not None and first.sha256 != second.sha256:
        names = ", ".join(f"{suite.name} ({suite.sha256[:12]})" for suite in (first, second))
        notes.append(f"the suites differ, and their aggregates are not compared: {names}")
    return notes


def aggregate_data(record: ResultRecord, shots: int, aggregate: AggregateRecord) -> dict[str, Any]:
    """Data of an aggregate for CSV and JSON."""
    assert record.suite is not None
    low, high = aggregate.interval or (None, None)
    return {
        "file": record.name,
        "model": record.source,
        "protocol": record.protocol,
        "kind": "aggregate",
        "shots": shots,
        "suite": record.suite.name,
        "aggregate": aggregate.name,
        "score": aggregate.value,
        "error": aggregate.error,
        "low": low,
        "high": high,
        "of": list(aggregate.of),
        "partial": len(aggregate.of) < len(record.suite.tasks),
    }
