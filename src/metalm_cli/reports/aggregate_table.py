"""Table of the aggregates of suites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from metalm_cli.common.table import Table
from metalm_cli.evaluation.results.schema import AggregateRecord, SuiteRecord
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary

Scored = Sequence[tuple[str, EvaluationSummary]]
"""Evaluations with their labels."""


def aggregates_of(scored: Scored) -> Iterator[tuple[str, SuiteRecord, str, AggregateRecord]]:
    """Iterate over the aggregates of evaluations: label, suite, number of demonstrations, aggregate."""
    for label, evaluation in scored:
        suite = evaluation.record.suite
        if suite is not None:
            for shots, aggregates in suite.aggregates.items():
                for aggregate in aggregates:
                    yield label, suite, shots, aggregate


def aggregate_table(scored: Scored) -> Table | None:
    """Table of the aggregates of suites, a row for each evaluation; None if no evaluation is of a suite."""
    rows = [
        (
            suite.name,
            aggregate.name,
            label,
            shots,
            "–" if aggregate.value is None else f"{aggregate.value:.1f}",
            "–" if aggregate.interval is None else f"{aggregate.interval[0]:.1f} to {aggregate.interval[1]:.1f}",
            "partial: " * (len(aggregate.of) < len(suite.tasks)) + f"{len(aggregate.of)} of {len(suite.tasks)}",
        )
        for label, suite, shots, aggregate in aggregates_of(scored)
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (row[0], row[1], row[3].zfill(9)))
    headers = ("suite", "aggregate", "model", "shots", "score", "95% interval", "tasks")
    note = "0 to 100; intervals by resampling the examples of each task. A partial aggregate lacks tasks of its suite."
    return Table("Aggregates of suites", headers, tuple(rows), note, frozenset({0, 1, 2, 6}))
