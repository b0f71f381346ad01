"""What a run folder tells, whole or not: every file is read by itself, and what is missing or damaged is named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metalm_cli.config.renamed_keys import recorded_recipe
from metalm_cli.reports.reading.evaluation_summary import (
    EvaluationSummary,
    as_number,
    clusters_of_tasks,
    read_evaluations,
)
from metalm_cli.reports.reading.find_runs import SCORES, run_folders
from metalm_cli.reports.reading.lineage_view import valid_lineage
from metalm_cli.reports.reading.session_spans import SESSIONS, valid_sessions
from metalm_cli.reports.reading.tolerant_json import is_readable, load_json, object_of, printable, with_known_keys
from metalm_cli.runs import metrics_log
from metalm_cli.runs.folder import RESULTS, is_finished

Record = Mapping[str, Any]

LINKED = (
    "recipe.yaml",
    "metrics.jsonl",
    "data.json",
    "audit.json",
    "environment.json",
    SESSIONS,
    *RESULTS,
    "checkpoints",
)
"""What a report links to, where it is there."""
UNEVALUATED = "there is no evaluation yet"


@dataclass(frozen=True)
class RunSummary:
    """A run, as its folder tells of it.

    Args:
        path: The folder.
        name: What the report calls it.
        state: ``finished``, ``running``, ``unfinished``, or ``evaluated`` for a folder with results alone.
        training: Records of training, in the order of their steps.
        validation: Records of held-out data.
        recipe: The resolved recipe; empty where it cannot be read.
        recipe_text: The same as it stands there.
        environment: Versions and machine.
        data: What ``data.json`` holds.
        lineage: What the model has seen; empty while it is not finished.
        sessions: What ``sessions.json`` holds.
        evaluations: Result files.
        files: What is there to link to.
        problems: What is missing or damaged.
        elsewhere: Evaluations of it that lie in another folder that is read.
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
    elsewhere: tuple[EvaluationSummary, ...] = ()

    @property
    def steps(self) -> int | None:
        """Steps that the recipe asks for; None where it does not say."""
        steps = self.recipe.get("train", {}).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def last(self) -> Record:
        """The last record of training; empty where there is none."""
        return self.training[-1] if self.training else {}

    @property
    def state_text(self) -> str:
        """How far it is, in words."""
        done = int(self.last.get("step", 0))
        of = f" of {self.steps:,}" if self.steps else ""
        return {
            "finished": "finished",
            "evaluated": "results only, no training",
            "running": f"still going, step {done:,}{of} logged",
        }.get(self.state, f"not finished: stopped or crashed after step {done:,}{of}")


def read_runs(paths: Sequence[Path]) -> list[RunSummary]:
    """Read several runs; a folder of several stands for its runs. Runs of one name are told apart by their folders.

    Raises:
        MetalmError: A folder does not exist, cannot be read, or holds no run; all of it before anything is written.
    """
    folders = [one for path in paths for one in run_folders(Path(path))]
    unique = list({folder.resolve(): folder for folder in folders}.values())
    runs = _evaluated_elsewhere([read_run(folder) for folder in unique])
    names = [run.name for run in runs]
    for at, run in enumerate(runs):
        if names.count(run.name) > 1:
            parent = run.path.resolve().parent.name
            runs[at] = replace(run, name=f"{parent}/{run.name}")
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({names[:at].count(run.name) + 1})") if names.count(run.name) > 1 else run
        for at, run in enumerate(runs)
    ]


def _evaluated_elsewhere(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs; one whose results lie in another folder that is read has been evaluated, too."""
    places = {run.path.resolve(): run for run in runs if run.state != "evaluated"}
    found: dict[Path, list[EvaluationSummary]] = {}
    for run in runs:
        for one in run.evaluations:
            about = _about(one, places)
            if about is not None and places[about] is not run:
                found.setdefault(about, []).append(one)
    return [
        replace(
            run,
            elsewhere=tuple(found[run.path.resolve()]),
            problems=tuple(one for one in run.problems if not one.startswith(UNEVALUATED)),
        )
        if run.path.resolve() in found
        else run
        for run in runs
    ]


def _about(one: EvaluationSummary, places: Mapping[Path, RunSummary]) -> Path | None:
    """The run that an evaluation is about: at its model's place, or beside its results if all has been moved since."""
    source = str(one.model.get("source") or "")
    try:
        model = Path(os.path.realpath(os.path.expanduser(source)))  # of no user: as it stands
        here = model.exists()
    except (OSError, ValueError):  # nothing can be named so
        return None
    run = model.parent if model.name in RESULTS else model
    # A name with one slash at most may be one of the hub, and says nothing of where the model lay.
    moved = not here and (source.startswith(("/", "~", "./", "../")) or source.count("/") > 1)
    found = one.path.resolve().parent.parent / run.name if moved else run
    return found if source and found in places else None


def read_run(path: Path) -> RunSummary:
    """Read one run folder.

    Args:
        path: The folder.
    """
    problems: list[str] = []
    results = path / SCORES if (path / SCORES).is_dir() else path
    trained = (path / "recipe.yaml").exists() or (path / "metrics.jsonl").exists()
    evaluations = read_evaluations(results, problems) if results != path or not trained else []
    training, validation = _metrics(path, problems) if trained else ([], [])
    text, recipe = _recipe(path, problems) if trained else ("", {})
    state = _state(path) if trained else "evaluated"
    name = is_readable(path.resolve().name)
    facts = RunSummary(
        path=path,
        name=name,
        state=state,
        training=tuple(training),
        validation=tuple(validation),
        recipe=recipe,
        recipe_text=text,
        environment=_json(path / "environment.json", problems) if trained else {},
        data=_data(path, problems) if trained else {},
        lineage=_lineage(path, problems) if state == "finished" else {},
        sessions=valid_sessions(_json(path / SESSIONS, problems, wanted=False), problems),
        evaluations=_named(evaluations),
        files=tuple(one for one in (*(path / name for name in LINKED), *(e.path for e in evaluations)) if one.exists()),
        problems=(),
    )
    return replace(facts, problems=(*_state_problem(facts), *problems, *_missing(facts)))


def _metrics(path: Path, problems: list[str]) -> tuple[list[Record], list[Record]]:
    file = path / "metrics.jsonl"
    try:
        lines, damaged = metrics_log.read(file)
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror or error}")
        return [], []
    if not file.exists():
        problems.append("metrics.jsonl is missing: no curves")
    numbers = [one.removeprefix(f"{file}:").partition(":")[0] for one in damaged]
    problems += [f"metrics.jsonl: line {at} is damaged and left out" for at in numbers[:5]]
    if len(damaged) > 5:
        problems.append(f"metrics.jsonl: {len(damaged) - 5} more damaged lines are left out")
    values: list[str] = []
    records: list[Record] = [
        with_known_keys(one, "", values, {"cluster_loss": dict, "task_loss": dict})
        for one in map(object_of, lines)
        if one is not None
    ]
    sound = sorted((one for one in records if as_number(one.get("step")) is not None), key=lambda one: one["step"])
    parts = [[one for one in sound if one.get("split", "train") == split] for split in ("train", "validation")]
    of_none = len(sound) - sum(map(len, parts))
    for many, what in (
        (len(lines) - len(records), "records that are nested too deeply"),
        (len(records) - len(sound), "records without a step"),
        (of_none, "records of neither training nor validation"),
        (len(values), "damaged losses by cluster or task"),
    ):
        problems += [f"metrics.jsonl: {what}, left out: {many}"] if many else []
    return parts[0], parts[1]


def _recipe(path: Path, problems: list[str]) -> tuple[str, Mapping[str, Any]]:
    import yaml

    try:
        text = (path / "recipe.yaml").read_text(encoding="utf-8")
        recipe = printable(yaml.safe_load(text))
    except FileNotFoundError:
        problems.append("recipe.yaml is missing: it is not known what was asked for")
        return "", {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"recipe.yaml cannot be read: {' '.join(str(error).split())[:200]}")
        return "", {}
    if not isinstance(recipe, dict):
        problems.append("recipe.yaml is damaged: it is no mapping")
        return text, {}
    return text, with_known_keys(recorded_recipe(recipe), "recipe.yaml", problems, {"train": dict, "model": dict})


def _json(path: Path, problems: list[str], *, wanted: bool = True) -> Mapping[str, Any]:
    try:
        found = load_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        problems += [f"{path.name} is missing"] if wanted else []
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {' '.join(str(error).split())[:200]}")
        return {}
    return found


def _lineage(path: Path, problems: list[str]) -> Mapping[str, Any]:
    places = [path / name / "lineage.json" for name in RESULTS]
    return valid_lineage(_json(next((one for one in places if one.exists()), places[0]), problems), problems)


def _data(path: Path, problems: list[str]) -> Mapping[str, Any]:
    return with_known_keys(_json(path / "data.json", problems), "data.json", problems, entries={"sources": dict})


def _named(evaluations: Sequence[EvaluationSummary]) -> tuple[EvaluationSummary, ...]:
    """Evaluations of one model by one protocol are told apart by their files."""
    labels = [(one.label, str(one.model.get("source", ""))) for one in evaluations]
    return tuple(
        replace(one, label=one.path.stem) if labels.count(label) > 1 else one
        for one, label in zip(evaluations, labels, strict=True)
    )


def answers(facts: RunSummary) -> bool:
    """Whether a run makes a model that answers; an encoder alone answers nothing."""
    model = facts.recipe.get("model")
    return not model or bool(model.get("decoder", "unknown") or model.get("checkpoint"))


def evaluate_command(facts: RunSummary) -> str:
    """The command that evaluates a run on clusters of what it was trained on; of anything else, on the core tasks."""
    of = clusters_of_tasks()
    sources = [one for one in facts.data.get("sources", []) if isinstance(one.get("name"), str)]
    found = {"world" if one.get("kind") == "world" else of.get(one["name"]) for one in sources}
    return f"metalm evaluate {facts.path} --cluster {','.join(sorted(filter(None, found))) or 'core'}"


def _state(path: Path) -> str:
    if is_finished(path):
        return "finished"
    return "running" if _locked(path / ".lock") else "unfinished"


def _locked(path: Path) -> bool:
    """Whether a process writes the run. The lock is only asked for to read, and let go at once."""
    try:
        import fcntl

        with path.open("rb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    except (ImportError, OSError):
        pass
    return False


def _state_problem(facts: RunSummary) -> list[str]:
    if facts.state in ("finished", "evaluated"):
        return []
    more = "; --resume goes on from its newest checkpoint" if facts.state == "unfinished" else ""
    return [f"the run is {facts.state_text}{more}"]


def _missing(facts: RunSummary) -> list[str]:
    found = []
    if facts.state != "evaluated" and (facts.path / "metrics.jsonl").exists():
        if not facts.training:
            found.append("nothing is logged of training yet")
        elif not facts.validation:
            found.append("held-out data was not validated on")
        bad = sorted({one["step"] for one in (*facts.training, *facts.validation) if one.get("nonfinite")})
        steps = f"{len(bad)} logged step{'s' if len(bad) > 1 else ''}"
        found += [f"values were not finite in {steps}, first at step {bad[0]:,}"] if bad else []
    if not facts.evaluations and answers(facts):
        found.append(f"{UNEVALUATED}: {evaluate_command(facts)}")
    if facts.evaluations and not any(one.answers for one in facts.evaluations):
        found.append("no answers are kept to look at: metalm evaluate with --save-samples")
    found += [f"{one.path.name}: the evaluation was cut short" for one in facts.evaluations if not one.complete]
    return found
