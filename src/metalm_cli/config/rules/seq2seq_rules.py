"""Checks of recipes whose model is an encoder–decoder."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe

SEQ2SEQ_OBJECTIVES = ("prefix",)
"""Pretraining objectives of an encoder–decoder."""


def check_seq2seq(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Yield the problems of a recipe with ``model.seq2seq``."""
    if recipe.model.seq2seq is None:
        return
    if recipe.model.special_tokens.start != "auto":
        yield RecipeProblem(
            "model.special_tokens.start",
            f"got {recipe.model.special_tokens.start} with model.seq2seq, whose decoder has a start token of its own",
            "remove it",
            depends_on=("model.seq2seq",),
        )
    if not isinstance(recipe, PretrainRecipe):
        return
    if recipe.objective.name not in SEQ2SEQ_OBJECTIVES:
        yield RecipeProblem(
            "objective.name",
            f"got {recipe.objective.name} with model.seq2seq: an encoder–decoder predicts the rest of a text from its "
            "prefix",
            "set objective.name=prefix",
            depends_on=("model.seq2seq",),
        )
    validation = recipe.data.validation.objective
    if validation is not None and validation.name not in SEQ2SEQ_OBJECTIVES:
        yield RecipeProblem(
            "data.validation.objective",
            f"got {validation.name} with model.seq2seq, expected prefix",
            "remove it (data.validation.objective=null)",
            depends_on=("model.seq2seq",),
        )
