"""Casts of weights in a step: one for each weight that trains, however many passes the step has, none for others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_runs as micro
from cast_counts import CountCasts
from metalm_cli.training import trainer
from metalm_cli.training.compute.fast_layers import fuse_activations

STEPS = 2
THREE_PASSES = [f"train.steps={STEPS}", "train.batch_size=6", "train.micro_batch_size=2", "train.precision=bf16"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[CountCasts]:
    """The casts of each step of a run."""
    counted: list[CountCasts] = []
    step, run_pass = trainer.Trainer.step, trainer.Trainer._run_pass

    def counted_step(self: Any, *arguments: Any) -> Any:
        counted.append(CountCasts(self.root))
        with counted[-1]:
            return step(self, *arguments)

    def counted_pass(self: Any, *arguments: Any) -> None:
        counted[-1].passes += 1
        run_pass(self, *arguments)

    monkeypatch.setattr(trainer.Trainer, "step", counted_step)
    monkeypatch.setattr(trainer.Trainer, "_run_pass", counted_pass)
    return counted


def train(folder: Path, name: str, *settings: str) -> Path:
    recipe = micro.write_recipe(folder)
    assert micro.metalm("pretrain", recipe, *THREE_PASSES, *settings, "--out", folder / name) == 0
    return folder / name


@contextlib.contextmanager
def casts_of_each_pass(_accelerator: Any) -> Iterator[None]:
    yield


def test_a_weight_is_cast_once_per_step_and_the_losses_are_those_of_a_cast_per_pass(
    tmp_path: Path, steps: list[CountCasts], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = train(tmp_path, "once")
    of_once = list(steps)
    steps.clear()
    monkeypatch.setattr(trainer, "casts_of_step", casts_of_each_pass)
    repeated = train(tmp_path, "repeated")
    assert len(of_once) == len(steps) == STEPS
    assert [counted.passes for counted in (*of_once, *steps)] == [3] * 2 * STEPS
    for counted, counted_repeated in zip(of_once, steps, strict=True):
        assert set(counted.casts) == set(counted_repeated.casts)
        assert any(name.endswith("wte.weight") for name in counted.casts), "the output head"
        assert any(name.endswith("attn.c_attn.weight") for name in counted.casts)
        assert any(".encoders." in name for name in counted.casts)
        assert set(counted.casts.values()) == {1}
        assert set(counted_repeated.casts.values()) == {3}
    assert micro.losses(once) == micro.losses(repeated)


def test_a_step_in_passes_has_the_gradients_of_a_single_pass_with_recomputed_activations(tmp_path: Path) -> None:
    settings = ["train.checkpoint_activations=true", "train.steps=1", "train.warmup_steps=0"]
    in_passes = micro.records(train(tmp_path, "passes", *settings))
    single = micro.records(train(tmp_path, "single", *settings, "train.micro_batch_size=6"))
    for first, second in zip(in_passes, single, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=2e-3)
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=2e-2)


def test_a_fused_activation_is_the_composed_one() -> None:
    from transformers.activations import NewGELUActivation

    composed = torch.nn.Sequential(torch.nn.Linear(4, 4), NewGELUActivation())
    values = torch.linspace(-6, 6, 4001, dtype=torch.float32, requires_grad=True)
    expected = composed[1](values)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), values)
    fuse_activations(composed)
    assert isinstance(composed[1], torch.nn.GELU)
    (gradient,) = torch.autograd.grad(composed[1](values).sum(), values)
    torch.testing.assert_close(composed[1](values), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=2e-6)
