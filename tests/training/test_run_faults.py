"""Faults around a run: an edited recipe, a run folder that is moved, damaged files, and obstacles to checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from metalm_cli.runs import checkpoint
from metalm_cli.training.trainer import Trainer

STEPS = 6
SETTINGS = ["train.checkpoint_every=2", "train.keep_checkpoints=9"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished run with a checkpoint every two steps."""
    folder = tmp_path_factory.mktemp("finished")
    assert micro.metalm("pretrain", micro.write_recipe(folder), *SETTINGS, "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """The same run, stopped after step 4."""
    return micro.interrupted_copy(finished, tmp_path / "run", 4)


def resume(run: Path, *arguments: object) -> int:
    return micro.metalm("pretrain", *arguments, "--out", run, "--resume")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def errors(capsys: pytest.CaptureFixture[str]) -> str:
    output = " ".join(capsys.readouterr().err.split())
    assert "this is a bug in metalm" not in output
    assert "Traceback" not in output
    return output


# -- an edited recipe -------------------------------------------------------------------------------------------------

EDITS = {
    "learning_rate: 0.003": ("learning_rate: 0.5", "train.learning_rate was 0.003 and is 0.5"),
    "batch_size: 4": ("batch_size: 8", "train.batch_size was 4 and is 8"),
    "sequence_length: 64": ("sequence_length: 32", "data.sequence_length was 64 and is 32"),
    "span_fraction: 0.25": ("span_fraction: 0.5", "objective.span_fraction was 0.25 and is 0.5"),
    "n_embd: 32": ("n_embd: 64", "model.decoder.config.n_embd was 32 and is 64"),
}


@pytest.mark.parametrize("has_checkpoint", [True, False], ids=["checkpoint", "start"])
@pytest.mark.parametrize("old", list(EDITS))
def test_an_edited_recipe_is_rejected(
    stopped: Path, old: str, has_checkpoint: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if not has_checkpoint:
        shutil.rmtree(stopped / "checkpoints")
    new, message = EDITS[old]
    edit(stopped / "recipe.yaml", old, new)
    metrics = (stopped / "metrics.jsonl").read_bytes()
    assert resume(stopped) == 2
    assert message in errors(capsys)
    assert (stopped / "metrics.jsonl").read_bytes() == metrics


def test_an_edited_number_of_steps_is_noted(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(stopped / "recipe.yaml", "steps: 6", "steps: 5")
    assert resume(stopped) == 0
    assert "train.steps changes from 6 to 5" in errors(capsys)


def test_a_named_recipe_replaces_an_edited_one(finished: Path, stopped: Path) -> None:
    edit(stopped / "recipe.yaml", "learning_rate: 0.003", "learning_rate: 0.5")
    assert resume(stopped, finished.parent / "micro.yaml", *SETTINGS) == 0
    assert (stopped / "recipe.yaml").read_text() == (finished / "recipe.yaml").read_text()
    micro.assert_same_run(finished, stopped, STEPS)


@pytest.mark.parametrize("content", [b"[1, 2]", b"null", b"\xff\xfe", b"a: [", b"[" * 3_000, None])
def test_a_damaged_recipe(
    finished: Path, stopped: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = stopped / "recipe.yaml"
    if content is None:
        recipe.unlink()
        recipe.mkdir()
    else:
        recipe.write_bytes(content)
    assert resume(stopped) == 2
    assert "recipe.yaml" in errors(capsys)
    if content is not None:  # the recipe that is named is compared with the record in the checkpoint
        assert resume(stopped, finished.parent / "micro.yaml", *SETTINGS) == 0
        assert recipe.read_text() == (finished / "recipe.yaml").read_text()


def without_record(run: Path) -> None:
    """Rewrite the checkpoints and the data record as earlier versions wrote them, without the recipe."""
    for folder in sorted((run / "checkpoints").iterdir()):
        tensors, state = checkpoint.load(folder)
        del state["recipe"]
        shutil.rmtree(folder)
        checkpoint.save(run / "checkpoints", state["step"], tensors, state)
    data = json.loads((run / "data.json").read_text())
    del data["recipe"]
    (run / "data.json").write_text(json.dumps(data))


def test_a_run_of_an_earlier_version_resumes(finished: Path, stopped: Path) -> None:
    without_record(stopped)
    assert resume(stopped) == 0
    micro.assert_same_run(finished, stopped, STEPS)


def test_a_checkpoint_of_another_shape_is_rejected(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_record(stopped)
    edit(stopped / "recipe.yaml", "hidden_size: 32", "hidden_size: 64")
    assert resume(stopped) == 2
    output = errors(capsys)
    assert "the checkpoint is not one of this model" in output
    assert "was (32" in output


# -- damaged files ----------------------------------------------------------------------------------------------------

DAMAGED = [b"", b"{", b"[]", b"null", b"5", b'{"a": 1}', b"\xff\xfe\x00", b"[" * 100_000, "folder"]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("name", ["data.json", "environment.json", "metrics.jsonl", ".lock"])
def test_damaged_files_of_a_run(
    stopped: Path, name: str, content: bytes | str, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / name).unlink()
    (stopped / name).mkdir() if isinstance(content, str) else (stopped / name).write_bytes(content)
    code = resume(stopped, "train.steps=4")
    output = errors(capsys)
    if name == "data.json":
        assert code == 2
        assert "the data record of the run cannot be read" in output
    elif isinstance(content, str) and name != "environment.json":
        assert code in (1, 2)
        assert name in output
    else:
        assert code == 0


SOURCES = [
    {"sources": 5},
    {"sources": [{"name": "world"}]},
    {"sources": [5]},
    {"fingerprint": None},
    {"validation": {}},
]


@pytest.mark.parametrize("change", SOURCES)
def test_a_data_record_of_another_type(
    stopped: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((stopped / "data.json").read_text())
    (stopped / "data.json").write_text(json.dumps({**record, **change}))
    assert resume(stopped) == 2
    assert "the data record of the run cannot be read" in errors(capsys)


@pytest.mark.parametrize("content", [None, b"", b'{"step": 1, "split": "train", "loss": 1.0}\n'])
def test_missing_metrics_are_noted(stopped: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "metrics.jsonl").unlink()
    if content is not None:
        (stopped / "metrics.jsonl").write_bytes(content)
    assert resume(stopped) == 0
    state = "does not exist" if content is None else "ends at step 1" if content else "holds no record"
    assert f"metrics.jsonl {state}: the records up to step 4 are missing" in errors(capsys)


def test_whole_metrics_are_not_noted(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resume(stopped) == 0
    assert "are missing" not in errors(capsys)


def test_a_state_of_another_version(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, state = checkpoint.load(stopped / "checkpoints" / "step-00000004")
    shutil.rmtree(stopped / "checkpoints")
    checkpoint.save(stopped / "checkpoints", 4, tensors, {**state, "rockets": 1})
    assert resume(stopped) == 2
    assert "the state of the checkpoint cannot be read" in errors(capsys)


# -- obstacles to checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("obstacle", ["checkpoints", "checkpoints/step-00000006"])
def test_a_file_in_the_way_of_checkpoints_is_named_before_training(
    stopped: Path, obstacle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if obstacle == "checkpoints":
        shutil.rmtree(stopped / obstacle)
    (stopped / obstacle).write_text("mine")
    assert resume(stopped) == 2
    output = errors(capsys)
    assert str(stopped / obstacle) in output
    assert "remove or rename it" in output
    assert "space" not in output
    assert (stopped / obstacle).read_text() == "mine"


def acting(step: int, action: Callable[[], object]) -> Callable[..., Any]:
    """Make an ``update`` of the trainer that acts once, when ``step`` steps are done."""
    update = Trainer.update

    def updated(self: Any, *arguments: Any) -> Any:
        if self.state.step == step:
            action()
        return update(self, *arguments)

    return updated


def test_a_file_that_comes_in_the_way_later(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / "checkpoints" / "step-00000006"
    monkeypatch.setattr(Trainer, "update", acting(4, file.touch))
    assert resume(stopped) == 1
    output = errors(capsys)
    assert "the checkpoint of step 6 was not written" in output
    assert str(file) in output
    assert "remove or rename it, then continue with --resume" in output


# -- a run folder that is moved while it is written -------------------------------------------------------------------


@pytest.mark.parametrize("change", ["removed", "renamed", "replaced"])
def test_a_run_folder_that_goes_away_ends_the_run(
    stopped: Path, change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = stopped.with_name("other")

    def act() -> None:
        shutil.rmtree(stopped) if change == "removed" else stopped.rename(other)
        if change == "replaced":
            stopped.mkdir()

    monkeypatch.setattr(Trainer, "update", acting(4, act))
    assert resume(stopped) == 1
    output = errors(capsys)
    assert "the run folder was moved or removed while this run was writing it" in output
    assert list(stopped.glob("*")) == []
    if change == "renamed":
        other.rename(stopped)
        monkeypatch.undo()
        assert resume(stopped) == 0


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
@pytest.mark.parametrize("replace", [True, False], ids=["replaced", "removed"])
def test_files_that_go_away_end_the_run(
    stopped: Path, name: str, replace: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        os.rename(stopped / name, stopped / "kept")
        if replace:
            shutil.copy(stopped / "kept", stopped / name)

    monkeypatch.setattr(Trainer, "update", acting(4, act))
    assert resume(stopped) == 1
    output = errors(capsys)
    assert str(stopped / name) in output
    assert "continue with --resume" in output
    # Without its metrics the run still saves what it has trained.
    assert (stopped / "checkpoints" / "step-00000006").exists() == (name == "metrics.jsonl")


def test_nothing_is_trained_if_a_group_of_metrics_has_no_number(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(stopped / "metrics.jsonl", "a") as file:
        record = {"step": 4, "split": "validation", "loss": 1.0, "task_loss": {"a": None, "b": 2.0}}
        file.write(json.dumps(record) + "\n")
    assert resume(stopped, "train.validate_every=0", "train.steps=4") == 0
    errors(capsys)
