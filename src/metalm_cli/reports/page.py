"""The page: one HTML file with everything in it, whatever a run has to show."""

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
from metalm_cli.reports.answer_samples import answer_views, row_views, said_views
from metalm_cli.reports.figures import vega_export
from metalm_cli.reports.figures.score_figures import score_figures
from metalm_cli.reports.figures.training_figures import OF_ALL, Figure, training_figures
from metalm_cli.reports.paired_differences import paired_tables
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary
from metalm_cli.reports.reading.lineage_view import lineage_view
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.seed_groups import SeedGroup, group_by_protocol
from metalm_cli.reports.tables import (
    NONE,
    Table,
    count,
    decimal,
    difference_table,
    environment_table,
    overview,
    series_of,
)

LARGEST = 2_000_000
"""Bytes of a page: what does not fit gives way, answers first."""
RECIPE = 20_000
"""Characters of a recipe that are shown."""
NAMED = 8
"""Runs that are named under the title."""
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
"""Parts of the page, in their order: what came out first, then how."""
WIDE = ("loss", "clusters")
"""Figures over the whole width, where that leaves no gap."""

CONFIG: dict[str, Any] = {
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
    "range": {"category": [f"var(--s{at})" for at in range(10)]},
}
"""Vega-Lite's configuration: the style sheet's colours."""


@dataclass(frozen=True)
class Detail:
    """How much of the long parts is shown.

    Args:
        answers: Right and wrong answers of each task, each.
        characters: Of a text.
        confusions: Tables.
        points: Of all curves of a figure.
    """

    answers: int
    characters: int
    confusions: int
    points: int


DETAILS = (
    Detail(2, 1200, 24, OF_ALL),
    Detail(2, 500, 12, OF_ALL),
    Detail(1, 300, 4, OF_ALL // 2),
    Detail(0, 100, 0, OF_ALL // 8),
)


def figures_of(runs: Sequence[RunSummary], points: int = OF_ALL) -> list[Figure]:
    """All figures that the runs have facts for; their curves have so many points in all."""
    return [*score_figures(group_by_protocol(runs)), *training_figures(runs, points)]


def make_page(runs: Sequence[RunSummary], place: Path, created: datetime | None = None) -> str:
    """The report of some runs.

    Args:
        runs: The runs.
        place: Where the page will lie: links are relative to it.
        created: When; default not said.

    Returns:
        HTML of less than :data:`LARGEST` bytes.
    """
    library, paired = vega_export.javascript(), paired_tables(group_by_protocol(runs))
    page = ""
    for detail in DETAILS:
        page = _render(runs, place, figures_of(runs, detail.points), paired, library, detail, created)
        if len(page.encode()) < LARGEST:
            break
    return page


def _render(
    runs: Sequence[RunSummary],
    place: Path,
    figures: Sequence[Figure],
    paired: Sequence[Table],
    library: str,
    detail: Detail,
    created: datetime | None,
) -> str:
    from markupsafe import Markup

    scored = sorted(series_of(runs), key=lambda each: each[1].created, reverse=True)
    answers = answer_views(scored, detail.answers, detail.characters)
    confusions, more = _confusions(group_by_protocol(runs), detail.confusions)
    several = len(runs) > 1
    rows, said = row_views(runs, detail.characters), said_views(runs, detail.characters)
    content = {
        "answers": answers,
        "answer_tasks": sorted({one["task"] for one in answers}),
        "rows": rows,
        "said": said,
        "confusions": confusions,
        "more_confusions": more,
        "recipes": [{"name": run.name, "text": run.recipe_text[:RECIPE]} for run in runs if run.recipe_text],
        "lineages": [lineage_view(run.name, run.lineage) for run in runs if run.lineage],
        "links": _links(runs, place),
    }
    sections = _sections(runs, figures, paired, content)
    return _template().render(
        **content,
        title=_title(runs),
        subtitle=_subtitle(runs),
        tiles=[] if several else _tiles(runs[0]),
        notices=[f"{run.name}: {one}" if several else one for run in runs for one in run.problems],
        sections=sections,
        parts=[(one["key"], one["title"]) for one in sections],
        version=metalm_cli.__version__,
        created="" if created is None else f"{created:%Y-%m-%d %H:%M}",
        css=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        library=Markup(library),
        config=_json(CONFIG),
    )


def _sections(
    runs: Sequence[RunSummary], figures: Sequence[Figure], paired: Sequence[Table], content: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The parts that have something to show."""
    tables: dict[str, list[Table]] = {key: [] for key, _ in SECTIONS}
    if len(runs) > 1:
        tables["runs"].append(overview(runs))
    tables["scores"] += paired
    differ = difference_table(runs)
    tables["recipe"] += [differ] if differ is not None else []
    tables["machine"] += [environment_table(runs)] if any(run.environment for run in runs) else []
    has = {
        "samples": bool(content["answers"] or content["rows"] or content["said"]),
        "recipe": bool(content["recipes"]),
        "provenance": bool(content["lineages"] or content["links"]),
        "scores": bool(content["confusions"]),
    }
    found = []
    for key, title in SECTIONS:
        drawn = [_view(one) for one in figures if one.section == key]
        if len(drawn) % 2 == 0:
            drawn = [{**one, "wide": False} for one in drawn]
        if drawn or tables[key] or has.get(key):
            told = _seen(group_by_protocol(runs)) if key == "scores" and drawn else ""
            found.append({"key": key, "title": title, "told": told, "figures": drawn, "tables": tables[key]})
    return found


def _view(figure: Figure) -> dict[str, Any]:
    view = {name: getattr(figure, name) for name in ("key", "title", "told", "table", "log", "zoom")}
    return {**view, "wide": figure.key in WIDE, "json": _json({**figure.spec, "description": figure.told})}


def _seen(groups: Sequence[SeedGroup]) -> str:
    """How new the tasks are to the models, and whether evaluations by one protocol are alike."""
    told: dict[str, list[str]] = {}
    for group in groups:
        for label, one in group.pooled:
            seen = {task.task: task.seen for task in one.tasks}
            said = ", ".join(f"{number} {what}" for what, number in Counter(seen.values()).items())
            told.setdefault(f"of {len(seen)} task{'s' if len(seen) > 1 else ''} {said}", []).append(label)
    if not told:
        return ""
    each = "; ".join(f"{', '.join(dict.fromkeys(names))}: {said}" for said, names in told.items())
    found = [f"How new the tasks are, by what a model was trained on: {each if len(told) > 1 else next(iter(told))}."]
    for group in groups:
        where = f"{group.protocol}: " if len(groups) > 1 else ""
        found += [f"{where}{said}" for said in differing_settings([one for _, one in group.scored])]
    return " ".join(found)


def differing_settings(evaluations: Sequence[EvaluationSummary]) -> list[str]:
    """What keeps means of these evaluations from being compared; nothing for one, or where all were done alike."""
    found = []
    if len({frozenset(task.task for task in one.tasks) for one in evaluations}) > 1:
        found.append("the evaluations are of different tasks: compare them task by task, not by their means.")
    keys = ("templates", "template", "split", "limit", "sequence_length", "demonstrations", "style")
    differ = [
        key for key in keys if len({json.dumps(one.settings.get(key), sort_keys=True) for one in evaluations}) > 1
    ]
    if differ:
        what = ", ".join(differ).replace("_", " ")
        found.append(f"the evaluations were not done alike: they differ in {what}.")
    return found


def _title(runs: Sequence[RunSummary]) -> str:
    if len(runs) <= 3:
        return " against ".join(run.name for run in runs)
    return Path(os.path.commonpath([run.path.resolve() for run in runs])).name or f"{len(runs)} runs"


def _subtitle(runs: Sequence[RunSummary]) -> str:
    if len(runs) > 1:
        more = ", …" if len(runs) > NAMED else ""
        return f"{len(runs)} runs side by side: {', '.join(run.name for run in runs[:NAMED])}{more}"
    (run,) = runs
    parts = [str(run.recipe.get("command", "")), str(run.environment.get("recipe", "")), run.state_text]
    parts += [str(run.recipe.get("description") or "")]
    return " · ".join(part for part in parts if part)


def _tiles(run: RunSummary) -> list[tuple[str, str]]:
    """The figures of a run that one looks for first."""
    shown = (
        "steps",
        "source tokens",
        "held-out loss",
        "held-out bits per byte",
        "tokens a second, median",
        "parameters",
    )
    facts = {row[0]: row[1] for row in overview([run]).rows}
    found = []
    for one in run.evaluations[-2:]:
        found += [(f"mean score, {one.label} {mean.shots}-shot", f"{mean.value:.1f}") for mean in one.means[:1]]
    found += [(name, facts[name]) for name in shown if name in facts]
    if "held-out loss" not in facts and run.training:
        found.append(("training loss", decimal(run.last.get("loss"))))
    return [(name, value) for name, value in found if value != NONE]


def _confusions(groups: Sequence[SeedGroup], most: int) -> tuple[list[dict[str, Any]], str]:
    """Confusions of each model's tasks with the fewest demonstrations, those of the newest protocol first."""
    found = []
    for label, evaluation in (each for group in groups for each in group.scored):
        fewest = min((task.shots for task in evaluation.tasks), default=0)
        for task in evaluation.tasks:
            one = task.confusion
            if one is None or task.shots != fewest:
                continue
            rows = []
            for right, counts in zip(one.right, one.counts, strict=True):
                whole = sum(counts) or 1
                cells = [
                    {"count": count(value), "share": round(value / whole, 3), "same": said == right}
                    for said, value in zip(one.said, counts, strict=True)
                ]
                rows.append({"right": right, "cells": cells})
            shots = f"{task.shots}-shot" if task.shots else ""
            name = " ".join(part for part in (label, shots) if part)
            found.append({"task": task.task, "label": name, "template": one.template, "said": one.said, "rows": rows})
    left = len(found) - most
    return found[:most], f"{left} more tables are not shown." if left > 0 else ""


def _links(runs: Sequence[RunSummary], place: Path) -> list[dict[str, str]]:
    found = []
    for run in runs:
        for path in run.files:
            try:
                way = os.path.relpath(path.resolve(), place.resolve().parent)
            except ValueError:  # on another drive
                way = str(path.resolve())
            name = path.relative_to(run.path).as_posix() if path.is_relative_to(run.path) else path.name
            name = f"{run.name}/{name}" if len(runs) > 1 else name
            found.append({"href": quote(way.replace(os.sep, "/")), "name": name + ("/" if path.is_dir() else "")})
    return found


def _json(value: Any) -> Any:
    """JSON that a script element can hold."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _asset(name: str) -> str:
    return files("metalm_cli.reports").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # What is shown was written by models and data sets: all of it is escaped.
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        _asset("page.html.jinja")
    )


def colours() -> dict[str, str]:
    """Variables of the style sheet and their values in its light theme."""
    light = re.search(r":root \{(.*?)\}", _asset("page.css"), flags=re.DOTALL)
    assert light is not None
    return dict(re.findall(r"(--[\w-]+): ([^;]+);", light[1]))
