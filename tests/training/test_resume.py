"""A run that was stopped, killed or damaged goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from metalm_cli.runs.folder import is_finished
from metalm_cli.training.trainer import Trainer

STEPS = 9
SETTINGS = [
    f"train.steps={STEPS}",
    "train.log_every=4",
    "train.checkpoint_every=2",
    "train.validate_every=5",
    "train.keep_checkpoints=9",
    "model.decoder.dropout=0.1",
    "model.encoders.text.dropout=0.1",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The run that nobody interrupted."""
    out = recipe.parent / "whole"
    assert micro.metalm("pretrain", recipe, *SETTINGS, "--out", out) == 0
    return out


def signalled(at: dict[int, list[int]]) -> Callable[[], None]:
    """A patch that sends this process signals after the updates of some steps, by steps done before."""

    def patch() -> None:
        update = Trainer.update

        def updated(self: Any, *rest: Any) -> Any:
            found = update(self, *rest)
            for number in at.get(self.state.step, ()):
                os.kill(os.getpid(), number)
                time.sleep(0.01)
            return found

        Trainer.update = updated  # type: ignore[method-assign]

    return patch


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, list[int]]], None]:
    """Sends this process signals in some steps."""

    def apply(at: dict[int, list[int]]) -> None:
        monkeypatch.setattr(Trainer, "update", UPDATE)
        patched = signalled(at)
        patched()

    monkeypatch.setattr(Trainer, "update", UPDATE)  # put back afterwards
    return apply


UPDATE = Trainer.update


# -- equal to the uninterrupted run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 6])
def test_resumed_equals_uninterrupted(recipe: Path, whole: Path, tmp_path: Path, workers: int, step: int) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", step)
    again = ["pretrain", recipe, *SETTINGS, f"data.workers={workers}", "--out", out, "--resume"]
    assert micro.metalm(*again) == 0
    micro.assert_same_run(whole, out, STEPS, described=workers == 0)


def test_the_same_with_workers_from_the_beginning(recipe: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, *SETTINGS, "data.workers=2", "--out", out) == 0
    first, second = micro.checkpoint(whole, STEPS), micro.checkpoint(out, STEPS)
    assert first["state"] == second["state"]
    assert micro.difference(first["model"], second["model"]) == 0.0
    assert micro.records(whole, "") == micro.records(out, "")


def test_dropout_is_really_on(recipe: Path, whole: Path, tmp_path: Path) -> None:
    plain = [one for one in SETTINGS if "dropout" not in one]
    assert micro.metalm("pretrain", recipe, *plain, "--out", tmp_path / "run") == 0
    assert micro.losses(tmp_path / "run") != micro.losses(whole)


def test_stopped_several_times(
    recipe: Path, whole: Path, tmp_path: Path, stopping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = ["pretrain", recipe, *SETTINGS, "--out", out]
    stopping({0: [signal.SIGTERM]})
    assert micro.metalm(*first) == 75
    assert "--resume" in capsys.readouterr().err
    stopping({4: [signal.SIGINT]})
    assert micro.metalm("pretrain", "--out", out, "--resume") == 75
    stopping({6: [signal.SIGTERM, signal.SIGTERM]})
    assert micro.metalm("pretrain", "--out", out, "--resume") == 75
    # The step in which the signal came was finished, and the next one not begun; records stand where they would.
    assert [int(one.name[5:]) for one in sorted((out / "checkpoints").iterdir())][-1] == 8
    stopping({})
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(whole, out, STEPS)


def test_a_second_interrupt_ends_at_once(recipe: Path, tmp_path: Path, stopping: Any) -> None:
    out = tmp_path / "run"
    stopping({1: [signal.SIGINT, signal.SIGINT]})
    assert micro.metalm("pretrain", recipe, *SETTINGS, "--out", out) == 130
    assert not (out / "checkpoints").exists()
    assert not (out / "model").exists()


def test_max_time(recipe: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, *SETTINGS, "train.max_time=0.001s", "--out", out) == 75
    assert [one.name for one in (out / "checkpoints").iterdir()] == ["step-00000001"]
    assert not (out / "model").exists()
    again = ["pretrain", "--out", out, "--resume"]
    assert micro.metalm(*again) == 75, "the limit is that of each start"
    assert micro.metalm(*again, "train.max_time=null") == 0
    first, second = micro.checkpoint(whole, STEPS), micro.checkpoint(out, STEPS)
    assert first["state"] == second["state"]
    assert micro.difference(first["model"], second["model"]) == 0.0


def test_resuming_a_finished_run_changes_nothing(recipe: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(whole, out, STEPS)


def test_a_finished_run_that_goes_on_and_is_stopped_is_no_finished_run(
    recipe: Path, whole: Path, tmp_path: Path, stopping: Callable[[dict[int, list[int]]], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    more = ["pretrain", recipe, *SETTINGS, f"train.steps={STEPS + 4}", "--out", out, "--resume"]
    stopping({STEPS + 1: [signal.SIGINT]})
    assert micro.metalm(*more) == 75
    assert not is_finished(out)
    assert (out / "model-before" / "config.json").is_file(), "what was finished is kept until the new one is there"
    stopping({})
    assert micro.metalm(*more) == 0
    assert is_finished(out)
    assert json.loads((out / "model" / "lineage.json").read_text())["steps"] == STEPS + 4
    assert not (out / "model-before").exists()


# -- killed -----------------------------------------------------------------------------------------------------------


def killed_at_call(number: int) -> Callable[[], None]:
    """A patch that kills this process in front of the n-th time that something is synced, renamed or removed."""

    def patch() -> None:
        left = number

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return called

        for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")):
            setattr(module, name, dying(getattr(module, name)))

    return patch


def go_on(recipe: Path, out: Path, log: Path, settings: list[str]) -> micro.ForkedCommand:
    return micro.ForkedCommand(["pretrain", recipe, *settings, "--out", out, "--resume"], log)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_points_of_writing(recipe: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    """Points of beginning the run, of checkpoints, of pruning, and of the finished model."""
    out, log = tmp_path / "run", tmp_path / "log"
    moments = random.Random(seed)
    settings = [*SETTINGS, "train.keep_checkpoints=1"]
    for _ in range(4):
        begun = micro.ForkedCommand(
            ["pretrain", recipe, *settings, "--out", out, "--resume"],
            log,
            before=killed_at_call(moments.randint(1, 35)),
        )
        assert begun.wait() in (-signal.SIGKILL, 0), begun.printed()
    ended = go_on(recipe, out, log, settings)
    assert ended.wait() == 0, ended.printed()
    micro.assert_same_run(whole, out, STEPS, described=False)
    assert not [one for one in out.rglob("*") if ".tmp-" in one.name or one.name.endswith(".replaced")]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_times(recipe: Path, whole: Path, tmp_path: Path, workers: int) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    moments = random.Random(workers)
    settings = [*SETTINGS, f"data.workers={workers}"]
    for _ in range(3):
        run = go_on(recipe, out, log, settings)
        seen = len(run.printed()) if log.exists() else 0
        wanted = moments.choice(["probe", "start", "step 4", "checkpoint", "validation"])
        patience = time.monotonic() + 60
        while run.process.is_alive() and time.monotonic() < patience:
            if log.exists() and wanted in run.printed()[seen:]:
                time.sleep(moments.random() * 0.2)
                break
            time.sleep(0.005)
        run.process.kill()
        run.wait()
    ended = go_on(recipe, out, log, settings)
    assert ended.wait() == 0, ended.printed()
    micro.assert_same_run(whole, out, STEPS, described=False)


# -- damaged, full ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "altered", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    whole: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 6)
    newest = out / "checkpoints" / "step-00000006"
    file = newest / ("manifest.json" if how == "no manifest" else "optimizer.safetensors")
    data = bytearray(file.read_bytes())
    if how == "no manifest":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data[:-10] if how == "cut" else data)
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    said = capsys.readouterr().err
    assert f"not used: {newest}" in said
    assert file.name in said
    before = out / "checkpoints" / "step-00000005"  # the validation of step 5 was the best so far
    assert f"resumed from {before}" in said
    micro.assert_same_run(whole, out, STEPS)


def test_no_checkpoint_at_all_begins_anew(whole: Path, tmp_path: Path) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 2)
    shutil.rmtree(out / "checkpoints")
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(whole, out, STEPS)


def test_a_full_disk_leaves_the_last_checkpoint_whole(recipe: Path, whole: Path, tmp_path: Path) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 4)

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    run = micro.ForkedCommand(["pretrain", "--out", out, "--resume"], tmp_path / "log", before=small_files)
    assert run.wait() == 1, run.printed()
    said = run.printed()
    assert said.count("error:") == 1
    assert "step 5 was not written" in said  # the best validation so far
    assert f"{out / 'checkpoints' / 'step-00000004'} is whole" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert not [one for one in out.rglob("*") if ".tmp-" in one.name]
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(whole, out, STEPS)


# -- another recipe ---------------------------------------------------------------------------------------------------


def test_fixed_keys_are_refused_by_name(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 4)
    changes = ["train.learning_rate=1e-4", "data.sources.0.world.seed=1", "train.keep_checkpoints=3"]
    assert micro.metalm("pretrain", "--out", out, "--resume", *changes) == 2
    said = capsys.readouterr().err
    assert "train.learning_rate was 0.003 and is 0.0001" in said
    assert "data.sources.0.world.seed was 0 and is 1" in said
    assert "train.keep_checkpoints was" not in said
    assert not (out / "model").exists()
    assert (out / "recipe.yaml").read_text() == (whole / "recipe.yaml").read_text()


def test_free_keys_are_noted(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 8)
    assert micro.metalm("pretrain", "--out", out, "--resume", "train.log_every=3", "train.steps=10") == 0
    said = capsys.readouterr().err
    assert "train.log_every changes from 4 to 3" in said
    assert "train.steps changes from 9 to 10" in said
    assert "learning rates to come" in said
    assert micro.checkpoint(out, 10)["state"]["step"] == 10


def test_what_micro_batches_mean_for_dropout_is_noted(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 8)
    assert micro.metalm("pretrain", "--out", out, "--resume", "train.micro_batch_size=2") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "train.micro_batch_size changes from None to 2, and with it what dropout leaves out" in said


@pytest.mark.parametrize("how", ["missing", "empty", "begun", "seeds"])
def test_resuming_by_a_folder_that_holds_no_recipe(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    if how in ("empty", "begun"):
        out.mkdir()
    if how == "begun":
        (out / "environment.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    seeds = ["--seeds", "3,4"] if how == "seeds" else []
    assert micro.metalm("pretrain", "--resume", "--out", out, *seeds) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "there is nothing to resume" in said
    assert f"metalm pretrain RECIPE --resume --out {out}" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_seeds_are_resumed_by_their_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    settings = ["train.steps=2", "train.checkpoint_every=1"]
    seeds = ["--seeds", "3,4", "--out", out]
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), *settings, *seeds) == 0
    whole = out / "seed-4"
    kept = whole.rename(tmp_path / "kept")
    micro.interrupted_copy(kept, whole, 1)
    assert micro.metalm("pretrain", "--resume", *seeds) == 0
    micro.assert_same_run(kept, whole, 2)


def test_resumed_with_more_steps_is_described_by_what_it_became(whole: Path, tmp_path: Path) -> None:
    out = micro.interrupted_copy(whole, tmp_path / "run", 8)
    assert micro.metalm("pretrain", "--out", out, "--resume", "train.steps=10") == 0
    assert "steps: 10" in (out / "model" / "README.md").read_text()
    assert json.loads((out / "model" / "lineage.json").read_text())["steps"] == 10
    assert "steps: 10" in (out / "recipe.yaml").read_text(), "the run folder's recipe is the one that runs it again"
