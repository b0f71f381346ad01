"""Training objectives: how each makes rows and computes loss terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalm_cli.common import registry
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.errors import MetalmError
from metalm_cli.objectives.base import DocumentObjective, Objective, Term
from metalm_cli.objectives.decoder_objective import DecoderObjective

if TYPE_CHECKING:
    from metalm_cli.models.assembly import Assembly

__all__ = ["DocumentObjective", "Objective", "Term", "make_objective"]


def make_objective(recipe: PretrainRecipe, assembly: Assembly) -> DocumentObjective:
    """Make the objective of a recipe for an assembled model.

    Raises:
        MetalmError: The objective of a plug-in cannot be imported, or the model or the objective has no teacher.
    """
    objective: DocumentObjective = registry.objectives.load(recipe.objective.name)(recipe.objective, assembly)
    if recipe.train.distill is None:
        return objective
    if not isinstance(objective, DecoderObjective):
        raise MetalmError(
            f"the objective {recipe.objective.name} has no teacher",
            where="train.distill",
            why="only subclasses of metalm_cli.objectives.decoder_objective.DecoderObjective have teachers",
            remedy="remove train.distill",
        )
    objective.distill(recipe.train.distill)
    return objective
