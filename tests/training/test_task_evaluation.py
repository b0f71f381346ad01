"""Evaluation on tasks during training: it changes nothing, selects the best step, and survives kills and processes."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_runs as micro
from metalm_cli.inference import load
from task_fixtures import write_task

RECIPE = (
    "command: finetune\n"
    + micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")
    + """data:
  tasks: [FOLDER/parity.yaml, FOLDER/other.yaml, FOLDER/long.yaml]
  cards: [FOLDER/more]
  templates: {collection: FOLDER/words, template_sampling: index}
  sequence_length: 128
  validation: {examples: 4}
train:
  steps: 6
  batch_size: 8
  warmup_steps: 1
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 0
"""
)
STEPS = 6
FAST = ["train.learning_rate=0.05", "data.row_packing=pad"]
"""So high a learning rate that scores change within a few steps."""
EVALUATE = "train.evaluate={tasks: [parity, other, held], every: 2, shots: [0, 1], best_by: mean@0}"
DROPOUT = [
    "model.decoder.dropout=0.1",
    "model.encoders.text.dropout=0.1",
    "train.sample_continuations=0",
    "model.trains.encoders=last_1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks, one of which the recipe does not train on, and a recipe."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder, "parity", 24, cluster="nli")
    write_task(folder, "other", 12, cluster="misc", words=1)
    write_task(folder, "long", 16, cluster="misc", words=30)
    write_task(folder / "more", "held", 16, cluster="sentiment")
    (folder / "more" / "words" / "held.yaml").rename(folder / "words" / "held.yaml")
    micro.write_recipe(folder, RECIPE.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``run(*overrides, processes=1)``: folder of a finished run, trained once."""
    runs = tmp_path_factory.mktemp("runs")
    known: dict[tuple[Any, ...], Path] = {}

    def run(*overrides: str, processes: int = 1, environment: dict[str, str] | None = None) -> Path:
        key = (overrides, processes, str(environment))
        if key not in known:
            out = runs / str(len(known))
            arguments = ["finetune", folder / "micro.yaml", *FAST, *overrides, "--out", out]
            codes, printed = micro.run_processes(arguments, runs, processes, environment)
            assert codes == [0] * processes, "\n".join(printed)
            known[key] = out
        return known[key]

    return run


def scores(run: Path) -> dict[int, dict[str, float]]:
    """Scores by step."""
    return {record["step"]: record["scores"] for record in micro.records(run, "evaluation")}


def test_training_is_bit_for_bit_the_same_with_and_without(run) -> None:
    plain, evaluated = run(*DROPOUT), run(*DROPOUT, EVALUATE.replace("every: 2", "every: 1"))
    assert micro.losses(plain) == micro.losses(evaluated)
    assert micro.records(plain, "validation") == micro.records(evaluated, "validation")
    first, second = micro.checkpoint(plain, STEPS), micro.checkpoint(evaluated, STEPS)
    for group in ("model", "optimizer"):
        assert micro.difference(first[group], second[group]) == 0.0
    assert sorted(scores(evaluated)) == [1, 2, 3, 4, 5, 6]
    assert scores(plain) == {}


def test_the_last_scores_are_those_that_the_command_gives(run, folder, tmp_path) -> None:
    """The evaluation uses the templates, protocol and tokens of the model that the run writes."""
    out = run(EVALUATE, "train.evaluate.limit=3")
    arguments = ["--task", "parity,other,held", "--cards", folder / "parity.yaml", "--cards", folder / "other.yaml"]
    arguments += ["--cards", folder / "more", "--limit", 3, "--shots", "0,1", "--out", tmp_path / "results.json"]
    assert micro.metalm("eval", out, *arguments) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    expected = {
        f"{name}@{setting['shots']}": setting["score"]
        for name, task in record["tasks"].items()
        for setting in task["settings"]
    }
    expected |= {f"mean@{shots}": mean["value"] for shots, mean in record["mean"].items()}
    expected |= {
        f"{name}@{shots}": mean["value"]
        for shots, clusters in record["clusters"].items()
        for name, mean in clusters.items()
    }
    assert scores(out)[STEPS] == expected
    assert record["protocol"] == "finetuned"


def test_the_best_step_is_that_of_the_highest_score(run) -> None:
    out = run(EVALUATE.replace("every: 2", "every: 1"), "train.final=best", "train.keep_checkpoints=1")
    values = {step: step_scores["mean@0"] for step, step_scores in scores(out).items()}
    best = max(values, key=lambda step: (values[step], -step))
    assert len(set(values.values())) > 1, "the scores must differ, else any step would be the best"
    assert best != STEPS, "the last step would be saved anyway"
    state = micro.checkpoint(out, STEPS)["state"]
    assert (state["best_step"], state["best_score"]) == (best, values[best])
    saved = load(out).model.state_dict()
    of_best = micro.checkpoint(out, best)["model"]
    names = [name for name in saved if f"model.{name}" in of_best]
    assert len(names) > 10
    assert all(torch.equal(saved[name], of_best[f"model.{name}"]) for name in names)


def test_training_stops_without_a_better_score(run) -> None:
    overrides = ["train.steps=12", "train.patience=2"]
    out = run(EVALUATE.replace("every: 2", "every: 1").replace("mean@0", "held@0"), *overrides)
    values = [step_scores["held@0"] for step_scores in scores(out).values()]
    best = values.index(max(values))
    assert len(values) == best + 3, "two evaluations after the first best"
    assert len(values) < 12
    assert micro.records(out)[-1]["step"] == len(values)


def test_without_best_by_the_validation_loss_selects(run) -> None:
    out = run(EVALUATE.replace(", best_by: mean@0", ""), "train.validate_every=1")
    losses = {record["step"]: record["loss"] for record in micro.records(out, "validation")}
    state = micro.checkpoint(out, STEPS)["state"]
    assert state["best_step"] == min(losses, key=lambda step: losses[step])
    assert state["best_score"] is None


@pytest.mark.parametrize("step", [2, 3])
def test_resumed_equals_uninterrupted(run, tmp_path, step) -> None:
    whole = run(EVALUATE, "train.final=best", "train.checkpoint_every=1", "train.keep_checkpoints=9")
    resumed = micro.interrupted_copy(whole, tmp_path / "resumed", step)
    assert micro.metalm("finetune", "--resume", "--out", resumed) == 0
    micro.assert_same_run(whole, resumed, STEPS)
    assert scores(resumed) == scores(whole) != {}


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_it_evaluates(run, folder, tmp_path, seed) -> None:
    whole = run(EVALUATE, "train.final=best", "train.checkpoint_every=1", "train.keep_checkpoints=9")
    out = tmp_path / "killed"

    def kill_at(count: int) -> Callable[[], None]:
        def patch() -> None:
            import os

            from metalm_cli.evaluation import evaluator

            calls = iter(range(1000))
            evaluate_template = evaluator.Evaluator.evaluate_template

            def killed(self: Any, *arguments: Any) -> Any:
                if next(calls) == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return evaluate_template(self, *arguments)

            evaluator.Evaluator.evaluate_template = killed  # type: ignore[method-assign]

        return patch

    overrides = [*FAST, EVALUATE, "train.final=best", "train.checkpoint_every=1", "train.keep_checkpoints=9"]
    arguments = ["finetune", folder / "micro.yaml", *overrides, "--out", out]
    command = micro.ForkedCommand(arguments, tmp_path / "log", before=kill_at(random.Random(seed).randrange(18)))
    assert command.wait() == -signal.SIGKILL, command.printed()
    assert micro.metalm("finetune", folder / "micro.yaml", *overrides, "--resume", "--out", out) == 0
    micro.assert_same_run(whole, out, STEPS)


@pytest.mark.parametrize("environment", [{}, micro.FSDP], ids=["ddp", "fsdp"])
def test_two_processes_give_the_scores_of_one(run, environment) -> None:
    """Weights differ by rounding between one process and two, so the scores of the same weights are compared."""
    overrides = [EVALUATE, "train.checkpoint_every=2", "train.keep_checkpoints=9", "train.learning_rate=3e-3"]
    single, double = run(*overrides), run(*overrides, processes=2, environment=environment)
    assert sorted(scores(double)) == [2, 4, 6]
    assert scores(double) == scores(single)
    assert (
        micro.checkpoint(double, STEPS)["state"]["best_step"] == micro.checkpoint(single, STEPS)["state"]["best_step"]
    )
