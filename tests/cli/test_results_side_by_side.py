"""``metalm results show --by task`` and ``--wrong``, and the files that ``metalm results compare`` picks."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.evaluation.results.result_paths import result_paths
from result_fixtures import result_record, shot_record, task_record, template_record
from tiny_runs import metalm

GOOD, BAD = [1.0] * 9 + [0.0], [0.0] * 8 + [1.0] * 2
Scores = dict[str, list[float]]


def write(name: str, scores: Scores, source: str, **changes: Any) -> None:
    tasks = {task: task_record(shot_record(template_record(values))) for task, values in scores.items()}
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps(result_record(tasks, model={"source": source}, **changes)), encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with results of three models; those of the third cannot be compared with the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    write("docked.json", {"my_task": GOOD, "rte": BAD, "cb": GOOD}, "runs/docked")
    write("twin.json", {"my_task": BAD, "rte": GOOD, "cb": GOOD}, "runs/a-twin-with-a-rather-long-name/model")
    write("other.json", {"rte": BAD}, "runs/other", protocol="finetuned")
    return tmp_path


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    assert metalm("results", *arguments) == code
    out, err = capsys.readouterr()
    return out, " ".join(err.split())


def test_the_best_of_each_task_is_marked(desk: Path, capsys) -> None:
    pair = ("show", "docked.json", "twin.json", "--by", "task", "-f")
    out, _ = output_of(capsys, *pair, "table")
    lines = [line.split() for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 60
    assert ["task", "metric", "A", "B"] in lines
    assert out.startswith("A  docked: docked.json\nB  a-twin-with-a-rather-long-name: twin.json")
    for row in (
        ["my_task", "accuracy", "90.0*", "20.0"],
        ["rte", "accuracy", "20.0", "90.0*"],
        ["cb", "accuracy", "90.0", "90.0"],
        ["mean", "of", "3", "tasks", "66.7", "66.7"],
    ):
        assert row in lines
    out, _ = output_of(capsys, *pair, "markdown")
    assert "| task | metric | docked | a-twin-with-a-rather-long-name |" in out
    assert "| my_task | accuracy | **90.0** | 20.0 |" in out
    rows = list(csv.DictReader(io.StringIO(output_of(capsys, *pair, "csv")[0])))
    assert [row["best"] for row in rows] == ["docked", "a-twin-with-a-rather-long-name", "", ""]
    assert (rows[0]["score.docked"], rows[0]["low.docked"], rows[0]["high.docked"]) == ("90.0", "12.5", "87.5")


def test_latex_compiles(desk: Path, capsys) -> None:
    out, _ = output_of(capsys, "show", "docked.json", "twin.json", "--by", "task", "--format", "latex")
    assert r"my\_task & accuracy & \textbf{90.0} & 20.0 \\" in out
    tables, _ = output_of(capsys, "show", "docked.json", "--format", "latex")
    assert r"rte & held out & accuracy & 20.0 $\pm$13.3 & 12.5, 87.5 & 62.5 & 10 \\" in tables
    for table in (out, tables):
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {row.count(" & ") for row in rows} == {rows[0].count(" & ")}
        assert all(line.startswith(("%", "\\")) or line in rows for line in table.splitlines())
    if shutil.which("pdflatex") is None:
        return
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{out}{tables}\end{{document}}"
    Path("paper.tex").write_text(document, encoding="utf-8")
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], check=True, capture_output=True)


def test_scores_that_are_not_comparable_have_no_best(desk: Path, capsys) -> None:
    out, err = output_of(capsys, "show", "docked.json", "twin.json", "other.json", "--by", "task", "--format", "json")
    assert {row["task"]: row["best"] for row in json.loads(out) if row["kind"] == "task"} == {
        "my_task": ["docked"],
        "rte": [],
        "cb": [],
    }
    assert "NOT COMPARABLE, none marked as best: docked and other: the protocols differ" in err


def test_files_of_a_model_share_a_column(desk: Path, capsys) -> None:
    write("runs/docked/results/old.json", {"rte": BAD, "cb": GOOD}, "runs/docked")
    write("runs/docked/results/zoo.json", {"rte": GOOD}, "runs/docked")
    out, err = output_of(capsys, "show", "runs/docked", "twin.json", "--by", "task", "-f", "json")
    assert {row["task"]: row["score"]["docked"] for row in json.loads(out) if row["task"]} == {
        "rte": 90.0,
        "cb": 90.0,
        "my_task": None,
    }
    assert "docked, rte (0-shot): the newest of 2 files" in err


def test_compare_picks_the_comparable_files(desk: Path, capsys) -> None:
    for run, values in (("one", GOOD), ("two", BAD)):
        write(f"{run}/results/{run}-a.json", {"rte": values}, run)
        write(f"{run}/results/{run}-b.json", {"rte": values}, run, protocol="finetuned" if run == "two" else "instruct")
    out, _ = output_of(capsys, "compare", "one", "two", "-f", "json")
    assert [Path(json.loads(out)[0][key]).name for key in ("file_a", "file_b")] == ["one-a.json", "two-a.json"]
    assert json.loads(out)[0]["better"] == "A"


def test_the_command_that_makes_files_comparable_is_named(desk: Path, capsys) -> None:
    settings = result_record({"rte": task_record(shot_record(template_record(GOOD)))})["settings"]
    changes = {"limit": 8, "style": {"options": False, "layout": "joined"}}
    write("limited.json", {"rte": GOOD}, "runs/limited", settings=settings | changes)
    _, err = output_of(capsys, "compare", "limited.json", "docked.json", "--format", "json")
    command = "metalm eval runs/docked --task rte --protocol in_context --templates flan --template first --limit 8"
    assert f"to compare B with A: {command} --no-show-options --demonstration-layout joined" in err
    _, err = output_of(capsys, "compare", "docked.json", "limited.json", "--format", "json")
    command = "metalm eval runs/limited --task rte --protocol in_context --templates flan --template first"
    assert f"to compare B with A: {command} above chance" in err, "without --limit"
    write("two/results/a.json", {"rte": GOOD}, "runs/two", protocol="finetuned")
    write("two/results/b.json", {"rte": GOOD}, "runs/two", protocol="instruct")
    _, err = output_of(capsys, "compare", "docked.json", "two", code=2)
    assert "no result file of two is comparable with one of docked.json" in err
    assert "run metalm eval runs/two --task rte --protocol in_context" in err


def test_wrong_answers_are_printed(desk: Path, capsys) -> None:
    _, err = output_of(capsys, "show", "docked.json", "--wrong", code=2)
    assert "evaluate again with --save-samples: metalm eval runs/docked" in err
    base = {"task": "rte", "template": "first", "shots": 0, "target": "yes"}
    samples = [
        {**base, "id": "rte/0", "input": "It rained.", "prediction": "yes", "score": 1.0},
        {**base, "id": "rte/1", "input": "x " * 300 + "Is it wet?", "prediction": "maybe so", "score": 0.0},
    ]
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    Path("docked.samples.jsonl").write_text(lines, encoding="utf-8")
    out, _ = output_of(capsys, "show", "docked.json", "--wrong", "-f", "table")
    assert "1 of 2 answers are wrong" in out
    assert ("maybe so" in out, "Is it wet?" in out, "It rained" in out) == (True, True, False)
    assert max(map(len, out.splitlines())) <= 60
    assert output_of(capsys, "show", "docked.json", "--wrong")[0].startswith("table\trow\t")
    (row,) = json.loads(output_of(capsys, "show", "docked.json", "--wrong", "-f", "json")[0])
    assert (row["id"], row["prediction"], len(row["input"])) == ("rte/1", "maybe so", 610)


def test_names_of_result_files_say_what_they_are(desk: Path) -> None:
    names = [f"task_{index}_of_many" for index in range(5)]
    (path,) = result_paths(["runs/x"], None, "auto", names, False, ("4-shot", "limit-100"))
    assert path.name == "auto-task_0_of_many-task_1_of_many-task_2_of_many-and-2-more-4-shot-limit-100.json"
