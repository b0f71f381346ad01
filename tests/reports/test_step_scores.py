"""Scores of the evaluation on tasks during training, in the report."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from metalm_cli.reports import read_runs
from metalm_cli.reports.figures.step_score_figures import step_score_figures
from metalm_cli.reports.page import make_page
from metalm_cli.reports.step_scores import step_score_table
from metalm_cli.reports.terminal import print_report
from report_fixtures import records, write_run

SCORES = {
    10: {"rte": 50.0, "mean": 40.0},
    20: {"rte": 62.5, "mean": 45.0},
    30: {"rte": 62.5, "mean": 44.0, "late": 1.0},
    40: {"rte": 60.0, "mean": 48.25, "late": 2.0},
}


def scored_run(path: Path, scores: dict[int, dict[str, float]] | None = None) -> Path:
    evaluations = [{"step": step, "split": "evaluation", "scores": s} for step, s in (scores or SCORES).items()]
    return write_run(path, metrics=[*records(), *evaluations])


def test_first_best_and_last_scores_are_listed(tmp_path: Path) -> None:
    runs = read_runs([scored_run(tmp_path / "mine")])
    table = step_score_table(runs)
    assert table is not None
    assert table.rows == (
        ("rte", "50.0 at 10", "62.5 at 20", "60.0 at 40"),
        ("mean", "40.0 at 10", "48.2 at 40", "48.2 at 40"),
        ("late", "1.0 at 30", "2.0 at 40", "2.0 at 40"),
    )
    out = io.StringIO()
    print_report(runs, Console(file=out, width=120))
    assert "Scores during training" in out.getvalue()
    assert not any("left out" in problem for problem in runs[0].problems)


def test_the_page_draws_every_score(tmp_path: Path) -> None:
    runs = read_runs([scored_run(tmp_path / "mine"), scored_run(tmp_path / "twin", {40: {"rte": 1.0}})])
    first, second = step_score_figures(runs)
    points = {(point["series"], point["step"]): point["value"] for point in first.spec["data"]["values"]}
    assert points == {(name, step): score for step, scores in SCORES.items() for name, score in scores.items()}
    assert (first.key, second.key) == ("step-scores-mine", "step-scores-twin")
    assert "At step 40: rte 60.0, mean 48.2, late 2.0." in first.caption
    page = make_page(runs, tmp_path / "report.html")
    assert page.count("Scores during training of ") >= 2


def test_without_scores_there_is_neither_table_nor_figure(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "plain", metrics=records())])
    assert step_score_table(runs) is None
    assert step_score_figures(runs) == []


def test_damaged_scores_are_left_out(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "mine")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for scores in ([1], {"rte": "high", "mean": None}, {"rte": 10**400}):
            file.write(json.dumps({"step": 50, "split": "evaluation", "scores": scores}) + "\n")
    (summary,) = read_runs([run])
    assert any("damaged losses, scores or worth of docks, left out: 1" in problem for problem in summary.problems)
    table = step_score_table([summary])
    assert table is not None
    assert [row[-1] for row in table.rows] == ["60.0 at 40", "48.2 at 40", "2.0 at 40"]
    make_page([summary], tmp_path / "report.html")
