"""Differences between the models of a report on the same examples: bars whose intervals overlap may still differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from metalm_cli.errors import MetalmError
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary
from metalm_cli.reports.seed_groups import SeedGroup
from metalm_cli.reports.tables import Table, interval

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.comparison import Comparison

RESAMPLES = 2_000
"""Of each difference: a report is written in seconds."""
MOST = 12
"""Pairs of a protocol that are compared."""
HEADS = ("", "shots", "first", "second", "difference", "95% interval", "better")


def paired_tables(groups: Sequence[SeedGroup]) -> list[Table]:
    """A table for each protocol with several models: the first that was asked the same tasks beside each other one.

    Of several seeds the means alone are shown, each seed by itself.

    Args:
        groups: From :func:`~metalm_cli.reports.seed_groups.group_by_protocol`.
    """
    found = []
    for group in groups:
        pairs = list(_pairs(group))
        rows = [row for first, second in pairs[:MOST] for row in _rows(first, second, means_alone=group.seeds > 1)]
        if rows:
            of = f": {group.protocol}" if len(groups) > 1 else ""
            note = "First less second on the examples that both were asked, resampled alike. Of many intervals one in "
            note += "twenty excludes 0 by chance; none says what another training would give."
            note += f" {len(pairs) - MOST} more pairs are not compared here." if len(pairs) > MOST else ""
            found.append(Table(f"Paired differences{of}", HEADS, tuple(rows), note, frozenset({0, 6})))
    return found


Named = tuple[str, EvaluationSummary]


def _pairs(group: SeedGroup) -> Iterator[tuple[Named, Named]]:
    """The first model that was asked some tasks with each other one that was, seed by seed."""
    alike: dict[tuple[str, frozenset[str]], list[Named]] = {}
    for label, one in group.scored:
        seed = label.rpartition(", ")[2] if group.seeds > 1 else ""
        alike.setdefault((seed, frozenset(task.task for task in one.tasks)), []).append((label, one))
    for models in alike.values():
        for other in models[1:]:
            yield models[0], other


def _rows(first: Named, second: Named, means_alone: bool) -> Iterator[tuple[str, ...]]:
    from metalm_cli.evaluation.results.comparison import OVER, compare
    from metalm_cli.evaluation.results.result_reader import read

    try:
        found: Comparison = compare(read(first[1].path), read(second[1].path), resamples=RESAMPLES)
    except MetalmError:  # a damaged file is told of where it is read for the page
        return
    names = f"{first[0]} less {second[0]}"
    for mean in found.means:
        what = "all clusters" if mean.name == OVER else mean.name
        yield (
            f"{names}: {what}",
            str(mean.shots),
            f"{mean.first:.1f}",
            f"{mean.second:.1f}",
            f"{mean.first - mean.second:+.1f}",
            interval(*mean.interval),
            ("", first[0], second[0])[mean.winner],
        )
    for task in [] if means_alone else found.tasks:
        if task.test is None or task.obstacles:
            continue
        low, high = (100 * end for end in task.test.interval)
        yield (
            f"{names}: {task.task}",
            str(task.shots),
            f"{100 * task.test.first:.1f}",
            f"{100 * task.test.second:.1f}",
            f"{100 * task.test.difference:+.1f}",
            interval(low, high),
            ("", first[0], second[0])[task.winner],
        )
