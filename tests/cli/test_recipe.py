"""``metalm recipe`` and the completion of its arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalm_cli.cli.app import run
from metalm_cli.cli.completion import complete_argument, complete_override, complete_recipe
from metalm_cli.config import reference_docs, resolve
from metalm_cli.config.locate import shipped_names
from tiny_runs import metalm


def test_list_is_plain_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert sorted(row[0] for row in rows) == sorted(shipped_names())
    assert {row[1] for row in rows} == {"pretrain", "finetune", "instruct"}
    assert all(len(row) == 3 and row[2] for row in rows)


@pytest.mark.parametrize("width", ["60", "120"])
def test_list_is_a_table_on_a_terminal(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalm_cli.cli import console

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", width)
    console.stdout.cache_clear()
    assert run(["recipe", "list"]) == 0
    console.stdout.cache_clear()
    output = capsys.readouterr().out
    assert "paper/language-1.3b" in output
    assert "\t" not in output


def test_show_prints_a_recipe_with_the_origin_of_each_value(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["recipe", "show", "small", "train.steps=77", "data.sources.0.path=a#b.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "steps: 77" in output
    lines = {line.split(":")[0].strip(): line for line in output.splitlines()}
    assert lines["steps"].endswith("# command line")
    assert "# small.yaml:" in lines["batch_size"]
    assert lines["gradient_clip"].endswith("# base.yaml:15")
    assert lines["keep_checkpoints"].endswith("# default")
    assert "# data.sources.0.world" in output
    path = tmp_path / "again.yaml"
    path.write_text(output)
    again = resolve("pretrain", str(path)).recipe
    first = resolve("pretrain", "small", ["train.steps=77", "data.sources.0.path=a#b.jsonl"]).recipe
    assert again.model_dump(exclude={"extends"}) == first.model_dump(exclude={"extends"})


def test_check_prints_ok_or_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "check"]) == 0
    assert capsys.readouterr().out == "small: ok\n"
    assert run(["recipe", "check", "base"]) == 0
    assert capsys.readouterr().out == "base: ok (a base for other recipes)\n"
    assert run(["recipe", "check", "small", "train.stepz=1", "train.gradient_clip=-1"]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "train.stepz: unknown key" in caught.err
    assert "train.gradient_clip: got -1, expected a number above 0 or null" in caught.err


def test_check_prints_dropped_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "check", "small", "--model", "runs/x"]) == 0
    assert "note: model.decoder (" in capsys.readouterr().out


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == reference_docs.json_schema()
    assert run(["recipe", "schema", "--markdown"]) == 0
    assert capsys.readouterr().out == reference_docs.markdown_reference()


def test_completion_of_recipes() -> None:
    names = dict(complete_recipe("small"))
    assert list(names) == ["small", "small-gpt-same-decoder", "small-gpt-same-total"]
    assert names["small"]
    assert [name for name, _ in complete_recipe("paper/l")] == ["paper/language-1.3b"]


def test_completion_of_keys_and_values() -> None:
    assert (
        "train.schedule=",
        "Learning rate schedule after warm-up; linear and cosine decay to 0.",
    ) in complete_override("train.s")
    assert [key for key, _ in complete_override("train.precision=b")] == ["train.precision=bf16"]
    assert complete_override("train.steps=") == []
    assert {"pile"} <= {completion for completion, _ in complete_argument("pi")}
    assert complete_argument("no-such") == []


def test_completion_through_the_shell_protocol() -> None:
    code = "import sys; from metalm_cli.cli import main; sys.argv = ['metalm']; main()"
    environment = {"_METALM_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for line, expected in (
        ("metalm recipe check connector-o", "connector-only"),
        ("metalm recipe check small train.warm", "train.warmup_steps="),
        ("metalm rec", "recipe"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment | {"_TYPER_COMPLETE_ARGS": line},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert expected in done.stdout, (line, done.stdout, done.stderr)


def test_names_of_tasks_are_checked(capsys) -> None:
    assert metalm("recipe", "check", "world", "data.tasks=[world_review]") == 2
    assert "did you mean world_reviews?" in capsys.readouterr().err
    assert metalm("recipe", "check", "multitask", "data.hold_out=[nly]") == 2
    assert "no cluster or task is named nly" in capsys.readouterr().err
    assert metalm("recipe", "check", "world", "train.steps=20") == 0
    assert "note: train.warmup_steps is 2 instead of 40: train.steps is 20 (command line)" in capsys.readouterr().out
