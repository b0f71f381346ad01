"""Training loop: expected losses, skipped updates, frozen parts, and a probe that changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_runs as micro
from metalm_cli.config.schema.training import TrainingConfig
from metalm_cli.training import run as running
from metalm_cli.training.optim import is_due, schedule, step_seed, to_seconds
from metalm_cli.training.planning.probe import ProbeResult
from metalm_cli.training.trainer import Trainer
from metalm_cli.training.validation.validator import Validator

MASKED = ["model.decoder=null", "objective={name: mlm}"]
REPLACED = ["model.decoder=null", "objective={name: rtd, generator_size: 0.5}"]
EXPECTED = {
    "semi_causal": ([], [6.0057, 5.9743, 5.8982, 5.8269, 5.7613]),
    "causal": (["model.encoders=null", "objective={name: causal}"], [5.9951, 5.9532, 5.8835, 5.8138, 5.7559]),
    "prefix": (["objective={name: prefix, prefix_length: [4, 16]}"], [5.9877, 5.9586, 5.8764, 5.8042, 5.7526]),
    "mlm": (MASKED, [5.9727, 5.9987, 5.9682, 5.9204, 5.9318]),
    "rtd": (REPLACED, [40.5525, 40.2911, 39.6871, 39.0830, 38.5686]),
}
"""Overrides of the tiny recipe, and the losses of its first five steps."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return micro.write_recipe(tmp_path)


def train(recipe: Path, name: str, *settings: str) -> Path:
    out = recipe.parent / name
    assert micro.metalm("pretrain", recipe, *settings, "--out", out) == 0
    return out


@pytest.mark.parametrize("objective", list(EXPECTED))
def test_expected_losses(recipe: Path, objective: str) -> None:
    settings, expected = EXPECTED[objective]
    losses = micro.losses(train(recipe, "run", *settings))
    assert losses[:5] == pytest.approx(expected, abs=1e-3)
    # The initial loss is the entropy of a uniform choice; with rtd, plus 50 times the entropy of a coin.
    initial_loss = math.log(400) + (50 * math.log(2) if objective == "rtd" else 0)
    assert losses[0] == pytest.approx(initial_loss, rel=0.02)


def test_learns(recipe: Path) -> None:
    losses = micro.losses(train(recipe, "run", "train.steps=40", "train.learning_rate=1e-2"))
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.parametrize("objective", ["semi_causal", "rtd"])
def test_the_probe_changes_nothing(recipe: Path, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dropout = ["model.encoders.text.dropout=0.1"]
    settings = [*EXPECTED[objective][0], *dropout, *(["model.decoder.dropout=0.1"] if objective != "rtd" else [])]
    probed = train(recipe, "probed", *settings)
    monkeypatch.setattr(running, "probe", lambda *_, **__: ProbeResult(0.0, None))
    micro.assert_same_run(probed, train(recipe, "unprobed", *settings), 6)


def test_a_dry_run_changes_nothing(recipe: Path) -> None:
    first = train(recipe, "first")
    assert micro.metalm("pretrain", recipe, "--dry-run") == 0
    micro.assert_same_run(first, train(recipe, "second"), 6)


def test_recomputed_activations_give_the_same_losses(recipe: Path) -> None:
    plain, again = train(recipe, "plain"), train(recipe, "again", "train.checkpoint_activations=true")
    assert micro.losses(plain) == pytest.approx(micro.losses(again), abs=1e-6)


def test_half_precision_is_near_full(recipe: Path) -> None:
    full, half = train(recipe, "full"), train(recipe, "half", "train.precision=bf16")
    assert micro.losses(half) != micro.losses(full)
    assert micro.losses(half) == pytest.approx(micro.losses(full), abs=0.02)
    weights = micro.checkpoint(half, 6)["model"]
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


def test_frozen_parts_stay_and_others_move(recipe: Path) -> None:
    out = train(
        recipe,
        "run",
        "model.decoder.trains=none",
        "model.encoders.text.trains=last_1",
        "train.checkpoint_every=1",
        "train.keep_checkpoints=9",
    )
    first, last = micro.checkpoint(out, 1)["model"], micro.checkpoint(out, 6)["model"]
    changed = {name for name, tensor in first.items() if not torch.equal(tensor, last[name])}
    assert {name.split(".")[1] for name in changed} == {"encoders", "connectors"}
    assert all("layer.1." in name for name in changed if ".encoders." in name)
    assert not any(name.startswith("model.decoder") for name in micro.checkpoint(out, 6)["optimizer"])


def test_a_part_has_its_own_learning_rate(recipe: Path) -> None:
    out = train(
        recipe, "run", "model.decoder.learning_rate=1e-12", "train.checkpoint_every=1", "train.keep_checkpoints=9"
    )
    first, last = micro.checkpoint(out, 1)["model"], micro.checkpoint(out, 6)["model"]
    changes = {name: float((tensor - last[name]).abs().max()) for name, tensor in first.items()}
    assert max(size for name, size in changes.items() if ".decoder." in name) < 1e-7
    assert max(size for name, size in changes.items() if ".encoders." in name) > 1e-3


# -- non-finite values ------------------------------------------------------------------------------------------------


def documents(folder: Path, count: int = 120) -> Path:
    from metalm_cli.miniworld import generate_document

    path = folder / "documents.jsonl"
    lines = (json.dumps({"text": generate_document(0, n).text}) + "\n" for n in range(count))
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("cause", ["weight", "learning rate"])
def test_what_is_not_finite_is_not_applied(
    recipe: Path, cause: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = documents(recipe.parent)
    step, update, weights = Trainer.step, Trainer.update, {}

    def poisoned(self: Any, batches: Any, *arguments: Any) -> Any:
        if cause == "weight" and self.state.step == 3:
            with torch.no_grad():
                self.root.model.connectors["text"][0].bias[0] = math.inf
        return step(self, batches, *arguments)

    def updated(self: Any, *arguments: Any) -> Any:
        before = [parameter.detach().clone() for parameter in self.root.parameters()]
        bad_step = update(self, *arguments)
        weights[self.state.step] = all(torch.equal(a, b) for a, b in zip(before, self.root.parameters(), strict=True))
        return bad_step

    monkeypatch.setattr(Trainer, "step", poisoned)
    monkeypatch.setattr(Trainer, "update", updated)
    out = recipe.parent / "run"
    settings = [f"data.sources=[{{name: own, path: {path}}}]", "train.checkpoint_every=1"]
    if cause == "learning rate":  # greater than a recipe may set, so that weights overflow within a few steps
        monkeypatch.setattr("metalm_cli.training.trainer.schedule", lambda *arguments: 1e28)
    assert micro.metalm("pretrain", recipe, *settings, "--out", out) == 1
    bad = max(weights)
    assert weights[bad], "the update was not applied"
    assert not any(unchanged for step_index, unchanged in weights.items() if step_index < bad)
    output = " ".join(capsys.readouterr().err.split())
    assert f"not finite in step {bad + 1}; neither its update nor a later one was applied" in output
    assert f"where: {path}:" in output
    assert "lower learning rate" in output
    assert "Traceback" not in output
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[-1] == f"step-{bad:08d}"
    assert not (out / "model").exists()


def late(poisoned: int, check_every: int) -> None:
    """Patch the trainer: infinite weights in a step, and a check only every few steps, as on a device."""
    step, check = Trainer.step, Trainer.check

    def stepped(self: Any, batches: Any, *arguments: Any) -> Any:
        if self.state.step == poisoned - 1:
            with torch.no_grad():
                self.root.model.connectors["text"][0].bias[0] = math.inf
        return step(self, batches, *arguments)

    def checked(self: Any, *arguments: Any) -> None:
        if self.state.step % check_every == 0:
            check(self, *arguments)

    Trainer.step, Trainer.check = stepped, checked  # type: ignore[method-assign]


@pytest.mark.parametrize("world", [1, 2])
def test_the_first_step_that_was_not_finite_is_named_with_the_documents_of_all_processes(
    recipe: Path, world: int, tmp_path: Path
) -> None:
    """On a device the check runs every ``log_every`` steps, here twelve: ten steps after the non-finite step."""
    path, seen = documents(tmp_path), tmp_path / "seen"

    def before(rank: int) -> Any:
        watch = micro.watch_steps(Path(f"{seen}.{rank}"))
        return lambda: (watch(), late(2, 12))

    settings = [f"data.sources=[{{name: own, path: {path}}}]", "train.steps=24", "train.log_every=12"]
    codes, printed = micro.run_processes(
        ["pretrain", recipe, *settings, "--out", tmp_path / "run"], tmp_path, world, before=before
    )
    assert codes == [1] * world, printed
    output = " ".join("".join(printed).split())
    assert output.count("error:") == 1
    assert "not finite in step 2;" in output
    steps = [micro.watched_steps(Path(f"{seen}.{rank}"))[1]["numbers"] for rank in range(world)]
    numbers = {number for batches in steps for batch in batches for number in batch}
    named = output.split("where: ")[1].split(" why:")[0].split(", ")
    assert len(named) == len(numbers) > 2
    assert all(location.startswith(f"{path}:") for location in named)


# -- the best ---------------------------------------------------------------------------------------------------------


def test_a_new_best_is_saved_independent_of_checkpoint_every(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([math.nan, 1.0, 3.0, 2.0, math.nan, 2.0])
    monkeypatch.setattr(Validator, "__call__", lambda *_: {"loss": next(losses)})
    out = train(recipe, "run", "train.validate_every=1", "train.checkpoint_every=3", "train.keep_checkpoints=1")
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000002", "step-00000006"]
    state = micro.checkpoint(out, 6)["state"]
    assert (state["best_step"], state["best_loss"]) == (2, 1.0)


def test_without_checkpoints_the_best_is_not_saved(recipe: Path) -> None:
    out = train(recipe, "run", "train.validate_every=1", "train.checkpoint_every=0", "train.keep_checkpoints=9")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000006"]


def test_only_training_is_timed(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.training import step_metrics

    now = [0.0]
    score, step = Validator.__call__, Trainer.step

    def slow(call: Any, seconds: float) -> Any:
        def called(*arguments: Any) -> Any:
            now[0] += seconds
            return call(*arguments)

        return called

    monkeypatch.setattr(step_metrics.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Validator, "__call__", slow(score, 1000.0))
    monkeypatch.setattr(running.checkpoint, "save", slow(running.checkpoint.save, 1000.0))
    monkeypatch.setattr(Trainer, "step", slow(step, 1.0))
    settings = ["train.steps=4", "train.log_every=2", "train.validate_every=1", "train.checkpoint_every=1"]
    out = train(recipe, "run", *settings)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["split"] == "train"]
    first, last = trained
    assert first["tokens_per_second"] == pytest.approx(first["tokens"] / 2, abs=0.1)
    assert last["tokens_per_second"] == pytest.approx((last["tokens"] - first["tokens"]) / 2, abs=0.1)


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["training", "validation"])
def test_lack_of_memory_while_training_is_explained(
    recipe: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, name = (Trainer, "step") if where == "training" else (Validator, "__call__")
    call, remaining = getattr(owner, name), 4

    def hungry(self: Any, *arguments: Any) -> Any:
        nonlocal remaining
        remaining -= 1
        return call(self, *arguments) if remaining else torch.empty(1 << 55, dtype=torch.uint8)

    monkeypatch.setattr(owner, name, hungry)
    out = recipe.parent / "run"
    settings = ["train.checkpoint_every=2", "train.validate_every=1"]
    assert micro.metalm("pretrain", recipe, *settings, "--out", out) == 1
    output = " ".join(capsys.readouterr().err.split())
    assert output.count("error:") == 1
    assert "memory ran out while training" in output
    last_checkpoint = max((out / "checkpoints").iterdir())
    assert f"--resume continues from {last_checkpoint}" in output
    for key in ("train.micro_batch_size=2 (now 4)", "data.sequence_length", "train.checkpoint_activations=true"):
        assert key in output
    assert "Traceback" not in output


# -- helper functions -------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    def rates(**options: Any) -> list[float]:
        training = TrainingConfig(steps=10, warmup_steps=2, **options)
        return [schedule(training, step, 10) for step in range(10)]

    assert rates(schedule="constant") == [0.5] + [1.0] * 9
    linear, cosine = rates(schedule="linear"), rates(schedule="cosine")
    assert linear[2:] == pytest.approx([1 - index / 8 for index in range(8)])
    assert cosine[2:] == pytest.approx([(1 + math.cos(math.pi * index / 8)) / 2 for index in range(8)])
    assert linear[:2] == cosine[:2] == [0.5, 1.0]


def test_every_micro_batch_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(s, t, r, m) for s in range(3) for t in range(20) for r in range(4) for m in range(4)}
    assert len(seeds) == 3 * 20 * 4 * 4


def test_time_limits_and_due_steps() -> None:
    assert [to_seconds(limit) for limit in (None, "90s", "1.5m", "2h")] == [None, 90, 90, 7200]
    assert [is_due(0, 4), is_due(4, 4), is_due(3, 4)] == [False, True, False]
