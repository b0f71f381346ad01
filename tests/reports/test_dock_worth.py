"""What docks are worth, in the report."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from metalm_cli.reports import read_runs
from metalm_cli.reports.dock_worth import dock_worth_table, worth_by_step
from metalm_cli.reports.figures.dock_worth_figure import dock_worth_figure
from metalm_cli.reports.page import make_page
from metalm_cli.reports.terminal import print_report
from report_fixtures import records, write_run

WORTH: dict[str, Any] = {
    "sessions": 20,
    "loss": 0.5,
    "exchanged_loss": 1.75,
    "exchanged": {"difference": 1.25, "low": 0.75, "high": 2.0},
    "mean_vector_loss": 0.375,
    "mean_vector": {"difference": -0.125, "low": -0.5, "high": 0.25},
}


def measured_run(path: Path, worth: Any = WORTH) -> Path:
    metrics = [{**line, **({"dock_worth": worth} if line["split"] == "validation" else {})} for line in records()]
    return write_run(path, metrics=metrics)


def test_the_table_the_terminal_and_the_page_have_the_figures(tmp_path: Path) -> None:
    runs = read_runs([measured_run(tmp_path / "docked")])
    table = dock_worth_table(runs)
    assert table is not None
    cells = ("20", "0.500", "+1.250", "+0.750 to +2.000", "-0.125", "-0.500 to +0.250")
    assert table.rows == (("20", *cells), ("40", *cells))
    out = io.StringIO()
    print_report(runs, Console(file=out, width=120))
    assert "What docks are worth" in out.getvalue()
    assert "+0.750 to +2.000" in out.getvalue()
    page = make_page(runs, tmp_path / "report.html")
    assert 'id="figure-dock-worth"' in page
    assert "changes the loss by +1.250 (+0.750 to +2.000)" in page
    assert not any("docks" in problem for problem in runs[0].problems)


def test_the_figure_has_both_differences_of_every_run(tmp_path: Path) -> None:
    runs = read_runs([measured_run(tmp_path / "first"), measured_run(tmp_path / "second"), write_run(tmp_path / "gpt")])
    figure = dock_worth_figure(runs)
    assert figure is not None
    points = [(point["series"], point["step"], point["kind"]) for point in figure.spec["data"]["values"]]
    kinds = ("docks exchanged", "mean dock vector")
    assert points == [(name, step, kind) for name in ("first", "second") for step in (20, 40) for kind in kinds]
    assert [row[0] for row in figure.table.rows] == ["first", "first", "second", "second"]
    assert "second, step 40: On 20 validation sessions" in figure.caption
    assert "gpt" not in figure.caption


def test_a_long_run_has_a_short_table(tmp_path: Path) -> None:
    metrics = [{"step": step, "split": "validation", "loss": 1.0, "dock_worth": WORTH} for step in range(1, 101)]
    runs = read_runs([write_run(tmp_path / "long", metrics=metrics)])
    table, figure = dock_worth_table(runs), dock_worth_figure(runs, 40)
    assert table is not None
    assert figure is not None
    assert len(table.rows) == 25
    assert (table.rows[0][0], table.rows[-1][0]) == ("1", "100")
    assert len(figure.spec["data"]["values"]) == 40


@pytest.mark.parametrize(
    "worth",
    [
        {"why": "none has docks"},
        {},
        {**WORTH, "exchanged": 5},
        {**WORTH, "exchanged": {"difference": None, "low": 1.0, "high": 2.0}},
        {**WORTH, "mean_vector": {"difference": 1.0, "low": -math.inf, "high": 2.0}},
        {**WORTH, "loss": math.nan},
        {**WORTH, "sessions": "many"},
    ],
)
def test_records_without_figures_are_left_out(tmp_path: Path, worth: Any) -> None:
    runs = read_runs([measured_run(tmp_path / "run", worth)])
    assert worth_by_step(runs[0]) == []
    assert dock_worth_table(runs) is None
    assert dock_worth_figure(runs) is None
    stated = [problem for problem in runs[0].problems if "docks" in problem]
    assert stated == (["what docks are worth is not measured: none has docks"] if "why" in worth else [])
