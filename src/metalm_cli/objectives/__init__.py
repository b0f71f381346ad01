"""Training objectives: how each makes rows and computes loss terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalm_cli.common import registry
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.objectives.base import DocumentObjective, Objective, Term

if TYPE_CHECKING:
    from metalm_cli.models.assembly import Assembly

__all__ = ["DocumentObjective", "Objective", "Term", "make_objective"]


def make_objective(recipe: PretrainRecipe, assembly: Assembly) -> DocumentObjective:
    """Make the objective of a recipe for an assembled model.

    Raises:
        MetalmError: The objective of a plug-in cannot be imported.
    """
    return registry.objectives.load(recipe.objective.name)(recipe.objective, assembly)
