"""``metalm suites`` and ``metalm eval --suite``, the page about suites, and shipped suites in a wheel."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import metalm_cli as metalm_package
from card_fixtures import write_desk
from metalm_cli.cli.completion import complete_suite
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.result_reader import read_result
from metalm_cli.evaluation.suites import list_suites, load_suite, select_suite_tasks
from metalm_cli.tasks import Cards
from tiny_runs import metalm

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "suites.md").read_text(encoding="utf-8")
ROWS = [{"text": f"She had {n} red balls.", "label": n % 2, "kind": "big" if n > 5 else "small"} for n in range(10)]
SUITE = """
tasks:
  - {task: odd, metric: [f1, accuracy]}
  - {task: odd, name: odd_train, split: train, group: even}
  - {task: even, group: even, limit: 3}
  - {task: even, parts: {column: kind, values: [big, small, huge]}}
  - far
aggregate: metrics_then_tasks
also: [mean_over_tasks, weighted_by_examples]
protocol: in_context
"""
OWN = ["--cards", "cards", "--templates", "plain", "--offline"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """Working directory with a run, the cards ``odd`` and ``even``, ``far`` without data, and the suite ``mine``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("METALM_DATA", raising=False)
    places: dict[str, dict[str, Any]] = {
        "odd": {"file": "odd.jsonl"},
        "even": {"file": "odd.jsonl", "cluster": "misc"},
        "far": {"hub": {"id": "nobody/nothing"}},
    }
    write_desk(tmp_path, trained, places, ROWS)
    write(tmp_path, SUITE)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "mine.yaml").write_text(f"name: mine\ndescription: d\n{text}", encoding="utf-8")


def test_a_suite_is_evaluated_with_its_metrics_parts_and_aggregates(desk, capsys) -> None:
    assert metalm("eval", "runs/mine", "--suite", "mine.yaml", *OWN, "--out", "out.json") == 0
    out, err = capsys.readouterr()
    rows = {line.split("\t")[1]: line.split("\t") for line in out.splitlines()}
    assert list(rows)[1:] == [
        "odd", "odd_train", "even", "even_big", "even_small",
        "mine: metrics_then_tasks", "mine: mean_over_tasks", "mine: weighted_by_examples",
    ]  # fmt: skip
    assert rows["mine: mean_over_tasks"][3] == "partial: 5 of 7 tasks"
    assert "partial, 0-shot: the aggregates of mine lack even_huge, far" in err
    assert "suite    mine: templates plain instead of the default" in err
    assert re.search(r"missing  even_huge: no row of \S+ has kind = huge", err)
    record = read_result(Path("out.json"))
    assert record.suite is not None
    assert (record.suite.name, record.suite.sha256) == ("mine", load_suite("mine.yaml").sha256)
    assert record.suite.changed == ["templates plain instead of the default"]
    assert list(record.suite.tasks) == ["odd", "odd_train", "even", "even_big", "even_small", "even_huge", "far"]
    assert [record.tasks[name].settings[0].n for name in record.tasks] == [10, 10, 3, 4, 6]
    score = {name: task.settings[0].score for name, task in record.tasks.items()}
    pair = (score["odd"] + record.tasks["odd"].settings[0].extra["accuracy"]) / 2
    group = (score["odd_train"] + score["even"]) / 2
    expected = {
        "metrics_then_tasks": (pair + group + score["even_big"] + score["even_small"]) / 4,
        "mean_over_tasks": (score["odd"] + group + score["even_big"] + score["even_small"]) / 4,
        "weighted_by_examples": (
            10 * score["odd"] + 10 * score["odd_train"] + 3 * score["even"]
            + 4 * score["even_big"] + 6 * score["even_small"]
        ) / 33,
    }  # fmt: skip
    aggregates = {aggregate.name: aggregate for aggregate in record.suite.aggregates["0"]}
    assert {name: aggregate.value for name, aggregate in aggregates.items()} == pytest.approx(expected)
    for aggregate in aggregates.values():
        assert aggregate.interval[0] <= aggregate.value <= aggregate.interval[1]
        assert aggregate.error > 0
    assert record.tasks["odd"].seen.label == record.tasks["odd_train"].seen.label


def test_prompts_of_derived_tasks_are_those_of_their_originals(desk, capsys) -> None:
    write(desk, "tasks: [{task: odd, name: other, metric: f1}]\nprotocol: in_context")
    samples = []
    for selection in (["--suite", "mine.yaml"], ["--task", "odd", "--protocol", "in_context"]):
        out = desk / f"{len(samples)}.json"
        assert metalm("eval", "runs/mine", *selection, *OWN, "--out", out, "--save-samples", "--shots", 2) == 0
        lines = [json.loads(line) for line in (desk / f"{out.stem}.samples.jsonl").read_text().splitlines()]
        samples.append([(line["input"], line["prediction"]) for line in lines])
        capsys.readouterr()
    assert [text for text, _ in samples[0]] == [text for text, _ in samples[1]]


def test_the_function_gives_what_the_command_writes(desk, capsys) -> None:
    assert metalm("eval", "runs/mine", "--suite", "mine.yaml", *OWN, "--out", "out.json", "--shots", "0,1") == 0
    options: dict[str, Any] = {"cards": Path("cards"), "templates": "plain", "offline": True}
    for suite in ("mine.yaml", Path("mine.yaml"), load_suite("mine.yaml")):
        results = metalm_package.evaluate("runs/mine", suite=suite, shots=(0, 1), **options)
        assert results.record.suite == read_result(Path("out.json")).suite
    assert results.aggregates(1) == {
        aggregate.name: aggregate.value for aggregate in results.record.suite.aggregates["1"]
    }
    assert "mine: metrics_then_tasks, 1 shots: " in repr(results)
    assert "5 of 7 tasks" in repr(results)


def test_options_replace_settings_and_are_named(desk, capsys) -> None:
    write(
        desk,
        "tasks: [odd]\nshots: [0, 2]\nprotocol: instruct\nlimit: 5\ndemonstrations: drawn\nshow_options: true\n"
        "templates: plain",
    )
    own = ["--cards", "cards", "--offline"]
    arguments = ["--shots", "1", "--protocol", "in_context", "--demonstrations", "frozen", "--no-show-options"]
    assert metalm("eval", "runs/mine", "--suite", "mine.yaml", *own, *arguments, "--out", "out.json") == 0
    record = read_result(Path("out.json"))
    assert (record.protocol, record.shots, record.settings["limit"]) == ("in_context", [1], 5)
    assert (record.settings["demonstrations"], record.settings["style"]["options"]) == ("frozen", False)
    assert record.suite is not None
    assert record.suite.changed == [
        "shots 1 instead of 0, 2",
        "protocol in_context instead of instruct",
        "demonstrations frozen instead of drawn",
        "show_options False instead of True",
    ]
    err = capsys.readouterr().err
    assert "suite    mine: shots 1 instead of 0, 2; protocol in_context instead of instruct;" in err
    assert "not as the suite mine says: shots 1 instead of 0, 2" in err
    assert metalm("eval", "runs/mine", "--suite", "mine.yaml", *own, "--out", "same.json") == 0
    same = read_result(Path("same.json"))
    assert same.suite is not None
    assert (same.protocol, same.shots, same.suite.changed) == ("instruct", [0, 2], [])
    assert same.settings["demonstrations"] == "drawn"


def test_two_models_are_compared_by_their_aggregates(desk, capsys) -> None:
    shutil.copytree(desk / "runs/mine", desk / "runs/other")
    for name in ("mine", "other"):
        assert metalm("eval", f"runs/{name}", "--suite", "mine.yaml", *OWN, "--out", f"{name}.json") == 0
    capsys.readouterr()
    assert metalm("results", "compare", "mine.json", "other.json", "--format", "json") == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["kind"] == "aggregate"]
    assert [row["aggregate"] for row in rows] == ["metrics_then_tasks", "mean_over_tasks", "weighted_by_examples"]
    first = read_result(Path("mine.json")).suite.aggregates["0"]
    assert [row["a"] for row in rows] == pytest.approx([aggregate.value for aggregate in first])
    assert [(row["difference"], row["low"], row["high"], row["p"]) for row in rows] == [(0, 0, 0, 1)] * 3
    write(desk, SUITE + "limit: 4")
    assert metalm("eval", "runs/other", "--suite", "mine.yaml", *OWN, "--out", "third.json") == 0
    capsys.readouterr()
    assert metalm("results", "compare", "mine.json", "third.json") == 0
    out, err = capsys.readouterr()
    assert "aggregate" not in out
    assert "the suites differ, and their aggregates are not compared" in err


@pytest.mark.parametrize(
    ("suite", "arguments", "message"),
    [
        (SUITE, ["--task", "odd"], "a suite and tasks are selected"),
        (SUITE, ["--cluster", "nli"], "a suite and tasks are selected"),
        (SUITE, ["--all-cards"], "a suite and tasks are selected"),
        ("tasks: [od]", [], "no task is named od"),
        ("tasks: [odd]\nshots: [99]", [], "99 demonstrations of odd requested, available: 9"),
        ("tasks: [odd]", ["--shots", "50"], "50 demonstrations of odd requested"),
        ("tasks: [{task: odd, metric: pearson}]", [], "the metric pearson does not fit odd"),
        ("tasks: [{task: odd, metric: [accuracy, multirc_f1]}]", [], "the metric multirc_f1 does not fit odd"),
        ("tasks: [{task: odd, metric: token_f1}]\nalso: [chance_normalised]", [],
         "the aggregate chance_normalised needs the chance level of every task"),
        ("tasks: [far]", [], "no data found for this task"),
        ("tasks: [odd]\ntemplate: none-such", [], "odd has no template none-such"),
    ],
)  # fmt: skip
def test_bad_suites_are_named_before_work_begins(desk, capsys, suite, arguments, message) -> None:
    write(desk, suite)
    assert metalm("eval", "runs/mine", "--suite", "mine.yaml", *OWN, *arguments, "--out", "out.json") == 2
    assert message in capsys.readouterr().err
    assert not (desk / "out.json").exists()


def test_list_and_show(desk, capsys) -> None:
    assert metalm("suites", "list") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list_suites()
    assert next(row for row in rows if row[0] == "mmlu")[1:4] == ["57", "5", "weighted_by_examples"]
    assert metalm("suites", "show", "mine.yaml", "--cards", "cards") == 0
    head, _, table = capsys.readouterr().out.partition("\n\n")
    assert "aggregate  metrics_then_tasks: mean over tasks of the means over their metrics" in head
    assert [line.split("\t") for line in table.splitlines()] == [
        ["odd", "", "nli", "f1, accuracy", "validation", "local"],
        ["odd_train", "even", "nli", "accuracy", "train", "local"],
        ["even", "even", "misc", "accuracy", "validation", "local"],
        ["even_big", "", "misc", "accuracy", "validation", "local"],
        ["even_small", "", "misc", "accuracy", "validation", "local"],
        ["even_huge", "", "misc", "accuracy", "validation", "local"],
        ["far", "", "nli", "accuracy", "validation", "hub"],
    ]
    assert metalm("suites", "show", "gleu") == 2
    assert "did you mean glue?" in capsys.readouterr().err


def test_names_are_completed() -> None:
    assert [name for name, _ in complete_suite("")] == list_suites()
    assert complete_suite("gl") == [("glue", load_suite("glue").file.description)]


# -- the page, and the wheel ------------------------------------------------------------------------------------------


def page_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", page_commands())
def test_commands_of_the_page_parse(command: str) -> None:
    import typer

    from metalm_cli.cli.app import app

    arguments = shlex.split(command, comments=True)[1:]
    context = typer.main.get_command(app).make_context("metalm", list(arguments))
    group = context.command
    while isinstance(group, typer.core.TyperGroup):
        name, subcommand, remaining = group.resolve_command(context, [*context._protected_args, *context.args])
        assert subcommand is not None
        context, group = subcommand.make_context(name, remaining, parent=context), subcommand


def test_the_example_of_the_page_is_a_suite(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example, encoding="utf-8")
    names = [task.card.name for task in select_suite_tasks(load_suite(tmp_path / "mine.yaml"), Cards()).tasks]
    assert {"squad", "mrpc", "mnli_mismatched", "mmlu_anatomy", "mmlu_virology", "world_nli"} <= set(names)


def test_the_page_lists_every_suite_aggregate_and_key() -> None:
    from metalm_cli.common.registry import aggregates
    from metalm_cli.evaluation.suites.schema import SuiteFile, SuiteTask

    for name in [*list_suites(), *aggregates.names(), *SuiteFile.model_fields, *SuiteTask.model_fields]:
        assert f"`{name}`" in PAGE, name


def test_reading_suites_imports_no_torch() -> None:
    script = (
        "import sys; from metalm_cli.evaluation.suites import load_suite;"
        "load_suite('glue'); print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"


def test_an_unknown_suite_in_python() -> None:
    with pytest.raises(MetalmError, match="no suite is named gleu"):
        metalm_package.evaluate("nowhere", suite="gleu")
