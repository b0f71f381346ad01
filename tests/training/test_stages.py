"""Recipes with stages: equal to a command for each stage, resumed where they stopped, one result and one report."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import tiny_runs as micro
from metalm_cli.config import resolve
from metalm_cli.config.recipe_errors import RecipeError
from metalm_cli.reports.reading.run_summary import read_runs
from metalm_cli.training.trainer import Trainer
from task_fixtures import write_task

FROZEN = {"decoder": "none", "encoders": "none"}
TRAIN = {"warmup_steps": 0, "checkpoint_every": 1, "keep_checkpoints": 9}
ALIGN = {"name": "align", "model": {"trains": FROZEN}, "train": {"steps": 3}}


def tune(folder: Path) -> dict[str, Any]:
    data = {"tasks": [f"{folder}/parity.yaml"], "templates": {"collection": f"{folder}/words"}, "sequence_length": 64}
    data["validation"] = {"examples": 2}
    model = {"learning_rates": {"encoders": 1e-4}}
    return {"name": "tune", "command": "finetune", "data": data, "model": model, "train": {"steps": 3, "batch_size": 2}}


def staged(folder: Path, *stages: dict[str, Any], **train: Any) -> Path:
    """Write a recipe with stages, and return its path."""
    recipe = yaml.safe_load(micro.RECIPE)
    recipe["train"] = {**recipe["train"], **TRAIN, **train}
    del recipe["train"]["steps"]
    return micro.write_recipe(
        folder, yaml.safe_dump({**recipe, "stages": list(stages)}, sort_keys=False), "staged.yaml"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a task, a recipe of two stages, and its finished run ``run``."""
    root = tmp_path_factory.mktemp("stages")
    write_task(root, "parity", 16, cluster="nli")
    assert micro.metalm("pretrain", staged(root, ALIGN, tune(root)), "--out", root / "run") == 0
    return root


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_stages(first: Path, second: Path) -> None:
    for name in ("align", "tune"):
        expected, actual = (run / "stages" / name for run in (first, second))
        assert micro.difference(weights(expected), weights(actual)) == 0.0
        assert micro.records(expected, "") == micro.records(actual, "")
    assert micro.difference(weights(first), weights(second)) == 0.0


def test_stages_are_the_runs_of_a_command_for_each(folder: Path, tmp_path: Path) -> None:
    align = [f"model.trains.{part}=none" for part in FROZEN]
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    base = micro.write_recipe(tmp_path, micro.RECIPE)
    assert micro.metalm("pretrain", base, *align, *settings, "train.steps=3", "--out", tmp_path / "a") == 0
    stage = tune(folder)
    train = {**yaml.safe_load(micro.RECIPE)["train"], **TRAIN, **stage["train"]}
    recipe = {"command": "finetune", "data": stage["data"], "train": train}
    micro.write_recipe(tmp_path, yaml.safe_dump(recipe), "tune.yaml")
    trains = ["model.trains={decoder: all, encoders: all, connectors: all}", "model.learning_rates.encoders=1e-4"]
    line = [tmp_path / "tune.yaml", *trains, "--model", tmp_path / "a", "--out", tmp_path / "b"]
    assert micro.metalm("finetune", *line) == 0
    assert micro.difference(weights(folder / "run" / "stages" / "align"), weights(tmp_path / "a")) == 0.0
    assert micro.difference(weights(folder / "run"), weights(tmp_path / "b")) == 0.0


def test_each_stage_has_its_parts_rates_and_steps_and_the_run_one_result_and_report(folder: Path) -> None:
    first, second = (micro.records(folder / "run" / "stages" / name) for name in ("align", "tune"))
    assert [len(first), len(second)] == [3, 3]
    assert set(first[0]["learning_rates"]) == {"connectors.text"}
    assert second[0]["learning_rates"]["encoders.text"] == pytest.approx(1e-4)
    assert second[0]["learning_rates"]["decoder"] == pytest.approx(3e-3)
    assert (folder / "run" / "model").resolve() == (folder / "run" / "stages" / "tune" / "model").resolve()
    page = (folder / "run" / "report.html").read_text()
    assert "run: align then tune" in page
    assert page.count("What moved") >= 1
    assert not (folder / "run" / "stages" / "align" / "report.html").exists()


def test_a_run_killed_in_its_first_stage_continues_there(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run, symlinks=True)
    (run / "model").unlink()
    for path in ("align/model", "align/checkpoints/step-00000003", "tune"):
        shutil.rmtree(run / "stages" / path)
    assert micro.metalm("pretrain", "--resume", "--out", run) == 0
    assert_same_stages(folder / "run", run)


def test_a_signal_or_a_kill_in_the_second_stage_is_resumed_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update, run = Trainer.update, tmp_path / "run"

    def stopping(self: Any, *arguments: Any) -> Any:
        if type(self.objective).__name__ == "SupervisedObjective" and self.state.step == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", stopping)
        assert micro.metalm("pretrain", folder / "staged.yaml", "--out", run) == 75
    assert f"resume with: metalm pretrain --resume --out {run}\n" in capsys.readouterr().err
    assert not (run / "model").exists()
    assert not (run / "stages" / "tune" / "model").exists()
    before = (run / "stages" / "align" / "model" / "model.safetensors").stat().st_mtime_ns
    assert micro.metalm("pretrain", "--resume", "--out", run) == 0
    assert (run / "stages" / "align" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert_same_stages(folder / "run", run)
    for path in ("model", "checkpoints/step-00000002", "checkpoints/step-00000003"):  # killed before they were written
        shutil.rmtree(run / "stages" / "tune" / path)
    assert micro.metalm("pretrain", "--resume", "--out", run) == 0
    assert_same_stages(folder / "run", run)


def test_a_finished_stage_does_not_change_and_the_last_one_may_continue(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert micro.metalm("pretrain", folder / "staged.yaml", "train.steps=1", "--out", run) == 0
    assert [len(micro.records(run / "stages" / name)) for name in ("align", "tune")] == [1, 1], "the command line wins"
    resume = ["--resume", "--out", run]
    assert micro.metalm("pretrain", *resume, "stages.0.train.steps=2") == 2
    assert "stage align has finished" in capsys.readouterr().err
    assert micro.metalm("pretrain", *resume, "stages.0.train.learning_rate=1e-3") == 2
    assert "train.learning_rate was" in capsys.readouterr().err
    assert micro.metalm("pretrain", *resume, "stages.1.train.steps=2") == 0
    assert [len(micro.records(run / "stages" / name)) for name in ("align", "tune")] == [1, 2]
    assert (run / "model").is_dir()


def test_a_dry_run_plans_every_stage_and_a_recipe_is_shown_as_it_resolves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = folder / "staged.yaml"
    assert micro.metalm("pretrain", recipe, "train.steps=2", "--dry-run") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert output.index("stage align") < output.index("1,056 train") < output.index("stage tune")
    assert output.index("stage tune") < output.index("training answers of 1 task,")
    assert micro.metalm("recipe", "check", recipe) == 0
    assert "staged: ok, stages: align (pretrain), then tune (finetune)" in capsys.readouterr().out
    assert micro.metalm("recipe", "show", recipe, "train.steps=2", "train.seed=5") == 0
    copy = micro.write_recipe(tmp_path, capsys.readouterr().out, "shown.yaml")
    first = resolve("pretrain", str(recipe), ["train.steps=2", "train.seed=5"])
    second = resolve("pretrain", str(copy))
    assert [stage.name for stage in second.stages] == ["align", "tune"]
    recipes = [[stage.resolved.recipe for stage in resolved.stages] for resolved in (first, second)]
    assert recipes[0] == recipes[1]
    assert [(recipe.train.steps, recipe.train.seed) for recipe in recipes[1]] == [(2, 5), (2, 5)]


@pytest.mark.slow
def test_adapters_of_a_stage_are_merged_for_the_next_and_those_of_the_last_are_the_result(
    folder: Path, tmp_path: Path
) -> None:
    import metalm_cli as metalm

    lora = {"lora": {"rank": 2, "parts": ["decoder"]}}
    stages = [{**ALIGN, "model": lora}, {**tune(folder), "model": lora}]
    run = tmp_path / "run"
    assert micro.metalm("pretrain", staged(tmp_path, *stages), "train.steps=1", "--out", run) == 0
    assert (run / "stages" / "align" / "model").is_dir()
    assert not (run / "stages" / "align" / "adapter").exists()
    assert (run / "adapter").resolve() == (run / "stages" / "tune" / "adapter").resolve()
    moved = tmp_path / "moved"
    shutil.move(run, moved)
    assert metalm.load(moved, offline=True).processors.keys() == {"text"}, "base and result move together"


@pytest.mark.slow
def test_a_stage_inherits_from_the_checkpoint_of_the_run_and_not_from_another_stage(
    folder: Path, tmp_path: Path
) -> None:
    base = micro.write_recipe(tmp_path, micro.RECIPE)
    saved = ["model.encoders.text.trains=none", "model.decoder.learning_rate=2e-3", "train.steps=1"]
    assert micro.metalm("pretrain", base, *saved, "train.warmup_steps=0", "--out", tmp_path / "base") == 0
    stages = [{"name": "first", "model": {"trains": {"decoder": "none"}}}, {"name": "second"}]
    line = [staged(tmp_path, *stages), "train.steps=1", "train.schedule=constant", "--model", tmp_path / "base"]
    assert micro.metalm("pretrain", *line, "--out", tmp_path / "run") == 0
    first, second = (micro.records(tmp_path / "run" / "stages" / name)[0] for name in ("first", "second"))
    assert first["learning_rates"] == {"connectors.text": 3e-3}
    assert second["learning_rates"] == {"decoder": 2e-3, "connectors.text": 3e-3}


def test_a_report_of_seeds_has_the_stages_of_each(folder: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(folder / "run", tmp_path / f"seed-{seed}", symlinks=True)
    names = [run.name for run in read_runs([tmp_path])]
    assert names == ["seed-0/align", "seed-0/tune", "seed-1/align", "seed-1/tune"]
    assert [run.name for run in read_runs([tmp_path / "seed-0"])] == ["align", "tune"]


BAD = [
    ({"stages.1.name": "align"}, "stages.1.name"),
    ({"stages.0.name": "../x"}, "stages.0.name"),
    ({"stages": "[]"}, "stages"),
    ({"stages.0.name": "null"}, "stages.0.name"),
    ({"stages.1.train.stepz": "4"}, "stages.1.train.stepz"),
    ({"stages.1.modle": "{}"}, "stages.1.modle"),
    ({"stages.0.model.checkpoint": "gpt2"}, "stages.0.model.checkpoint"),
    ({"stages.1.model.decoder": "{checkpoint: gpt2}"}, "stages.1.model.decoder.checkpoint"),
    ({"stages.1.model.encoders": "{text: {connector: {kind: mlp}}}"}, "stages.1.model.encoders.text.connector.kind"),
    ({"stages.0.model.trains.connectors": "none"}, "stages.0.model.trains"),
    ({"stages.0.model.learning_rates": "{encoders: 1e-3}"}, "stages.0.model.learning_rates.encoders"),
    ({"stages.0.train.warmup_steps": "50"}, "stages.0.train.warmup_steps"),
    ({"stages.0.train.steps": "null"}, "stages.0.train.steps"),
    ({"stages.1.data": "null"}, "stages.1.data"),
    ({"train.stepz": "5"}, "train.stepz"),
]


@pytest.mark.parametrize(("values", "key"), BAD, ids=[key for _, key in BAD])
def test_bad_stages_are_one_problem_that_names_the_key(folder: Path, values: dict[str, str], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("pretrain", str(folder / "staged.yaml"), [f"{name}={value}" for name, value in values.items()])
    assert [problem.key for problem in caught.value.problems] == [key]


def test_a_stage_that_cannot_run_is_an_error_before_the_first_one_trains(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert micro.metalm("pretrain", folder / "staged.yaml", "stages.1.data.tasks=[missing.yaml]", "--out", run) == 2
    assert "missing.yaml" in capsys.readouterr().err
    assert not run.exists()
