"""Damaged files of a run: each problem is reported, invalid values are left out, and the report does not fail."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from metalm_cli.errors import MetalmError
from metalm_cli.reports import RunSummary, read_runs
from metalm_cli.reports.card_section import scored_cards
from metalm_cli.reports.figures import vega_export
from metalm_cli.reports.page import make_page
from metalm_cli.reports.reading.lineage_view import lineage_view
from metalm_cli.reports.terminal import print_report
from report_fixtures import records, write_json, write_results, write_run

RESULTS = "results/in_context-rte.json"
LINEAGE = "model/lineage.json"
WIDTH = 30


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small complete run with results."""
    monkeypatch.setattr(vega_export, "javascript", lambda: "")
    path = write_run(tmp_path / "tiny", metrics=records([10, 20]))
    write_results(path)
    return path


def read_and_render(run: Path) -> tuple[RunSummary, str]:
    """The summary and the page, after the terminal report and the card were rendered without an error."""
    runs = read_runs([run])
    out = io.StringIO()
    print_report(runs, Console(file=out, width=WIDTH))
    assert max(cell_len(line) for line in out.getvalue().splitlines()) <= WIDTH
    out.getvalue().encode()
    with contextlib.suppress(MetalmError):  # no scores are left
        scored_cards(runs)
    page = make_page(runs, run / "report.html")
    page.encode()
    return runs[0], page


def set_json_value(run: Path, file: str, keys: tuple[Any, ...], value: Any) -> None:
    """Replace a value in a JSON file; without keys, the whole content."""
    content = json.loads((run / file).read_text(encoding="utf-8"))
    holder = content
    for key in keys[:-1]:
        holder = holder[key]
    if keys:
        holder[keys[-1]] = value
    write_json(run / file, content if keys else value)


def test_a_complete_run_has_no_problems(run: Path) -> None:
    facts, page = read_and_render(run)
    assert facts.problems == ()
    assert "Missing data" not in page


@pytest.mark.parametrize(
    ("file", "keys", "value", "problem"),
    [
        (LINEAGE, ("data",), 5, "lineage.json: data is damaged and left out"),
        (LINEAGE, ("data",), [5, {"name": "kept"}], "lineage.json: damaged entries of data, left out: 1"),
        (LINEAGE, ("held_out",), 5, "lineage.json: held_out is damaged"),
        (LINEAGE, ("ancestors",), 7, "lineage.json: ancestors is damaged"),
        (LINEAGE, ("ancestors", 0, "lineage"), [1], "lineage.json: lineage is damaged"),
        (LINEAGE, ("ancestors", 0, "lineage", "data"), 3, "lineage.json: data is damaged"),
        ("data.json", ("sources",), 3, "data.json: sources is damaged and left out"),
        ("data.json", ("sources",), {"a": 1}, "data.json: sources is damaged and left out"),
        ("data.json", ("sources", 0), "a", "data.json: damaged entries of sources, left out: 1"),
        ("data.json", (), [1], "data.json cannot be read: not a JSON object"),
        ("environment.json", (), 5, "environment.json cannot be read: not a JSON object"),
        ("sessions.json", ("rows",), 3, "sessions.json: rows is damaged"),
        ("sessions.json", ("rows", 0), [], "sessions.json: damaged entries of rows, left out: 1"),
        ("sessions.json", ("rows", 0, "title"), 3, "sessions.json: title is damaged"),
        ("sessions.json", ("rows", 0, "spans", 1, 1), [], "sessions.json: damaged spans or continuations, left out: 1"),
        ("sessions.json", ("rows", 0, "spans", 1, 3), None, "sessions.json: damaged spans or continuations"),
        ("sessions.json", ("rows", 0, "spans", 1), "x", "sessions.json: damaged entries of spans, left out: 1"),
        ("sessions.json", ("said", 0), [None, "b"], "sessions.json: damaged spans or continuations, left out: 1"),
        (RESULTS, (), [1], f"{RESULTS} is damaged and left out (ValueError: not a JSON object)"),
        (RESULTS, ("tasks",), [], f"{RESULTS} is left out: the result file is damaged; tasks: input"),
        (RESULTS, ("settings", "style"), ["a"], f"{RESULTS}: style is damaged and left out"),
        (
            RESULTS,
            ("clusters", "0", "nli", "value"),
            float("nan"),
            "clusters.0.nli.value: input should be a finite number",
        ),
        (
            RESULTS,
            ("tasks", "rte", "settings", 0, "shots"),
            float("inf"),
            f"{RESULTS} is left out: the result file is damaged; tasks.rte.settings.0.shots: input should be",
        ),
        (RESULTS, ("tasks", "rte", "settings", 0, "oracle", "score"), 10**400, "the result file is damaged; tasks.rte"),
    ],
)
def test_invalid_values_are_reported(run: Path, file: str, keys: tuple[Any, ...], value: Any, problem: str) -> None:
    set_json_value(run, file, keys, value)
    facts, page = read_and_render(run)
    assert any(problem in line for line in facts.problems), facts.problems
    assert "Missing data" in page


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([{"step": 10**400, "loss": 1.0}], "metrics.jsonl: records without a step, left out: 1"),
        ([{"step": "12", "loss": 1.0}], "metrics.jsonl: records without a step, left out: 1"),
        (
            [{"step": 30, "split": ["a"]}],
            "metrics.jsonl: records of neither training, validation nor evaluation, left out: 1",
        ),
        (["[" * 100_000, {"step": 30}], "metrics.jsonl: line 4 is damaged and left out"),
        ([{"step": 30, "cluster_loss": 5}], "metrics.jsonl: damaged losses, scores or worth of docks, left out: 1"),
        (
            [{"step": 30, "split": "validation", "task_loss": ["a"]}],
            "metrics.jsonl: damaged losses, scores or worth of docks",
        ),
        (
            [{"step": 30, "split": "validation", "dock_worth": 3.0}],
            "metrics.jsonl: damaged losses, scores or worth of docks, left out: 1",
        ),
        ([{"step": 30, "nonfinite": True}], "values are not finite in 1 logged step, first at step 30"),
    ],
)
def test_invalid_records_are_reported(run: Path, lines: list[Any], problem: str) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    facts, _ = read_and_render(run)
    assert any(problem in line for line in facts.problems), facts.problems
    assert [record["step"] for record in facts.training][:2] == [10, 20], "the rest is read"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: [a]\ntrain: {steps: 3}\n", "recipe.yaml: model is damaged and left out"),
        ("model: {}\ntrain: 5\n", "recipe.yaml: train is damaged and left out"),
        ("- 1\n", "recipe.yaml is damaged: not a mapping"),
        ("a: &a {b: *a}\n", "recipe.yaml cannot be read: nested too deeply"),
        ("[" * 1500, "recipe.yaml cannot be read"),
        ("train:\nmodel:\n1: 2\n", None),
    ],
)
def test_invalid_recipes_are_reported(run: Path, text: str, problem: str | None) -> None:
    (run / "recipe.yaml").write_text(text, encoding="utf-8")
    facts, _ = read_and_render(run)
    assert facts.steps in (None, 3)
    assert facts.problems == () if problem is None else any(problem in line for line in facts.problems)


@pytest.mark.parametrize("file", ["data.json", "environment.json", "sessions.json", LINEAGE, RESULTS])
@pytest.mark.parametrize("depth", [100_000, 500])
def test_files_that_are_nested_too_deeply_are_reported(run: Path, file: str, depth: int) -> None:
    (run / file).write_text('{"a":' * depth + "1" + "}" * depth, encoding="utf-8")
    facts, _ = read_and_render(run)
    assert any(Path(file).name in line and "nested too deeply" in line for line in facts.problems)


@pytest.mark.parametrize("source", ["~nouser/x", "a\0b", "x" * 5000, ["a"], None, ""])
def test_invalid_model_paths_are_ignored(run: Path, source: Any) -> None:
    set_json_value(run, RESULTS, ("model", "source"), source)
    facts, _ = read_and_render(run)
    assert facts.external_evaluations == ()
    assert len(facts.evaluations) == 1


def test_half_surrogates_are_replaced(run: Path) -> None:
    broken_text = "bad \ud800 end"
    set_json_value(run, RESULTS, ("missing",), {"wnli": broken_text})
    set_json_value(run, RESULTS, ("protocol",), broken_text)
    set_json_value(run, LINEAGE, ("recipe",), broken_text)
    set_json_value(run, "sessions.json", ("said", 0, 0), broken_text)
    (run / "recipe.yaml").write_text('description: "bad \\ud800 end"\n', encoding="utf-8")
    samples = run / "results" / "in_context-rte.samples.jsonl"
    answers = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    samples.write_text(
        "".join(json.dumps(answer | {"prediction": broken_text}) + "\n" for answer in answers), encoding="utf-8"
    )
    facts, page = read_and_render(run)
    assert {answer.prediction for answer in facts.evaluations[0].answers} == {"bad ? end"}
    assert page.count("bad ? end") >= 5


def test_unreadable_samples_do_not_affect_the_scores(run: Path) -> None:
    samples = run / "results" / "in_context-rte.samples.jsonl"
    samples.unlink()
    samples.mkdir()
    facts, _ = read_and_render(run)
    assert "results/in_context-rte.samples.jsonl cannot be read: Is a directory" in facts.problems
    assert facts.evaluations[0].tasks[0].score == 65.0


def test_invalid_answers_are_counted(run: Path) -> None:
    samples = run / "results" / "in_context-rte.samples.jsonl"
    text = samples.read_text(encoding="utf-8")
    bad = json.loads(text.splitlines()[0])
    lines = [json.dumps(bad | {"shots": float("inf")}), "[" * 100_000, "5"]
    samples.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    facts, _ = read_and_render(run)
    assert "results/in_context-rte.samples.jsonl: 3 damaged lines left out" in facts.problems
    assert len(facts.evaluations[0].answers) == 20


def test_the_valid_part_of_a_damaged_lineage_is_shown(run: Path) -> None:
    set_json_value(run, LINEAGE, ("ancestors", 0, "lineage"), 5)
    set_json_value(run, LINEAGE, ("data",), 5)
    facts, _ = read_and_render(run)
    tree = lineage_view("tiny", facts.lineage)
    assert tree["detail"].startswith("pretrain tiny; 40 steps; 50 tokens")
    assert [parent["title"] for parent in tree["parents"]] == ["started from runs/base", "started from gpt2"]
    assert "not made by metalm" not in tree["parents"][0]["detail"], "made by metalm, with a damaged lineage"
    assert "not made by metalm" in tree["parents"][1]["detail"]


def test_a_run_that_diverged_has_a_page(run: Path) -> None:
    nothing = {"cluster_loss": {"nli": None, "sentiment": None}, "task_loss": {"rte": None, "sst2": None}}
    last = {"step": 30, "split": "validation", "loss": None, **nothing, "nonfinite": ["loss"]}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(last) + "\n")
    facts, page = read_and_render(run)
    assert "values are not finite in 1 logged step, first at step 30" in facts.problems
    assert "figure-task-loss" in page
    (run / "metrics.jsonl").write_text(json.dumps(last) + "\n", encoding="utf-8")
    facts, page = read_and_render(run)
    assert "figure-task-loss" not in page
    assert "figure-cluster-loss" not in page
