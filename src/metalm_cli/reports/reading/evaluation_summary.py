"""What result files and answers say: scores of tasks and clusters, confusions, and answers to look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from metalm_cli.reports.reading.tolerant_json import load_json, read_jsonl, with_known_keys

FORMAT = 2
"""Of the result files that are read."""
SAMPLES = ".samples.jsonl"
NORMAL = 1.96
"""Standard errors of half a 95% interval."""
CLASSES = 12
"""Answers of a task that count as classes, at most."""
OTHER = "another answer"
Interval = tuple[float | None, float | None]
"""Ends of a 95% interval; None where it is not known."""
Own = Mapping[tuple[tuple[str, ...], int], Interval]
"""Intervals of tasks, or of clusters, each under its name and its number of demonstrations."""


@dataclass(frozen=True)
class TemplateScore:
    """A task's score in one template, 0 to 100."""

    template: str
    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often each answer was said where each was right: ``counts[right][said]``.

    ``said`` may have one column more, of answers that are right nowhere.
    """

    right: tuple[str, ...]
    said: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    template: str


@dataclass(frozen=True)
class TaskScore:
    """A task with so many demonstrations: its score over templates (0 to 100), their spread, and its chance level.

    Args:
        low: Lower end of the 95% interval; None where the file has none.
        spread: Standard deviation over templates.
        oracle: The best template and its score.
        chance: The better of guessing evenly and of always saying the most frequent answer.
        n: Examples of each template.
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
    """Mean of a cluster's tasks, or (no cluster) of the clusters.

    Its interval is that of its task where it has one, else the normal one of its error.
    """

    cluster: str
    shots: int
    value: float
    low: float | None
    high: float | None
    of: tuple[str, ...]


@dataclass(frozen=True)
class AnswerSample:
    """One answer of a model; ``score`` is 0 to 1."""

    task: str
    template: str
    shots: int
    row: str
    given: str
    target: str
    said: str
    score: float | None


@dataclass(frozen=True)
class EvaluationSummary:
    """One result file.

    Args:
        path: The file.
        label: What the report calls it.
        protocol: How the model was asked.
        created: When, as ISO 8601.
        complete: Whether no task is missing because the evaluation was cut short.
        model: The file's own words about the model.
        settings: How it was done.
        tasks: Scores, one for each task and number of demonstrations.
        clusters: Means of clusters.
        means: Means over clusters, by demonstrations.
        missing: Tasks without a score, and why.
        answers: Answers of the samples file beside it.
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
    """All result files of a folder, oldest first; what is old, damaged or no result file is told.

    Args:
        folder: Where ``*.json`` lie. It need not exist.
        problems: Gets a line for each file that is left out, and for damage in one that is not.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = load_json(path.read_bytes())
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")
            kind = record.get("format")
            if kind != FORMAT:
                old = isinstance(kind, int) and kind < FORMAT
                why = f"an older format ({kind}); evaluate again" if old else f"no results of format {FORMAT}"
                problems.append(f"{folder.name}/{path.name} is left out: {why}")
                continue
            settings = with_known_keys(
                dict(record.get("settings", {})), f"{folder.name}/{path.name}", problems, {"style": dict}
            )
            found.append(_with_answers(_evaluation(path, record | {"settings": settings}), problems))
        except OSError as error:
            problems.append(f"{folder.name}/{path.name} cannot be read: {error.strerror or error}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(f"{folder.name}/{path.name} is damaged and left out ({type(error).__name__}: {error})")
    return sorted(found, key=lambda one: (one.created, one.path.stem))


def _evaluation(path: Path, record: Mapping[str, Any]) -> EvaluationSummary:
    tasks = [one for name, task in record["tasks"].items() for one in _task(name, task)]
    of_task: Own = {((one.task,), one.shots): (one.low, one.high) for one in tasks}
    clusters = [
        _mean(name, int(shots), one, of_task)
        for shots, of_shots in record.get("clusters", {}).items()
        for name, one in of_shots.items()
    ]
    of_cluster: Own = {((one.cluster,), one.shots): (one.low, one.high) for one in clusters}
    means = [_mean("", int(shots), one, of_cluster) for shots, one in record.get("mean", {}).items() if one]
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


def _task(name: str, task: Mapping[str, Any]) -> Iterator[TaskScore]:
    for setting in task["settings"]:
        wordings = setting["templates"]
        interval = _interval(setting)
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
            oracle=(str(oracle["template"]), _certain(oracle["score"])) if oracle else None,
            chance=_chance(wordings),
            n=max((int(one["n"]) for one in wordings), default=0),
            templates=tuple(
                TemplateScore(str(one["template"]), as_number(one["score"]), *_interval(one)) for one in wordings
            ),
            confusion=next((_from_classes(name, one) for one in wordings), None),
        )


def _mean(name: str, shots: int, one: Mapping[str, Any], own: Own) -> ClusterScore:
    """A mean; that of one task, or of one cluster, has its interval."""
    value, of = _certain(one["value"]), tuple(map(str, one.get("of", ())))
    low, high = own.get((of, shots)) or _normal(value, as_number(one.get("error")))
    return ClusterScore(name, shots, value, low, high, of)


def _certain(value: Any) -> float:
    """A finite number.

    Raises:
        ValueError: It is none.
    """
    plain = as_number(value)
    if plain is None:
        raise ValueError(f"{value!r} is no score"[:100])
    return plain


def _normal(score: float | None, error: float | None) -> Interval:
    """The normal interval: it may reach below 0 or above 100."""
    return (None, None) if score is None or error is None else (score - NORMAL * error, score + NORMAL * error)


def _interval(one: Mapping[str, Any]) -> Interval:
    """The interval of a record; else the normal one of its standard error."""
    interval = one.get("interval")
    if isinstance(interval, list) and len(interval) == 2:
        return as_number(interval[0]), as_number(interval[1])
    return _normal(as_number(one.get("score")), as_number(one.get("error")))


def _chance(wordings: Sequence[Mapping[str, Any]]) -> float | None:
    levels = [as_number(level) for one in wordings for level in (one.get("chance") or {}).values()]
    return max((level for level in levels if level is not None), default=None)


def as_number(value: Any) -> float | None:
    """A finite number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number that is too large for it
        return None


# -- confusions -------------------------------------------------------------------------------------------------------


def _from_classes(task: str, wording: Mapping[str, Any]) -> ConfusionMatrix | None:
    """Of a metric over a whole split, whose file has the classes said and right."""
    each = wording.get("each") or {}
    if "found" not in each or "right" not in each or len(set(each["right"])) > CLASSES:
        return None
    if not all(isinstance(one, int) for one in (*each["found"], *each["right"])):
        return None  # numbers of a correlation
    words = class_words(task)

    def said(one: int) -> str:
        return words[one] if one < len(words) else f"class {one}"

    return confusion_matrix(
        [(said(a), said(b)) for a, b in zip(each["right"], each["found"], strict=True)], str(wording["template"])
    )


@cache
def class_words(task: str) -> tuple[str, ...]:
    """Words of a task's classes, from its shipped card; none where there is no card with classes."""
    from metalm_cli.tasks import Cards

    return next((tuple(one.verbalizers) for one in Cards().all() if one.name == task), ())


@cache
def clusters_of_tasks() -> Mapping[str, str]:
    """Cluster of each shipped task."""
    from metalm_cli.tasks import Cards

    return {card.name: card.cluster for card in Cards().all()}


def confusion_matrix(pairs: Sequence[tuple[str, str]], template: str) -> ConfusionMatrix | None:
    """Count pairs of what was right and what was said; None where the answers are no classes.

    Answers are classes if few are different and each stands for several examples.
    """
    right = sorted({a for a, _ in pairs})
    if len(right) < 2 or len(right) > CLASSES or len(right) * 4 > len(pairs):
        return None
    counted = Counter((a, b if b in right else OTHER) for a, b in pairs)
    said = [*right, *([OTHER] if any(b == OTHER for _, b in counted) else [])]
    return ConfusionMatrix(
        tuple(right), tuple(said), tuple(tuple(counted[a, b] for b in said) for a in right), template
    )


# -- answers ----------------------------------------------------------------------------------------------------------


def _with_answers(evaluation: EvaluationSummary, problems: list[str]) -> EvaluationSummary:
    """The evaluation with its answers, and with the confusions that they show."""
    path = evaluation.path.with_name(evaluation.path.stem + SAMPLES)
    try:
        lines = read_jsonl(path)
    except FileNotFoundError:
        return evaluation
    except OSError as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read: {error.strerror or error}")
        return evaluation
    found = [_answer(one) for one in lines]
    answers = [one for one in found if one is not None]
    damaged = len(found) - len(answers)
    if damaged:
        problems.append(f"{path.parent.name}/{path.name}: {damaged} damaged line{'s' if damaged > 1 else ''} left out")
    return replace(
        evaluation,
        answers=tuple(answers),
        tasks=tuple(replace(one, confusion=_of_answers(one, answers) or one.confusion) for one in evaluation.tasks),
    )


def _answer(one: Mapping[str, Any] | None) -> AnswerSample | None:
    try:
        return (
            None
            if one is None
            else AnswerSample(
                str(one["task"]),
                str(one["template"]),
                int(one["shots"]),
                str(one["id"]).rpartition("/")[2],
                str(one["input"]),
                str(one["target"]),
                str(one["prediction"]),
                as_number(one["score"]),
            )
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _of_answers(task: TaskScore, answers: Sequence[AnswerSample]) -> ConfusionMatrix | None:
    """Of the answers in the task's first template."""
    mine = [one for one in answers if one.task == task.task and one.shots == task.shots]
    first = [one for one in mine if one.template == mine[0].template]
    return confusion_matrix([(one.target, one.said) for one in first], first[0].template) if first else None
