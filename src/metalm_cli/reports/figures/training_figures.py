"""Figures of training, as Vega-Lite specifications.

Vega-Lite with ``vl-convert-python`` makes the figure of the page and the PNG and SVG files from one specification,
without a browser. It draws SVG, which prints sharply, scales to a phone, takes its colours from the page's style sheet
in light and dark, and has roles and labels for screen readers. Its JavaScript has 0.9 MB and is bundled offline.
Bokeh (1.3 MB) draws on a canvas, which screen readers cannot read, and exports through a browser;
plotly.js (4.8 MB) exceeds the size limit of a report; matplotlib figures cannot be zoomed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from metalm_cli.common.table import Table, counted
from metalm_cli.reports.reading.evaluation_summary import as_number
from metalm_cli.reports.reading.run_summary import SEPARATE_LOSSES, Record, RunSummary
from metalm_cli.reports.tables import (
    format_count,
    format_decimal,
    loss_labels,
    loss_table,
    mixture_rows,
    mixture_table,
    per_task_losses,
    token_shares,
    token_table,
)

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SERIES_COLOURS = [f"var(--s{index})" for index in range(10)]
"""Colours of series: variables of the page's style sheet, so that a figure follows its theme."""
KIND_COLOURS = {"docked": "var(--docked)", "causal": "var(--causal)", "trained": "var(--trained)"}
"""Colours of span kinds, in figures and texts."""
MAX_CURVE_POINTS = 600
"""Largest number of points of a curve."""
MAX_FIGURE_POINTS = 1000
"""Largest number of points of all curves of a figure."""
MAX_CLUSTER_FIGURES = 4
"""Largest number of runs with a figure of cluster losses."""
TRAINING_OPACITY = 0.85
"""Opacity of training curves next to held-out curves, which are thicker and not dashed."""
MAX_TABLE_POINTS = 25
"""Largest number of points of a curve in its table."""
MAX_BARS = 40
"""Largest number of bars of a mixture."""


@dataclass(frozen=True)
class Figure:
    """A figure with its text alternative.

    Args:
        key: Name of the figure's files and anchor.
        section: Section of the page.
        title: Title of the figure.
        caption: Description of the figure in words, also for screen readers.
        spec: Vega-Lite specification.
        table: The numbers of the figure.
        log_axes: Axes (``x``, ``y``) that may be logarithmic, as all their values are above 0.
        zoom: Whether the figure can be zoomed.
    """

    key: str
    section: str
    title: str
    caption: str
    spec: Spec
    table: Table
    log_axes: tuple[str, ...] = ()
    zoom: bool = False


def training_figures(runs: Sequence[RunSummary], points: int = MAX_FIGURE_POINTS) -> list[Figure]:
    """All figures of training that the runs have data for.

    Args:
        runs: The runs.
        points: Largest number of points of all curves of a figure.
    """
    trained = [run for run in runs if run.training or run.validation]
    if not trained:
        return _mixture_figures(runs)
    curve = partial(_curve_figure, trained, points)
    rate, norm = ("lr", "learning rate"), ("grad_norm", "norm before clipping")
    figures = [
        curve("loss", "Loss", "loss", "nats per token", split=True, log="xy"),
        *(curve(*names, "nats per token", split=True) for names in SEPARATE_LOSSES),
        curve("bits-per-byte", "Bits per byte", "bits_per_byte", "bits per byte", split=True, log="xy"),
        *(
            _cluster_loss_figure(run, len(trained) > 1, points // min(len(trained), MAX_CLUSTER_FIGURES))
            for run in trained[:MAX_CLUSTER_FIGURES]
        ),
        _task_loss_figure(trained),
        _token_figure([run for run in trained if run.training]),
        *_mixture_figures(runs),
        curve("throughput", "Throughput", "tokens_per_second", "tokens per second", section="machine", zero=True),
        curve("memory", "Memory", "memory_bytes", "GiB", scale=2**-30, section="machine", zero=True),
        curve("learning-rate", "Learning rate", *rate, section="optimiser"),
        curve("gradient-norm", "Gradient norm", *norm, section="optimiser", log="xy"),
    ]
    return [figure for figure in figures if figure is not None]


def thin_out(values: Sequence[Any], max_values: int) -> list[Any]:
    """At most ``max_values`` of the values, evenly spaced, with the first and the last."""
    if len(values) <= max_values:
        return list(values)
    return [values[round(index * (len(values) - 1) / (max_values - 1))] for index in range(max_values)]


def base_figure(height: int, **spec: Any) -> Spec:
    """A specification with the width of its container."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **spec,
    }


def figure_height(rows: int, series: int, row_height: int) -> int:
    """Height in pixels of rows with a number of series; ``row_height`` is the height of a row with one series."""
    return rows * (row_height if series == 1 else round(row_height * (0.35 + 0.55 * series)))


def colour_encoding(names: Sequence[str], title: str | None = None, colours: Sequence[str] = SERIES_COLOURS) -> Spec:
    """Colour channel by series, with a legend if there are several."""
    scale = {"domain": list(names), "range": [colours[index % len(colours)] for index in range(len(names))]}
    legend = {
        "title": title,
        "orient": "bottom",
        "direction": "vertical" if len(names) <= 3 else "horizontal",
        "columns": 1 if len(names) <= 3 else 2,
    }
    return {"field": "series", "type": "nominal", "scale": scale, "legend": legend if len(names) > 1 else None}


ZOOM = {
    "name": "zoom",
    "select": {"type": "interval", "encodings": ["x", "y"], "zoom": "wheel![event.shiftKey]"},
    "bind": "scales",
}
"""Zoom parameter: drag to move, hold shift and turn the wheel to zoom; the wheel alone scrolls the page."""


def _series_points(records: Sequence[Record], key: str, scale: float) -> list[tuple[int, float]]:
    return [
        (int(record["step"]), value * scale) for record in records if (value := as_number(record.get(key))) is not None
    ]


def _curve_figure(
    runs: Sequence[RunSummary],
    points: int,
    key: str,
    title: str,
    name: str,
    unit: str,
    *,
    section: str = "learning",
    split: bool = False,
    scale: float = 1.0,
    zero: bool = False,
    log: str = "",
) -> Figure | None:
    """Curve of a metric over steps, a line for each run; held-out values as a second line with points."""
    max_drawn = min(MAX_CURVE_POINTS, max(2, points // len(runs)))
    values: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    trends: list[str] = []
    lone: set[str] = set()
    max_listed = max(2, min(MAX_TABLE_POINTS, 8 * MAX_TABLE_POINTS // len(runs)))
    kinds = (("training", "training"), ("held-out", "validation")) if split else (("training", "training"),)
    for run in runs:
        for kind, split_name in kinds:
            curve = _series_points(getattr(run, split_name), name, scale)
            drawn_points = sorted({*thin_out(curve, max_drawn), *sorted(curve, key=lambda point: point[1])[:1]})
            values += [{"step": step, "value": value, "series": run.name, "kind": kind} for step, value in drawn_points]
            lone |= {kind} if len(drawn_points) == 1 else set()  # a line does not show a single point
            rows += [
                (run.name, kind, format_count(step), format_decimal(value))
                for step, value in thin_out(drawn_points, max_listed)
            ]
            trends += (
                [_describe_trend(run.name if len(runs) > 1 else "", kind if split else "", curve)] if curve else []
            )
    if not values:
        return None
    names = list(dict.fromkeys(point["series"] for point in values))
    drawn_kinds = {point["kind"] for point in values}
    layers = [_line_layer(kind, split, unit, zero, kind in lone) for kind, _ in kinds if kind in drawn_kinds]
    layers[0]["params"] = [ZOOM]
    spec = base_figure(280, data={"values": values}, layer=layers, encoding={"color": colour_encoding(names)})
    fields = {"x": "step", "y": "value"}
    axes = tuple(axis for axis in log if all(point[fields[axis]] > 0 for point in values))
    headers = ("run", "of", "step", unit)
    table = Table(title, headers, tuple(rows), f"At most {max_listed} steps of each curve.", frozenset({0, 1}))
    return Figure(key, section, title, " ".join(trends), spec, table, axes, zoom=True)


def _line_layer(kind: str, split: bool, unit: str, zero: bool, lone: bool = False) -> Spec:
    held_out = kind == "held-out"
    mark: Spec = {
        "type": "line",
        "strokeWidth": 2.5 if held_out else 1.5,
        "opacity": TRAINING_OPACITY if split and not held_out else 1,
    }
    mark["point"] = {"size": 40, "filled": True} if held_out or lone else {"size": 8}
    tooltip = [
        {"field": "series", "title": "run"},
        {"field": "kind", "title": "of"},
        {"field": "step", "format": ","},
        {"field": "value", "title": unit, "format": ".4~g"},
    ]
    encoding: Spec = {
        "x": {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False}},
        "y": {"field": "value", "type": "quantitative", "title": unit, "scale": {"zero": zero}},
        "tooltip": tooltip,
    }
    if split:
        dash = {"domain": ["training", "held-out"], "range": [[4, 3], [1, 0]]}
        legend = {"title": None, "orient": "bottom", "symbolType": "stroke", "symbolStrokeColor": "var(--ink)"}
        encoding["strokeDash"] = {"field": "kind", "type": "nominal", "scale": dash, "legend": legend}
    return {"transform": [{"filter": f"datum.kind == '{kind}'"}], "mark": mark, "encoding": encoding}


def _describe_trend(run: str, kind: str, points: Sequence[tuple[int, float]]) -> str:
    label = ", ".join(part for part in (run, kind) if part)
    (first, first_value), (last, last_value) = points[0], points[-1]
    if first == last:
        return f"{label + ': ' if label else ''}{format_decimal(first_value)} at step {first:,}."
    low = min(points, key=lambda point: point[1])
    best = f", lowest {format_decimal(low[1])} at step {low[0]:,}" if low[0] not in (first, last) else ""
    prefix = f"{label}: " if label else ""
    return (
        f"{prefix}from {format_decimal(first_value)} at step {first:,} "
        f"to {format_decimal(last_value)} at step {last:,}{best}."
    )


def _cluster_loss_figure(run: RunSummary, several: bool, points: int) -> Figure | None:
    losses_by_step = per_task_losses(run, "cluster_loss")
    if len(losses_by_step) < 2:
        return None
    names = list(dict.fromkeys(name for _, losses in losses_by_step for name in losses))
    names.sort(key=lambda name: losses_by_step[-1][1].get(name, 0.0), reverse=True)
    values = [
        {"step": step, "value": losses[name], "series": name, "kind": "held-out"}
        for name in names
        for step, losses in thin_out(losses_by_step, max(2, points // len(names)))
        if name in losses
    ]
    layer = _line_layer("held-out", False, "nats per token", False)
    layer["params"] = [ZOOM]
    layer["encoding"]["tooltip"][0]["title"] = "cluster"
    spec = base_figure(300, data={"values": values}, layer=[layer], encoding={"color": colour_encoding(names)})
    suffix = f" of {run.name}" if several else ""
    ends = [(losses_by_step[-1][1][name], name) for name in names if name in losses_by_step[-1][1]]
    (low, lowest), (high, highest) = min(ends), max(ends)
    caption = (
        f"{len(names)} clusters. Last values: lowest {lowest} ({format_decimal(low)}), "
        f"highest {highest} ({format_decimal(high)})."
    )
    table = loss_table([run], "cluster_loss")
    assert table is not None
    all_positive = all(point["value"] > 0 for point in values)
    key = "cluster-loss" + (f"-{slug(run.name)}" if several else "")
    title = f"{loss_labels([run], 'cluster_loss')[0]} by cluster{suffix}"
    return Figure(key, "learning", title, caption, spec, table, ("x", "y") if all_positive else ("x",), zoom=True)


def _task_loss_figure(runs: Sequence[RunSummary]) -> Figure | None:
    """First and last loss of each task."""
    table = loss_table(runs, "task_loss")
    if table is None:
        return None
    values: list[dict[str, Any]] = []
    run_losses = [(run, losses) for run in runs if (losses := per_task_losses(run, "task_loss"))]
    for run, losses in run_losses:
        for name in dict.fromkeys(name for _, step_losses in losses for name in step_losses):
            task_losses = [step_losses[name] for _, step_losses in losses if name in step_losses]
            values.append({"task": name, "first": task_losses[0], "last": task_losses[-1], "series": run.name})
    names = [run.name for run, _ in run_losses]
    order = [bar["task"] for bar in sorted(values, key=lambda bar: bar["last"])]
    y = {"field": "task", "type": "nominal", "sort": list(dict.fromkeys(order)), "title": None}
    x: Spec = {"field": "last", "type": "quantitative", "title": "nats per token", "scale": {"zero": False}}
    shared: Spec = {"y": y, "color": colour_encoding(names)}
    if len(names) > 1:
        shared["yOffset"] = {"field": "series", "sort": names}
    tooltip = [
        {"field": "series", "title": "run"},
        {"field": "task"},
        *({"field": end, "format": ".3f"} for end in ("first", "last")),
    ]
    layers = [
        {
            "mark": {"type": "rule", "opacity": 0.5, "strokeWidth": 2},
            "encoding": {"x": {**x, "field": "first"}, "x2": {"field": "last"}},
        },
        {"mark": {"type": "point", "size": 36}, "encoding": {"x": {**x, "field": "first"}, "tooltip": tooltip}},
        {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1}, "encoding": {"x": x, "tooltip": tooltip}},
    ]
    spec = base_figure(
        figure_height(len(set(order)), len(names), 16), data={"values": values}, layer=layers, encoding=shared
    )
    low, high = min(values, key=lambda bar: bar["last"]), max(values, key=lambda bar: bar["last"])
    several = any(len(losses) > 1 for _, losses in run_losses)
    both = "from the first value (open) to the last (filled). Last values: lowest"
    description = both if several else "in one validation. Lowest"
    caption = f"{counted(len(set(order)), 'task')}, {description} {low['task']} "
    caption += f"({format_decimal(low['last'])}), highest {high['task']} ({format_decimal(high['last'])})."
    all_positive = all(bar[end] > 0 for bar in values for end in ("first", "last"))
    title = f"{loss_labels([run for run, _ in run_losses], 'task_loss')[0]} by task"
    return Figure("task-loss", "learning", title, caption, spec, table, ("x",) if all_positive else ())


def _token_figure(runs: Sequence[RunSummary]) -> Figure | None:
    shares = [(run.name, token_shares(run.last_record)) for run in runs]
    values = [
        {"run": name, "series": kind, "value": value, "order": order}
        for name, run_shares in shares
        for order, (kind, value) in enumerate(run_shares.items())
    ]
    if not any(bar["value"] for bar in values):
        return None
    captions = []
    for name, run_shares in shares:
        total = sum(run_shares.values()) or 1.0
        captions.append(
            f"{name}: "
            + ", ".join(f"{value / total:.0%} {kind}" for kind, value in run_shares.items())
            + f" of {total:,.0f} tokens."
        )
    color = colour_encoding(list(KIND_COLOURS), colours=list(KIND_COLOURS.values()))
    color["legend"] |= {"direction": "horizontal", "columns": 3}
    encoding = {
        "y": {"field": "run", "type": "nominal", "title": None, "sort": [run.name for run in runs]},
        "x": {"field": "value", "type": "quantitative", "title": "tokens", "axis": {"format": "~s"}},
        "order": {"field": "order"},
        "color": color,
        "tooltip": [{"field": "run"}, {"field": "series", "title": "kind"}, {"field": "value", "format": ","}],
    }
    spec = base_figure(34 * len(shares), data={"values": values}, mark={"type": "bar"}, encoding=encoding)
    return Figure("tokens", "data", "Tokens: docked, causal, trained", " ".join(captions), spec, token_table(runs))


def _mixture_figures(runs: Sequence[RunSummary]) -> list[Figure]:
    """A figure for each mixture; runs with the same mixture share a figure."""
    groups: dict[Any, list[RunSummary]] = {}
    for run in runs:
        if run.data.get("sources"):
            key = [(name, share) for name, _, share, *_ in mixture_rows(run)]
            groups.setdefault(tuple(key), []).append(run)
    return [_mixture_figure(group, len(runs) > 1) for group in groups.values()]


def _mixture_figure(runs: Sequence[RunSummary], several: bool) -> Figure:
    sources = [(name, cluster or "source", share or 0.0) for name, cluster, share, *_ in mixture_rows(runs[0])]
    remaining_share = sum(share for _, _, share in sources[MAX_BARS:])
    bars = sources[:MAX_BARS] + (
        [(f"{len(sources) - MAX_BARS} more", "source", remaining_share)] if remaining_share else []
    )
    clusters = list(dict.fromkeys(cluster for _, cluster, _ in bars))
    values = [{"source": name, "series": cluster, "share": share} for name, cluster, share in bars]
    tooltip = [{"field": "source"}, {"field": "series", "title": "cluster"}, {"field": "share", "format": ".2%"}]
    encoding = {
        "y": {"field": "source", "type": "nominal", "sort": None, "title": None},
        "x": {"field": "share", "type": "quantitative", "title": "share of the sampled data", "axis": {"format": "~%"}},
        "color": colour_encoding(clusters),
        "tooltip": tooltip,
    }
    spec = base_figure(
        (16 if len(bars) > 6 else 26) * len(bars), data={"values": values}, mark={"type": "bar"}, encoding=encoding
    )
    by_cluster: dict[str, float] = {}
    for _, cluster, share in sources:
        by_cluster[cluster] = by_cluster.get(cluster, 0.0) + share
    shares = by_cluster if len(by_cluster) > 1 else {name: share for name, _, share in sources[:5]}
    caption = f"{len(sources)} source{'s' if len(sources) != 1 else ''}: " + ", ".join(
        f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1])
    )
    suffix = f" of {', '.join(run.name for run in runs)}" if several else ""
    key = "mixture" + (f"-{slug(runs[0].name)}" if several else "")
    return Figure(key, "data", f"Mixture{suffix}", f"{caption}.", spec, mixture_table(runs[0]))


def slug(name: str) -> str:
    """Return the name in a form that is safe in file names and HTML anchors."""
    clean: Callable[[str], str] = lambda char: char if char.isalnum() or char in "-_." else "-"  # noqa: E731
    return "".join(map(clean, name)).strip("-.") or "run"
