"""``metalm results``: what is printed of result files, in every form, at 80 columns, and what is wrong with them."""

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
from result_fixtures import record, setting, task, wording
from tiny_runs import metalm

GOOD, BAD = [1.0] * 9 + [0.0], [0.0] * 8 + [1.0] * 2


def tasks(values: list[float], several: bool = False) -> dict[str, Any]:
    more = [wording([1.0, *values[1:]], "second"), wording(values, "third")] if several else []
    return {
        "cnn_dailymail": task(setting(wording(values), *more), cluster="summarization", metric="exact_match"),
        "rte": task(
            setting(wording(values, cut=3), *more),
            setting(wording(values, skipped=2), shots=4),
            seen={"label": "leak partner", "why": "trained on mnli"},
        ),
        "world_paraphrase": task(setting(wording(values), *more), seen={"label": "seen", "why": "trained on it"}),
    }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write("a.json", record(tasks(GOOD), model={"source": "runs/docked"}))
    write("b.json", record(tasks(BAD), model={"source": "runs/twin"}))
    write("many.json", record(tasks(GOOD, True), missing={"qqp": "not at hand"}, complete=False))
    return tmp_path


def write(name: str, made: dict[str, Any]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps(made), encoding="utf-8")


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    assert metalm("results", *arguments) == code
    return capsys.readouterr()


def test_a_table_fits_80_columns(desk: Path, capsys) -> None:
    for name in ("a.json", "many.json"):
        out, _ = said(capsys, "show", name, "--format", "table")
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out
        for whole in ("cnn_dailymail", "world_paraphrase", "exact_match", "90.0 ±10.0", "0-shot", "4-shot", "leak"):
            assert whole in out
    out, _ = said(capsys, "compare", "a.json", "b.json", "--format", "table")
    assert max(map(len, out.splitlines())) <= 80
    assert "A  a.json: runs/docked" in out


def test_what_a_table_says(desk: Path, capsys) -> None:
    out, _ = said(capsys, "show", "a.json", "-f", "table")
    rows = {line.split("  ")[0].strip(): line.split() for line in out.splitlines()}
    assert rows["cnn_dailymail"][1:] == ["held", "out", "exact_match", "90.0", "±10.0", "12.5,", "87.5", "62.5", "10"]
    assert rows["mean over clusters"][3:7] == ["of", "2", "90.0", "±0.5"]
    assert "trained on: world_paraphrase" in out
    assert "examples that have long inputs cut: rte 3" in out
    assert "in no score: rte 2" in out
    many, _ = said(capsys, "show", "many.json", "-f", "table")
    assert "spread oracle" in many
    assert "NOT COMPLETE" in many
    assert "missing, and in no mean: qqp" in many
    assert "chosen on the scored" in many


def test_lines_for_other_programs(desk: Path, capsys) -> None:
    out, err = said(capsys, "show", "a.json")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["shots", "task", "seen", "metric", "score", "95% interval", "chance", "n"]
    assert {len(line) for line in lines} == {8}
    assert ["0-shot", "rte", "leak", "accuracy", "90.0 ±10.0", "12.5, 87.5", "62.5", "10"] in lines
    assert "model    runs/docked" in err


def test_csv_has_full_numbers(desk: Path, capsys) -> None:
    out, err = said(capsys, "show", "many.json", "a.json", "--format", "csv")
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
    out, _ = said(capsys, "show", "a.json", "--format", "json")
    found = json.loads(out)
    assert [one["task"] for one in found if one["kind"] == "task" and one["shots"] == 4] == ["rte"]
    assert found[0]["extra"] == {"per_token": 40.0}
    out, _ = said(capsys, "show", "a.json", "--format", "markdown")
    assert "| task | seen | metric | score | 95% interval | chance | n |\n| --- | --- | --- | ---: |" in out
    assert "| rte | leak | accuracy | 90.0 ±10.0 | 12.5, 87.5 | 62.5 | 10 |" in out


def test_a_comparison(desk: Path, capsys) -> None:
    out, _ = said(capsys, "compare", "a.json", "b.json")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["shots", "task", "metric", "A", "B", "A-B", "95% of A-B", "p", "n", "better"]
    rte = next(line for line in lines if line[1] == "rte")
    assert (rte[3:6], rte[8:]) == (["90.0", "20.0", "+70.0"], ["10", "A"])
    out, _ = said(capsys, "compare", "a.json", "b.json", "--format", "csv")
    row = next(row for row in csv.DictReader(io.StringIO(out)) if row["task"] == "rte")
    assert (row["file_a"], row["file_b"], row["better"], row["both"]) == ("a.json", "b.json", "A", "10")
    # 8 that A alone has right, 1 that B alone has: 2 (1 + 9) / 512.
    assert float(row["mcnemar_p"]) == pytest.approx(2 * 10 / 512, abs=1e-6)
    out, _ = said(capsys, "compare", "a.json", "b.json", "--format", "json")
    assert {one["better"] for one in json.loads(out)} == {"A"}


def test_what_is_not_comparable_is_named_loudly(desk: Path, capsys) -> None:
    other = record(tasks(BAD), protocol="instruct")
    other["tasks"]["rte"]["templates_sha256"] = "9" * 64
    write("other.json", other)
    for form in ("table", "markdown"):
        out, _ = said(capsys, "compare", "a.json", "other.json", "--format", form)
        assert "NOT COMPARABLE: the protocols differ: in_context, instruct [all]" in out
        assert "INVALID" in out
    out, err = said(capsys, "compare", "a.json", "other.json", "--format", "csv")
    assert "NOT COMPARABLE: the template files differ: dddddddddddd, 999999999999 [rte (0-shot), rte (4-shot)]" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {(row["better"], row["difference"], row["p"]) for row in rows} == {("", "", "")}
    assert all("the protocols differ" in row["not_comparable"] for row in rows)


def test_runs_stand_for_their_files(desk: Path, capsys) -> None:
    for run, values in (("one", GOOD), ("two", BAD)):
        write(f"{run}/results/rte.json", record(tasks(values)))
        Path(run, "results", "rte.samples.jsonl").write_text("{}\n")
    write("two/results/other.json", record(tasks(BAD)))
    out, _ = said(capsys, "show", "two", "--format", "json")
    assert {one["file"] for one in json.loads(out)} == {"two/results/rte.json", "two/results/other.json"}
    out, _ = said(capsys, "compare", "one", "two", "--format", "json")
    assert json.loads(out)[0]["file_b"] == "two/results/rte.json"
    _, err = said(capsys, "compare", "a.json", "two", code=2)
    assert "two has 2 result files" in err
    assert "rte.json" in err


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
        (["compare", "a.json", "a.json"], "both are the same file"),
        (["compare", "a.json", "foreign.json"], "this is no result file of metalm"),
        (["compare", "a.json", "else.json"], "no task in common"),
    ],
)
def test_what_is_wrong_is_one_message(desk: Path, capsys, arguments: list[str], words: str) -> None:
    write("old.json", {**record(tasks(GOOD)), "format": 1})
    write("foreign.json", {"results": {}})
    write("else.json", record({"cb": task(setting(wording(GOOD)))}))
    Path("cut.json").write_text(json.dumps(record(tasks(GOOD)))[:900])
    out, err = said(capsys, *arguments, code=2)
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


def test_what_steers_a_terminal_is_not_passed_on(desk: Path, capsys) -> None:
    write("odd.json", record({"a\x1b[31m|b": task(setting(wording(GOOD)))}))
    for form in ("table", "markdown"):
        out, _ = said(capsys, "show", "odd.json", "--format", form)
        assert "\x1b" not in out
    assert "a\\x1b[31m\\|b" in out
    assert not console.stdout().is_terminal
