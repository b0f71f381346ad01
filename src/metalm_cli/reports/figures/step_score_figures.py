"""Figures of the scores of tasks that runs evaluated during training."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.reports.figures.training_figures import (
    MAX_FIGURE_POINTS,
    ZOOM,
    Figure,
    base_figure,
    colour_encoding,
    slug,
    thin_out,
)
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.step_scores import TITLE, score_curves, step_score_table

MAX_RUNS = 8
"""Runs with a figure of their own."""


def step_score_figures(runs: Sequence[RunSummary], points: int = MAX_FIGURE_POINTS) -> list[Figure]:
    """A figure for each run with such scores, a line for each score over steps."""
    scored = [run for run in runs if score_curves(run)]
    share = points // max(1, min(len(scored), MAX_RUNS))
    return [_figure(run, len(runs) > 1, share) for run in scored[:MAX_RUNS]]


def _figure(run: RunSummary, several: bool, points: int) -> Figure:
    curves = score_curves(run)
    values = [
        {"step": step, "value": score, "series": name}
        for name, curve in curves.items()
        for step, score in thin_out(curve, max(2, points // len(curves)))
    ]
    encoding = {
        "x": {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False}},
        "y": {"field": "value", "type": "quantitative", "title": "score, 0 to 100", "scale": {"zero": False}},
        "color": colour_encoding(list(curves)),
        "tooltip": [{"field": "series", "title": "score"}, {"field": "step"}, {"field": "value", "format": ".2f"}],
    }
    spec = base_figure(
        280, data={"values": values}, mark={"type": "line", "point": True}, params=[ZOOM], encoding=encoding
    )
    last = ", ".join(f"{name} {curve[-1][1]:.1f}" for name, curve in curves.items())
    caption = f"{len(curves)} scores. At step {max(curve[-1][0] for curve in curves.values()):,}: {last}."
    table = step_score_table([run])
    assert table is not None
    suffix = f" of {run.name}" if several else ""
    key = "step-scores" + (f"-{slug(run.name)}" if several else "")
    return Figure(key, "learning", f"{TITLE}{suffix}", caption, spec, table, zoom=True)
