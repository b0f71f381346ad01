"""``metalm results``: every output format, tables at 80 columns, comparisons, and bad files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.cli import console
from result_fixtures import result_record, shot_record, task_record, template_record
from tiny_runs import metalm

GOOD, BAD = [1.0] * 9 + [0.0], [0.0] * 8 + [1.0] * 2


def tasks(values: list[float], several_templates: bool = False) -> dict[str, Any]:
    more = (
        [template_record([1.0, *values[1:]], "second"), template_record(values, "third")] if several_templates else []
    )
    return {
        "cnn_dailymail": task_record(
            shot_record(template_record(values), *more), cluster="summarization", metric="exact_match"
        ),
        "rte": task_record(
            shot_record(template_record(values, cut=3), *more),
            shot_record(template_record(values, skipped=2), shots=4),
            seen={"label": "leak partner", "why": "trained on mnli"},
        ),
        "world_paraphrase": task_record(
            shot_record(template_record(values), *more), seen={"label": "seen", "why": "trained on it"}
        ),
    }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write("a.json", result_record(tasks(GOOD), model={"source": "runs/docked"}))
    write("b.json", result_record(tasks(BAD), model={"source": "runs/twin"}))
    write("many.json", result_record(tasks(GOOD, True), missing={"qqp": "not at hand"}, complete=False))
    return tmp_path


def write(name: str, content: dict[str, Any]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps(content), encoding="utf-8")


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    assert metalm("results", *arguments) == code
    return capsys.readouterr()


def test_a_table_fits_80_columns(desk: Path, capsys) -> None:
    for name in ("a.json", "many.json"):
        out, _ = output_of(capsys, "show", name, "--format", "table")
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out
        for cell in ("cnn_dailymail", "world_paraphrase", "exact_match", "90.0 ±10.0", "0-shot", "4-shot", "leak"):
            assert cell in out
    out, _ = output_of(capsys, "compare", "a.json", "b.json", "--format", "table")
    assert max(map(len, out.splitlines())) <= 80
    assert "A  a.json: runs/docked" in out


def test_contents_of_a_table(desk: Path, capsys) -> None:
    out, _ = output_of(capsys, "show", "a.json", "-f", "table")
    rows = {line.split("  ")[0].strip(): line.split() for line in out.splitlines()}
    assert rows["cnn_dailymail"][1:] == ["held", "out", "exact_match", "90.0", "±10.0", "12.5,", "87.5", "62.5", "10"]
    assert rows["mean over clusters"][3:7] == ["of", "2", "90.0", "±0.5"]
    assert "trained on: world_paraphrase" in out
    assert "examples that have truncated inputs: rte 3" in out
    assert "are not scored: rte 2" in out
    out_many, _ = output_of(capsys, "show", "many.json", "-f", "table")
    assert "spread oracle" in out_many
    assert "NOT COMPLETE" in out_many
    assert "missing, and not in any mean: qqp" in out_many
    assert "above chance by the 95% interval (0-shot, of 3 tasks with a chance level): none" in out
    assert "chosen on the scored" in out_many


def test_tasks_above_chance_are_named(tmp_path: Path, capsys) -> None:
    high = task_record(shot_record(template_record([1.0] * 8)) | {"interval": [62.6, 100.0]})
    equal = task_record(shot_record(template_record([1.0] * 8)) | {"interval": [62.5, 100.0]})
    open_answer = task_record(shot_record(template_record([1.0] * 8, chance={})) | {"interval": [90.0, 100.0]})
    files = {"a.json": {"rte": high, "cb": equal, "squad": open_answer}, "b.json": {"rte": equal, "cb": high}}
    for name, tasks in files.items():
        (tmp_path / name).write_text(json.dumps(result_record(tasks)))
    level = "above chance by the 95% interval (0-shot, of 2 tasks with a chance level): "
    out, _ = output_of(capsys, "show", str(tmp_path / "a.json"), "-f", "table")
    assert f"{level}rte" in " ".join(out.split())
    out, _ = output_of(capsys, "show", str(tmp_path / "a.json"), "-f", "json")
    assert {row["task"]: row["above_chance"] for row in json.loads(out) if row["kind"] == "task"} == {
        "rte": True,
        "cb": False,
        "squad": None,
    }
    out, _ = output_of(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-f", "table")
    assert f"{level}A rte; B cb" in " ".join(out.split())


def test_lines_for_other_programs(desk: Path, capsys) -> None:
    out, err = output_of(capsys, "show", "a.json")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["shots", "task", "seen", "metric", "score", "95% interval", "chance", "n"]
    assert {len(line) for line in lines} == {8}
    assert ["0-shot", "rte", "leak", "accuracy", "90.0 ±10.0", "12.5, 87.5", "62.5", "10"] in lines
    assert "model    runs/docked" in err


def test_csv_has_full_numbers(desk: Path, capsys) -> None:
    out, err = output_of(capsys, "show", "many.json", "a.json", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    first = next(row for row in rows if row["file"] == "many.json" and row["task"] == "cnn_dailymail")
    assert (first["kind"], first["score"], first["low"], first["constant"]) == ("task", "90.0", "12.5", "62.5")
    assert (first["templates"], first["oracle_template"]) == ("first; second; third", "first")
    assert first["extra.per_token"] == "40.0"
    assert {row["file"] for row in rows} == {"many.json", "a.json"}
    means = [row for row in rows if row["kind"] != "task" and row["file"] == "a.json" and row["shots"] == "0"]
    assert [(row["kind"], row["cluster"], row["of"]) for row in means] == [
        ("cluster mean", "summarization", "cnn_dailymail"),
        ("cluster mean", "nli", "rte; world_paraphrase"),
        ("mean over clusters", "", "summarization; nli"),
    ]
    assert "NOT COMPLETE" in err


def test_json_and_markdown(desk: Path, capsys) -> None:
    out, _ = output_of(capsys, "show", "a.json", "--format", "json")
    rows = json.loads(out)
    assert [row["task"] for row in rows if row["kind"] == "task" and row["shots"] == 4] == ["rte"]
    assert rows[0]["extra"] == {"per_token": 40.0}
    out, _ = output_of(capsys, "show", "a.json", "--format", "markdown")
    assert "| task | seen | metric | score | 95% interval | chance | n |\n| --- | --- | --- | ---: |" in out
    assert "| rte | leak | accuracy | 90.0 ±10.0 | 12.5, 87.5 | 62.5 | 10 |" in out


def test_a_comparison(desk: Path, capsys) -> None:
    out, _ = output_of(capsys, "compare", "a.json", "b.json")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["shots", "task", "metric", "A", "B", "A-B", "95% of A-B", "p", "n", "better"]
    rte = next(line for line in lines if line[1] == "rte")
    assert (rte[3:6], rte[8:]) == (["90.0", "20.0", "+70.0"], ["10", "A"])
    out, _ = output_of(capsys, "compare", "a.json", "b.json", "--format", "csv")
    row = next(row for row in csv.DictReader(io.StringIO(out)) if row["task"] == "rte")
    assert (row["file_a"], row["file_b"], row["better"], row["both"]) == ("a.json", "b.json", "A", "10")
    # Only A is right on 8 rows, only B on 1: 2 (1 + 9) / 512.
    assert float(row["mcnemar_p"]) == pytest.approx(2 * 10 / 512, abs=1e-6)
    out, _ = output_of(capsys, "compare", "a.json", "b.json", "--format", "json")
    assert {comparison_row["better"] for comparison_row in json.loads(out)} == {"A"}


def test_scores_that_are_not_comparable_are_warnings(desk: Path, capsys) -> None:
    other = result_record(tasks(BAD), protocol="instruct")
    other["tasks"]["rte"]["templates_sha256"] = "9" * 64
    write("other.json", other)
    for form in ("table", "markdown"):
        out, _ = output_of(capsys, "compare", "a.json", "other.json", "--format", form)
        assert "NOT COMPARABLE: the protocols differ: in_context, instruct [all]" in out
        assert "INVALID" in out
    out, err = output_of(capsys, "compare", "a.json", "other.json", "--format", "csv")
    assert "NOT COMPARABLE: the template files differ: dddddddddddd, 999999999999 [rte (0-shot), rte (4-shot)]" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {(row["better"], row["difference"], row["p"]) for row in rows} == {("", "", "")}
    assert all("the protocols differ" in row["not_comparable"] for row in rows)


def test_runs_stand_for_their_files(desk: Path, capsys) -> None:
    for run, values in (("one", GOOD), ("two", BAD)):
        write(f"{run}/results/rte.json", result_record(tasks(values)))
        Path(run, "results", "rte.samples.jsonl").write_text("{}\n")
    write("two/results/other.json", result_record(tasks(BAD)))
    out, _ = output_of(capsys, "show", "two", "--format", "json")
    assert {row["file"] for row in json.loads(out)} == {"two/results/rte.json", "two/results/other.json"}
    out, _ = output_of(capsys, "compare", "one", "two", "--format", "json")
    assert json.loads(out)[0]["file_b"] == "two/results/rte.json"
    out, _ = output_of(capsys, "compare", "a.json", "two", "--format", "json")
    assert json.loads(out)[0]["file_b"] == "two/results/other.json", "the newest of equally comparable files"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], "Missing argument"),
        (["show", "nothing.json"], "results cannot be read"),
        (["show", "old.json"], "results of format 1 cannot be read"),
        (["show", "a.json", "cut.json"], "the result file is damaged"),
        (["show", "."], "results of format 1 cannot be read"),
        (["show", "a.json", "--format", "xml"], "'xml' is not one of"),
        (["compare", "a.json"], "Missing argument"),
        (["compare", "a.json", "a.json"], "both arguments are the same file"),
        (["compare", "a.json", "foreign.json"], "not a result file of metalm"),
        (["compare", "a.json", "else.json"], "no task in common"),
    ],
)
def test_errors_are_one_message(desk: Path, capsys, arguments: list[str], words: str) -> None:
    write("old.json", {**result_record(tasks(GOOD)), "format": 1})
    write("foreign.json", {"results": {}})
    write("else.json", result_record({"cb": task_record(shot_record(template_record(GOOD)))}))
    Path("cut.json").write_text(json.dumps(result_record(tasks(GOOD)))[:900])
    out, err = output_of(capsys, *arguments, code=2)
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_results_are_read_without_torch(desk: Path) -> None:
    code = (
        "import sys\nfrom metalm_cli.cli.app import run\n"
        "assert run(['results', 'show', 'a.json']) == 0\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_control_characters_are_escaped(desk: Path, capsys) -> None:
    write("odd.json", result_record({"a\x1b[31m|b": task_record(shot_record(template_record(GOOD)))}))
    for form in ("table", "markdown"):
        out, _ = output_of(capsys, "show", "odd.json", "--format", form)
        assert "\x1b" not in out
    assert "a\\x1b[31m\\|b" in out
    assert not console.stdout().is_terminal
