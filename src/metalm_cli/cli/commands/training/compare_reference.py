"""``--compare-reference`` of the training commands: the settings beside the reference curve's, then the losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.config.resolution import ResolvedRecipe
    from metalm_cli.runs.reference_curves.curve import ReferenceCurve


def find_reference(resolved: ResolvedRecipe) -> ReferenceCurve:
    """Read the reference curve of a recipe.

    Args:
        resolved: The recipe, which may be that of a run that is resumed.

    Raises:
        MetalmError: There is none, or the recipe has stages.
    """
    from metalm_cli.runs.folder import RunFolder
    from metalm_cli.runs.reference_curves.curve import find_curve, read_curve
    from metalm_cli.training.run_start import recipe_name

    if resolved.stages:
        raise MetalmError(
            f"recipe {resolved.name} has stages, and a reference curve is that of one run",
            where="--compare-reference",
            remedy="leave the option out",
        )
    name = resolved.name
    if resolved.recipe_file.is_run_record:
        name = recipe_name(RunFolder.attach(resolved.recipe_file.path.parent)) or name
    return read_curve(find_curve(name))


def note_settings(curve: ReferenceCurve, resolved: ResolvedRecipe, note: Callable[[str], None]) -> None:
    """Print the settings of a run that differ from those of a curve, before the run begins."""
    from metalm_cli.runs.reference_curves.settings import setting_differences
    from metalm_cli.runs.resume_check import recipe_record

    differences = setting_differences(curve.settings, recipe_record(resolved.recipe))
    text = "; ".join(map(str, differences)) or "none"
    note(f"settings that differ from the reference curve of {curve.recipe} (curve → run): {text}")


def note_comparison(curve: ReferenceCurve, run: Path, note: Callable[[str], None]) -> None:
    """Print where the losses of a run leave the band of a curve."""
    from metalm_cli.runs.reference_curves.compare import compare_with_curve
    from metalm_cli.runs.reference_curves.run_losses import read_run_losses

    try:
        for line in compare_with_curve(read_run_losses(run), curve).lines():
            note(line)
    except MetalmError as error:  # a run that has trained does not fail for its comparison
        note(f"not compared with the reference curve: {error}")
