"""Training objectives: how each makes rows and computes loss terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalm_cli.config.schema.objectives import MaskedLM, ReplacedTokenDetection
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.objectives.base import DocumentObjective, Objective, Term
from metalm_cli.objectives.language import LanguageObjective
from metalm_cli.objectives.masked_lm import MaskedLMObjective
from metalm_cli.objectives.replaced_token_detection import ReplacedTokenObjective

if TYPE_CHECKING:
    from metalm_cli.models.assembly import Assembly

__all__ = ["DocumentObjective", "Objective", "Term", "make_objective"]


def make_objective(recipe: PretrainRecipe, assembly: Assembly) -> DocumentObjective:
    """Make the objective of a recipe for an assembled model."""
    options = recipe.objective
    if isinstance(options, MaskedLM):
        return MaskedLMObjective(options, assembly)
    if isinstance(options, ReplacedTokenDetection):
        return ReplacedTokenObjective(options, assembly)
    return LanguageObjective(options, assembly)
