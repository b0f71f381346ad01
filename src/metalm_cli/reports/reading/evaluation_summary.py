"""Summaries of result files: scores of tasks and clusters, confusion matrices, and saved answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from metalm_cli.reports.reading.tolerant_json import load_json, read_jsonl, with_valid_values

RESULT_FORMAT = 2
"""Format version of the result files that are read."""
SAMPLES_SUFFIX = ".samples.jsonl"
Z_95 = 1.96
"""Half the width of a normal 95% interval, in standard errors."""
MAX_CLASSES = 12
"""Largest number of distinct answers that count as classes."""
OTHER_ANSWER = "another answer"
Interval = tuple[float | None, float | None]
"""Ends of a 95% interval; None if unknown."""
IntervalTable = Mapping[tuple[tuple[str, ...], int], Interval]
"""Intervals of tasks or clusters, by name and number of demonstrations."""


@dataclass(frozen=True)
class TemplateScore:
    """Score of a task in one template, 0 to 100."""

    template: str
    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of predictions by target: ``counts[target][prediction]``.

    ``predictions`` may have one more entry, for answers that are not a target of any example.
    """

    targets: tuple[str, ...]
    predictions: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    template: str


@dataclass(frozen=True)
class TaskScore:
    """Score of a task with a number of demonstrations: mean over templates (0 to 100), spread, and chance level.

    Args:
        low: Lower end of the 95% interval; None if the file has none.
        spread: Standard deviation over templates.
        oracle: The best template and its score.
        chance: The better of guessing uniformly and of always giving the most frequent answer.
        n: Number of examples per template.
    """

    task: str
    cluster: str
    core: bool
    metric: str
    seen: str
    shots: int
    score: float | None
    low: float | None
    high: float | None
    spread: float | None
    oracle: tuple[str, float] | None
    chance: float | None
    n: int
    templates: tuple[TemplateScore, ...]
    confusion: ConfusionMatrix | None = None


@dataclass(frozen=True)
class ClusterScore:
    """Mean score of a cluster's tasks, or of all clusters (with an empty cluster name).

    The interval is that of the only task, if there is just one; else the normal interval of the standard error.
    """

    cluster: str
    shots: int
    value: float
    low: float | None
    high: float | None
    members: tuple[str, ...]


@dataclass(frozen=True)
class AnswerSample:
    """One answer of a model; ``score`` is 0 to 1."""

    task: str
    template: str
    shots: int
    row: str
    input_text: str
    target: str
    prediction: str
    score: float | None


@dataclass(frozen=True)
class EvaluationSummary:
    """One result file.

    Args:
        path: The file.
        label: Label in the report.
        protocol: Evaluation protocol.
        created: Time of creation in ISO 8601.
        complete: False if the evaluation was interrupted and tasks are missing.
        model: Record of the model in the file.
        settings: Settings of the evaluation.
        tasks: Scores, one for each task and number of demonstrations.
        clusters: Mean scores of clusters.
        means: Means over clusters, for each number of demonstrations.
        missing: Tasks without a score, with the reasons.
        answers: Answers in the samples file next to it.
    """

    path: Path
    label: str
    protocol: str
    created: str
    complete: bool
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    tasks: tuple[TaskScore, ...]
    clusters: tuple[ClusterScore, ...]
    means: tuple[ClusterScore, ...]
    missing: Mapping[str, str]
    answers: tuple[AnswerSample, ...] = ()


def read_evaluations(folder: Path, problems: list[str]) -> list[EvaluationSummary]:
    """Read all result files of a folder, oldest first, without old, damaged and foreign files.

    Args:
        folder: Folder of ``*.json`` files; it need not exist.
        problems: Collects a line for each file that is left out, and for damage in the others.
    """
    evaluations = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = load_json(path.read_bytes())
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
            version = record.get("format")
            if version != RESULT_FORMAT:
                is_old = isinstance(version, int) and version < RESULT_FORMAT
                why = (
                    f"an older format ({version}); evaluate again"
                    if is_old
                    else f"not results of format {RESULT_FORMAT}"
                )
                problems.append(f"{folder.name}/{path.name} is left out: {why}")
                continue
            settings = with_valid_values(
                dict(record.get("settings", {})), f"{folder.name}/{path.name}", problems, {"style": dict}
            )
            evaluations.append(_with_answers(_evaluation(path, record | {"settings": settings}), problems))
        except OSError as error:
            problems.append(f"{folder.name}/{path.name} cannot be read: {error.strerror or error}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(f"{folder.name}/{path.name} is damaged and left out ({type(error).__name__}: {error})")
    return sorted(evaluations, key=lambda evaluation: (evaluation.created, evaluation.path.stem))


def _evaluation(path: Path, record: Mapping[str, Any]) -> EvaluationSummary:
    tasks = [score for name, task in record["tasks"].items() for score in _task_scores(name, task)]
    task_intervals: IntervalTable = {((score.task,), score.shots): (score.low, score.high) for score in tasks}
    clusters = [
        _mean_score(name, int(shots), mean, task_intervals)
        for shots, shot_means in record.get("clusters", {}).items()
        for name, mean in shot_means.items()
    ]
    cluster_intervals: IntervalTable = {((mean.cluster,), mean.shots): (mean.low, mean.high) for mean in clusters}
    means = [
        _mean_score("", int(shots), mean, cluster_intervals) for shots, mean in record.get("mean", {}).items() if mean
    ]
    protocol = str(record.get("protocol", "?"))
    return EvaluationSummary(
        path=path,
        label=protocol.replace("_", "-"),
        protocol=protocol,
        created=str(record.get("created", "")),
        complete=bool(record.get("complete", True)),
        model=dict(record.get("model", {})),
        settings=record["settings"],
        tasks=tuple(tasks),
        clusters=tuple(clusters),
        means=tuple(means),
        missing={str(name): str(why) for name, why in record.get("missing", {}).items()},
    )


def _task_scores(name: str, task: Mapping[str, Any]) -> Iterator[TaskScore]:
    for setting in task["settings"]:
        templates = setting["templates"]
        interval = _recorded_interval(setting)
        oracle = setting.get("oracle")
        yield TaskScore(
            task=name,
            cluster=str(task["cluster"]),
            core=bool(task.get("core")),
            metric=str(task["metric"]),
            seen=str(task.get("seen", {}).get("label", "unknown")),
            shots=int(setting["shots"]),
            score=as_number(setting["score"]),
            low=interval[0],
            high=interval[1],
            spread=as_number(setting.get("spread")),
            oracle=(str(oracle["template"]), _finite_score(oracle["score"])) if oracle else None,
            chance=_chance_level(templates),
            n=max((int(template["n"]) for template in templates), default=0),
            templates=tuple(
                TemplateScore(str(template["template"]), as_number(template["score"]), *_recorded_interval(template))
                for template in templates
            ),
            confusion=next((_confusion_of_classes(name, template) for template in templates), None),
        )


def _mean_score(name: str, shots: int, record: Mapping[str, Any], intervals: IntervalTable) -> ClusterScore:
    """Parse a mean score; a mean of a single task or cluster gets that one's interval."""
    value, members = _finite_score(record["value"]), tuple(map(str, record.get("of", ())))
    low, high = intervals.get((members, shots)) or _normal_interval(value, as_number(record.get("error")))
    return ClusterScore(name, shots, value, low, high, members)


def _finite_score(value: Any) -> float:
    """A score as a finite number.

    Raises:
        ValueError: The value is not a finite number.
    """
    plain = as_number(value)
    if plain is None:
        raise ValueError(f"{value!r} is not a score"[:100])
    return plain


def _normal_interval(score: float | None, error: float | None) -> Interval:
    """Normal 95% interval; it may extend below 0 or above 100."""
    return (None, None) if score is None or error is None else (score - Z_95 * error, score + Z_95 * error)


def _recorded_interval(record: Mapping[str, Any]) -> Interval:
    """Interval of a record, or else the normal interval of its standard error."""
    interval = record.get("interval")
    if isinstance(interval, list) and len(interval) == 2:
        return as_number(interval[0]), as_number(interval[1])
    return _normal_interval(as_number(record.get("score")), as_number(record.get("error")))


def _chance_level(templates: Sequence[Mapping[str, Any]]) -> float | None:
    levels = [as_number(level) for template in templates for level in (template.get("chance") or {}).values()]
    return max((level for level in levels if level is not None), default=None)


def as_number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer that is too large for a float
        return None


# -- confusion matrices ----------------------------------------------------------------------------------------------


def _confusion_of_classes(task: str, template: Mapping[str, Any]) -> ConfusionMatrix | None:
    """Confusion matrix of a metric over a whole split, from the predicted and target classes in the file."""
    per_row = template.get("each") or {}
    if "found" not in per_row or "right" not in per_row or len(set(per_row["right"])) > MAX_CLASSES:
        return None
    if not all(isinstance(label, int) for label in (*per_row["found"], *per_row["right"])):
        return None  # values of a correlation
    names = class_names(task)

    def class_name(index: int) -> str:
        return names[index] if index < len(names) else f"class {index}"

    return confusion_matrix(
        [
            (class_name(target), class_name(prediction))
            for target, prediction in zip(per_row["right"], per_row["found"], strict=True)
        ],
        str(template["template"]),
    )


@cache
def class_names(task: str) -> tuple[str, ...]:
    """Class names of a task from its shipped card; empty if there is no card with classes."""
    from metalm_cli.tasks import Cards

    return next((tuple(card.verbalizers) for card in Cards().all() if card.name == task), ())


@cache
def clusters_of_tasks() -> Mapping[str, str]:
    """Cluster of each shipped task."""
    from metalm_cli.tasks import Cards

    return {card.name: card.cluster for card in Cards().all()}


def confusion_matrix(pairs: Sequence[tuple[str, str]], template: str) -> ConfusionMatrix | None:
    """Count pairs of target and prediction; None if the answers are not classes.

    Answers are classes if there are few distinct targets with several examples each.
    """
    targets = sorted({target for target, _ in pairs})
    if len(targets) < 2 or len(targets) > MAX_CLASSES or len(targets) * 4 > len(pairs):
        return None
    counts = Counter((target, prediction if prediction in targets else OTHER_ANSWER) for target, prediction in pairs)
    predictions = [*targets, *([OTHER_ANSWER] if any(prediction == OTHER_ANSWER for _, prediction in counts) else [])]
    return ConfusionMatrix(
        tuple(targets),
        tuple(predictions),
        tuple(tuple(counts[target, prediction] for prediction in predictions) for target in targets),
        template,
    )


# -- answers ----------------------------------------------------------------------------------------------------------


def _with_answers(evaluation: EvaluationSummary, problems: list[str]) -> EvaluationSummary:
    """The evaluation with its answers and with their confusion matrices."""
    path = evaluation.path.with_name(evaluation.path.stem + SAMPLES_SUFFIX)
    try:
        records = read_jsonl(path)
    except FileNotFoundError:
        return evaluation
    except OSError as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read: {error.strerror or error}")
        return evaluation
    parsed = [_parse_answer(record) for record in records]
    answers = [answer for answer in parsed if answer is not None]
    damaged = len(parsed) - len(answers)
    if damaged:
        problems.append(f"{path.parent.name}/{path.name}: {damaged} damaged line{'s' if damaged > 1 else ''} left out")
    return replace(
        evaluation,
        answers=tuple(answers),
        tasks=tuple(
            replace(task, confusion=_confusion_of_answers(task, answers) or task.confusion) for task in evaluation.tasks
        ),
    )


def _parse_answer(record: Mapping[str, Any] | None) -> AnswerSample | None:
    try:
        return (
            None
            if record is None
            else AnswerSample(
                str(record["task"]),
                str(record["template"]),
                int(record["shots"]),
                str(record["id"]).rpartition("/")[2],
                str(record["input"]),
                str(record["target"]),
                str(record["prediction"]),
                as_number(record["score"]),
            )
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _confusion_of_answers(task: TaskScore, answers: Sequence[AnswerSample]) -> ConfusionMatrix | None:
    """Confusion matrix of the answers in the task's first template."""
    task_answers = [answer for answer in answers if answer.task == task.task and answer.shots == task.shots]
    template_answers = [answer for answer in task_answers if answer.template == task_answers[0].template]
    return (
        confusion_matrix(
            [(answer.target, answer.prediction) for answer in template_answers], template_answers[0].template
        )
        if template_answers
        else None
    )
