"""Recording of a reference curve from runs of one recipe that differ in nothing but their seed."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalm_cli.config import resolve
from metalm_cli.config.locate import shipped_names
from metalm_cli.config.yaml_nodes import to_flow_yaml
from metalm_cli.errors import MetalmError
from metalm_cli.runs.data_record import SourceRecord, data_differences
from metalm_cli.runs.reference_curves.curve import DIGITS, FORMAT, ReferenceCurve
from metalm_cli.runs.reference_curves.run_losses import Losses, RunLosses, data_of
from metalm_cli.runs.reference_curves.settings import setting_differences
from metalm_cli.runs.resume_check import flatten, recipe_record

VERSIONS = ("metalm", "torch", "transformers", "platform", "device")
"""What a curve records of the environment of its runs."""
PLACES = {"checkpoint": "see start", "path": "see sources"}
"""What a curve records in place of the folders and files of a recipe."""


def record_curve(runs: Sequence[RunLosses], last_step: int | None = None) -> ReferenceCurve:
    """Make the curve of some runs up to the last step that all of them have logged.

    Args:
        runs: Runs of several seeds.
        last_step: Last step of the curve; default: all steps.

    Raises:
        MetalmError: The runs are fewer than two, of equal seeds, differ in more than the seed, or share no step.
    """
    first = runs[0]
    _check_runs(runs)
    train = _common_steps([run.train for run in runs], last_step)
    validation = _common_steps([run.validation for run in runs], last_step)
    if not train:
        raise MetalmError("the runs share no logged step", remedy="record runs of the same train.log_every")
    losses = [_rounded(run.train, train) for run in runs]
    for run, values in zip(runs, losses, strict=True):
        if not all(math.isfinite(value) for value in values):
            raise MetalmError("the loss of a run is not finite", where=str(run.path), remedy="record other runs")
    return ReferenceCurve(
        format=FORMAT,
        recipe=first.recipe,
        command=_command(first),
        recorded={
            "date": time.strftime("%Y-%m-%d"),
            **{key: first.environment[key] for key in VERSIONS if key in first.environment},
        },
        start=dict(first.start or {}),
        sources=[without_place(source) for source in first.sources or []],
        validation_sources=[without_place(source) for source in first.validation_sources],
        seeds=[run.seed for run in runs],
        steps=train,
        losses=losses,
        validation_steps=validation,
        validation_losses=[_rounded(run.validation, validation) for run in runs] if validation else [],
        settings=_without_places(first.settings),
    )


def without_place(source: SourceRecord) -> dict[str, Any]:
    """Record of a source without the folder of its files."""
    return {**source, "location": source["location"] if not source["files"] else ""}


def _without_places(value: Any) -> Any:
    """Settings without the places of checkpoints and files, which ``start`` and ``sources`` describe."""
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    settings = {key: _without_places(item) for key, item in value.items()}
    return settings | {key: text for key, text in PLACES.items() if key in settings and settings[key] is not None}


def _check_runs(runs: Sequence[RunLosses]) -> None:
    first = runs[0]
    if len({run.seed for run in runs}) < max(2, len(runs)):
        raise MetalmError(
            "a reference curve needs runs of at least two different seeds",
            where=", ".join(str(run.path) for run in runs),
            why=f"the seeds are {', '.join(str(run.seed) for run in runs)}",
            remedy="train the recipe with --seeds 0,1,2 --out DIR, then name DIR",
        )
    for run in runs[1:]:
        differences = [str(difference) for difference in setting_differences(first.settings, run.settings)]
        differences += data_differences(data_of(first), data_of(run))
        differences += [] if first.recipe == run.recipe else [f"its recipe is {run.recipe}, not {first.recipe}"]
        if differences or first.start != run.start:
            raise MetalmError(
                "the runs of a reference curve may differ in their seed only",
                where=str(run.path),
                why="; ".join(differences) or f"it starts from {run.start}, and {first.path} from {first.start}",
                remedy="name runs of one recipe with equal settings",
            )


def _common_steps(losses: Sequence[Losses], last_step: int | None) -> list[int]:
    steps = set(losses[0].steps).intersection(*(item.steps for item in losses[1:]))
    return sorted(step for step in steps if last_step is None or step <= last_step)


def _rounded(losses: Losses, steps: Sequence[int]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in losses.over(steps)]


def _command(run: RunLosses) -> str:
    """Command of a run, with the values that differ from those of its shipped recipe."""
    command = f"metalm {run.settings.get('command', 'pretrain')} {run.recipe}"
    if run.recipe not in shipped_names():
        return command
    shipped = recipe_record(resolve(None, run.recipe).recipe)
    values = {item.key: item.run for item in setting_differences(shipped, run.settings)}
    before, after = flatten(shipped), flatten(run.settings)
    for part in run.start or {}:
        key = "model.checkpoint" if part == "model" else f"model.{part}.checkpoint"
        if after.get(key) != before.get(key):
            prefix = key.removesuffix("checkpoint")
            values = {name: value for name, value in values.items() if value is not None or not name.startswith(prefix)}
            values[key] = "MODEL" if Path(str(after.get(key))).exists() else after.get(key)
    return " ".join([command, *(shlex.quote(f"{key}={to_flow_yaml(value)}") for key, value in values.items())])
