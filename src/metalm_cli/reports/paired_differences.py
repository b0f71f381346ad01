"""Paired differences between the models of a report, on the same examples.

Scores whose intervals overlap can still differ significantly in a paired comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from metalm_cli.common.table import Table
from metalm_cli.errors import MetalmError
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary
from metalm_cli.reports.seed_groups import SeedGroup
from metalm_cli.reports.tables import format_interval

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.comparison import Comparison

RESAMPLES = 2_000
"""Resamples of each difference; few, as a report is written in seconds."""
MAX_PAIRS = 12
"""Pairs of models that are compared per protocol."""
HEADERS = ("", "shots", "first", "second", "difference", "95% interval", "better")


def paired_tables(groups: Sequence[SeedGroup]) -> list[Table]:
    """A table for each protocol with several models: the first model compared with each other one on the same tasks.

    With several seeds, each seed is compared by itself and only the means are listed.

    Args:
        groups: From :func:`~metalm_cli.reports.seed_groups.group_by_protocol`.
    """
    tables = []
    for group in groups:
        pairs = list(_pairs(group))
        rows = [
            row for first, second in pairs[:MAX_PAIRS] for row in _rows(first, second, means_alone=group.seed_count > 1)
        ]
        if rows:
            suffix = f": {group.protocol}" if len(groups) > 1 else ""
            note = "First minus second on the examples that both answered, resampled together. About one interval in "
            note += "twenty excludes 0 by chance; no interval covers the variation between training runs."
            note += f" {len(pairs) - MAX_PAIRS} more pairs are not compared here." if len(pairs) > MAX_PAIRS else ""
            tables.append(Table(f"Paired differences{suffix}", HEADERS, tuple(rows), note, frozenset({0, 6})))
    return tables


NamedEvaluation = tuple[str, EvaluationSummary]


def _pairs(group: SeedGroup) -> Iterator[tuple[NamedEvaluation, NamedEvaluation]]:
    """Pairs of the first model and each other model that was evaluated on the same tasks, seed by seed."""
    comparable: dict[tuple[str, frozenset[str]], list[NamedEvaluation]] = {}
    for label, evaluation in group.evaluations:
        seed = label.rpartition(", ")[2] if group.seed_count > 1 else ""
        comparable.setdefault((seed, frozenset(task.task for task in evaluation.tasks)), []).append((label, evaluation))
    for models in comparable.values():
        for other in models[1:]:
            yield models[0], other


def _rows(first: NamedEvaluation, second: NamedEvaluation, means_alone: bool) -> Iterator[tuple[str, ...]]:
    from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS, compare

    try:
        comparison: Comparison = compare(first[1].record, second[1].record, resamples=RESAMPLES)
    except MetalmError:  # the page already lists damaged files
        return
    names = f"{first[0]} minus {second[0]}"
    for mean in comparison.means:
        subject = "all clusters" if mean.name == OVER_CLUSTERS else mean.name
        yield (
            f"{names}: {subject}",
            str(mean.shots),
            f"{mean.first:.1f}",
            f"{mean.second:.1f}",
            f"{mean.first - mean.second:+.1f}",
            format_interval(*mean.interval),
            ("", first[0], second[0])[mean.winner],
        )
    for task in [] if means_alone else comparison.tasks:
        if task.test is None or task.obstacles:
            continue
        low, high = (100 * bound for bound in task.test.interval)
        yield (
            f"{names}: {task.task}",
            str(task.shots),
            f"{100 * task.test.first:.1f}",
            f"{100 * task.test.second:.1f}",
            f"{100 * task.test.difference:+.1f}",
            format_interval(low, high),
            ("", first[0], second[0])[task.winner],
        )
