"""Stages of a study: the command of each, its purpose, the stages that it requires, and its outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metalm_cli.config import resolve, split_arguments
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.data.examples.recipe_check import check_names_of_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.studies.expand import REFERENCE, StageOfArm, evaluations_of, map_texts, stages_of_arms
from metalm_cli.studies.load import DEMO, Study
from metalm_cli.studies.schema import EVERY, STUDY_MARK, Scale, StudyEvaluation

DEFAULT_SECONDS = 60.0
"""Running time of a stage for the estimate of the time left, if none is recorded."""
REPORT = "report"
"""Name of the last stage, which writes the page."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of a study, for one seed.

    Args:
        name: Name of the stage with its seed; it names the log.
        summary: What happens, in a few words.
        purpose: Why it happens, in one line.
        arguments: Command line after ``metalm``.
        outputs: A run folder, or files.
        requires: Names of stages that must have finished before.
        cost: Approximate seconds on one core, for the estimate of the time left.
        steps: Optimiser steps; 0 for a stage that does not train.
        command_hash: Hash of the command, independent of the study's folder.
        kind: Name of the stage or evaluation in the study, without its seed.
        seed: The seed; None for the report.
        is_recorded: Whether the cost is a recorded time.
        positions: Mean decoder positions of an example of tasks; None: at most the sequence length.
        docked_outputs: Mean docked encoder outputs of an example of tasks; None: all its positions are docked.
        decoder_of: Run folder of the model whose decoder the output must keep bit for bit.
        question: Example question for its model; empty if the study has none.
    """

    name: str
    summary: str
    purpose: str
    arguments: tuple[str, ...]
    outputs: tuple[Path, ...]
    requires: tuple[str, ...] = ()
    cost: float = 10.0
    steps: int = 0
    command_hash: str = ""
    kind: str = ""
    seed: int | None = None
    is_recorded: bool = True
    positions: float | None = None
    docked_outputs: float | None = None
    decoder_of: Path | None = None
    question: str = ""

    @property
    def run(self) -> Path | None:
        """Run folder of a training stage; None for other stages."""
        return self.outputs[0] if self.steps else None


@dataclass(frozen=True)
class Layout:
    """Folders and seeds of a study at a scale.

    Args:
        out: Folder of the study.
        scale: The scale.
        seeds: Seeds of every stage.
        headline_seeds: Seeds of headline stages.
    """

    out: Path
    scale: Scale
    seeds: tuple[int, ...]
    headline_seeds: tuple[int, ...]

    @classmethod
    def of(cls, scale: Scale, out: Path, seeds: Sequence[int] | None = None) -> Layout:
        """Make the layout of a scale; ``seeds`` replaces its seeds and headline seeds."""
        if seeds is not None:
            return cls(out, scale, tuple(seeds), tuple(seeds))
        return cls(out, scale, tuple(scale.seeds), tuple(scale.headline_seeds or scale.seeds))

    def seeds_of(self, entry: Any) -> tuple[int, ...]:
        """Seeds of a stage or an evaluation of the file."""
        return self.headline_seeds if entry.headline else self.seeds

    def _is_alone(self, seed: int) -> bool:
        """Whether a seed is the only one of the scale, so that it has no folder of its own."""
        return self.scale.all_seeds == [seed]

    def folder(self, seed: int) -> Path:
        """Folder of the models and results of a seed; seeds added later do not move it."""
        return self.out if self._is_alone(seed) else self.out / f"seed-{seed}"

    def suffix(self, seed: int) -> str:
        """Suffix of the names of the stages of a seed."""
        return "" if self._is_alone(seed) else f"-{seed}"


def study_stages(
    study: Study, scale_name: str, out: Path, seeds: Sequence[int] | None = None, options: Sequence[str] = ()
) -> list[Stage]:
    """Create all stages of a study, in an order in which they can run.

    Args:
        study: The study.
        scale_name: Name of the scale.
        out: Folder of the study.
        seeds: Seeds of all stages; default: those of the scale.
        options: Options for each command, such as ``--offline``.

    Raises:
        MetalmError: The scale is unknown, or a recipe of a stage is invalid.
    """
    scale = study.scale(scale_name)
    stages = _Builder(study, scale_name, Layout.of(scale, out, seeds), tuple(options)).all_stages()
    for_hashes = _Builder(study, scale_name, Layout.of(scale, Path("study"), seeds), (), resolves=False).all_stages()
    hashes = [
        _hash([*stage.arguments, *([study.claims_sha256] if stage.name == REPORT else [])]) for stage in for_hashes
    ]
    return [replace(stage, command_hash=digest) for stage, digest in zip(stages, hashes, strict=True)]


def _hash(words: list[str]) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


class _Builder:
    """Creates the stages of a study at a scale.

    Args:
        study: The study.
        scale_name: Name of the scale.
        layout: Folders and seeds.
        options: Options for each command.
        resolves: Read and check the recipes, and fill in the folder of the study's file; without it, stages have no
            numbers of steps.
    """

    def __init__(
        self, study: Study, scale_name: str, layout: Layout, options: tuple[str, ...], resolves: bool = True
    ) -> None:
        self.study, self.scale_name, self.layout, self.options = study, scale_name, layout, options
        self.resolves = resolves
        self.scale = layout.scale
        self.of_arms = {stage.name: stage for stage in stages_of_arms(study.file, scale_name)}
        self.checkpoints = {checkpoint.name: checkpoint.model for checkpoint in study.file.checkpoints}

    def all_stages(self) -> list[Stage]:
        """Stages of each seed, trainings before evaluations, and the report."""
        stages: list[Stage] = []
        for seed in dict.fromkeys((*self.layout.seeds, *self.layout.headline_seeds)):
            stages += [
                self.training(stage, seed) for stage in self.in_order() if seed in self.layout.seeds_of(stage.stage)
            ]
            stages += [
                self.evaluation(evaluation, group, seed)
                for evaluation, models in evaluations_of(self.study.file, self.scale_name)
                if seed in self.layout.seeds_of(evaluation)
                for group in ([[model] for model in models] if evaluation.separately else [models])
            ]
        return [*stages, self.report(stages)]

    def in_order(self) -> list[StageOfArm]:
        """The stages, each after those that it requires, else in the order of the file."""
        ordered: dict[str, StageOfArm] = {}

        def add(name: str) -> None:
            for other in self.of_arms[name].requires(self.scale):
                if other not in ordered:
                    add(other)
            ordered.setdefault(name, self.of_arms[name])

        for name in self.of_arms:
            add(name)
        return list(ordered.values())

    def seed_of(self, name: str, seed: int) -> int:
        """Seed of a required stage: the same, or the first one if the stage does not run with it."""
        seeds = self.layout.seeds_of(self.of_arms[name].stage)
        return seed if seed in seeds else seeds[0]

    def folder_of(self, name: str, seed: int) -> Path:
        """Run folder of a required stage."""
        return self.layout.folder(self.seed_of(name, seed)) / name

    def full_name(self, name: str, seed: int) -> str:
        """Name of a required stage with its seed."""
        return name + self.layout.suffix(self.seed_of(name, seed))

    def training(self, of_arm: StageOfArm, seed: int) -> Stage:
        """Create a training stage; its command resumes a run that was started before."""
        verb, recipe, *flags = of_arm.command(self.scale).split()
        run = self.layout.folder(seed) / of_arm.name
        values = [
            f"{key}={_yaml_value(value)}"
            for key, value in map_texts(of_arm.overrides(self.scale), lambda text: self._resolved(text, seed)).items()
        ]
        values += [f"train.seed={seed}"] if seed else []
        base = [] if of_arm.base is None else ["--model", path_argument(self.folder_of(of_arm.base, seed))]
        cost = self.scale.seconds.get(of_arm.name, self.scale.seconds.get(of_arm.group))
        return Stage(
            of_arm.name + self.layout.suffix(seed),
            of_arm.fill(of_arm.stage.summary).replace("{label}", of_arm.label),
            of_arm.stage.purpose,
            (verb, recipe, *values, *base, *flags, "--out", str(run), "--resume", *self.options),
            (run,),
            tuple(self.full_name(name, seed) for name in of_arm.requires(self.scale)),
            DEFAULT_SECONDS if cost is None else cost,
            self._steps(of_arm.name, verb, recipe, values, base) if self.resolves else 1,
            kind=of_arm.name,
            seed=seed,
            is_recorded=cost is not None,
            positions=self.scale.positions.get(of_arm.name, self.scale.positions.get(of_arm.group)),
            docked_outputs=self.scale.docked_outputs.get(of_arm.name, self.scale.docked_outputs.get(of_arm.group)),
            decoder_of=self.folder_of(of_arm.base, seed) if of_arm.stage.keeps_decoder and of_arm.base else None,
            question=of_arm.stage.question,
        )

    def _resolved(self, text: str, seed: int) -> str:
        """A text with each reference replaced by the run folder of the stage, or by the folder of the study's file."""
        text = REFERENCE.sub(
            lambda match: path_argument(self.folder_of(match[1], seed)) if match[1] in self.of_arms else match[0], text
        )
        return text.replace(STUDY_MARK, str(self.study.path.parent)) if self.resolves else text

    def _steps(self, name: str, verb: str, recipe: str, values: list[str], base: list[str]) -> int:
        """Optimiser steps of a training (1 if it is planned in epochs), and a check of its recipe and of its tasks.

        Raises:
            MetalmError: The recipe is unknown or invalid, or a task, template or split is unknown.
        """
        _, overrides = split_arguments(values)
        try:
            resolved = resolve(verb, recipe, overrides, {"model.checkpoint": base[1] if base else None})
            recipes = [stage.resolved.recipe for stage in resolved.stages] or [resolved.recipe]
            for checked in recipes:
                if isinstance(checked, FinetuneRecipe):
                    check_names_of_tasks(checked.data)
        except MetalmError as error:
            raise MetalmError(
                f"the stage {name} of the study {self.study.name} cannot run",
                where=error.where or str(self.study.path),
                why=str(error.what),
                remedy=error.remedy or "correct the overrides of the stage, of its arm or of the scale",
            ) from error
        return sum(recipe.train.steps or 1 for recipe in recipes)

    def evaluation(self, evaluation: StudyEvaluation, models: list[str], seed: int) -> Stage:
        """Create an evaluation of models side by side, or of a model by itself."""
        folder = self.layout.folder(seed)
        first, *others = (self.checkpoints.get(model) or path_argument(self.folder_of(model, seed)) for model in models)
        versus = [argument for other in others for argument in ("--versus", other)]
        flags = " ".join(
            (evaluation.options, self.scale.options.get(EVERY, ""), self.scale.options.get(evaluation.name, ""))
        ).split()
        if self.resolves:  # the place of the study's file has no effect on the hash of a command
            flags = [flag.replace(STUDY_MARK, str(self.study.path.parent)) for flag in flags]
        paths = result_paths(folder, evaluation, models)
        name = f"{evaluation.name}-{models[0]}" if evaluation.separately else evaluation.name
        cost = self.scale.seconds.get(evaluation.name)
        return Stage(
            name + self.layout.suffix(seed),
            evaluation.summary,
            evaluation.purpose,
            ("evaluate", first, *versus, *flags, "--save-samples", "--out", str(paths[0]), *self.options),
            tuple(paths),
            tuple(self.full_name(model, seed) for model in models if model in self.of_arms),
            len(models) * (DEFAULT_SECONDS if cost is None else cost),
            kind=name,
            seed=seed,
            is_recorded=cost is not None,
        )

    def report(self, stages: Sequence[Stage]) -> Stage:
        """Create the last stage, which writes the page."""
        out = self.layout.out
        page = out / "report.html"
        return Stage(
            REPORT,
            "one page with claims, scores and curves",
            "all results in one place",
            ("report", str(out), "--out", str(page)),
            (page,),
            tuple(stage.name for stage in stages),
            self.scale.seconds.get(REPORT, 10.0),
            kind=REPORT,
        )


def result_paths(folder: Path, evaluation: StudyEvaluation, models: Sequence[str]) -> list[Path]:
    """Result files of the models of an evaluation in the folder of a seed."""
    if evaluation.separately:
        names = [f"{evaluation.name}-{model}" for model in models]
    else:
        names = [f"{evaluation.name}{'' if n == 1 else f'-{n}'}" for n in range(1, len(models) + 1)]
    return [folder / "results" / f"{name}.json" for name in names]


def path_argument(path: Path) -> str:
    """A folder as a command-line argument: a relative path gets ``./``, as ``a/b`` could be a repository of the hub."""
    return str(path) if path.is_absolute() or str(path).startswith(".") else f"./{path}"


def default_folder(study: Study, scale_name: str) -> Path:
    """Folder of a study at a scale below ``runs``."""
    if study.name == DEMO and scale_name == study.default_scale:
        return Path("runs") / DEMO
    return Path("runs") / f"{study.name}-{scale_name}"


def _yaml_value(value: Any) -> str:
    """A recipe value for the command line: JSON, which is YAML."""
    return json.dumps(value, ensure_ascii=False)
