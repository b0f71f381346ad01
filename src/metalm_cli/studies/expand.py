"""Expansion of a study's stages over its arms, and the references between stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from metalm_cli.studies.schema import ARM_MARK, EVERY, STUDY_MARK, Arm, Scale, StudyEvaluation, StudyFile, StudyStage

REFERENCE = re.compile(r"\{([a-z0-9][a-z0-9_-]*)\}")
"""A reference to the run folder of a stage, in the text of a recipe value."""


@dataclass(frozen=True)
class StageOfArm:
    """A stage for one of its arms, or a stage without arms.

    Args:
        name: Name, with the arm's name in the place of ``{arm}``.
        stage: The stage in the file.
        arm: The arm; None for a stage without arms.
        scale: Name of the scale.
    """

    name: str
    stage: StudyStage
    arm: Arm | None
    scale: str

    def fill(self, text: str) -> str:
        """Put the arm's name into a text."""
        return text if self.arm is None else text.replace(ARM_MARK, self.arm.name)

    @property
    def group(self) -> str:
        """Key of the stage in the tables of a scale."""
        return self.fill(self.stage.group or self.stage.name)

    @property
    def label(self) -> str:
        """Name of the stage's model in tables."""
        return self.stage.label or (self.arm.label if self.arm is not None else self.name)

    @property
    def base(self) -> str | None:
        """Stage whose model it trains."""
        return None if self.stage.base is None else self.fill(self.stage.base)

    def command(self, scale: Scale) -> str:
        """Training command at a scale."""
        keys = (self.name, self.group, self.stage.name)
        return self.fill(next((scale.commands[key] for key in keys if key in scale.commands), self.stage.command))

    def overrides(self, scale: Scale) -> dict[str, Any]:
        """Return the recipe values: those of the stage, of the scale and of the arm, later ones over earlier ones."""
        values = dict(self.stage.overrides)
        for key in dict.fromkeys((EVERY, self.group, self.stage.name, self.name)):
            values |= scale.overrides.get(key, {})
        arm_values = {} if self.arm is None else self.arm.overrides
        filled: dict[str, Any] = map_texts({**values, **arm_values}, self.fill)
        return filled

    def requires(self, scale: Scale) -> list[str]:
        """Return the names of the stages whose outputs the stage uses."""
        names = [] if self.base is None else [self.base]
        for text in texts(self.overrides(scale)):
            names += REFERENCE.findall(text.replace(STUDY_MARK, ""))
        return list(dict.fromkeys(names))


def stages_of_arms(file: StudyFile, scale_name: str) -> list[StageOfArm]:
    """Return the stages of a scale for each of their arms, in the order of the file."""
    arms = {arm.name: arm for arm in file.arms if _is_in(arm.scales, scale_name)}
    stages = []
    for stage in file.stages:
        if not _is_in(stage.scales, scale_name):
            continue
        if stage.arms is None:
            stages.append(StageOfArm(stage.name, stage, None, scale_name))
            continue
        for name in stage.arms:
            if name in arms:
                stages.append(StageOfArm(stage.name.replace(ARM_MARK, name), stage, arms[name], scale_name))
    return stages


def evaluations_of(file: StudyFile, scale_name: str) -> list[tuple[StudyEvaluation, list[str]]]:
    """Return the evaluations of a scale with the names of their models; those without any model are left out."""
    stages = stages_of_arms(file, scale_name)
    checkpoints = [checkpoint.name for checkpoint in file.checkpoints]
    evaluations = []
    for evaluation in file.evaluations:
        if not _is_in(evaluation.scales, scale_name):
            continue
        models: list[str] = []
        trains = any(model not in checkpoints for model in evaluation.models)
        for model in evaluation.models:
            models += [stage.name for stage in stages if model in (stage.name, stage.stage.name)]
            models += [model] if model in checkpoints else []
        if any(model not in checkpoints for model in models) or not trains:
            evaluations.append((evaluation, models))
    return evaluations


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of mappings and lists with each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_texts(inner, change) for key, inner in value.items()}
    return [map_texts(inner, change) for inner in value] if isinstance(value, list) else value


def _is_in(scales: list[str] | None, name: str) -> bool:
    return scales is None or name in scales
