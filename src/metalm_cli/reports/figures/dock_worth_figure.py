"""Figure of what docks are worth over the steps of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metalm_cli.reports.dock_worth import TITLE, dock_worth_table, worth_by_step
from metalm_cli.reports.figures.training_figures import (
    MAX_FIGURE_POINTS,
    ZOOM,
    Figure,
    Spec,
    base_figure,
    colour_encoding,
    thin_out,
)
from metalm_cli.reports.reading.run_summary import RunSummary

KINDS = (("exchanged", "docks exchanged"), ("mean_vector", "mean dock vector"))
"""Attribute of each difference, and its name in the figure."""
OFFSETS = (-3, 3)
"""Pixels by which the marks of each kind are shifted, so that intervals at the same step can be read."""


def dock_worth_figure(runs: Sequence[RunSummary], points: int = MAX_FIGURE_POINTS) -> Figure | None:
    """Differences of the loss with their intervals, a line for each run and kind; None if no run measured them."""
    measured = [(run, steps) for run in runs if (steps := worth_by_step(run))]
    table = dock_worth_table(runs)
    if table is None:
        return None
    share = max(2, points // (len(KINDS) * len(measured)))
    values: list[dict[str, Any]] = []
    sentences = []
    for run, steps in measured:
        for step, worth in thin_out(steps, share):
            for attribute, kind in KINDS:
                difference = getattr(worth, attribute)
                ends = {"value": difference.value, "low": difference.low, "high": difference.high}
                values.append({"step": step, "series": run.name, "kind": kind, **ends})
        last_step, last = steps[-1]
        label = f"{run.name}, step {last_step:,}" if len(runs) > 1 else f"Step {last_step:,}"
        sentences.append(f"{label}: {last.sentence()}")
    names = [run.name for run, _ in measured]
    caption = f"{' '.join(sentences)} 0 means that the decoder does not use the docks."
    return Figure("dock-worth", "learning", TITLE, caption, _spec(values, names), table, zoom=True)


def _spec(values: list[dict[str, Any]], runs: Sequence[str]) -> Spec:
    """Specification; colours show the kind of a single run, or else the run, whose kinds then have other marks."""
    kinds = [kind for _, kind in KINDS]
    several = len(runs) > 1
    colour = colour_encoding(runs) if several else {**colour_encoding(kinds), "field": "kind"}
    legend = {"title": None, "orient": "bottom", "symbolStrokeColor": "var(--ink)"} if several else None
    dash = {"domain": kinds, "range": [[1, 0], [4, 3]]}
    shape = {"domain": kinds, "range": ["circle", "square"]}
    y: Spec = {"field": "value", "type": "quantitative", "title": "nats per trained token"}
    shared: Spec = {
        "x": {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False, "padding": 12}},
        "color": colour,
        "tooltip": [
            {"field": "series", "title": "run"},
            {"field": "kind", "title": "docks"},
            {"field": "step", "format": ","},
            {"field": "value", "title": "change", "format": "+.3f"},
            {"field": "low", "format": "+.3f"},
            {"field": "high", "format": "+.3f"},
        ],
    }
    zero: Spec = {"type": "rule", "strokeDash": [2, 2], "stroke": "var(--muted)"}
    layers: list[Spec] = []
    dashes = {"strokeDash": {"field": "kind", "type": "nominal", "scale": dash, "legend": legend}}
    shapes = {"shape": {"field": "kind", "type": "nominal", "scale": shape, "legend": legend}}
    ends = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    for kind, offset in zip(kinds, OFFSETS, strict=True):
        only = {"transform": [{"filter": f"datum.kind == '{kind}'"}]}
        line = {"type": "line", "strokeWidth": 2, "xOffset": offset}
        rule = {"type": "rule", "strokeWidth": 1.5, "opacity": 0.7, "xOffset": offset}
        point = {"type": "point", "filled": True, "size": 45, "opacity": 1, "xOffset": offset}
        layers += [
            {**only, "mark": line, "encoding": {**shared, "y": y, **dashes}},
            {**only, "mark": rule, "encoding": {**shared, **ends}},
            {**only, "mark": point, "encoding": {**shared, "y": y, **shapes}},
        ]
    layers[0]["params"] = [ZOOM]
    layers.append({"mark": zero, "encoding": {"y": {"datum": 0}}})
    return base_figure(280, data={"values": values}, layer=layers)
