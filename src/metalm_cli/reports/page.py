"""The report page: one HTML file that holds all its figures, tables and scripts."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import metalm_cli
from metalm_cli.common.table import Table
from metalm_cli.reports.answer_samples import answer_views, continuation_views, row_views
from metalm_cli.reports.figures import vega_export
from metalm_cli.reports.figures.aggregate_figure import aggregate_figure
from metalm_cli.reports.figures.dock_worth_figure import dock_worth_figure
from metalm_cli.reports.figures.score_figures import score_figures
from metalm_cli.reports.figures.step_score_figures import step_score_figures
from metalm_cli.reports.figures.training_figures import MAX_FIGURE_POINTS, Figure, training_figures
from metalm_cli.reports.lead import Lead
from metalm_cli.reports.paired_differences import paired_tables
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary
from metalm_cli.reports.reading.lineage_view import lineage_view
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.seed_groups import SeedGroup, group_by_protocol
from metalm_cli.reports.tables import (
    NO_VALUE,
    difference_table,
    environment_table,
    format_count,
    format_decimal,
    message_table,
    named_evaluations,
    overview_table,
)
from metalm_cli.runs.find import STAGES_FOLDER
from metalm_cli.runs.part_changes import change_table

MAX_PAGE_BYTES = 2_000_000
"""Largest page in bytes; a larger one is rendered with less detail, answers first."""
MAX_RECIPE_CHARACTERS = 20_000
"""Characters of a recipe that the page shows."""
MAX_NAMED_RUNS = 8
"""Runs that the subtitle names."""
SECTIONS = (
    ("runs", "Side by side"),
    ("scores", "Scores"),
    ("learning", "Learning"),
    ("samples", "Sessions and answers"),
    ("data", "Data"),
    ("machine", "Machine"),
    ("optimiser", "Optimiser"),
    ("recipe", "Recipe"),
    ("provenance", "Provenance"),
)
"""Sections of the page in order: results first, then details of the runs."""
WIDE_FIGURES = ("loss", "clusters")
"""Figures over the whole width, if that leaves no gap in the grid."""

VEGA_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "gridColor": "var(--grid)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "labelLimit": 200,
        "labelOverlap": True,
    },
    "axisY": {"labelOverlap": False},
    "axisYQuantitative": {"labelOverlap": True, "tickCount": 6},
    "axisXQuantitative": {"tickCount": 6},
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--muted)", "labelFontSize": 12, "labelLimit": 260},
    "title": {"color": "var(--ink)", "fontSize": 14},
    "line": {"strokeJoin": "round"},
    "range": {"category": [f"var(--s{index})" for index in range(10)]},
}
"""Vega-Lite configuration with the colours of the style sheet."""


@dataclass(frozen=True)
class Detail:
    """Limits of the long sections of the page.

    Args:
        answers: Right answers, and wrong answers, per task.
        characters: Characters of a text.
        confusions: Confusion matrices.
        points: Points of all curves of a figure.
    """

    answers: int
    characters: int
    confusions: int
    points: int


DETAIL_LEVELS = (
    Detail(2, 1200, 24, MAX_FIGURE_POINTS),
    Detail(2, 500, 12, MAX_FIGURE_POINTS),
    Detail(1, 300, 4, MAX_FIGURE_POINTS // 2),
    Detail(0, 100, 0, MAX_FIGURE_POINTS // 8),
)


def report_figures(runs: Sequence[RunSummary], points: int = MAX_FIGURE_POINTS) -> list[Figure]:
    """All figures that the runs have data for, with at most ``points`` points for all curves of a figure."""
    aggregates = aggregate_figure(named_evaluations(runs))
    scores = [*([aggregates] if aggregates is not None else []), *score_figures(group_by_protocol(runs))]
    docks = dock_worth_figure(runs, points)
    training = [*training_figures(runs, points), *([docks] if docks is not None else [])]
    return [*scores, *step_score_figures(runs, points), *training]


def make_page(
    runs: Sequence[RunSummary], path: Path, created: datetime | None = None, lead: Lead | None = None, about: str = ""
) -> str:
    """Render the report page of some runs.

    Args:
        runs: The runs.
        path: Path of the page, which links are relative to.
        created: Time of creation; omitted by default.
        lead: First view of a study; default: title and numbers of the runs.
        about: Folders that the page is about, for its head.

    Returns:
        HTML of less than :data:`LARGEST` bytes.
    """
    library, paired = vega_export.javascript(), paired_tables(group_by_protocol(runs))
    page = ""
    for detail in DETAIL_LEVELS:
        page = _render(runs, path, report_figures(runs, detail.points), paired, library, detail, created, lead, about)
        if len(page.encode()) < MAX_PAGE_BYTES:
            break
    return page


def _render(
    runs: Sequence[RunSummary],
    path: Path,
    figures: Sequence[Figure],
    paired: Sequence[Table],
    library: str,
    detail: Detail,
    created: datetime | None,
    lead: Lead | None,
    about: str,
) -> str:
    from markupsafe import Markup

    scored = sorted(named_evaluations(runs), key=lambda pair: pair[1].record.created, reverse=True)
    answers = answer_views(scored, detail.answers, detail.characters)
    confusions, more_confusions = _confusions(group_by_protocol(runs), detail.confusions)
    several = len(runs) > 1
    rows, continuations = row_views(runs, detail.characters), continuation_views(runs, detail.characters)
    content = {
        "answers": answers,
        "answer_tasks": sorted({answer["task"] for answer in answers}),
        "rows": rows,
        "continuations": continuations,
        "confusions": confusions,
        "more_confusions": more_confusions,
        "recipes": [
            {"name": run.name, "text": run.recipe_text[:MAX_RECIPE_CHARACTERS]} for run in runs if run.recipe_text
        ],
        "lineages": [lineage_view(run.name, run.lineage) for run in runs if run.lineage],
        "links": _links(runs, path),
    }
    sections = _sections(runs, figures, paired, content)
    return _template().render(
        **content,
        lead=lead,
        lead_figures=[] if lead is None else [_figure_view(figure) for figure in lead.figures],
        about=about,
        title=lead.title if lead is not None else _title(runs),
        subtitle=lead.subtitle if lead is not None else _subtitle(runs),
        tiles=[] if several or lead is not None else _tiles(runs[0]),
        notices=[f"{run.name}: {problem}" if several else problem for run in runs for problem in run.problems],
        sections=sections,
        parts=[
            *([("claims", "Claims" if lead.claims else "Results")] if lead is not None else []),
            *((part["key"], part["title"]) for part in sections),
        ],
        version=metalm_cli.__version__,
        created="" if created is None else f"{created:%Y-%m-%d %H:%M}",
        css=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        library=Markup(library),
        config=_script_json(VEGA_CONFIG),
    )


def _sections(
    runs: Sequence[RunSummary], figures: Sequence[Figure], paired: Sequence[Table], content: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The sections that have content."""
    tables: dict[str, list[Table]] = {key: [] for key, _ in SECTIONS}
    if len(runs) > 1:
        tables["runs"].append(overview_table(runs))
    tables["scores"] += paired
    messages = message_table(named_evaluations(runs))
    tables["scores"] += [messages] if messages.rows else []
    moved = change_table({run.name: run.changes for run in runs})
    tables["optimiser"] += [moved] if moved is not None else []
    differing = difference_table(runs)
    tables["recipe"] += [differing] if differing is not None else []
    tables["machine"] += [environment_table(runs)] if any(run.environment for run in runs) else []
    has_content = {
        "samples": bool(content["answers"] or content["rows"] or content["continuations"]),
        "recipe": bool(content["recipes"]),
        "provenance": bool(content["lineages"] or content["links"]),
        "scores": bool(content["confusions"]),
    }
    sections = []
    for key, title in SECTIONS:
        views = [_figure_view(figure) for figure in figures if figure.section == key]
        if len(views) % 2 == 0:
            views = [{**view, "wide": False} for view in views]
        if views or tables[key] or has_content.get(key):
            note = _novelty_note(group_by_protocol(runs)) if key == "scores" and views else ""
            sections.append({"key": key, "title": title, "note": note, "figures": views, "tables": tables[key]})
    return sections


def _figure_view(figure: Figure) -> dict[str, Any]:
    view = {name: getattr(figure, name) for name in ("key", "title", "caption", "table", "log_axes", "zoom")}
    return {
        **view,
        "wide": figure.key in WIDE_FIGURES,
        "json": _script_json({**figure.spec, "description": figure.caption}),
    }


def _novelty_note(groups: Sequence[SeedGroup]) -> str:
    """Note on which tasks the models were trained on, and on settings that differ between evaluations of a protocol."""
    labels_by_summary: dict[str, list[str]] = {}
    for group in groups:
        for label, evaluation in group.pooled:
            levels = {task.task: task.seen for task in evaluation.tasks}
            counts = ", ".join(f"{number} {level}" for level, number in Counter(levels.values()).items())
            labels_by_summary.setdefault(f"of {len(levels)} task{'s' if len(levels) > 1 else ''} {counts}", []).append(
                label
            )
    if not labels_by_summary:
        return ""
    details = "; ".join(f"{', '.join(dict.fromkeys(names))}: {summary}" for summary, names in labels_by_summary.items())
    sentences = [
        "Tasks by whether the models were trained on them: "
        f"{details if len(labels_by_summary) > 1 else next(iter(labels_by_summary))}."
    ]
    for group in groups:
        prefix = f"{group.protocol}: " if len(groups) > 1 else ""
        sentences += [
            f"{prefix}{difference}"
            for difference in differing_settings([evaluation for _, evaluation in group.evaluations])
        ]
    return " ".join(sentences)


def differing_settings(evaluations: Sequence[EvaluationSummary]) -> list[str]:
    """Differences that make the means of evaluations incomparable; empty if there are none."""
    sentences = []
    if len({frozenset(task.task for task in evaluation.tasks) for evaluation in evaluations}) > 1:
        sentences.append("the evaluations cover different tasks: compare single tasks, not means.")
    keys = ("templates", "template", "split", "limit", "sequence_length", "demonstrations", "style")
    differing = [
        key
        for key in keys
        if len({json.dumps(evaluation.record.settings.get(key), sort_keys=True) for evaluation in evaluations}) > 1
    ]
    if differing:
        setting_names = ", ".join(differing).replace("_", " ")
        sentences.append(f"the evaluations differ in their settings: {setting_names}.")
    return sentences


def _title(runs: Sequence[RunSummary]) -> str:
    folders = {run.path.resolve().parent for run in runs}
    if len(folders) == 1 and (folder := folders.pop()).name == STAGES_FOLDER:
        return f"{folder.parent.name}: {' then '.join(run.name for run in runs)}"
    if len(runs) <= 3:
        return " against ".join(run.name for run in runs)
    return Path(os.path.commonpath([run.path.resolve() for run in runs])).name or f"{len(runs)} runs"


def _subtitle(runs: Sequence[RunSummary]) -> str:
    if len(runs) > 1:
        more = ", …" if len(runs) > MAX_NAMED_RUNS else ""
        return f"{len(runs)} runs side by side: {', '.join(run.name for run in runs[:MAX_NAMED_RUNS])}{more}"
    (run,) = runs
    parts = [str(run.recipe.get("command", "")), str(run.environment.get("recipe", "")), run.state_text]
    parts += [str(run.recipe.get("description") or "")]
    return " · ".join(part for part in parts if part)


def _tiles(run: RunSummary) -> list[tuple[str, str]]:
    """Names and values of the most important numbers of a run."""
    fact_names = (
        "steps",
        "source tokens",
        "held-out loss",
        "held-out bits per byte",
        "median tokens per second",
        "parameters",
    )
    facts = {row[0]: row[1] for row in overview_table([run]).rows}
    tiles = []
    for label, evaluation in named_evaluations([run])[-2:]:
        tiles += [(f"mean score, {label} {mean.shots}-shot", f"{mean.value:.1f}") for mean in evaluation.means[:1]]
    tiles += [(name, facts[name]) for name in fact_names if name in facts]
    if "held-out loss" not in facts and run.training:
        tiles.append(("training loss", format_decimal(run.last_record.get("loss"))))
    return [(name, value) for name, value in tiles if value != NO_VALUE]


def _confusions(groups: Sequence[SeedGroup], max_tables: int) -> tuple[list[dict[str, Any]], str]:
    """Confusion matrices of each model's tasks with the fewest demonstrations, the newest protocol first."""
    tables = []
    for label, evaluation in (pair for group in groups for pair in group.evaluations):
        fewest = min((task.shots for task in evaluation.tasks), default=0)
        for task in evaluation.tasks:
            confusion = task.confusion
            if confusion is None or task.shots != fewest:
                continue
            rows = []
            for target, counts in zip(confusion.targets, confusion.counts, strict=True):
                total = sum(counts) or 1
                cells = [
                    {"count": format_count(value), "share": round(value / total, 3), "correct": prediction == target}
                    for prediction, value in zip(confusion.predictions, counts, strict=True)
                ]
                rows.append({"target": target, "cells": cells})
            shots = f"{task.shots}-shot" if task.shots else ""
            model_name = " ".join(part for part in (label, shots) if part)
            tables.append(
                {
                    "task": task.task,
                    "label": model_name,
                    "template": confusion.template,
                    "predictions": confusion.predictions,
                    "rows": rows,
                }
            )
    hidden = len(tables) - max_tables
    return tables[:max_tables], f"{hidden} more confusion matrices are not shown." if hidden > 0 else ""


def _links(runs: Sequence[RunSummary], page_path: Path) -> list[dict[str, str]]:
    links = []
    for run in runs:
        for path in run.files:
            target = os.path.relpath(path.resolve(), page_path.resolve().parent)
            name = path.relative_to(run.path).as_posix() if path.is_relative_to(run.path) else path.name
            name = f"{run.name}/{name}" if len(runs) > 1 else name
            links.append({"href": quote(target.replace(os.sep, "/")), "name": name + ("/" if path.is_dir() else "")})
    return links


def _script_json(value: Any) -> Any:
    """JSON that is safe in a script element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _asset(name: str) -> str:
    return files("metalm_cli.reports").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # Texts come from models and data sets: all of them are escaped.
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        _asset("page.html.jinja")
    )


def light_colours() -> dict[str, str]:
    """Variables of the style sheet with their values in the light theme."""
    light = re.search(r":root \{(.*?)\}", _asset("page.css"), flags=re.DOTALL)
    assert light is not None
    return dict(re.findall(r"(--[\w-]+): ([^;]+);", light[1]))
