"""Summary of a run folder: each file is read separately, and missing or damaged parts are listed as problems."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metalm_cli.common.paths import read_regular
from metalm_cli.config.renamed_keys import with_current_recipe_keys
from metalm_cli.reports.reading.evaluation_summary import (
    EvaluationSummary,
    as_number,
    clusters_of_tasks,
    read_evaluations,
)
from metalm_cli.reports.reading.find_runs import SCORES_FOLDER, run_folders
from metalm_cli.reports.reading.lineage_view import valid_lineage
from metalm_cli.reports.reading.session_spans import SESSIONS_FILE, valid_sessions
from metalm_cli.reports.reading.tolerant_json import as_object, encodable, encodable_text, load_json, with_valid_values
from metalm_cli.runs import metrics_log, part_changes
from metalm_cli.runs.dock_worth import KEY, reason_unmeasured
from metalm_cli.runs.find import RESULTS, STAGES_FOLDER, run_of_result
from metalm_cli.runs.folder import run_state

Record = Mapping[str, Any]
SEPARATE_LOSSES = (
    ("continuation-loss", "Loss of continuation", "continuation_loss"),
    ("reconstruction-loss", "Loss of reconstruction", "reconstruction_loss"),
    ("kl", "Divergence from the teacher", "kl"),
)
"""Losses that objectives record besides the loss: name and title of their figure, and their key."""

LINKED_FILES = (
    "recipe.yaml",
    "metrics.jsonl",
    "data.json",
    "audit.json",
    "environment.json",
    SESSIONS_FILE,
    *RESULTS,
    "checkpoints",
)
"""Files and folders that a report links to if they exist."""
NOT_EVALUATED = "there is no evaluation yet"


@dataclass(frozen=True)
class RunSummary:
    """Contents of a run folder.

    Args:
        path: The folder.
        name: Name in the report.
        state: ``finished``, ``running``, ``unfinished``, or ``evaluated`` for a folder with results alone.
        training: Records of training, in the order of their steps.
        validation: Records of held-out data.
        recipe: The resolved recipe; empty if it cannot be read.
        recipe_text: Text of the recipe file.
        environment: Versions and machine.
        data: Content of ``data.json``.
        lineage: Lineage of the model; empty while the run is not finished.
        sessions: First ``rows`` and last ``continuations`` from ``sessions.json``.
        evaluations: Summaries of the result files.
        files: Existing files and folders to link to.
        problems: Missing and damaged parts.
        external_evaluations: Evaluations of this run in the folders of other runs that are read.
        task_scores: Records of the evaluation on tasks during training.
        changes: Change of the weights of each part; empty while the run is not finished.
    """

    path: Path
    name: str
    state: str
    training: tuple[Record, ...]
    validation: tuple[Record, ...]
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    lineage: Mapping[str, Any]
    sessions: Mapping[str, Any]
    evaluations: tuple[EvaluationSummary, ...]
    files: tuple[Path, ...]
    problems: tuple[str, ...]
    external_evaluations: tuple[EvaluationSummary, ...] = ()
    task_scores: tuple[Record, ...] = ()
    changes: Mapping[str, part_changes.PartChange] = field(default_factory=dict)

    @property
    def steps(self) -> int | None:
        """Number of steps in the recipe; None if it is missing."""
        steps = self.recipe.get("train", {}).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def last_record(self) -> Record:
        """Last record of training; empty if there is none."""
        return self.training[-1] if self.training else {}

    @property
    def state_text(self) -> str:
        """State of the run in words, with the number of steps."""
        step = int(self.last_record.get("step", 0))
        total = f" of {self.steps:,}" if self.steps else ""
        return {
            "finished": "finished",
            "evaluated": "results only, no training",
            "running": f"still running, step {step:,}{total} logged",
        }.get(self.state, f"not finished: stopped or crashed after step {step:,}{total}")


def read_runs(paths: Sequence[Path]) -> list[RunSummary]:
    """Read several runs; a folder of several runs names all of them. Runs of the same name get their parent's name.

    Raises:
        MetalmError: A folder does not exist, cannot be read, or has no run.
    """
    folders = [folder for path in paths for folder in run_folders(Path(path))]
    unique = list({folder.resolve(): folder for folder in folders}.values())
    runs = _with_external_evaluations([read_run(folder) for folder in unique])
    names = [run.name for run in runs]
    for index, run in enumerate(runs):
        if names.count(run.name) > 1:
            parent = run.path.resolve().parent
            parent = parent.parent if parent.name == STAGES_FOLDER else parent
            runs[index] = replace(run, name=f"{parent.name}/{run.name}")
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({names[:index].count(run.name) + 1})") if names.count(run.name) > 1 else run
        for index, run in enumerate(runs)
    ]


def _with_external_evaluations(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs with their evaluations in the folders of other runs."""
    runs_by_path = {run.path.resolve(): run for run in runs if run.state != "evaluated"}
    evaluations_by_run: dict[Path, list[EvaluationSummary]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            run_path = _evaluated_run(evaluation, runs_by_path)
            if run_path is not None and runs_by_path[run_path] is not run:
                evaluations_by_run.setdefault(run_path, []).append(evaluation)
    return [
        replace(
            run,
            external_evaluations=tuple(evaluations_by_run[run.path.resolve()]),
            problems=tuple(problem for problem in run.problems if not problem.startswith(NOT_EVALUATED)),
        )
        if run.path.resolve() in evaluations_by_run
        else run
        for run in runs
    ]


def _evaluated_run(evaluation: EvaluationSummary, runs: Mapping[Path, RunSummary]) -> Path | None:
    """Path of the run whose model was evaluated: as recorded, or next to its results if the run was moved with them."""
    source = str(evaluation.record.model.get("source") or "")
    try:
        model_path = Path(os.path.realpath(os.path.expanduser(source)))  # an unknown user is kept as it is
        exists = model_path.exists()
    except (OSError, ValueError):  # not a valid path
        return None
    folder = model_path.parent if model_path.name in RESULTS else run_of_result(model_path)
    # A name with at most one slash may be a repository of the hub, which has no location.
    moved = not exists and (source.startswith(("/", "~", "./", "../")) or source.count("/") > 1)
    run_folder = evaluation.path.resolve().parent.parent / folder.name if moved else folder
    return run_folder if source and run_folder in runs else None


def read_run(path: Path) -> RunSummary:
    """Read one run folder.

    Args:
        path: The folder.
    """
    problems: list[str] = []
    results = path / SCORES_FOLDER if (path / SCORES_FOLDER).is_dir() else path
    trained = (path / "recipe.yaml").exists() or (path / "metrics.jsonl").exists()
    evaluations = read_evaluations(results, problems) if results != path or not trained else []
    training, validation, task_scores, changes = _read_metrics(path, problems) if trained else ([], [], [], [])
    text, recipe = _read_recipe(path, problems) if trained else ("", {})
    state = run_state(path) if trained else "evaluated"
    name = encodable_text(path.resolve().name)
    run = RunSummary(
        path=path,
        name=name,
        state=state,
        training=tuple(training),
        validation=tuple(validation),
        recipe=recipe,
        recipe_text=text,
        environment=_read_json(path / "environment.json", problems) if trained else {},
        data=_read_data(path, problems) if trained else {},
        lineage=_read_lineage(path, problems) if state == "finished" else {},
        sessions=valid_sessions(_read_json(path / SESSIONS_FILE, problems, required=False), problems),
        evaluations=_with_unique_labels(evaluations),
        files=tuple(
            file
            for file in (*(path / name for name in LINKED_FILES), *(evaluation.path for evaluation in evaluations))
            if file.exists()
        ),
        problems=(),
        task_scores=tuple(task_scores),
        changes=part_changes.part_changes(changes[-1]) if changes else {},
    )
    return replace(run, problems=(*_state_problem(run), *problems, *_missing_parts(run)))


def _read_metrics(path: Path, problems: list[str]) -> tuple[list[Record], list[Record], list[Record], list[Record]]:
    """Records of training, of validation, of the evaluation on tasks, and of the change of the parts."""
    file = path / "metrics.jsonl"
    try:
        lines, damaged = metrics_log.read_metrics(file)
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror or error}")
        return [], [], [], []
    if not file.exists():
        problems.append("metrics.jsonl is missing: there are no curves")
    numbers = [entry.removeprefix(f"{file}:").partition(":")[0] for entry in damaged]
    problems += [f"metrics.jsonl: line {number} is damaged and left out" for number in numbers[:5]]
    if len(damaged) > 5:
        problems.append(f"metrics.jsonl: {len(damaged) - 5} more damaged lines are left out")
    values: list[str] = []
    records: list[Record] = [
        with_valid_values(record, "", values, dict.fromkeys(("cluster_loss", "task_loss", "scores", KEY), dict))
        for record in map(as_object, lines)
        if record is not None
    ]
    valid = sorted(
        (record for record in records if as_number(record.get("step")) is not None), key=lambda record: record["step"]
    )
    by_split = [
        [record for record in valid if record.get("split", "train") == split]
        for split in ("train", "validation", "evaluation", part_changes.SPLIT)
    ]
    of_other_splits = len(valid) - sum(map(len, by_split))
    for number, description in (
        (len(lines) - len(records), "records that are nested too deeply"),
        (len(records) - len(valid), "records without a step"),
        (of_other_splits, "records of neither training, validation nor evaluation"),
        (len(values), "damaged losses, scores or worth of docks"),
    ):
        problems += [f"metrics.jsonl: {description}, left out: {number}"] if number else []
    return by_split[0], by_split[1], by_split[2], by_split[3]


def _read_recipe(path: Path, problems: list[str]) -> tuple[str, Mapping[str, Any]]:
    import yaml

    try:
        text = read_regular(path / "recipe.yaml").decode("utf-8")
        recipe = encodable(yaml.safe_load(text))
    except FileNotFoundError:
        problems.append("recipe.yaml is missing: the settings of the run are unknown")
        return "", {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"recipe.yaml cannot be read: {' '.join(str(error).split())[:200]}")
        return "", {}
    if not isinstance(recipe, dict):
        problems.append("recipe.yaml is damaged: not a mapping")
        return text, {}
    return text, with_valid_values(
        with_current_recipe_keys(recipe), "recipe.yaml", problems, {"train": dict, "model": dict}
    )


def _read_json(path: Path, problems: list[str], *, required: bool = True) -> Mapping[str, Any]:
    try:
        content = load_json(read_regular(path))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        problems += [f"{path.name} is missing"] if required else []
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {' '.join(str(error).split())[:200]}")
        return {}
    return content


def _read_lineage(path: Path, problems: list[str]) -> Mapping[str, Any]:
    paths = [path / name / "lineage.json" for name in RESULTS]
    return valid_lineage(
        _read_json(next((candidate for candidate in paths if candidate.exists()), paths[0]), problems), problems
    )


def _read_data(path: Path, problems: list[str]) -> Mapping[str, Any]:
    return with_valid_values(_read_json(path / "data.json", problems), "data.json", problems, entries={"sources": dict})


def _with_unique_labels(evaluations: Sequence[EvaluationSummary]) -> tuple[EvaluationSummary, ...]:
    """Evaluations with unique labels: those of the same model and protocol are named after their files."""
    labels = [(evaluation.label, str(evaluation.record.model.get("source", ""))) for evaluation in evaluations]
    return tuple(
        replace(evaluation, label=evaluation.path.stem) if labels.count(label) > 1 else evaluation
        for evaluation, label in zip(evaluations, labels, strict=True)
    )


def can_answer(run: RunSummary) -> bool:
    """Whether a run makes a model that generates answers; an encoder alone does not."""
    model = run.recipe.get("model")
    return not model or bool(model.get("decoder", "unknown") or model.get("checkpoint"))


def evaluate_command(run: RunSummary) -> str:
    """Command that evaluates a run on the clusters that it was trained on, or else on the core tasks."""
    cluster_by_task = clusters_of_tasks()
    sources = [source for source in run.data.get("sources", []) if isinstance(source.get("name"), str)]
    clusters = {"world" if source.get("kind") == "world" else cluster_by_task.get(source["name"]) for source in sources}
    return f"metalm evaluate {run.path} --cluster {','.join(sorted(filter(None, clusters))) or 'core'}"


def _state_problem(run: RunSummary) -> list[str]:
    if run.state in ("finished", "evaluated"):
        return []
    remedy = "; --resume continues from its newest checkpoint" if run.state == "unfinished" else ""
    return [f"the run is {run.state_text}{remedy}"]


def _missing_parts(run: RunSummary) -> list[str]:
    problems = []
    if run.state != "evaluated" and (run.path / "metrics.jsonl").exists():
        if not run.training:
            problems.append("no training step is logged yet")
        elif not run.validation:
            problems.append("there is no validation on held-out data")
        reason = reason_unmeasured(run.validation[-1]) if run.validation else ""
        problems += [f"what docks are worth is not measured: {reason}"] if reason else []
        nonfinite_steps = sorted(
            {record["step"] for record in (*run.training, *run.validation) if record.get("nonfinite")}
        )
        steps = f"{len(nonfinite_steps)} logged step{'s' if len(nonfinite_steps) > 1 else ''}"
        problems += (
            [f"values are not finite in {steps}, first at step {nonfinite_steps[0]:,}"] if nonfinite_steps else []
        )
    if not run.evaluations and can_answer(run):
        problems.append(f"{NOT_EVALUATED}: {evaluate_command(run)}")
    if run.evaluations and not any(evaluation.answers for evaluation in run.evaluations):
        problems.append("no answers are saved: run metalm evaluate with --save-samples")
    problems += [
        f"{evaluation.path.name}: the evaluation is incomplete"
        for evaluation in run.evaluations
        if not evaluation.record.complete
    ]
    return problems
