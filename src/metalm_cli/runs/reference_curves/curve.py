"""Files of reference curves: the shipped ones are in ``recipes/reference/``, by the names of their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
from metalm_cli.config.locate import REFERENCE, is_path, shipped_root
from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.yaml_records import read_record
from metalm_cli.errors import Exit, MetalmError

KIND = "reference curve"
FORMAT = 1
"""Version of the file."""
DIGITS = 5
"""Significant digits of the recorded losses."""


class ReferenceCurve(Section):
    """Losses of a recipe by step, one list for each seed, with all that they depend on."""

    format: int = Field(ge=FORMAT, le=FORMAT, description="Version of the file.")
    recipe: str = Field(description="Name of the recipe.")
    command: str = Field(description="Command of the runs, without seed and folders.")
    recorded: dict[str, str] = Field(description="Date, and versions and machine of the runs.")
    start: dict[str, str] = Field(default={}, description="Checkpoints that the runs start from, by part.")
    sources: list[dict[str, Any]] = Field(default=[], description="Training data, as data.json of a run has it.")
    validation_sources: list[dict[str, Any]] = Field(default=[], description="Separate validation data.")
    seeds: list[int] = Field(min_length=2, description="Seeds of the runs.")
    steps: list[int] = Field(min_length=1, description="Steps of the training losses.")
    losses: list[list[float]] = Field(description="For each seed, the mean loss since the step before.")
    validation_steps: list[int] = Field(default=[], description="Steps of the validation losses.")
    validation_losses: list[list[float]] = Field(default=[], description="Validation losses of each seed.")
    settings: dict[str, Any] = Field(description="The resolved recipe.")

    @model_validator(mode="after")
    def _check_shape(self) -> ReferenceCurve:
        for name, steps, losses in (
            ("losses", self.steps, self.losses),
            ("validation_losses", self.validation_steps, self.validation_losses),
        ):
            if steps and [len(seed) for seed in losses] != [len(steps)] * len(self.seeds):
                raise InconsistentValues(f"expected {len(self.seeds)} lists of {len(steps)} losses", key=name)
        return self


def curve_names() -> list[str]:
    """Names of the recipes that have a shipped curve."""
    root = shipped_root("recipes") / REFERENCE
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_curve(name: str) -> Path:
    """Find the curve of a recipe.

    Args:
        name: Name of a recipe, or the path of a file.

    Raises:
        MetalmError: There is none.
    """
    if is_path(name):
        return Path(name)
    if name in curve_names():
        return shipped_root("recipes") / REFERENCE / f"{name}.yaml"
    raise MetalmError(
        f"recipe {name} has no reference curve",
        where="--compare-reference",
        why=f"there are curves of {', '.join(curve_names())}",
        remedy="record one from runs of several seeds with metalm report RUN RUN RUN --record-reference FILE.yaml, and "
        "compare with metalm report RUN --reference FILE.yaml",
    )


def read_curve(path: Path) -> ReferenceCurve:
    """Read a curve.

    Raises:
        MetalmError: The file cannot be read, or is not a curve.
    """
    return read_record(path, ReferenceCurve, KIND)


def write_curve(path: Path, curve: ReferenceCurve) -> None:
    """Write a curve as YAML.

    Raises:
        MetalmError: The file cannot be written.
    """
    values = {key: value for key, value in curve.model_dump(mode="json").items() if value not in ({}, [])}
    text = yaml.safe_dump(values, default_flow_style=None, sort_keys=False, width=120, allow_unicode=True)
    heading = (
        f"# Reference curve of {curve.recipe}: metalm report RUN --compare-reference says where a run leaves it.\n"
    )
    with explain_write_errors(path, "cannot write the reference curve", Exit.FAILED):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (heading + text).encode())
