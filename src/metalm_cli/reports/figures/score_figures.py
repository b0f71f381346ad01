"""Figures of evaluations, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from metalm_cli.reports.figures.training_figures import Figure, Spec, base_figure, coloured, figure_height, slug
from metalm_cli.reports.reading.evaluation_summary import ClusterScore, EvaluationSummary, TaskScore
from metalm_cli.reports.seed_groups import SeedGroup
from metalm_cli.reports.tables import cluster_table, decimal, task_table, template_table

ALL = "all clusters"


def score_figures(groups: Sequence[SeedGroup]) -> list[Figure]:
    """All figures of evaluations that there are facts for.

    Args:
        groups: Evaluations by protocol, from :func:`~metalm_cli.reports.seed_groups.group_by_protocol`.
    """
    made = []
    for group in groups:
        name = group.protocol if len(groups) > 1 else ""
        shots = sorted({task.shots for _, one in group.pooled for task in one.tasks})
        for one in shots:
            at = ", ".join(filter(None, (name, f"{one}-shot" if len(shots) > 1 else "")))
            made += [_clusters(group, one, at), _tasks(group, one, at), _templates(group, one, at)]
        made.append(_shots(group, name))
    return [one for one in made if one is not None]


def _key(kind: str, name: str) -> str:
    return f"{kind}-{slug(name.replace(', ', '-'))}" if name else kind


def _title(what: str, name: str) -> str:
    return f"{what}: {name}" if name else what


def _lines(group: SeedGroup) -> str:
    """What lines around values are."""
    return (
        f"Lines reach from the lowest to the highest of {group.seeds} seeds"
        if group.seeds > 1
        else "Lines are 95% intervals"
    )


def _offset(names: Sequence[str]) -> Spec:
    return {"yOffset": {"field": "series", "sort": list(names)}} if len(names) > 1 else {}


def _x(title: str, field: str = "value", zero: bool = False) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": zero}}


def _clusters(group: SeedGroup, shots: int, name: str) -> Figure | None:
    """Bars of clusters with their intervals, one for each model side by side, and their chance levels."""
    values: list[dict[str, Any]] = []
    single = len({one.cluster for _, evaluation in group.pooled for one in evaluation.clusters}) == 1
    for label, evaluation in group.pooled:
        means = [] if single else _comparable(group, evaluation)
        for one in (each for each in (*evaluation.clusters, *means) if each.shots == shots):
            values.append(
                {
                    "cluster": one.cluster or ALL,
                    "series": label,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "chance": _chance(evaluation, one),
                    "tasks": ", ".join(one.of),
                }
            )
    if not values:
        return None
    names = list(dict.fromkeys(one["series"] for one in values))
    order = [*sorted({one["cluster"] for one in values} - {ALL}), ALL]
    tooltip = [{"field": "cluster"}, {"field": "series", "title": "model"}]
    tooltip += [{"field": key, "format": ".1f"} for key in ("value", "low", "high", "chance")] + [{"field": "tasks"}]
    shared = {"y": {"field": "cluster", "type": "nominal", "sort": order, "title": None}, **_offset(names)}
    dark = {"color": {"value": "var(--ink)"}}
    layers = [
        {
            "mark": {"type": "bar", "opacity": 0.85},
            "encoding": {"x": _x("score", zero=True), "color": coloured(names), "tooltip": tooltip},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 1.5},
            "encoding": {"x": _x("score", "low", zero=True), "x2": {"field": "high"}, **dark},
        },
        {
            "transform": [{"filter": "isValid(datum.chance)"}],
            "mark": {"type": "tick", "thickness": 2, "strokeDash": [2, 2], "bandSize": 14},
            "encoding": {"x": _x("score", "chance", zero=True), **dark},
        },
    ]
    rows = len({one["cluster"] for one in values})
    spec = base_figure(figure_height(rows, len(names), 26), data={"values": values}, layer=layers, encoding=shared)
    best = [f"{one['cluster']} {decimal(one['value'], 1)}" for one in values if one["series"] == names[0]]
    said = f"{names[0]}: {', '.join(best)}." + (f" Beside it: {', '.join(names[1:])}." if len(names) > 1 else "")
    said += f" {_lines(group)}; dashed ticks are chance."
    table = [(label, _only(one, shots)) for label, one in group.scored]
    return Figure(_key("clusters", name), "scores", _title("Scores by cluster", name), said, spec, cluster_table(table))


def _only(one: EvaluationSummary, shots: int) -> EvaluationSummary:
    """What an evaluation says of so many demonstrations."""
    return replace(
        one,
        tasks=tuple(each for each in one.tasks if each.shots == shots),
        clusters=tuple(each for each in one.clusters if each.shots == shots),
        means=tuple(each for each in one.means if each.shots == shots),
    )


def _comparable(group: SeedGroup, evaluation: EvaluationSummary) -> list[ClusterScore]:
    """Means over clusters, unless another evaluation has more of them."""

    def over(one: EvaluationSummary, shots: int) -> int:
        return len({each.cluster for each in one.clusters if each.shots == shots})

    most = max((over(one, mean.shots) for _, one in group.pooled for mean in one.means), default=0)
    return [mean for mean in evaluation.means if over(evaluation, mean.shots) == most]


def _chance(evaluation: EvaluationSummary, one: ClusterScore) -> float | None:
    """Mean chance of the tasks that a mean is over; None where one has none."""
    if not one.cluster:
        parts = [_chance(evaluation, each) for each in evaluation.clusters if each.shots == one.shots]
    else:
        parts = [task.chance for task in evaluation.tasks if task.task in one.of and task.shots == one.shots]
    known = [part for part in parts if part is not None]
    return sum(known) / len(known) if known and len(known) == len(parts) else None


def _scores(group: SeedGroup, shots: int) -> list[tuple[str, TaskScore]]:
    return [
        (label, task)
        for label, evaluation in group.pooled
        for task in evaluation.tasks
        if task.score is not None and task.shots == shots
    ]


def _tasks(group: SeedGroup, shots: int, name: str) -> Figure | None:
    """Scores of tasks as points with intervals, and their chance levels."""
    found = _scores(group, shots)
    if not found:
        return None
    values: list[dict[str, Any]] = [
        {
            "task": f"{one.task} ({one.metric})",
            "cluster": one.cluster,
            "series": label,
            "value": one.score,
            "low": one.low,
            "high": one.high,
            "chance": one.chance,
            "seen": one.seen,
            "n": one.n,
        }
        for label, one in found
    ]
    names = list(dict.fromkeys(label for label, _ in found))
    order = list(dict.fromkeys(one["task"] for one in sorted(values, key=lambda one: (one["cluster"], one["task"]))))
    tooltip = [{"field": "task"}, {"field": "cluster"}, {"field": "series", "title": "model"}]
    tooltip += [{"field": key, "format": ".1f"} for key in ("value", "low", "high", "chance")]
    tooltip += [{"field": "n", "title": "examples"}, {"field": "seen"}]
    shared = {"y": {"field": "task", "type": "nominal", "sort": order, "title": None}, **_offset(names)}
    color = {"color": coloured(names)}
    layers = [
        {
            "transform": [{"filter": "isValid(datum.chance)"}],
            "mark": {"type": "tick", "thickness": 2, "bandSize": 12},
            "encoding": {"x": _x("score", "chance"), "color": {"value": "var(--muted)"}},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6},
            "encoding": {"x": _x("score", "low"), "x2": {"field": "high"}, **color},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
            "encoding": {"x": _x("score"), "tooltip": tooltip, **color},
        },
    ]
    spec = base_figure(
        figure_height(len(order), len(names), 20), data={"values": values}, layer=layers, encoding=shared
    )
    what = "lowest seed" if group.seeds > 1 else "whole interval"
    above = [
        one for one in values if one["low"] is not None and one["chance"] is not None and one["low"] > one["chance"]
    ]
    known = [one for one in values if one["low"] is not None and one["chance"] is not None]
    said = f"{len(order)} task{'s' if len(order) > 1 else ''}. "
    said += f"Of {len(known)} scores with a chance level the {what} lies above it in {len(above)}. "
    said += f"Points are scores, ticks chance. {_lines(group)}."
    table = [(label, _only(one, shots)) for label, one in group.scored]
    return Figure(_key("tasks", name), "scores", _title("Scores by task", name), said, spec, task_table(table))


def _templates(group: SeedGroup, shots: int, name: str) -> Figure | None:
    """Each template's score, a point; their mean, a tick."""
    found = [(label, one) for label, one in _scores(group, shots) if len(one.templates) > 1]
    if not found:
        return None
    values = [
        {"task": one.task, "series": label, "template": wording.template, "value": wording.score, "mean": one.score}
        for label, one in found
        for wording in one.templates
        if wording.score is not None
    ]
    names = list(dict.fromkeys(label for label, _ in found))
    tooltip = [
        {"field": "task"},
        {"field": "series", "title": "model"},
        {"field": "template"},
        {"field": "value", "format": ".1f"},
        {"field": "mean", "format": ".1f"},
    ]
    shared = {"y": {"field": "task", "type": "nominal", "title": None}, **_offset(names), "color": coloured(names)}
    layers = [
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.55},
            "encoding": {"x": _x("score"), "tooltip": tooltip},
        },
        {"mark": {"type": "tick", "thickness": 2.5, "bandSize": 16}, "encoding": {"x": _x("score", "mean")}},
    ]
    spec = base_figure(
        figure_height(len({one["task"] for one in values}), len(names), 24),
        data={"values": values},
        layer=layers,
        encoding=shared,
    )
    widest = max(found, key=lambda one: one[1].spread or 0.0)
    said = f"{len({one.task for _, one in found})} tasks in several templates, a point each; ticks are means. "
    said += f"Widest: {widest[1].task} ({widest[0]}), deviation {decimal(widest[1].spread, 1)}."
    title = _title("Spread over templates", name)
    table = [(label, _only(one, shots)) for label, one in group.scored]
    return Figure(_key("templates", name), "scores", title, said, spec, template_table(table))


def _shots(group: SeedGroup, name: str) -> Figure | None:
    """Means over clusters by the number of demonstrations."""
    values: list[dict[str, Any]] = [
        {"shots": one.shots, "value": one.value, "low": one.low, "high": one.high, "series": label}
        for label, evaluation in group.pooled
        for one in _comparable(group, evaluation)
    ]
    if len({one["shots"] for one in values}) < 2:
        return None
    names = list(dict.fromkeys(one["series"] for one in values))
    x = {"field": "shots", "type": "ordinal", "title": "demonstrations", "axis": {"labelAngle": 0}}
    y = {"field": "value", "type": "quantitative", "title": "mean score", "scale": {"zero": False}}
    offset = {"xOffset": {"field": "series", "sort": names}} if len(names) > 1 else {}
    tooltip = [
        {"field": "series", "title": "model"},
        {"field": "shots"},
        *({"field": key, "format": ".1f"} for key in ("value", "low", "high")),
    ]
    layers = [
        {
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6},
            "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1}, "encoding": {"y": y, "tooltip": tooltip}},
    ]
    spec = base_figure(
        240, data={"values": values}, layer=layers, encoding={"x": x, "color": coloured(names), **offset}
    )
    said = "; ".join(f"{one['series']} {decimal(one['value'], 1)} with {one['shots']}" for one in values)
    told = f"Mean over clusters: {said}. {_lines(group)}."
    title = _title("Score by demonstrations", name)
    return Figure(_key("shots", name), "scores", title, told, spec, cluster_table(group.scored))
