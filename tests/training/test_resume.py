"""Resuming of stopped, killed and damaged runs equals an uninterrupted run."""

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
from metalm_cli.runs.find import is_finished
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
def uninterrupted(recipe: Path) -> Path:
    """Uninterrupted run."""
    out = recipe.parent / "whole"
    assert micro.metalm("pretrain", recipe, *SETTINGS, "--out", out) == 0
    return out


def signalled(signals_by_step: dict[int, list[int]]) -> Callable[[], None]:
    """Make a patch that sends signals to this process after updates, by the number of steps done before."""

    def patch() -> None:
        update = Trainer.update

        def updated(self: Any, *arguments: Any) -> Any:
            bad_step = update(self, *arguments)
            for number in signals_by_step.get(self.state.step, ()):
                os.kill(os.getpid(), number)
                time.sleep(0.01)
            return bad_step

        Trainer.update = updated  # type: ignore[method-assign]

    return patch


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, list[int]]], None]:
    """Function that sends signals to this process in some steps."""

    def apply(signals_by_step: dict[int, list[int]]) -> None:
        monkeypatch.setattr(Trainer, "update", UPDATE)
        patched = signalled(signals_by_step)
        patched()

    monkeypatch.setattr(Trainer, "update", UPDATE)  # put back afterwards
    return apply


UPDATE = Trainer.update


# -- equal to the uninterrupted run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 6])
def test_resumed_equals_uninterrupted(
    recipe: Path, uninterrupted: Path, tmp_path: Path, workers: int, step: int
) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", step)
    resume_command = ["pretrain", recipe, *SETTINGS, f"data.workers={workers}", "--out", out, "--resume"]
    assert micro.metalm(*resume_command) == 0
    micro.assert_same_run(uninterrupted, out, STEPS, same_settings=workers == 0)


def test_the_same_with_workers_from_the_beginning(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, *SETTINGS, "data.workers=2", "--out", out) == 0
    first, second = micro.checkpoint(uninterrupted, STEPS), micro.checkpoint(out, STEPS)
    assert first["state"] == second["state"]
    assert micro.difference(first["model"], second["model"]) == 0.0
    assert micro.records(uninterrupted, "") == micro.records(out, "")


def test_dropout_is_really_on(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    plain = [setting for setting in SETTINGS if "dropout" not in setting]
    assert micro.metalm("pretrain", recipe, *plain, "--out", tmp_path / "run") == 0
    assert micro.losses(tmp_path / "run") != micro.losses(uninterrupted)


def test_stopped_several_times(
    recipe: Path, uninterrupted: Path, tmp_path: Path, stopping: Any, capsys: pytest.CaptureFixture[str]
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
    # The step in which the signal came was completed, and the next one was not started.
    assert [int(path.name[5:]) for path in sorted((out / "checkpoints").iterdir())][-1] == 8
    stopping({})
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(uninterrupted, out, STEPS)


@pytest.mark.parametrize("step", [1, 3])
def test_a_second_interrupt_ends_at_once(
    recipe: Path, tmp_path: Path, stopping: Any, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    stopping({step: [signal.SIGINT, signal.SIGINT]})
    assert micro.metalm("pretrain", recipe, *SETTINGS, "--out", out) == 75
    output = capsys.readouterr().err
    assert ("before the first checkpoint" if step == 1 else "the last checkpoint is that of step 2") in output
    assert f"resume with: metalm pretrain --resume --out {out}" in output
    assert sorted(path.name for path in (out / "checkpoints").glob("*")) == ([] if step == 1 else ["step-00000002"])
    assert not (out / "model").exists()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_other_signals_save_too(recipe: Path, tmp_path: Path, stopping: Any, name: str) -> None:
    out = tmp_path / "run"
    stopping({1: [getattr(signal, name)]})
    assert micro.metalm("pretrain", recipe, *SETTINGS, "--out", out) == 75
    assert (out / "checkpoints" / "step-00000003").is_dir()


def test_a_run_that_ignores_hangups_goes_on(recipe: Path, tmp_path: Path, stopping: Any) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stopping({2: [signal.SIGHUP]})
        assert micro.metalm("pretrain", recipe, *SETTINGS, "--out", tmp_path / "run") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["data", "model", "report"])
def test_signals_outside_the_loop(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    moment: str,
    number: int,
) -> None:
    """Before training nothing is left; the model is finished; a report is left out."""
    from metalm_cli.reports import write_report
    from metalm_cli.training import pretraining, run_result

    module, name = {
        "data": (pretraining, "open_corpus"),
        "model": (run_result, "write_model"),
        "report": (write_report, "write_run_report"),
    }[moment]
    function = getattr(module, name)

    def signalling(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, signalling)
    out = tmp_path / "run"
    code = micro.metalm("pretrain", recipe, "train.steps=2", "--out", out)
    output = capsys.readouterr().err
    assert code == (75 if moment == "data" else 0)
    assert (out / "model" / "config.json").is_file() == (moment != "data")
    if moment == "data":
        assert not out.exists()
        assert f"stopped by {signal.Signals(number).name} before training began; the same command continues" in output
    assert (f"metalm report {out}" in output) == (moment == "report")
    assert not list(out.glob(".*.tmp-*"))


def test_max_time(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, *SETTINGS, "train.max_time=0.001s", "--out", out) == 75
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000001"]
    assert not (out / "model").exists()
    resume_command = ["pretrain", "--out", out, "--resume"]
    assert micro.metalm(*resume_command) == 75, "the limit applies to each start"
    assert micro.metalm(*resume_command, "train.max_time=null") == 0
    first, second = micro.checkpoint(uninterrupted, STEPS), micro.checkpoint(out, STEPS)
    assert first["state"] == second["state"]
    assert micro.difference(first["model"], second["model"]) == 0.0


def test_resuming_a_finished_run_changes_nothing(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(uninterrupted, out, STEPS)


def test_a_finished_run_that_continues_and_is_stopped_is_unfinished(
    recipe: Path, uninterrupted: Path, tmp_path: Path, stopping: Callable[[dict[int, list[int]]], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    more = ["pretrain", recipe, *SETTINGS, f"train.steps={STEPS + 4}", "--out", out, "--resume"]
    stopping({STEPS + 1: [signal.SIGINT]})
    assert micro.metalm(*more) == 75
    assert not is_finished(out)
    assert (out / "model-before" / "config.json").is_file(), "the old result stays until the new one exists"
    stopping({})
    assert micro.metalm(*more) == 0
    assert is_finished(out)
    assert json.loads((out / "model" / "lineage.json").read_text())["steps"] == STEPS + 4
    assert not (out / "model-before").exists()


# -- killed -----------------------------------------------------------------------------------------------------------


def killed_at_call(number: int) -> Callable[[], None]:
    """Make a patch that kills this process before the n-th sync, rename or removal."""

    def patch() -> None:
        remaining = number

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                nonlocal remaining
                remaining -= 1
                if remaining == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return called

        for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")):
            setattr(module, name, dying(getattr(module, name)))

    return patch


def resume(recipe: Path, out: Path, log: Path, settings: list[str]) -> micro.ForkedCommand:
    return micro.ForkedCommand(["pretrain", recipe, *settings, "--out", out, "--resume"], log)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_points_of_writing(recipe: Path, uninterrupted: Path, tmp_path: Path, seed: int) -> None:
    """Kill while starting the run, writing and removing checkpoints, and writing the model."""
    out, log = tmp_path / "run", tmp_path / "log"
    moments = random.Random(seed)
    settings = [*SETTINGS, "train.keep_checkpoints=1"]
    for _ in range(4):
        killed = micro.ForkedCommand(
            ["pretrain", recipe, *settings, "--out", out, "--resume"],
            log,
            before=killed_at_call(moments.randint(1, 35)),
        )
        assert killed.wait() in (-signal.SIGKILL, 0), killed.printed()
    ended = resume(recipe, out, log, settings)
    assert ended.wait() == 0, ended.printed()
    micro.assert_same_run(uninterrupted, out, STEPS, same_settings=False)
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name or path.name.endswith(".replaced")]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_times(recipe: Path, uninterrupted: Path, tmp_path: Path, workers: int) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    moments = random.Random(workers)
    settings = [*SETTINGS, f"data.workers={workers}"]
    for _ in range(3):
        run = resume(recipe, out, log, settings)
        printed_before = len(run.printed()) if log.exists() else 0
        text = moments.choice(["probe", "start", "step 4", "checkpoint", "validation"])
        deadline = time.monotonic() + 60
        while run.process.is_alive() and time.monotonic() < deadline:
            if log.exists() and text in run.printed()[printed_before:]:
                time.sleep(moments.random() * 0.2)
                break
            time.sleep(0.005)
        run.process.kill()
        run.wait()
    ended = resume(recipe, out, log, settings)
    assert ended.wait() == 0, ended.printed()
    micro.assert_same_run(uninterrupted, out, STEPS, same_settings=False)


# -- damaged, full ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "altered", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    uninterrupted: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 6)
    newest = out / "checkpoints" / "step-00000006"
    file = newest / ("manifest.json" if damage == "no manifest" else "optimizer.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "no manifest":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data[:-10] if damage == "cut" else data)
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    output = capsys.readouterr().err
    assert f"not used: {newest}" in output
    assert file.name in output
    before = out / "checkpoints" / "step-00000005"  # the validation of step 5 was the best so far
    assert f"resumed from {before}" in output
    micro.assert_same_run(uninterrupted, out, STEPS)


def test_a_run_without_checkpoints_starts_again(uninterrupted: Path, tmp_path: Path) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 2)
    shutil.rmtree(out / "checkpoints")
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(uninterrupted, out, STEPS)


def test_a_full_disk_leaves_the_last_checkpoint_whole(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 4)

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    run = micro.ForkedCommand(["pretrain", "--out", out, "--resume"], tmp_path / "log", before=small_files)
    assert run.wait() == 1, run.printed()
    output = run.printed()
    assert output.count("error:") == 1
    assert "step 5 was not written" in output  # the best validation so far
    assert f"{out / 'checkpoints' / 'step-00000004'} is complete" in output
    assert "--resume" in output
    assert "Traceback" not in output
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name]
    assert micro.metalm("pretrain", "--out", out, "--resume") == 0
    micro.assert_same_run(uninterrupted, out, STEPS)


# -- another recipe ---------------------------------------------------------------------------------------------------


def test_fixed_keys_are_rejected_by_name(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 4)
    changes = ["train.learning_rate=1e-4", "data.sources.0.world.seed=1", "train.keep_checkpoints=3"]
    assert micro.metalm("pretrain", "--out", out, "--resume", *changes) == 2
    output = capsys.readouterr().err
    assert "train.learning_rate was 0.003 and is 0.0001" in output
    assert "data.sources.0.world.seed was 0 and is 1" in output
    assert "train.keep_checkpoints was" not in output
    assert not (out / "model").exists()
    assert (out / "recipe.yaml").read_text() == (uninterrupted / "recipe.yaml").read_text()


def test_changeable_keys_are_noted(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 8)
    assert micro.metalm("pretrain", "--out", out, "--resume", "train.log_every=3", "train.steps=10") == 0
    output = capsys.readouterr().err
    assert "train.log_every changes from 4 to 3" in output
    assert "train.steps changes from 9 to 10" in output
    assert "the learning rates of the remaining steps" in output
    assert micro.checkpoint(out, 10)["state"]["step"] == 10


def test_what_micro_batches_mean_for_dropout_is_noted(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 8)
    assert micro.metalm("pretrain", "--out", out, "--resume", "train.micro_batch_size=2") == 0
    output = " ".join(capsys.readouterr().err.split())
    assert "train.micro_batch_size changes from None to 2, which changes the dropout masks" in output


@pytest.mark.parametrize("folder_state", ["missing", "empty", "begun", "seeds"])
def test_resuming_by_a_folder_that_holds_no_recipe(
    tmp_path: Path, folder_state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    if folder_state in ("empty", "begun"):
        out.mkdir()
    if folder_state == "begun":
        (out / "environment.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    seeds = ["--seeds", "3,4"] if folder_state == "seeds" else []
    assert micro.metalm("pretrain", "--resume", "--out", out, *seeds) == 2
    output = " ".join(capsys.readouterr().err.split())
    assert "there is nothing to resume" in output
    assert f"metalm pretrain RECIPE --resume --out {out}" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_seeds_are_resumed_by_their_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    settings = ["train.steps=2", "train.checkpoint_every=1"]
    seeds = ["--seeds", "3,4", "--out", out]
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), *settings, *seeds) == 0
    whole = out / "seed-4"
    uninterrupted = whole.rename(tmp_path / "kept")
    micro.interrupted_copy(uninterrupted, whole, 1)
    assert micro.metalm("pretrain", "--resume", *seeds) == 0
    micro.assert_same_run(uninterrupted, whole, 2)


def test_a_run_resumed_with_more_steps_describes_the_new_steps(uninterrupted: Path, tmp_path: Path) -> None:
    out = micro.interrupted_copy(uninterrupted, tmp_path / "run", 8)
    assert micro.metalm("pretrain", "--out", out, "--resume", "train.steps=10") == 0
    assert "steps: 10" in (out / "model" / "README.md").read_text()
    assert json.loads((out / "model" / "lineage.json").read_text())["steps"] == 10
    assert "steps: 10" in (out / "recipe.yaml").read_text(), "the run folder has the new recipe"
