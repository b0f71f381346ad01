"""What a run folder tells, whole or not: every file is read by itself, and what is missing or damaged is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.reports.score_facts import Evaluation, number, read_evaluations
from metalm_cli.reports.spans import SESSIONS
from metalm_cli.training import metrics
from metalm_cli.training.run_folder import RESULTS, is_finished

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
class RunFacts:
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
    evaluations: tuple[Evaluation, ...]
    files: tuple[Path, ...]
    problems: tuple[str, ...]

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


def read_runs(paths: Sequence[Path]) -> list[RunFacts]:
    """Read several runs; a folder of seeds stands for its runs. Runs of the same name are told apart by their folders.

    Raises:
        MetalmError: A folder does not exist, cannot be read, or holds no run; all of it before anything is written.
    """
    folders = [one for path in paths for one in _folders(Path(path))]
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


def _evaluated_elsewhere(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The runs; one whose results lie in another folder that is read has been evaluated, too."""
    sources = {
        Path(str(one.model["source"])).expanduser().resolve()
        for run in runs
        for one in run.evaluations
        if one.model.get("source")
    }
    models = sources | {one.parent for one in sources if one.name in RESULTS}
    return [
        replace(run, problems=tuple(one for one in run.problems if not one.startswith(UNEVALUATED)))
        if run.path.resolve() in models
        else run
        for run in runs
    ]


def _folders(path: Path) -> list[Path]:
    """The runs that a path names: itself, the run around its model, or its seeds."""
    if not path.exists():
        raise MetalmError("there is no such run", where=str(path), remedy="name a run folder, as runs/latest")
    if path.is_file():
        raise MetalmError(
            "a report is of a run folder, and this is a file", where=str(path), remedy=f"name its folder: {path.parent}"
        )
    try:
        inside = {one.name for one in path.iterdir()}
    except OSError as error:
        raise MetalmError("the run cannot be read", where=str(path), why=error.strerror or str(error)) from error
    if inside & {"recipe.yaml", "metrics.jsonl"} or "results" in inside:
        return [path]
    if path.name in RESULTS and (path.resolve().parent / "recipe.yaml").is_file():
        return [path.resolve().parent]
    seeds = sorted(path.glob("seed-*/"), key=lambda one: (len(one.name), one.name))
    seeds = [one for one in seeds if (one / "recipe.yaml").is_file()]
    if seeds:
        return seeds
    if any(_is_results(one) for one in path.glob("*.json")):
        return [path]
    runs = sorted(one.parent.name for one in path.glob("*/recipe.yaml") if one.parent.name != "latest")
    few = ", ".join(str(path / name) for name in runs[:3])
    raise MetalmError(
        "this folder is no run",
        where=str(path),
        why="it holds no recipe.yaml, no metrics.jsonl and no results",
        remedy=f"name one of the runs in it: {few}" if runs else "name the folder that --out named, or runs/latest",
    )


def _is_results(path: Path) -> bool:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "tasks" in record and "format" in record


def read_run(path: Path) -> RunFacts:
    """Read one run folder.

    Args:
        path: The folder.
    """
    problems: list[str] = []
    results = path / "results" if (path / "results").is_dir() else path
    trained = (path / "recipe.yaml").exists() or (path / "metrics.jsonl").exists()
    evaluations = read_evaluations(results, problems) if results != path or not trained else []
    training, validation = _metrics(path, problems) if trained else ([], [])
    text, recipe = _recipe(path, problems) if trained else ("", {})
    state = _state(path) if trained else "evaluated"
    name = path.resolve().name
    facts = RunFacts(
        path=path,
        name=name,
        state=state,
        training=tuple(training),
        validation=tuple(validation),
        recipe=recipe,
        recipe_text=text,
        environment=_json(path / "environment.json", problems) if trained else {},
        data=_json(path / "data.json", problems) if trained else {},
        lineage=_lineage(path, problems) if state == "finished" else {},
        sessions=_json(path / SESSIONS, problems, wanted=False),
        evaluations=_named(evaluations),
        files=tuple(one for one in (*(path / name for name in LINKED), *(e.path for e in evaluations)) if one.exists()),
        problems=(),
    )
    return replace(facts, problems=(*_state_problem(facts), *problems, *_missing(facts)))


def _metrics(path: Path, problems: list[str]) -> tuple[list[Record], list[Record]]:
    file = path / "metrics.jsonl"
    try:
        records, damaged = metrics.read(file)
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror or error}")
        return [], []
    if not file.exists():
        problems.append("metrics.jsonl is missing: no curves")
    problems += [
        f"metrics.jsonl: line {one.removeprefix(f'{file}:').partition(':')[0]} is damaged and left out"
        for one in damaged[:5]
    ]
    if len(damaged) > 5:
        problems.append(f"metrics.jsonl: {len(damaged) - 5} more damaged lines are left out")
    sound = [one for one in records if number(one.get("step")) is not None]
    if len(sound) < len(records):
        problems.append(f"metrics.jsonl: {len(records) - len(sound)} records without a step are left out")
    sound.sort(key=lambda one: one["step"])
    return (
        [one for one in sound if one.get("split", "train") == "train"],
        [one for one in sound if one.get("split") == "validation"],
    )


def _recipe(path: Path, problems: list[str]) -> tuple[str, Mapping[str, Any]]:
    import yaml

    try:
        text = (path / "recipe.yaml").read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
    except FileNotFoundError:
        problems.append("recipe.yaml is missing: it is not known what was asked for")
        return "", {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"recipe.yaml cannot be read: {' '.join(str(error).split())[:200]}")
        return "", {}
    if not isinstance(recipe, dict) or not isinstance(recipe.get("train", {}), dict):
        problems.append("recipe.yaml is damaged: it is no mapping")
        return text, {}
    return text, recipe


def _json(path: Path, problems: list[str], *, wanted: bool = True) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
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
    return _json(next((one for one in places if one.exists()), places[0]), problems)


def _named(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """Evaluations of one model by one protocol are told apart by their files."""
    labels = [(one.label, str(one.model.get("source", ""))) for one in evaluations]
    return tuple(
        replace(one, label=one.path.stem) if labels.count(label) > 1 else one
        for one, label in zip(evaluations, labels, strict=True)
    )


def _encoder_alone(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe makes a model that answers nothing."""
    model = recipe.get("model")
    return isinstance(model, dict) and not model.get("decoder", "unknown") and not model.get("checkpoint")


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


def _state_problem(facts: RunFacts) -> list[str]:
    if facts.state in ("finished", "evaluated"):
        return []
    more = "; --resume goes on from its newest checkpoint" if facts.state == "unfinished" else ""
    return [f"the run is {facts.state_text}{more}"]


def _missing(facts: RunFacts) -> list[str]:
    found = []
    if facts.state != "evaluated" and (facts.path / "metrics.jsonl").exists():
        if not facts.training:
            found.append("nothing is logged of training yet")
        elif not facts.validation:
            found.append("held-out data was not validated on")
        bad = [one for one in facts.training if one.get("nonfinite")]
        found += [f"values were not finite in {len(bad)} logged steps, first at step {bad[0]['step']:,}"] if bad else []
    if not facts.evaluations and not _encoder_alone(facts.recipe):
        found.append(f"{UNEVALUATED}: metalm evaluate {facts.path} --cluster core")
    if facts.evaluations and not any(one.answers for one in facts.evaluations):
        found.append("no answers are kept to look at: metalm evaluate with --save-samples")
    found += [f"{one.path.name}: the evaluation was cut short" for one in facts.evaluations if not one.complete]
    return found
