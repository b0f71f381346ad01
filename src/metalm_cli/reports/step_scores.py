"""Scores of tasks that a run evaluated during training (``train.evaluate``), by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metalm_cli.common.table import Table
from metalm_cli.reports.reading.evaluation_summary import as_number
from metalm_cli.reports.reading.run_summary import RunSummary

TITLE = "Scores during training"
NOTE = "Scores of train.evaluate, 0 to 100; best is the highest score, with its first step."


def scores_by_step(run: RunSummary) -> list[tuple[int, Mapping[str, float]]]:
    """Scores by name at each evaluated step; values that are not numbers are dropped, and so are steps without any."""
    steps: list[tuple[int, Mapping[str, float]]] = []
    for record in run.task_scores:
        scores = {
            name: score for name, value in record.get("scores", {}).items() if (score := as_number(value)) is not None
        }
        steps += [(int(record["step"]), scores)] if scores else []
    return steps


def score_curves(run: RunSummary) -> dict[str, list[tuple[int, float]]]:
    """Points of each score."""
    steps = scores_by_step(run)
    names = dict.fromkeys(name for _, scores in steps for name in scores)
    return {name: [(step, scores[name]) for step, scores in steps if name in scores] for name in names}


def step_score_table(runs: Sequence[RunSummary]) -> Table | None:
    """Table of the first, best and last score of each task, cluster and mean; None if no run has such scores."""
    rows = []
    for run in runs:
        for name, points in score_curves(run).items():
            best_step, best = max(points, key=lambda point: (point[1], -point[0]))
            (first_step, first), (last_step, last) = points[0], points[-1]
            cells = (f"{first:.1f} at {first_step:,}", f"{best:.1f} at {best_step:,}", f"{last:.1f} at {last_step:,}")
            rows.append((*([run.name] if len(runs) > 1 else []), name, *cells))
    if not rows:
        return None
    names = (*(["run"] if len(runs) > 1 else []), "score")
    return Table(TITLE, (*names, "first", "best", "last"), tuple(rows), NOTE, frozenset(range(len(names))))
