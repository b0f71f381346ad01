"""Paired differences of a report, compared with those of ``metalm results compare``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalm_cli.evaluation.results.comparison import compare
from metalm_cli.evaluation.results.result_reader import read_result
from metalm_cli.reports import read_runs
from metalm_cli.reports.page import make_page
from metalm_cli.reports.paired_differences import RESAMPLES, paired_tables
from metalm_cli.reports.seed_groups import group_by_protocol
from report_fixtures import write_json, write_run
from result_fixtures import result_record, shot_record, task_record, template_record

BETTER = [1.0] * 30 + [0.0] * 10
WORSE = [0.0, 1.0] * 10 + [0.0] * 20


def results(folder: Path, name: str, values: list[float], **more: object) -> Path:
    path = folder / "results" / f"{name}.json"
    content = result_record({"rte": task_record(shot_record(template_record(values)))}, **more)
    write_json(path, content | {"model": {**content["model"], "source": f"runs/{name}", "weights_sha256": name}})
    return path


def test_the_first_model_is_compared_with_each_other_on_the_same_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    a, b = results(run, "a", BETTER), results(run, "b", WORSE)
    runs = read_runs([run])
    (table,) = paired_tables(group_by_protocol(runs))
    comparison = compare(read_result(a), read_result(b), resamples=RESAMPLES)
    low, high = (100 * bound for bound in comparison.tasks[0].test.interval)
    (row,) = (row for row in table.rows if row[0].endswith(": rte"))
    assert row[1:5] == ("0", "75.0", "25.0", "+50.0")
    assert row[5] == f"{low:.1f} to {high:.1f}"
    assert row[6] == "a"
    assert "Paired differences" in make_page(runs, run / "report.html")


def test_evaluations_that_cannot_be_compared_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    results(run, "a", BETTER)
    path = results(run, "b", WORSE)
    content = json.loads(path.read_text())
    content["tasks"]["rte"]["templates_sha256"] = "e" * 64
    write_json(path, content)
    assert [row for table in paired_tables(group_by_protocol(read_runs([run]))) for row in table.rows] == []
    path.write_text("{torn")
    assert paired_tables(group_by_protocol(read_runs([run]))) == []


@pytest.mark.parametrize("seeds", [1, 2])
def test_seeds_are_compared_one_by_one(tmp_path: Path, seeds: int) -> None:
    for seed in range(seeds):
        for name, values in (("a", BETTER), ("b", WORSE)):
            results(tmp_path / f"seed-{seed}", name, values)
    runs = read_runs([tmp_path / f"seed-{seed}" / "results" for seed in range(seeds)])
    (table,) = paired_tables(group_by_protocol(runs))
    pairs = {row[0].partition(":")[0] for row in table.rows}
    assert pairs == {f"a, seed-{seed} minus b, seed-{seed}" for seed in range(seeds)}
    assert any(": rte" in row[0] for row in table.rows) == (seeds == 1)
