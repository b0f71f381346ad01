"""Details of the page that readers stumble over: ticks, order of tasks, single points, names of tiles, scroll bars."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from metalm_cli.reports.page import _tiles, report_figures
from metalm_cli.reports.reading.run_summary import read_run
from metalm_cli.reports.tables import named_evaluations, task_table, template_table
from report_fixtures import records, write_results, write_run


def figures_of(run: Path) -> dict[str, Any]:
    return {figure.key: figure for figure in report_figures([read_run(run)])}


def marks(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [layer["mark"] for layer in spec["layer"] if layer["mark"]["type"] == kind]


def test_ticks_are_drawn_as_the_caption_says(tmp_path: Path) -> None:
    """Vega draws ticks as filled rectangles, which have no dashes."""
    run = write_run(tmp_path / "run")
    write_results(run)
    figures = figures_of(run)
    for key in ("clusters", "tasks"):
        assert all("strokeDash" not in mark for mark in marks(figures[key].spec, "tick"))
        assert "ticks are chance levels" in figures[key].caption
        assert "dashed" not in figures[key].caption


def test_figures_and_tables_have_one_order_of_tasks(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = write_results(run)
    record = json.loads(path.read_text(encoding="utf-8"))
    task = record["tasks"]["rte"]
    settings = [{**task["settings"][0], "shots": shots} for shots in (10, 0, 4)]
    record["tasks"] = {
        "zz": {**task, "cluster": "a_cluster", "settings": settings},
        "aa": {**task, "cluster": "b_cluster", "settings": settings},
    }
    path.write_text(json.dumps(record), encoding="utf-8")
    summary = read_run(run)
    for table in (task_table, template_table):
        rows = table(named_evaluations([summary])).rows
        shots = table(named_evaluations([summary])).headers.index("shots")
        assert [(row[0], row[shots]) for row in rows] == [(name, n) for name in ("zz", "aa") for n in ("0", "4", "10")]
    figures = figures_of(run)
    metric = task["metric"]
    assert figures["tasks-0-shot"].spec["encoding"]["y"]["sort"] == [f"zz ({metric})", f"aa ({metric})"]
    assert figures["templates-0-shot"].spec["encoding"]["y"]["sort"] == ["zz", "aa"]


def test_a_curve_of_a_single_point_is_visible(tmp_path: Path) -> None:
    short, long = (
        write_run(tmp_path / name, metrics=records(steps))
        for name, steps in (("one", [10]), ("many", range(10, 90, 10)))
    )
    (line,) = marks(figures_of(short)["loss"].spec, "line")
    assert line["point"] == {"size": 40, "filled": True}
    assert marks(figures_of(long)["loss"].spec, "line")[0]["point"] == {"size": 8}


def test_tiles_have_different_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("in_context-rte", "in_context-other"):
        write_results(run, name)
    names = [name for name, _ in _tiles(read_run(run))]
    assert sum(name.startswith("mean score") for name in names) == 2
    assert len(set(names)) == len(names)


def test_scroll_bars_appear_only_where_something_is_cut() -> None:
    """Collapsed borders are half outside of their table; the other boxes scroll in one direction only."""
    css = files("metalm_cli.reports").joinpath("page.css").read_text(encoding="utf-8")
    assert "border-collapse: collapse" not in css
    for selector in (".answers .spans", ".session .spans", "nav ul"):
        rule = css.partition(f"{selector} {{")[2].partition("}")[0]
        overflow = [part.partition(":")[2].split() for part in rule.split(";") if part.strip().startswith("overflow:")]
        assert [sorted(values) for values in overflow] == [["auto", "hidden"]], selector
    assert "position: relative" in css.partition("\n.spans {")[2].partition("}")[0], "hidden labels extend the page"
