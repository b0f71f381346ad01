"""Figure of the aggregates of suites, as a Vega-Lite specification."""

from __future__ import annotations

from typing import Any

from metalm_cli.reports.aggregate_table import Scored, aggregate_table, aggregates_of
from metalm_cli.reports.figures.training_figures import Figure, base_figure, colour_encoding, figure_height


def aggregate_figure(scored: Scored) -> Figure | None:
    """Points of the aggregates of each model, with their intervals; None if no evaluation is of a suite."""
    table = aggregate_table(scored)
    values: list[dict[str, Any]] = [
        {
            "aggregate": f"{suite.name}: {aggregate.name}, {shots}-shot",
            "series": label,
            "value": aggregate.value,
            "low": None if aggregate.interval is None else aggregate.interval[0],
            "high": None if aggregate.interval is None else aggregate.interval[1],
            "tasks": f"{len(aggregate.of)} of {len(suite.tasks)}",
        }
        for label, suite, shots, aggregate in aggregates_of(scored)
        if aggregate.value is not None
    ]
    if table is None or not values:
        return None
    names, rows = (list(dict.fromkeys(point[key] for point in values)) for key in ("series", "aggregate"))
    offset = {"yOffset": {"field": "series", "sort": names}} if len(names) > 1 else {}
    x = {"field": "value", "type": "quantitative", "title": "score", "scale": {"zero": False}}
    tooltip = [{"field": "aggregate"}, {"field": "series", "title": "model"}, {"field": "tasks"}]
    tooltip += [{"field": key, "format": ".1f"} for key in ("value", "low", "high")]
    layers = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1}, "encoding": {"x": x, "tooltip": tooltip}},
    ]
    y = {"field": "aggregate", "type": "nominal", "sort": rows, "title": None}
    spec = base_figure(
        figure_height(len(rows), len(names), 26),
        data={"values": values},
        layer=layers,
        encoding={"y": y, "color": colour_encoding(names), **offset},
    )
    scores = "; ".join(f"{point['series']}, {point['aggregate']}: {point['value']:.1f}" for point in values)
    partial = " Some are partial: they lack tasks of their suites." if "partial" in str(table.rows) else ""
    caption = f"{scores}. Lines are 95% intervals.{partial}"
    return Figure("aggregates", "scores", "Aggregates of suites", caption, spec, table)
