"""Evaluation on tasks during training: bad input is found before the first step, and the plan names the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_runs as micro
from evaluated_runs import EVALUATE, FAST, write_recipe_and_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe_and_tasks(tmp_path_factory.mktemp("tasks"))


BAD = [
    ("tasks: [parity, hld]", "no task is named hld", "train.evaluate.tasks", "did you mean held?"),
    ("tasks: [parity], best_by: maen", "no score is named maen", "train.evaluate.best_by", "did you mean mean?"),
    ("tasks: [parity], shots: [0, 1], best_by: mean", "no score", "train.evaluate.best_by", "mean@0, "),
    ("tasks: [parity], split: dev", "parity has no dev split", "train.evaluate.split", "choose one of these splits"),
    ("tasks: [parity], shots: [99]", "99 demonstrations of parity requested", "train.evaluate", "use at most 18"),
    ("tasks: [long], shots: [1]", "no example of long fits the model", "train.evaluate.tasks", "at most 0 can"),
    ("tasks: [parity], template: nice", "parity has no template nice", "train.evaluate", "question-first"),
    ("tasks: [parity], templates: flam", "there is no template collection flam", "train.evaluate", "choose from"),
    ("tasks: [rte]", "has no templates for rte", "train.evaluate", "write rte.yaml there"),
    ("suite: no-such-suite", "no-such-suite", "train.evaluate.suite", ""),
    ("tasks: [parity], every: 0", "got 0, expected a whole number of at least 1", "train.evaluate.every", ""),
    ("tasks: [parity], every: -2", "got -2", "train.evaluate.every", ""),
    ("tasks: [parity], every: 7", "got 7 with train.steps 6", "train.evaluate.every", "lower it"),
    ("tasks: [parity], limit: 0", "got 0", "train.evaluate.limit", ""),
    ("tasks: [parity], shots: [-1]", "expected a list of whole numbers", "train.evaluate.shots", ""),
    ("tasks: [parity], protocol: greedy", "greedy", "train.evaluate.protocol", ""),
    ("tasks: []", "expected a list of texts (not empty) or null", "train.evaluate.tasks", ""),
    ("every: 2", "got no tasks", "train.evaluate", "set one of them"),
    ("tasks: [parity], suite: core", "expected only one of suite, tasks", "train.evaluate", ""),
    ("task: [parity]", "unknown key", "train.evaluate.task", "did you mean tasks?"),
]


@pytest.mark.parametrize(("section", "message", "key", "hint"), BAD)
def test_bad_evaluations_are_found_before_the_first_step(folder, tmp_path, capsys, section, message, key, hint) -> None:
    out = tmp_path / "run"
    overrides = [*FAST, f"train.evaluate={{{section}}}"]
    assert micro.metalm("finetune", folder / "micro.yaml", *overrides, "--out", out) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in (message, key, hint)), error
    assert "Traceback" not in error
    assert not out.exists()


def test_a_first_evaluation_after_the_last_epoch_is_refused(folder, tmp_path, capsys) -> None:
    overrides = ["train.epochs=0.2", "train.steps=null", "train.warmup_steps=0", EVALUATE.replace("2", "500", 1)]
    assert micro.metalm("finetune", folder / "micro.yaml", *overrides, "--out", tmp_path / "run") == 2
    assert "train.evaluate.every" in capsys.readouterr().err


def test_an_encoder_alone_is_not_evaluated(tmp_path, capsys) -> None:
    recipe = micro.write_recipe(tmp_path)
    overrides = [*micro.ENCODER_ONLY, "objective={name: mlm}", "train.evaluate={tasks: [rte]}"]
    assert micro.metalm("pretrain", recipe, *overrides, "--out", tmp_path / "run") == 2
    assert "gives no answers" in " ".join(capsys.readouterr().err.split())


def test_the_plan_lists_what_is_trained_on_and_held_out(folder, capsys) -> None:
    overrides = [EVALUATE.replace(", protocol: in_context", ""), "data.hold_out=[held]", "--dry-run"]
    assert micro.metalm("finetune", folder / "micro.yaml", *FAST, *overrides) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert "evaluation every 2 steps and at the end (examples): parity (6), other (3), held (4)" in plan
    assert "trained on: parity, other; held out: held" in plan
    assert "protocol finetuned, " in plan
    assert "the best step is that of mean@0" in plan


def test_the_plan_has_a_text_for_every_label_of_a_task() -> None:
    from typing import get_args

    from metalm_cli.provenance.model_history import Label
    from metalm_cli.training.task_evaluation.evaluated_tasks import LABEL_TEXTS

    assert set(LABEL_TEXTS) == set(get_args(Label))
