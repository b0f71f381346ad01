"""Figure of scores over a number, such as decoder positions, with intervals and levels for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metalm_cli.common.table import Table
from metalm_cli.reports.figures.training_figures import Figure, base_figure, colour_encoding
from metalm_cli.reports.tables import format_decimal

HEIGHT = 320
"""Height of the figure in pixels."""
LOG_SHIFT = 0.05
"""Distance between lines at the same number, in doublings, so that their intervals do not overlap."""

Point = tuple[int, float, float, float]
"""A number with a score and the ends of its interval."""
Level = tuple[float, float, float]
"""A score with the ends of its interval."""


def score_curve_figure(
    name: str, title: str, axis: str, curves: Mapping[str, Sequence[Point]], levels: Mapping[str, Level]
) -> Figure | None:
    """Make the figure; None if no line has a point.

    Args:
        name: Key of the figure.
        title: Title of the figure.
        axis: Title of the horizontal axis, which is logarithmic.
        curves: Points by name of the line.
        levels: Scores that have no number, by name; they are dashed lines.
    """
    curves = {label: points for label, points in curves.items() if points}
    if not curves:
        return None
    numbers = sorted({number for points in curves.values() for number, *_ in points})
    middle = (len(curves) - 1) / 2
    values: list[dict[str, Any]] = [
        {
            "series": label,
            "number": number,
            "place": number * 2 ** (LOG_SHIFT * (index - middle)),
            "value": score,
            "low": low,
            "high": high,
        }
        for index, (label, points) in enumerate(curves.items())
        for number, score, low, high in points
    ]
    names = [*curves, *levels]
    ends = [numbers[0] / 2**0.5, numbers[-1] * 2**0.5]
    rules = [
        {"series": label, "place": end, "value": score, "low": low, "high": high}
        for label, (score, low, high) in levels.items()
        for end in ends
    ]
    y = {"field": "value", "type": "quantitative", "title": "score", "scale": {"zero": False}}
    x = {
        "field": "place",
        "type": "quantitative",
        "title": axis,
        "scale": {"type": "log", "base": 2, "domain": ends, "nice": False},
        "axis": {"values": numbers, "grid": False},
    }
    color = colour_encoding(names)
    tooltip = [{"field": "series", "title": "model"}, {"field": "number", "title": axis}]
    tooltip += [{"field": key, "format": ".1f"} for key in ("value", "low", "high")]
    interval = {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6}}
    layers = [
        {"data": {"values": rules}, "mark": {"type": "line", "strokeDash": [6, 4]}, "encoding": {"y": y}},
        {"data": {"values": values}, "mark": {"type": "line", "strokeWidth": 2}, "encoding": {"y": y}},
        {"data": {"values": values}, **interval, "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}}},
        {
            "data": {"values": values},
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"y": y, "tooltip": tooltip},
        },
    ]
    spec = base_figure(HEIGHT, layer=layers, encoding={"x": x, "color": color})
    sentences = [
        f"{label}: {', '.join(f'{format_decimal(score, 1)} at {number}' for number, score, *_ in points)}"
        for label, points in curves.items()
    ] + [f"{label}: {format_decimal(score, 1)}" for label, (score, *_) in levels.items()]
    rows = [
        [label, str(number), *(format_decimal(value, 1) for value in point)]
        for label, points in curves.items()
        for number, *point in points
    ]
    rows += [[label, "–", *(format_decimal(value, 1) for value in level)] for label, level in levels.items()]
    table = Table(title, ["model", axis, "score", "low", "high"], rows, "")
    caption = f"{'. '.join(sentences)}. Lines are 95% intervals; dashed lines do not depend on the {axis}."
    return Figure(name, "scores", title, caption, spec, table)
