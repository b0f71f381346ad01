"""Checks of the evaluation during training that involve several keys of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.config.schema.training import TrainingConfig

ENCODER_OBJECTIVES = ("mlm", "rtd")
"""Objectives that train a single encoder, without a decoder."""


def late_evaluation_problem(train: TrainingConfig, steps: int, steps_label: str) -> RecipeProblem | None:
    """Return the problem of a first evaluation after the end of the run, or None.

    Args:
        train: The recipe's ``train`` section.
        steps: Steps of the run, from ``train.steps`` or ``train.epochs``.
        steps_label: Name of the steps in the message.
    """
    every = None if train.evaluate is None else train.evaluate.every
    if every is None or every <= steps:
        return None
    return RecipeProblem(
        "train.evaluate.every",
        f"got {every} with {steps_label} {steps}, expected at most {steps_label.rstrip(',')}",
        "lower it, or remove it (train.evaluate.every=null): the last step is always evaluated",
        depends_on=("train.steps",),
    )


def check_evaluation(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Yield the problems of the evaluation during training."""
    evaluation = recipe.train.evaluate
    if evaluation is None:
        return
    if evaluation.tasks is None and evaluation.suite is None:
        yield RecipeProblem(
            "train.evaluate",
            "got no tasks, expected train.evaluate.tasks or train.evaluate.suite",
            "set one of them",
            depends_on=("train.evaluate.tasks", "train.evaluate.suite"),
        )
    if recipe.objective.name in ENCODER_OBJECTIVES:
        yield RecipeProblem(
            "train.evaluate",
            f"got an evaluation on tasks, but objective {recipe.objective.name} trains a single encoder, which gives "
            "no answers",
            "remove it (train.evaluate=null)",
            depends_on=("objective.name",),
        )
