"""Frozen weights in bf16 while a run trains: no casts, half the memory, and the original bytes in all that is saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import tiny_runs as micro
from cast_counts import CountCasts
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.training import run_result
from metalm_cli.training.compute.frozen_weights import ORIGINALS_FILE, FrozenWeights, frozen_weights
from metalm_cli.training.trainer import Trainer

HALF = ["train.precision=bf16", "model.trains.decoder=none", "train.micro_batch_size=2", "train.steps=4"]
SAVED = ["train.checkpoint_every=2", "train.keep_checkpoints=9"]


def train(folder: Path, name: str, *settings: object) -> Path:
    recipe = micro.write_recipe(folder)
    assert micro.metalm("pretrain", recipe, *settings, "--out", folder / name) == 0
    return folder / name


def decoder(run: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(run / "model" / "model.safetensors")
    decoder_tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
    assert decoder_tensors
    return decoder_tensors


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model whose decoder is as it was initialised, in fp32."""
    folder = tmp_path_factory.mktemp("original")
    train(folder, "fp32", "model.trains.decoder=none", "train.steps=1", "train.warmup_steps=0")
    return folder


def test_nothing_of_a_frozen_decoder_is_cast_and_what_is_saved_has_its_bytes(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[set[torch.dtype], CountCasts, bool]] = []
    step = Trainer.step

    def counted_step(self: Any, *arguments: Any) -> Any:
        with CountCasts(self.root) as counted:
            grad_norm = step(self, *arguments)
        dtypes = {parameter.dtype for parameter in self.root.model.decoder.parameters()}
        steps.append((dtypes, counted, (original / "half" / ORIGINALS_FILE).is_file()))
        return grad_norm

    monkeypatch.setattr(Trainer, "step", counted_step)
    run = train(original, "half", *HALF, *SAVED)
    assert len(steps) == 4
    for dtypes, counted, is_on_disk in steps:
        assert dtypes == {torch.bfloat16}
        assert is_on_disk
        assert counted.casts
        assert not [name for name in counted.casts if ".decoder." in name]
    expected = decoder(original / "fp32")
    # Random weights are not bf16 numbers, so the originals do not follow from what is held.
    assert not all(torch.equal(tensor.bfloat16().float(), tensor) for tensor in expected.values())
    assert micro.difference(decoder(run), expected) == 0.0
    for saved_step in (2, 4):
        saved = micro.checkpoint(run, saved_step)["model"]
        in_checkpoint = {name.removeprefix("model."): tensor for name, tensor in saved.items() if ".decoder." in name}
        assert {tensor.dtype for tensor in in_checkpoint.values()} == {torch.float32}
        assert all(torch.equal(in_checkpoint[name], tensor) for name, tensor in expected.items())
    assert not (run / ORIGINALS_FILE).exists()


def test_resumed_equals_uninterrupted(original: Path, tmp_path: Path) -> None:
    first = train(tmp_path, "first", *HALF, *SAVED)
    second = tmp_path / "second"
    shutil.copytree(first, second)
    shutil.rmtree(second / "model")
    shutil.rmtree(second / "checkpoints" / "step-00000004")
    (second / ORIGINALS_FILE).write_bytes(b"left by a run that was killed")
    assert micro.metalm("pretrain", "--resume", "--out", second) == 0
    micro.assert_same_run(first, second, 4)
    assert micro.difference(decoder(second), decoder(original / "fp32")) == 0.0


def test_losses_are_near_those_of_autocast_alone(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = micro.losses(train(original, "held", *HALF))
    monkeypatch.setattr("metalm_cli.training.run.frozen_weights", lambda *_: [])
    assert held == pytest.approx(micro.losses(train(original, "cast", *HALF)), rel=2e-3)


def test_texts_are_continued_and_the_model_is_saved_with_the_original_weights(
    original: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dtypes: list[torch.dtype] = []
    write = run_result.write_model

    def checked(*arguments: Any) -> None:
        dtypes.extend(parameter.dtype for parameter in arguments[2].model.parameters())
        write(*arguments)

    monkeypatch.setattr(run_result, "write_model", checked)
    settings = ["train.validate_every=2", "train.sample_continuations=1"]
    run = train(original, "best", *HALF, *SAVED, *settings)
    assert set(dtypes) == {torch.float32}
    assert micro.difference(decoder(run), decoder(original / "fp32")) == 0.0
    assert "Traceback" not in capsys.readouterr().err


# -- which weights ----------------------------------------------------------------------------------------------------


def tiny_parts() -> dict[str, nn.Module]:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    adapted = nn.ModuleDict({"base": nn.Linear(2, 2), "lora_A": nn.Linear(2, 1)})
    adapted["base"].requires_grad_(False)
    layers[0].requires_grad_(False)
    return {"partly": layers, "frozen": nn.Linear(2, 2).requires_grad_(False), "adapted": nn.ModuleDict({"x": adapted})}


@pytest.mark.parametrize(("precision", "shards", "count"), [("bf16", 1, 4), ("bf16", 2, 0), ("fp32", 1, 0)])
def test_which_weights_are_held(precision: str, shards: int, count: int) -> None:
    parts = tiny_parts()
    recipe = PretrainRecipe.model_validate(
        {
            **yaml.safe_load(micro.RECIPE.replace("3e-3", "0.003")),
            "train": {"steps": 1, "batch_size": 1, "precision": precision},
        }
    )
    weights = frozen_weights(recipe, parts, shards)
    expected = [*parts["frozen"].parameters(), *parts["adapted"]["x"]["base"].parameters()][:count]
    assert [id(weight) for weight in weights] == [id(weight) for weight in expected]


def test_weights_of_a_bf16_checkpoint_need_no_file() -> None:
    part = nn.Linear(3, 3).requires_grad_(False)
    part.weight.data = part.weight.data.bfloat16().float()
    part.bias.data.zero_()
    held = FrozenWeights(part, list(part.parameters()))
    before = part.weight.data.clone()
    assert held.inexact() == {}
    held.hold({})
    assert part.weight.dtype == torch.bfloat16
    with held.released():
        assert torch.equal(part.weight.data, before)
    assert part.weight.dtype == torch.bfloat16
    held.release()
    assert torch.equal(part.weight.data, before)


def test_a_probe_leaves_the_weights_as_they_were() -> None:
    part = nn.Linear(3, 3).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    with FrozenWeights(part, list(part.parameters())).held_in_memory():
        assert part.weight.dtype == torch.bfloat16
    assert micro.difference(part.state_dict(), before) == 0.0
