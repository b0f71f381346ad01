"""Aggregates of suites in reports: the table, the figure, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.aggregation import aggregate_differences, with_aggregates
from metalm_cli.evaluation.results.comparison import compare
from metalm_cli.evaluation.results.result_reader import parse_result
from metalm_cli.evaluation.results.schema import SuiteRecord
from metalm_cli.reports import read_run
from metalm_cli.reports.figures.aggregate_figure import aggregate_figure
from metalm_cli.reports.page import make_page
from metalm_cli.reports.tables import named_evaluations, report_tables
from report_fixtures import write_results, write_run
from result_fixtures import result_record, shot_record, task_record, template_record

SUITE: dict[str, Any] = {
    "name": "mine",
    "sha256": "f" * 64,
    "tasks": {name: {"group": name, "metrics": ["accuracy"]} for name in ("rte", "mrpc", "far")},
    "aggregates": {
        "0": [
            {"name": "mean_over_tasks", "value": 72.54, "error": 2.0, "interval": [68.0, 76.5], "of": ["rte", "mrpc"]},
            {"name": "chance_normalised", "value": None, "error": None, "interval": None, "of": ["rte", "mrpc"]},
        ]
    },
}
RIGHT = {"rte": [1.0, 1, 0, 1, 0, 1, 1, 0], "cb": [1.0, 0, 0, 0], "qnli": [0.0, 1, 1, 1, 1, 0]}


def test_tables_figures_and_the_page_show_aggregates(tmp_path: Path) -> None:
    path = write_results(write_run(tmp_path / "tiny"))
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "suite": SUITE}), encoding="utf-8")
    run = read_run(tmp_path / "tiny")
    table = next(table for table in report_tables([run]) if table.title == "Aggregates of suites")
    label = table.rows[0][2]
    assert table.rows == (
        ("mine", "chance_normalised", label, "0", "–", "–", "partial: 2 of 3"),
        ("mine", "mean_over_tasks", label, "0", "72.5", "68.0 to 76.5", "partial: 2 of 3"),
    )
    figure = aggregate_figure(named_evaluations([run]))
    assert figure is not None
    assert [point["value"] for point in figure.spec["data"]["values"]] == [72.54]
    assert "partial" in figure.caption
    assert "Aggregates of suites" in make_page([run], tmp_path / "report.html")


def test_runs_without_suites_show_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    assert "Aggregates of suites" not in [table.title for table in report_tables([read_run(run)])]
    assert aggregate_figure(named_evaluations([read_run(run)])) is None


def suite_of(*tasks: str, metrics: tuple[str, ...] = ("accuracy",)) -> SuiteRecord:
    members = {name: {"group": name, "metrics": list(metrics)} for name in tasks}
    return SuiteRecord.model_validate({"name": "mine", "sha256": "f" * 64, "tasks": members})


def record_of(values: dict[str, list[float]], **changes: Any) -> Any:
    tasks = {name: task_record(shot_record(template_record(rights, **changes))) for name, rights in values.items()}
    return parse_result(result_record(tasks), "a.json")


def test_aggregates_of_a_record() -> None:
    names = ["mean_over_tasks", "weighted_by_examples", "chance_normalised"]
    record = with_aggregates(record_of(RIGHT), suite_of(*RIGHT, "far"), names)
    assert record.suite is not None
    mean, weighted, normalised = record.suite.aggregates["0"]
    assert mean.value == pytest.approx((62.5 + 25 + 400 / 6) / 3)
    assert weighted.value == pytest.approx(100 * (5 + 1 + 4) / 18)
    assert normalised.value == pytest.approx(2 * mean.value - 100), "the chance level is 50"
    assert mean.of == list(RIGHT)
    # The error of a mean of independent means of n values: the root of the sum of their variances, over 3.
    variances = [100 * 100 * p * (1 - p) / n for p, n in ((5 / 8, 8), (1 / 4, 4), (4 / 6, 6))]
    assert mean.error == pytest.approx(sum(variances) ** 0.5 / 3, rel=0.1)
    assert mean.interval[0] < mean.value < mean.interval[1]
    assert parse_result(json.loads(record.to_json()), "a.json").suite == record.suite


def test_numbers_that_are_missing() -> None:
    without_chance = record_of(RIGHT, chance={"uniform": None, "majority": 50.0})
    suite = with_aggregates(without_chance, suite_of(*RIGHT), ["chance_normalised"]).suite
    assert suite is not None
    assert suite.aggregates["0"][0].value is None
    suite = with_aggregates(
        record_of(RIGHT), suite_of(*RIGHT, metrics=("accuracy", "f1")), ["metrics_then_tasks"]
    ).suite
    assert suite is not None
    assert (suite.aggregates["0"][0].value, suite.aggregates["0"][0].of) == (None, []), "f1 is in no task"


def test_a_damaged_file_is_named() -> None:
    record = record_of(RIGHT, extra={"f1": 50.0})
    with pytest.raises(MetalmError, match="the result file is damaged"):
        with_aggregates(record, suite_of(*RIGHT, metrics=("accuracy", "f1")), ["metrics_then_tasks"])


def test_differences_are_those_of_the_common_rows() -> None:
    first = with_aggregates(record_of(RIGHT), suite_of(*RIGHT), ["mean_over_tasks", "weighted_by_examples"])
    worse = {name: [0.0, *rights[1:]] for name, rights in RIGHT.items()}
    shorter = {**worse, "rte": worse["rte"][:4]}
    second = with_aggregates(record_of(shorter), suite_of(*RIGHT), ["mean_over_tasks", "weighted_by_examples"])
    mean, weighted = aggregate_differences(compare(first, second))
    assert (mean.aggregate, mean.of) == ("mean_over_tasks", tuple(RIGHT))
    assert mean.first == pytest.approx((75 + 25 + 400 / 6) / 3)
    assert mean.second == pytest.approx((50 + 0 + 400 / 6) / 3)
    assert weighted.first - weighted.second == pytest.approx(100 * 2 / 14)
    assert mean.interval[0] <= mean.first - mean.second <= mean.interval[1]
    other = first.model_copy(update={"suite": first.suite.model_copy(update={"sha256": "0" * 64})})
    assert aggregate_differences(compare(first, other)) == []
