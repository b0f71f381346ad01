"""Table of what docks are worth: losses with docks exchanged, and with mean vectors, minus the losses as they are."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.common.table import Table
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.tables import format_count
from metalm_cli.runs.dock_worth import DockWorth, LossDifference, dock_worth

TITLE = "What docks are worth"
NOTE = (
    "Change of the loss, in nats per trained token, with docks exchanged between validation sessions and with the mean "
    "dock vector in each docked position; 95% intervals over sessions. At 0 the decoder does not use the docks."
)
MAX_ROWS = 25
"""Largest number of steps of a run, the first and the last among them."""


def worth_by_step(run: RunSummary) -> list[tuple[int, DockWorth]]:
    """What docks are worth at each validation that measured it."""
    measured = ((int(record["step"]), dock_worth(record)) for record in run.validation)
    return [(step, worth) for step, worth in measured if worth is not None]


def dock_worth_table(runs: Sequence[RunSummary]) -> Table | None:
    """Table of the validations that measured it; None if no run did."""
    several = len(runs) > 1
    rows = []
    for run in runs:
        steps = worth_by_step(run)
        count = min(len(steps), MAX_ROWS)
        drawn = [steps[round(index * (len(steps) - 1) / max(1, count - 1))] for index in range(count)]
        rows += [(*([run.name] if several else []), *_cells(step, worth)) for step, worth in drawn]
    if not rows:
        return None
    headers = (*(["run"] if several else []), "step", "sessions", "loss", "exchanged", "95% interval")
    headers += ("mean vector", "95% interval")
    return Table(TITLE, headers, tuple(rows), NOTE, frozenset({0} if several else ()))


def _cells(step: int, worth: DockWorth) -> tuple[str, ...]:
    differences = (cell for difference in (worth.exchanged, worth.mean_vector) for cell in _difference(difference))
    return (format_count(step), format_count(worth.sessions), f"{worth.loss:.3f}", *differences)


def _difference(difference: LossDifference) -> tuple[str, str]:
    return f"{difference.value:+.3f}", f"{difference.low:+.3f} to {difference.high:+.3f}"
