"""Figures of training, as Vega-Lite specifications.

Why Vega-Lite, with ``vl-convert-python``: one specification makes the figure of the page and the PNG and SVG files,
and no browser is needed for these. It draws SVG, which prints sharply, scales to a phone, takes its colours from the
page's style sheet in light and dark, and carries roles and labels for screen readers. Its JavaScript is 0.9 MB and is
bundled offline. Bokeh (1.3 MB) draws on a canvas, which screen readers do not see, and exports through a browser;
plotly.js (4.8 MB) is larger than a report may be; figures of matplotlib cannot be zoomed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from metalm_cli.reports.reading.evaluation_summary import as_number
from metalm_cli.reports.reading.run_summary import Record, RunSummary
from metalm_cli.reports.tables import (
    Table,
    count,
    decimal,
    loss_table,
    mixture_rows,
    mixture_table,
    per_task_losses,
    token_shares,
    token_table,
    whose_losses,
)

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SERIES = [f"var(--s{at})" for at in range(10)]
"""Colours of series: variables of the page's style sheet, so that a figure follows its theme."""
KINDS = {"docked": "var(--docked)", "causal": "var(--causal)", "trained": "var(--trained)"}
"""Colours of what tokens are, in figures and spans alike."""
POINTS = 600
"""Points of a curve that are drawn, at most."""
OF_ALL = 1000
"""Points of the curves of all runs in a figure."""
APART = 4
"""Runs whose clusters have a figure each."""
DIMMED = 0.85
"""Opacity of curves of training beside held-out ones, which are thicker and not dashed."""
LISTED = 25
"""Points of a curve that stand in its table, at most."""
BARS = 40
"""Bars of a mixture that are drawn."""


@dataclass(frozen=True)
class Figure:
    """A figure with its text alternative.

    Args:
        key: Name of its files and its place in the page.
        section: Part of the page that it stands in.
        title: Title.
        told: What it shows, in words, for those who do not see it.
        spec: Vega-Lite specification; ``x`` and ``y`` may be named ``log`` below.
        table: The numbers.
        log: Axes that may be logarithmic: all values are above 0.
        zoom: Whether one can look closer.
    """

    key: str
    section: str
    title: str
    told: str
    spec: Spec
    table: Table
    log: tuple[str, ...] = ()
    zoom: bool = False


def training_figures(runs: Sequence[RunSummary], points: int = OF_ALL) -> list[Figure]:
    """All figures of training that the runs have facts for.

    Args:
        runs: The runs.
        points: Points of all curves of a figure.
    """
    trained = [run for run in runs if run.training or run.validation]
    if not trained:
        return _mixtures(runs)
    curve = partial(_curve, trained, points)
    rate, norm = ("lr", "learning rate"), ("grad_norm", "norm before clipping")
    made = [
        curve("loss", "Loss", "loss", "nats a token", split=True, log="xy"),
        curve("bits-per-byte", "Bits per byte", "bits_per_byte", "bits per byte", split=True, log="xy"),
        *(_cluster_curves(run, len(trained) > 1, points // min(len(trained), APART)) for run in trained[:APART]),
        _task_losses(trained),
        _token_bars([run for run in trained if run.training]),
        *_mixtures(runs),
        curve("throughput", "Throughput", "tokens_per_second", "tokens a second", section="machine", zero=True),
        curve("memory", "Memory", "memory_bytes", "GiB", scale=2**-30, section="machine", zero=True),
        curve("learning-rate", "Learning rate", *rate, section="optimiser"),
        curve("gradient-norm", "Gradient norm", *norm, section="optimiser", log="xy"),
    ]
    return [one for one in made if one is not None]


def every_nth(values: Sequence[Any], most: int) -> list[Any]:
    """So many of them at most, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / (most - 1))] for at in range(most)]


def base_figure(height: int, **spec: Any) -> Spec:
    """A specification as wide as its place."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **spec,
    }


def figure_height(rows: int, series: int, one: int) -> int:
    """Pixels that rows of so many series each take, ``one`` where there is a single series."""
    return rows * (one if series == 1 else round(one * (0.35 + 0.55 * series)))


def coloured(names: Sequence[str], title: str | None = None, colours: Sequence[str] = SERIES) -> Spec:
    """Colour by series, with a legend where there is more than one."""
    scale = {"domain": list(names), "range": [colours[at % len(colours)] for at in range(len(names))]}
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
"""Drag to move, hold shift and turn the wheel to look closer: the wheel alone scrolls the page."""


def _points(records: Sequence[Record], key: str, scale: float) -> list[tuple[int, float]]:
    return [(int(one["step"]), value * scale) for one in records if (value := as_number(one.get(key))) is not None]


def _curve(
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
    """A value over steps, a line for each run; held-out values beside those of training, with marks."""
    drawn = min(POINTS, max(2, points // len(runs)))
    values: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    said: list[str] = []
    most = max(2, min(LISTED, 8 * LISTED // len(runs)))
    kinds = (("training", "training"), ("held-out", "validation")) if split else (("training", "training"),)
    for run in runs:
        for kind, part in kinds:
            whole = _points(getattr(run, part), name, scale)
            found = sorted({*every_nth(whole, drawn), *sorted(whole, key=lambda one: one[1])[:1]})
            values += [{"step": step, "value": value, "series": run.name, "kind": kind} for step, value in found]
            rows += [(run.name, kind, count(step), decimal(value)) for step, value in every_nth(found, most)]
            said += [_trend(run.name if len(runs) > 1 else "", kind if split else "", whole)] if whole else []
    if not values:
        return None
    names = list(dict.fromkeys(one["series"] for one in values))
    there = {one["kind"] for one in values}
    layers = [_line(kind, split, unit, zero) for kind, _ in kinds if kind in there]
    layers[0]["params"] = [ZOOM]
    spec = base_figure(280, data={"values": values}, layer=layers, encoding={"color": coloured(names)})
    fields = {"x": "step", "y": "value"}
    axes = tuple(axis for axis in log if all(one[fields[axis]] > 0 for one in values))
    heads = ("run", "of", "step", unit)
    table = Table(title, heads, tuple(rows), f"At most {most} steps of each curve.", frozenset({0, 1}))
    return Figure(key, section, title, " ".join(said), spec, table, axes, zoom=True)


def _line(kind: str, split: bool, unit: str, zero: bool) -> Spec:
    held = kind == "held-out"
    mark: Spec = {"type": "line", "strokeWidth": 2.5 if held else 1.5, "opacity": DIMMED if split and not held else 1}
    mark["point"] = {"size": 40, "filled": True} if held else {"size": 8}
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


def _trend(run: str, kind: str, points: Sequence[tuple[int, float]]) -> str:
    what = ", ".join(part for part in (run, kind) if part)
    (first, began), (last, ended) = points[0], points[-1]
    if first == last:
        return f"{what + ': ' if what else ''}{decimal(began)} at step {first:,}."
    low = min(points, key=lambda one: one[1])
    best = f", lowest {decimal(low[1])} at step {low[0]:,}" if low[0] not in (first, last) else ""
    head = f"{what}: " if what else ""
    return f"{head}from {decimal(began)} at step {first:,} to {decimal(ended)} at step {last:,}{best}."


def _cluster_curves(run: RunSummary, several: bool, points: int) -> Figure | None:
    told = per_task_losses(run, "cluster_loss")
    if len(told) < 2:
        return None
    names = list(dict.fromkeys(name for _, each in told for name in each))
    names.sort(key=lambda name: told[-1][1].get(name, 0.0), reverse=True)
    values = [
        {"step": step, "value": each[name], "series": name, "kind": "held-out"}
        for name in names
        for step, each in every_nth(told, max(2, points // len(names)))
        if name in each
    ]
    layer = _line("held-out", False, "nats a token", False)
    layer["params"] = [ZOOM]
    layer["encoding"]["tooltip"][0]["title"] = "cluster"
    spec = base_figure(300, data={"values": values}, layer=[layer], encoding={"color": coloured(names)})
    of = f" of {run.name}" if several else ""
    ends = [(told[-1][1][name], name) for name in names if name in told[-1][1]]
    (low, lowest), (high, highest) = min(ends), max(ends)
    said = f"{len(names)} clusters. Last: lowest {lowest} ({decimal(low)}), highest {highest} ({decimal(high)})."
    table = loss_table([run], "cluster_loss")
    assert table is not None
    positive = all(one["value"] > 0 for one in values)
    key = "cluster-loss" + (f"-{slug(run.name)}" if several else "")
    title = f"{whose_losses([run], 'cluster_loss')[0]} by cluster{of}"
    return Figure(key, "learning", title, said, spec, table, ("x", "y") if positive else ("x",), zoom=True)


def _task_losses(runs: Sequence[RunSummary]) -> Figure | None:
    """First and last loss of each task, a row each."""
    table = loss_table(runs, "task_loss")
    if table is None:
        return None
    values: list[dict[str, Any]] = []
    told = [(run, found) for run in runs if (found := per_task_losses(run, "task_loss"))]
    for run, found in told:
        for name in dict.fromkeys(name for _, each in found for name in each):
            ends = [each[name] for _, each in found if name in each]
            values.append({"task": name, "first": ends[0], "last": ends[-1], "series": run.name})
    names = [run.name for run, _ in told]
    order = [one["task"] for one in sorted(values, key=lambda one: one["last"])]
    y = {"field": "task", "type": "nominal", "sort": list(dict.fromkeys(order)), "title": None}
    x: Spec = {"field": "last", "type": "quantitative", "title": "nats a token", "scale": {"zero": False}}
    shared: Spec = {"y": y, "color": coloured(names)}
    if len(names) > 1:
        shared["yOffset"] = {"field": "series", "sort": names}
    tooltip = [
        {"field": "series", "title": "run"},
        {"field": "task"},
        *({"field": one, "format": ".3f"} for one in ("first", "last")),
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
    low, high = min(values, key=lambda one: one["last"]), max(values, key=lambda one: one["last"])
    several = any(len(found) > 1 for _, found in told)
    what = "from the first value (open) to the last (filled). Last: lowest" if several else "of one validation. Lowest"
    said = f"{len(set(order))} tasks, {what} {low['task']} "
    said += f"({decimal(low['last'])}), highest {high['task']} ({decimal(high['last'])})."
    positive = all(one[end] > 0 for one in values for end in ("first", "last"))
    title = f"{whose_losses([run for run, _ in told], 'task_loss')[0]} by task"
    return Figure("task-loss", "learning", title, said, spec, table, ("x",) if positive else ())


def _token_bars(runs: Sequence[RunSummary]) -> Figure | None:
    shares = [(run.name, token_shares(run.last)) for run in runs]
    values = [
        {"run": name, "series": kind, "value": value, "order": at}
        for name, each in shares
        for at, (kind, value) in enumerate(each.items())
    ]
    if not any(one["value"] for one in values):
        return None
    said = []
    for name, each in shares:
        whole = sum(each.values()) or 1.0
        said.append(
            f"{name}: "
            + ", ".join(f"{value / whole:.0%} {kind}" for kind, value in each.items())
            + f" of {whole:,.0f} tokens."
        )
    color = coloured(list(KINDS), colours=list(KINDS.values()))
    color["legend"] |= {"direction": "horizontal", "columns": 3}
    encoding = {
        "y": {"field": "run", "type": "nominal", "title": None, "sort": [run.name for run in runs]},
        "x": {"field": "value", "type": "quantitative", "title": "tokens", "axis": {"format": "~s"}},
        "order": {"field": "order"},
        "color": color,
        "tooltip": [{"field": "run"}, {"field": "series", "title": "kind"}, {"field": "value", "format": ","}],
    }
    spec = base_figure(34 * len(shares), data={"values": values}, mark={"type": "bar"}, encoding=encoding)
    return Figure("tokens", "data", "Tokens: docked, causal, trained", " ".join(said), spec, token_table(runs))


def _mixtures(runs: Sequence[RunSummary]) -> list[Figure]:
    """A figure for each mixture; runs that read the same have one."""
    found: dict[Any, list[RunSummary]] = {}
    for run in runs:
        if run.data.get("sources"):
            key = [(name, share) for name, _, share, *_ in mixture_rows(run)]
            found.setdefault(tuple(key), []).append(run)
    return [_mixture(same, len(runs) > 1) for same in found.values()]


def _mixture(same: Sequence[RunSummary], several: bool) -> Figure:
    sources = [(name, cluster or "source", share or 0.0) for name, cluster, share, *_ in mixture_rows(same[0])]
    rest = sum(share for _, _, share in sources[BARS:])
    shown = sources[:BARS] + ([(f"{len(sources) - BARS} more", "source", rest)] if rest else [])
    clusters = list(dict.fromkeys(cluster for _, cluster, _ in shown))
    values = [{"source": name, "series": cluster, "share": share} for name, cluster, share in shown]
    tooltip = [{"field": "source"}, {"field": "series", "title": "cluster"}, {"field": "share", "format": ".2%"}]
    encoding = {
        "y": {"field": "source", "type": "nominal", "sort": None, "title": None},
        "x": {"field": "share", "type": "quantitative", "title": "share of what is drawn", "axis": {"format": "~%"}},
        "color": coloured(clusters),
        "tooltip": tooltip,
    }
    spec = base_figure(
        (16 if len(shown) > 6 else 26) * len(shown), data={"values": values}, mark={"type": "bar"}, encoding=encoding
    )
    by_cluster: dict[str, float] = {}
    for _, cluster, share in sources:
        by_cluster[cluster] = by_cluster.get(cluster, 0.0) + share
    parts = by_cluster if len(by_cluster) > 1 else {name: share for name, _, share in sources[:5]}
    said = f"{len(sources)} source{'s' if len(sources) != 1 else ''}: " + ", ".join(
        f"{name} {share:.0%}" for name, share in sorted(parts.items(), key=lambda one: -one[1])
    )
    of = f" of {', '.join(run.name for run in same)}" if several else ""
    key = "mixture" + (f"-{slug(same[0].name)}" if several else "")
    return Figure(key, "data", f"Mixture{of}", f"{said}.", spec, mixture_table(same[0]))


def slug(name: str) -> str:
    """A name as files and anchors can have it."""
    keep: Callable[[str], str] = lambda char: char if char.isalnum() or char in "-_." else "-"  # noqa: E731
    return "".join(map(keep, name)).strip("-.") or "run"
