"""Summaries of result files: scores of tasks and clusters, confusion matrices, and saved answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metalm_cli.common.paths import read_regular
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.bootstrap import interval_of_mean
from metalm_cli.evaluation.results.result_paths import samples_path
from metalm_cli.evaluation.results.result_reader import parse_result
from metalm_cli.evaluation.results.schema import (
    MeanRecord,
    ResultRecord,
    SampleRecord,
    SettingRecord,
    TaskRecord,
    TemplateRecord,
)
from metalm_cli.reports.reading.tolerant_json import load_json, read_jsonl, with_valid_values

Z_95 = 1.96
"""Half the width of a normal 95% interval, in standard errors."""
MAX_CLASSES = 12
"""Largest number of distinct answers that count as classes."""
OTHER_ANSWER = "another answer"
Interval = tuple[float | None, float | None]
"""Ends of a 95% interval; None if unknown."""
ScoreTable = Mapping[tuple[str, int], tuple[float | None, Interval]]
"""Scores of tasks or clusters with their intervals, by name and number of demonstrations."""


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
        messages: What limits the score.
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
    messages: tuple[str, ...] = ()


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
class EvaluationSummary:
    """One result file.

    Args:
        path: The file.
        label: Label in the report.
        record: Contents of the file.
        tasks: Scores, one for each task and number of demonstrations.
        clusters: Mean scores of clusters.
        means: Means over clusters, for each number of demonstrations.
        answers: Answers in the samples file next to it.
    """

    path: Path
    label: str
    record: ResultRecord
    tasks: tuple[TaskScore, ...]
    clusters: tuple[ClusterScore, ...]
    means: tuple[ClusterScore, ...]
    answers: tuple[SampleRecord, ...] = ()


def read_evaluations(folder: Path, problems: list[str]) -> list[EvaluationSummary]:
    """Read all result files of a folder, oldest first, without old, damaged and foreign files.

    Args:
        folder: Folder of ``*.json`` files; it need not exist.
        problems: Collects a line for each file that is left out, and for damage in the others.
    """
    evaluations = []
    for path in sorted(folder.glob("*.json")):
        name = f"{folder.name}/{path.name}"
        try:
            content = load_json(read_regular(path))
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
            record = parse_result(content, str(path))
            settings = with_valid_values(record.settings, name, problems, {"style": dict})
            record = record.model_copy(update={"settings": settings})
            evaluations.append(_with_answers(_evaluation(path, record), problems))
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror or error}")
        except MetalmError as error:
            problems.append(f"{name} is left out: {'; '.join(filter(None, (error.what, error.why, error.remedy)))}")
        except (ValueError, TypeError) as error:
            problems.append(f"{name} is damaged and left out ({type(error).__name__}: {error})")
    return sorted(evaluations, key=lambda evaluation: (evaluation.record.created, evaluation.path.stem))


def _evaluation(path: Path, record: ResultRecord) -> EvaluationSummary:
    tasks = tuple(_task_score(name, task, setting) for name, task in record.tasks.items() for setting in task.settings)
    task_scores: ScoreTable = {(task.task, task.shots): (task.score, (task.low, task.high)) for task in tasks}
    clusters = tuple(
        _mean_score(name, int(shots), mean, task_scores)
        for shots, means in record.clusters.items()
        for name, mean in means.items()
    )
    cluster_scores: ScoreTable = {(mean.cluster, mean.shots): (mean.value, (mean.low, mean.high)) for mean in clusters}
    means = tuple(_mean_score("", int(shots), mean, cluster_scores) for shots, mean in record.mean.items() if mean)
    return EvaluationSummary(path, record.protocol.replace("_", "-"), record, tasks, clusters, means)


def _task_score(name: str, task: TaskRecord, setting: SettingRecord) -> TaskScore:
    low, high = _interval(setting)
    levels = [template.chance.level for template in setting.templates if template.chance.level is not None]
    return TaskScore(
        task=name,
        cluster=task.cluster,
        core=task.core,
        metric=task.metric,
        seen=task.seen.label,
        shots=setting.shots,
        score=setting.score,
        low=low,
        high=high,
        spread=setting.spread,
        oracle=None if setting.oracle is None else (setting.oracle.template, setting.oracle.score),
        chance=max(levels, default=None),
        n=setting.n,
        templates=tuple(
            TemplateScore(template.template, template.score, *_interval(template)) for template in setting.templates
        ),
        confusion=next((_confusion_of_classes(name, template) for template in setting.templates), None),
        messages=tuple(setting.messages),
    )


def _mean_score(name: str, shots: int, mean: MeanRecord, scores: ScoreTable) -> ClusterScore:
    """Mean score of a record; its interval is from those of its members, or else the normal one of its error."""
    members = [scores.get((member, shots), (None, (None, None))) for member in mean.of]
    values = [value for value, _ in members if value is not None]
    intervals = [(low, high) for _, (low, high) in members if low is not None and high is not None]
    bounds = interval_of_mean(values, intervals) if len(values) == len(intervals) == len(members) else None
    low, high = bounds or _normal_interval(mean.value, mean.error)
    return ClusterScore(name, shots, mean.value, low, high, tuple(mean.of))


def _normal_interval(score: float | None, error: float | None) -> Interval:
    """Normal 95% interval, which may extend below 0 or above 100; none if the error is 0, which says nothing."""
    return (score - Z_95 * error, score + Z_95 * error) if score is not None and error else (None, None)


def _interval(record: SettingRecord | TemplateRecord) -> Interval:
    """Interval of a record, or else the normal interval of its standard error."""
    if record.interval is not None:
        return record.interval[0], record.interval[1]
    return _normal_interval(record.score, record.error)


def as_number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer that is too large for a float
        return None


# -- confusion matrices ----------------------------------------------------------------------------------------------


def _confusion_of_classes(task: str, template: TemplateRecord) -> ConfusionMatrix | None:
    """Confusion matrix of a metric over a whole split, from the predicted and target classes in the file."""
    predictions, targets = template.each.get("found"), template.each.get("right")
    if predictions is None or targets is None or len(set(targets)) > MAX_CLASSES:
        return None
    if not all(isinstance(label, int) for label in (*predictions, *targets)):
        return None  # values of a correlation
    names = class_names(task)

    def class_name(index: int) -> str:
        return names[index] if index < len(names) else f"class {index}"

    return confusion_matrix(
        [(class_name(target), class_name(prediction)) for target, prediction in zip(targets, predictions, strict=True)],
        template.template,
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
    path = samples_path(evaluation.path)
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


def _parse_answer(content: Mapping[str, Any] | None) -> SampleRecord | None:
    try:
        return None if content is None else SampleRecord.model_validate(content)
    except ValidationError:
        return None


def _confusion_of_answers(task: TaskScore, answers: Sequence[SampleRecord]) -> ConfusionMatrix | None:
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
