"""Evaluation on tasks during training: it changes nothing, selects the best step, and survives kills and processes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_runs as micro
from evaluated_runs import DROPOUT, EVALUATE, FAST, RECIPE, STEPS, write_recipe_and_tasks
from metalm_cli.inference import load
from metalm_cli.training.task_evaluation.unchanged_training import unchanged_training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe_and_tasks(tmp_path_factory.mktemp("tasks"))


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


def scores_of_command(model: Path, folder: Path, out: Path) -> dict[str, float]:
    """Scores by name that ``metalm eval`` gives for a finished run, from its result file."""
    arguments = ["--task", "parity,other,held", "--cards", folder / "parity.yaml", "--cards", folder / "other.yaml"]
    arguments += ["--cards", folder / "more", "--limit", 200, "--shots", "0,1", "--protocol", "in_context"]
    assert micro.metalm("eval", model, *arguments, "--out", out) == 0
    record = json.loads(out.read_text())
    tasks = {
        f"{name}@{setting['shots']}": setting["score"]
        for name, task in record["tasks"].items()
        for setting in task["settings"]
    }
    clusters = {
        f"{name}@{shots}": mean["value"] for shots, means in record["clusters"].items() for name, mean in means.items()
    }
    scores = {**tasks, **clusters, **{f"mean@{shots}": mean["value"] for shots, mean in record["mean"].items()}}
    assert any(0 < score < 100 for score in scores.values()), "scores of 0 would be equal in any case"
    return scores


def test_the_last_scores_are_those_that_the_command_gives(run, folder, tmp_path) -> None:
    """The evaluation uses the templates and tokens of the model that the run writes."""
    out = run(EVALUATE)
    assert scores(out)[STEPS] == scores_of_command(out, folder, tmp_path / "results.json")


def scripted(values: Sequence[float]) -> Callable[[int], Callable[[], None]]:
    """Patch that replaces the evaluation by these scores, in the order of the evaluations."""

    def patch() -> None:
        from metalm_cli.training.task_evaluation.task_evaluator import TaskEvaluator

        remaining = iter(values)
        TaskEvaluator.__call__ = lambda self, on_progress: {"mean@0": next(remaining)}  # type: ignore[method-assign]

    return lambda rank: patch


EVERY_STEP = EVALUATE.replace("every: 2", "every: 1")


def test_the_best_step_is_the_first_of_the_highest_score(folder, tmp_path) -> None:
    out = tmp_path / "run"
    overrides = [*FAST, EVERY_STEP, "train.final=best", "train.keep_checkpoints=1"]
    arguments = ["finetune", folder / "micro.yaml", *overrides, "--out", out]
    codes, printed = micro.run_processes(arguments, tmp_path, before=scripted([10, 20, 40, 30, 40, 5]), num_processes=1)
    assert codes == [0], printed
    state = micro.checkpoint(out, STEPS)["state"]
    assert (state["best_step"], state["best_score"], state["stale"]) == (3, 40, 3)
    saved = load(out).model.state_dict()
    of_best, of_last = (micro.checkpoint(out, step)["model"] for step in (3, STEPS))
    names = [name for name in saved if f"model.{name}" in of_best]
    assert len(names) > 10
    assert all(torch.equal(saved[name], of_best[f"model.{name}"]) for name in names)
    assert micro.difference(of_best, of_last) > 0


def test_training_stops_without_a_better_score(folder, tmp_path) -> None:
    """Validation, which is due only at the end, does not count, and is done at the step that turns out to be last."""
    out = tmp_path / "run"
    overrides = [*FAST, EVERY_STEP, "train.patience=2", "train.steps=12"]
    arguments = ["finetune", folder / "micro.yaml", *overrides, "--out", out]
    codes, printed = micro.run_processes(arguments, tmp_path, before=scripted([10, 5, 40, 30, 40, 50]), num_processes=1)
    assert codes == [0], printed
    assert [record["step"] for record in micro.records(out)] == [1, 2, 3, 4, 5]
    assert list(scores(out)) == [1, 2, 3, 4, 5]
    assert [record["step"] for record in micro.records(out, "validation")] == [5]
    assert (out / "model").is_dir()


def test_tasks_are_evaluated_at_the_step_at_which_the_validation_loss_stops_training(folder, tmp_path) -> None:
    out = tmp_path / "run"
    overrides = ["train.validate_every=1", "train.patience=1", "train.learning_rate=5.0", "train.steps=12"]
    arguments = ["finetune", folder / "micro.yaml", *FAST, *overrides, "train.evaluate={tasks: [parity]}", "--out", out]
    assert micro.metalm(*arguments) == 0
    last = micro.records(out)[-1]["step"]
    assert last < 12, "so high a rate must stop the training"
    assert list(scores(out)) == [last]


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
def test_two_processes_give_the_scores_of_one(run, folder, tmp_path, environment) -> None:
    """The scores of the same weights: those of a run in one process differ by rounding."""
    double = run(EVALUATE, "train.learning_rate=3e-3", processes=2, environment=environment)
    assert sorted(scores(double)) == [2, 4, 6]
    assert scores(double)[STEPS] == scores_of_command(double, folder, tmp_path / "results.json")


def test_an_aggregate_of_a_suite_selects_the_best_step(run, folder) -> None:
    suite = folder / "chosen.yaml"
    suite.write_text(
        "name: chosen\ndescription: d\nprotocol: finetuned\naggregate: weighted_by_examples\n"
        "tasks: [parity, long, {task: parity, name: trained, split: train, limit: 5}]\n"
    )
    out = run(f"train.evaluate={{suite: {suite}, every: 2, best_by: weighted_by_examples}}")
    counts = {"parity": validation_rows(folder, "parity"), "long": validation_rows(folder, "long"), "trained": 5}
    assert sorted(scores(out)) == [2, 4, 6]
    for by_name in scores(out).values():
        expected = sum(by_name[name] * count for name, count in counts.items()) / sum(counts.values())
        assert by_name["weighted_by_examples"] == pytest.approx(expected)


def validation_rows(folder: Path, task: str) -> int:
    """Number of validation rows of a task."""
    from metalm_cli.data.examples.open_examples import open_examples
    from metalm_cli.tasks import read_card

    path = folder / f"{task}.yaml"
    return len(open_examples(read_card(path), "validation", card_path=path))


@pytest.mark.slow
def test_a_process_waits_longer_than_other_operations_may_take(folder, tmp_path) -> None:
    def slow(rank: int) -> Callable[[], None]:
        def patch() -> None:
            from metalm_cli.evaluation import evaluator

            new_group, evaluate_template = torch.distributed.new_group, evaluator.Evaluator.evaluate_template

            def with_short_limit(*arguments: Any, **options: Any) -> Any:
                return new_group(*arguments, **{"timeout": timedelta(seconds=20), **options})

            def slowly(self: Any, *arguments: Any) -> Any:
                time.sleep(25 if rank == 0 else 0)
                return evaluate_template(self, *arguments)

            torch.distributed.new_group = with_short_limit
            evaluator.Evaluator.evaluate_template = slowly  # type: ignore[method-assign]

        return patch

    tasks = "train.evaluate={tasks: [parity, other]}"
    arguments = ["finetune", folder / "micro.yaml", *FAST, tasks, "train.steps=1", "--out", tmp_path / "run"]
    codes, printed = micro.run_processes(arguments, tmp_path, 2, before=slow)
    assert codes == [0, 0], "\n".join(printed)


def test_a_process_that_is_killed_while_it_evaluates_ends_the_others(folder, tmp_path) -> None:
    def kill(rank: int) -> Callable[[], None] | None:
        def patch() -> None:
            from metalm_cli.evaluation import evaluator

            def killed(self: Any, *arguments: Any) -> Any:
                os.kill(os.getpid(), signal.SIGKILL)

            evaluator.Evaluator.evaluate_template = killed  # type: ignore[method-assign]

        return patch if rank == 1 else None

    arguments = ["finetune", folder / "micro.yaml", *FAST, EVALUATE, "--out", tmp_path / "run"]
    codes, printed = micro.run_processes(arguments, tmp_path, 2, before=kill)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of this run has ended" in printed[0]


def test_adapters_and_documents_are_evaluated_as_by_the_command(folder, tmp_path) -> None:
    """Ranked options, whose scores are those of a pretrained model; and adapters, loaded with their base."""
    evaluate = f"train.evaluate={{tasks: [{folder}/parity.yaml, {folder}/long.yaml], templates: {folder}/words}}"
    flags = ["--task", f"{folder}/parity.yaml,{folder}/long.yaml", "--templates", folder / "words"]
    flags += ["--protocol", "in_context", "--limit", 200]
    larger = ["model.decoder.config.n_positions=128", "model.encoders.text.config.max_position_embeddings=96"]
    base, adapted = tmp_path / "base", tmp_path / "adapted"
    recipe = micro.write_recipe(tmp_path)
    assert micro.metalm("pretrain", recipe, *larger, evaluate, "--out", base) == 0
    lora = ["model={checkpoint: " + str(base) + ", lora: {rank: 2}}", evaluate.replace("}", ", protocol: in_context}")]
    finetune = micro.write_recipe(tmp_path, RECIPE.replace("FOLDER", str(folder)), "tasks.yaml")
    text = micro.with_sections(finetune.read_text(), model={"checkpoint": str(base), "lora": {"rank": 2}})
    finetune.write_text(text)
    assert micro.metalm("finetune", finetune, *lora[1:], "train.learning_rate=0.05", "--out", adapted) == 0
    for run in (base, adapted):
        assert micro.metalm("eval", run, *flags, "--out", run / "results.json") == 0
        tasks = json.loads((run / "results.json").read_text())["tasks"]
        (step_scores,) = scores(run).values()
        assert {name: step_scores[name] for name in tasks} == {
            name: task["settings"][0]["score"] for name, task in tasks.items()
        }


def test_the_mode_of_each_module_and_all_random_numbers_are_restored() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model.train()
    model[1].eval()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def disturb() -> None:
        with unchanged_training(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert random.random() != np.random.rand() != float(torch.rand(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        disturb()
    assert [module.training for module in model.modules()] == [True, True, False, False]
    assert torch.is_grad_enabled()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_tasks_cannot_change_on_resume_but_the_interval_can(run, tmp_path, capsys) -> None:
    whole = run(EVALUATE, "train.final=best", "train.checkpoint_every=1", "train.keep_checkpoints=9")
    copy = micro.interrupted_copy(whole, tmp_path / "resumed", 3)
    resume = ["finetune", copy / "recipe.yaml", "--resume", "--out", copy]
    assert micro.metalm(*resume, "train.evaluate.tasks=[parity, held]") == 2
    assert "train.evaluate.tasks was" in capsys.readouterr().err
    assert micro.metalm(*resume, "train.evaluate.every=1") == 0
    assert "train.evaluate.every changes from 2 to 1" in capsys.readouterr().err
    assert sorted(scores(copy)) == [2, 4, 5, 6]
