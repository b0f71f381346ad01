"""Evaluations grouped by protocol, with pooled seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalm_cli.reports import read_runs
from metalm_cli.reports.page import report_figures
from metalm_cli.reports.seed_groups import group_by_protocol
from report_fixtures import write_json, write_results, write_run


def write_demo(folder: Path, seeds: int) -> list[Path]:
    """Write runs of two models and their results, in a folder for each seed."""
    folders = []
    for seed in range(seeds):
        root = folder / f"seed-{seed}"
        for name in ("metalm", "gpt"):
            run = write_run(root / name)
            folders.append(run)
            shift = 3.0 * seed + (10 if name == "gpt" else 0)
            path = write_results(root, f"in-context-{name}", source=str(run), weights=f"{name}{seed}", shift=shift)
            other = root / "results" / f"tuned-{name}.json"
            write_json(other, json.loads(path.read_text()) | {"protocol": "instruct", "created": "2026-02-02"})
        folders.append(root / "results")
    return folders


def test_protocols_are_separate_groups_the_newest_first(tmp_path: Path) -> None:
    runs = read_runs(write_demo(tmp_path, 1))
    groups = group_by_protocol(runs)
    assert [group.protocol for group in groups] == ["instruct", "in-context"]
    assert [[label for label, _ in group.evaluations] for group in groups] == [["gpt, seed-0", "metalm, seed-0"]] * 2
    assert [label for label, _ in groups[0].pooled] == ["gpt", "metalm"]
    keys = [figure.key for figure in report_figures(runs) if figure.section == "scores"]
    assert keys == [
        f"{kind}-{protocol}" for protocol in ("instruct", "in-context") for kind in ("clusters", "tasks", "templates")
    ]


def test_seeds_share_a_bar_with_an_interval_from_lowest_to_highest(tmp_path: Path) -> None:
    runs = read_runs(write_demo(tmp_path, 3))
    (figure,) = (figure for figure in report_figures(runs) if figure.key == "clusters-instruct")
    values = {(point["series"], point["cluster"]): point for point in figure.spec["data"]["values"]}
    assert set(values) == {
        (name, cluster) for name in ("gpt", "metalm") for cluster in ("nli", "paraphrase", "all clusters")
    }
    bar = values["metalm", "nli"]
    assert (bar["value"], bar["low"], bar["high"]) == (68.0, 65.0, 71.0)
    assert "from the lowest to the highest of 3 seeds" in figure.caption
    assert len(figure.table.rows) == 18, "the table has a row for each seed"
    assert {row[1] for row in figure.table.rows} >= {"metalm, seed-2", "gpt, seed-0"}
    (tasks,) = (figure for figure in report_figures(runs) if figure.key == "tasks-instruct")
    points = {(point["series"], point["task"]): point for point in tasks.spec["data"]["values"]}
    assert points["gpt", "rte (accuracy)"]["value"] == pytest.approx(78.0)


def test_a_run_of_several_seeds_has_the_name_of_its_folder(tmp_path: Path) -> None:
    for seed in range(2):
        run = write_run(tmp_path / "mine" / f"seed-{seed}")
        write_results(run, weights=str(seed))
    (group,) = group_by_protocol(read_runs([tmp_path / "mine"]))
    assert [label for label, _ in group.pooled] == ["mine"]
    assert [label for label, _ in group.evaluations] == ["mine, seed-0", "mine, seed-1"]
