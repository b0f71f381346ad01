"""Figures of evaluation scores, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from metalm_cli.common.table import counted
from metalm_cli.reports.figures.training_figures import Figure, Spec, base_figure, colour_encoding, figure_height, slug
from metalm_cli.reports.reading.evaluation_summary import ClusterScore, EvaluationSummary, TaskScore
from metalm_cli.reports.seed_groups import SeedGroup
from metalm_cli.reports.tables import cluster_table, format_decimal, task_table, template_table

ALL_CLUSTERS = "all clusters"


def score_figures(groups: Sequence[SeedGroup]) -> list[Figure]:
    """All figures of scores that the evaluations have data for.

    Args:
        groups: Evaluations by protocol, from :func:`~metalm_cli.reports.seed_groups.group_by_protocol`.
    """
    figures = []
    for group in groups:
        name = group.protocol if len(groups) > 1 else ""
        shots = sorted({task.shots for _, evaluation in group.pooled for task in evaluation.tasks})
        for number in shots:
            figure_name = ", ".join(filter(None, (name, f"{number}-shot" if len(shots) > 1 else "")))
            figures += [
                _cluster_figure(group, number, figure_name),
                _task_figure(group, number, figure_name),
                _template_figure(group, number, figure_name),
            ]
        figures.append(_shots_figure(group, name))
    return [figure for figure in figures if figure is not None]


def _figure_key(kind: str, name: str) -> str:
    return f"{kind}-{slug(name.replace(', ', '-'))}" if name else kind


def _figure_title(subject: str, name: str) -> str:
    return f"{subject}: {name}" if name else subject


def _interval_note(group: SeedGroup) -> str:
    """Explanation of the lines around values."""
    return (
        f"Lines extend from the lowest to the highest of {group.seed_count} seeds"
        if group.seed_count > 1
        else "Lines are 95% intervals"
    )


def _series_offset(names: Sequence[str]) -> Spec:
    return {"yOffset": {"field": "series", "sort": list(names)}} if len(names) > 1 else {}


def _x_channel(title: str, field: str = "value", zero: bool = False) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": zero}}


def _cluster_figure(group: SeedGroup, shots: int, name: str) -> Figure | None:
    """Bars of cluster scores for each model, with intervals and chance levels."""
    values: list[dict[str, Any]] = []
    single = len({cluster.cluster for _, evaluation in group.pooled for cluster in evaluation.clusters}) == 1
    for label, evaluation in group.pooled:
        means = [] if single else _comparable_means(group, evaluation)
        for score in (entry for entry in (*evaluation.clusters, *means) if entry.shots == shots):
            values.append(
                {
                    "cluster": score.cluster or ALL_CLUSTERS,
                    "series": label,
                    "value": score.value,
                    "low": score.low,
                    "high": score.high,
                    "chance": _mean_chance(evaluation, score),
                    "tasks": ", ".join(score.members),
                }
            )
    if not values:
        return None
    names = list(dict.fromkeys(bar["series"] for bar in values))
    order = [*sorted({bar["cluster"] for bar in values} - {ALL_CLUSTERS}), ALL_CLUSTERS]
    tooltip = [{"field": "cluster"}, {"field": "series", "title": "model"}]
    tooltip += [{"field": key, "format": ".1f"} for key in ("value", "low", "high", "chance")] + [{"field": "tasks"}]
    shared = {"y": {"field": "cluster", "type": "nominal", "sort": order, "title": None}, **_series_offset(names)}
    ink = {"color": {"value": "var(--ink)"}}
    layers = [
        {
            "mark": {"type": "bar", "opacity": 0.85},
            "encoding": {"x": _x_channel("score", zero=True), "color": colour_encoding(names), "tooltip": tooltip},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 1.5},
            "encoding": {"x": _x_channel("score", "low", zero=True), "x2": {"field": "high"}, **ink},
        },
        {
            "transform": [{"filter": "isValid(datum.chance)"}],
            "mark": {"type": "tick", "thickness": 2, "bandSize": 14},
            "encoding": {"x": _x_channel("score", "chance", zero=True), **ink},
        },
    ]
    rows = len({bar["cluster"] for bar in values})
    spec = base_figure(figure_height(rows, len(names), 26), data={"values": values}, layer=layers, encoding=shared)
    scores = [f"{bar['cluster']} {format_decimal(bar['value'], 1)}" for bar in values if bar["series"] == names[0]]
    caption = f"{names[0]}: {', '.join(scores)}." + (
        f" Other models: {', '.join(names[1:])}." if len(names) > 1 else ""
    )
    caption += f" {_interval_note(group)}; ticks are chance levels."
    table = [(label, _with_shots(evaluation, shots)) for label, evaluation in group.evaluations]
    return Figure(
        _figure_key("clusters", name),
        "scores",
        _figure_title("Scores by cluster", name),
        caption,
        spec,
        cluster_table(table),
    )


def _with_shots(evaluation: EvaluationSummary, shots: int) -> EvaluationSummary:
    """The evaluation with only the scores for a number of demonstrations."""
    return replace(
        evaluation,
        tasks=tuple(score for score in evaluation.tasks if score.shots == shots),
        clusters=tuple(score for score in evaluation.clusters if score.shots == shots),
        means=tuple(score for score in evaluation.means if score.shots == shots),
    )


def _comparable_means(group: SeedGroup, evaluation: EvaluationSummary) -> list[ClusterScore]:
    """Means over clusters, unless another evaluation covers more clusters."""

    def cluster_count(evaluation: EvaluationSummary, shots: int) -> int:
        return len({cluster.cluster for cluster in evaluation.clusters if cluster.shots == shots})

    max_clusters = max(
        (cluster_count(evaluation, mean.shots) for _, evaluation in group.pooled for mean in evaluation.means),
        default=0,
    )
    return [mean for mean in evaluation.means if cluster_count(evaluation, mean.shots) == max_clusters]


def _mean_chance(evaluation: EvaluationSummary, mean: ClusterScore) -> float | None:
    """Mean chance level of the tasks in a mean; None if a task has no chance level."""
    if not mean.cluster:
        levels = [_mean_chance(evaluation, cluster) for cluster in evaluation.clusters if cluster.shots == mean.shots]
    else:
        levels = [task.chance for task in evaluation.tasks if task.task in mean.members and task.shots == mean.shots]
    known = [level for level in levels if level is not None]
    return sum(known) / len(known) if known and len(known) == len(levels) else None


def _task_scores(group: SeedGroup, shots: int) -> list[tuple[str, TaskScore]]:
    return [
        (label, task)
        for label, evaluation in group.pooled
        for task in evaluation.tasks
        if task.score is not None and task.shots == shots
    ]


def _in_order(scores: Sequence[tuple[str, TaskScore]]) -> list[TaskScore]:
    """A score of each task, ordered by cluster, then by name, as in the tables."""
    by_task = {(task.cluster, task.task, task.metric): task for _, task in scores}
    return [by_task[key] for key in sorted(by_task)]


def _task_figure(group: SeedGroup, shots: int, name: str) -> Figure | None:
    """Task scores as points with intervals, and chance levels."""
    scores = _task_scores(group, shots)
    if not scores:
        return None
    values: list[dict[str, Any]] = [
        {
            "task": f"{task.task} ({task.metric})",
            "cluster": task.cluster,
            "series": label,
            "value": task.score,
            "low": task.low,
            "high": task.high,
            "chance": task.chance,
            "seen": task.seen,
            "n": task.n,
        }
        for label, task in scores
    ]
    names = list(dict.fromkeys(label for label, _ in scores))
    order = [f"{task.task} ({task.metric})" for task in _in_order(scores)]
    tooltip = [{"field": "task"}, {"field": "cluster"}, {"field": "series", "title": "model"}]
    tooltip += [{"field": key, "format": ".1f"} for key in ("value", "low", "high", "chance")]
    tooltip += [{"field": "n", "title": "examples"}, {"field": "seen"}]
    shared = {"y": {"field": "task", "type": "nominal", "sort": order, "title": None}, **_series_offset(names)}
    color = {"color": colour_encoding(names)}
    layers = [
        {
            "transform": [{"filter": "isValid(datum.chance)"}],
            "mark": {"type": "tick", "thickness": 2, "bandSize": 12},
            "encoding": {"x": _x_channel("score", "chance"), "color": {"value": "var(--muted)"}},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6},
            "encoding": {"x": _x_channel("score", "low"), "x2": {"field": "high"}, **color},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
            "encoding": {"x": _x_channel("score"), "tooltip": tooltip, **color},
        },
    ]
    spec = base_figure(
        figure_height(len(order), len(names), 20), data={"values": values}, layer=layers, encoding=shared
    )
    interval_name = "lowest seed" if group.seed_count > 1 else "whole interval"
    above = [
        point
        for point in values
        if point["low"] is not None and point["chance"] is not None and point["low"] > point["chance"]
    ]
    known = [point for point in values if point["low"] is not None and point["chance"] is not None]
    caption = f"{len(order)} task{'s' if len(order) > 1 else ''}. "
    caption += f"Of {len(known)} scores with a chance level, the {interval_name} is above it in {len(above)}. "
    caption += f"Points are scores, ticks are chance levels. {_interval_note(group)}."
    table = [(label, _with_shots(evaluation, shots)) for label, evaluation in group.evaluations]
    return Figure(
        _figure_key("tasks", name), "scores", _figure_title("Scores by task", name), caption, spec, task_table(table)
    )


def _template_figure(group: SeedGroup, shots: int, name: str) -> Figure | None:
    """Scores of templates as points, and their means as ticks."""
    scores = [(label, task) for label, task in _task_scores(group, shots) if len(task.templates) > 1]
    if not scores:
        return None
    values = [
        {"task": task.task, "series": label, "template": template.template, "value": template.score, "mean": task.score}
        for label, task in scores
        for template in task.templates
        if template.score is not None
    ]
    names = list(dict.fromkeys(label for label, _ in scores))
    tooltip = [
        {"field": "task"},
        {"field": "series", "title": "model"},
        {"field": "template"},
        {"field": "value", "format": ".1f"},
        {"field": "mean", "format": ".1f"},
    ]
    shared = {
        "y": {"field": "task", "type": "nominal", "sort": [task.task for task in _in_order(scores)], "title": None},
        **_series_offset(names),
        "color": colour_encoding(names),
    }
    layers = [
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.55},
            "encoding": {"x": _x_channel("score"), "tooltip": tooltip},
        },
        {"mark": {"type": "tick", "thickness": 2.5, "bandSize": 16}, "encoding": {"x": _x_channel("score", "mean")}},
    ]
    spec = base_figure(
        figure_height(len({point["task"] for point in values}), len(names), 24),
        data={"values": values},
        layer=layers,
        encoding=shared,
    )
    widest = max(scores, key=lambda entry: entry[1].spread or 0.0)
    tasks = counted(len({task.task for _, task in scores}), "task")
    caption = f"{tasks} with several templates: points are templates, ticks means. "
    caption += (
        f"Largest spread: {widest[1].task} ({widest[0]}), standard deviation {format_decimal(widest[1].spread, 1)}."
    )
    title = _figure_title("Spread over templates", name)
    table = [(label, _with_shots(evaluation, shots)) for label, evaluation in group.evaluations]
    return Figure(_figure_key("templates", name), "scores", title, caption, spec, template_table(table))


def _shots_figure(group: SeedGroup, name: str) -> Figure | None:
    """Means over clusters by number of demonstrations."""
    values: list[dict[str, Any]] = [
        {"shots": mean.shots, "value": mean.value, "low": mean.low, "high": mean.high, "series": label}
        for label, evaluation in group.pooled
        for mean in _comparable_means(group, evaluation)
    ]
    if len({point["shots"] for point in values}) < 2:
        return None
    names = list(dict.fromkeys(point["series"] for point in values))
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
        240, data={"values": values}, layer=layers, encoding={"x": x, "color": colour_encoding(names), **offset}
    )
    scores = "; ".join(
        f"{point['series']} {format_decimal(point['value'], 1)} for shots = {point['shots']}" for point in values
    )
    caption = f"Mean over clusters: {scores}. {_interval_note(group)}."
    title = _figure_title("Score by demonstrations", name)
    return Figure(_figure_key("shots", name), "scores", title, caption, spec, cluster_table(group.evaluations))
