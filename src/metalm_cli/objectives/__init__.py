"""Objectives: the rows they need and the loss terms they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalm_cli.objectives.base import DocumentObjective, Objective, Term
from metalm_cli.objectives.encoders import DetectionObjective, MaskedObjective
from metalm_cli.objectives.language import LanguageObjective
from metalm_cli.recipes.schema import MaskedLM, PretrainRecipe, ReplacedTokens

if TYPE_CHECKING:
    from metalm_cli.models.assemble import Assembly

__all__ = ["DocumentObjective", "Objective", "Term", "make_objective"]


def make_objective(recipe: PretrainRecipe, assembly: Assembly) -> DocumentObjective:
    """The objective of a recipe, for an assembled model."""
    options = recipe.objective
    if isinstance(options, MaskedLM):
        return MaskedObjective(options, assembly)
    if isinstance(options, ReplacedTokens):
        return DetectionObjective(options, assembly)
    return LanguageObjective(options, assembly)
