"""Results of an evaluation: means over clusters, and the record that is written."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.evaluation.evaluator import ShotResult, TaskResult, TemplateResult
from metalm_cli.evaluation.metrics import bootstrap, task_metrics
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models.weights_hash import weights_sha256
from metalm_cli.provenance.model_history import SeenLabel
from metalm_cli.tasks.card import MetricName

FORMAT = 2
"""Of result files."""


@dataclass(frozen=True)
class ClusterMean:
    """A mean of scores.

    Args:
        value: The mean.
        error: Its standard error, of independent scores; None where one has none.
        of: What it is over: tasks of a cluster, or clusters.
    """

    value: float
    error: float | None
    of: tuple[str, ...]


def tasks_in_average(results: Sequence[TaskResult], shots: int) -> dict[str, tuple[str, ShotResult]]:
    """Cluster and setting of each task that means are taken over: of the paper's core tasks; of all if none is core."""
    found = {
        one.task.card.name: (one.task.card, setting)
        for one in results
        for setting in one.settings
        if setting.shots == shots and setting.value is not None
    }
    core = {name for name, (card, _) in found.items() if card.core} or set(found)
    return {name: (card.cluster, setting) for name, (card, setting) in found.items() if name in core}


def cluster_means(results: Sequence[TaskResult], shots: int = 0) -> dict[str, ClusterMean]:
    """Mean score of each cluster over the tasks that count (:func:`tasks_in_average`)."""
    found: dict[str, list[tuple[str, float, float | None]]] = {}
    for name, (cluster, setting) in tasks_in_average(results, shots).items():
        if setting.value is not None:
            found.setdefault(cluster, []).append((name, setting.value, setting.error))
    return {cluster: mean(parts) for cluster, parts in found.items()}


def mean_over_clusters(means: Mapping[str, ClusterMean]) -> ClusterMean | None:
    """Mean over clusters; None where there is none."""
    return mean([(name, one.value, one.error) for name, one in means.items()]) if means else None


def mean(parts: Sequence[tuple[str, float, float | None]]) -> ClusterMean:
    """The mean of named values with their standard errors."""
    errors = [error for _, _, error in parts if error is not None]
    error = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
    return ClusterMean(sum(value for _, value, _ in parts) / len(parts), error, tuple(name for name, _, _ in parts))


def model_record(source: str, language_model: LanguageModel) -> dict[str, Any]:
    """What a record says of the model."""
    return {
        "source": source,
        "weights_sha256": weights_sha256(language_model.model),
        "parameters": sum(one.numel() for one in language_model.model.parameters()),
        "encoders": list(language_model.model.encoders),
        "decoder": language_model.model.decoder.config.model_type,
    }


def result_record(
    model: Mapping[str, Any],
    settings: EvaluationSettings,
    results: Sequence[TaskResult],
    missing: Mapping[str, str],
    *,
    seen: Mapping[str, SeenLabel],
    complete: bool = True,
    environment: Mapping[str, str] | None = None,
    created: str = "",
    contamination: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is written of an evaluation: all that is needed to do it again, and what came of it.

    Args:
        model: From :func:`model_record`.
        settings: How it was done.
        results: Of each task.
        missing: Tasks without data at hand, and why.
        seen: How new each task is to the model.
        complete: Whether every task is there that was to be.
        environment: What it ran on.
        created: When it began, as ISO 8601.
        contamination: What a check against training data found.
    """
    means = {shots: cluster_means(results, shots) for shots in settings.shots}
    whole = {shots: mean_over_clusters(one) for shots, one in means.items()}
    return {
        "format": FORMAT,
        "metalm": metalm_cli.__version__,
        "created": created,
        "protocol": settings.protocol,
        "complete": complete,
        "model": dict(model),
        "settings": settings_of(settings),
        "tasks": {one.task.card.name: task_record(one, seen.get(one.task.card.name)) for one in results},
        "missing": dict(missing),
        "clusters": {str(shots): {name: asdict(one) for name, one in found.items()} for shots, found in means.items()},
        "mean": {str(shots): None if one is None else asdict(one) for shots, one in whole.items()},
        **({} if contamination is None else {"contamination": dict(contamination)}),
        "environment": {"python": platform.python_version(), **(environment or {})},
        "seconds": round(sum(one.seconds for result in results for one in result.wordings), 3),
    }


def settings_of(settings: EvaluationSettings) -> dict[str, Any]:
    """What is written of the settings."""
    return {
        "templates": settings.collection,
        "template": settings.template,
        "split": settings.role,
        "limit": settings.limit,
        "shots": list(settings.shots),
        "demonstrations": "drawn" if settings.drawn else "frozen",
        "seed": settings.seed,
        "sequence_length": settings.length,
        "batch_size": settings.batch_size,
        "normalise": settings.normalise,
        "samples": settings.samples,
        "temperature": settings.temperature if settings.samples > 1 else None,
        "also_fit": [one.length for one in settings.also],
        "style": asdict(settings.style),
    }


def task_record(result: TaskResult, seen: SeenLabel | None = None) -> dict[str, Any]:
    """What is written of a task."""
    task = result.task
    return {
        "cluster": task.card.cluster,
        "core": task.card.core,
        "metric": task.card.metric.name,
        "metric_source": task.card.metric.source,
        "seen": {"label": "unknown", "why": "not looked up"} if seen is None else asdict(seen),
        "split": task.opened.role,
        "examples": len(task.examples),
        "settings": [shot_record(one, task.card.metric.name) for one in result.settings],
        "card_sha256": _sha256(task.path),
        "templates_sha256": _sha256(task.template_path),
        "location": task.opened.location,
        "revision": task.opened.revision,
        "files": [asdict(one) for one in task.opened.files],
    }


def shot_record(setting: ShotResult, metric: MetricName) -> dict[str, Any]:
    """What is written of a task with so many demonstrations."""
    best, value = setting.oracle, setting.value
    several = len(setting.scores) > 1 and best is not None and best.score is not None
    return {
        "shots": setting.shots,
        "score": value,
        "error": setting.error,
        "interval": interval_of(metric, [one.each for one in setting.wordings if one.score is not None]),
        "spread": setting.spread,
        "oracle": {"template": best.template, "score": best.score.value} if several and best and best.score else None,
        "templates": [template_record(one, metric) for one in setting.wordings],
    }


def template_record(wording: TemplateResult, metric: MetricName) -> dict[str, Any]:
    """What is written of a task in one wording."""
    score = wording.score
    return {
        "template": wording.template,
        "score": None if score is None else score.value,
        "error": None if score is None else score.error,
        "interval": interval_of(metric, [wording.each] if score is not None else []),
        "n": 0 if score is None else score.n,
        "counts": {} if score is None else dict(score.counts),
        "chance": asdict(wording.chance),
        "extra": dict(wording.extra),
        "each": {name: list(values) for name, values in wording.each.items()},
        "cut": wording.cut,
        "skipped": wording.skipped,
        "seconds": round(wording.seconds, 3),
        **({"note": wording.note} if wording.note else {}),
    }


def interval_of(metric: MetricName, wordings: Sequence[Mapping[str, Sequence[Any]]]) -> list[float] | None:
    """The 95% interval of a mean over wordings, by resampling examples, 0 to 100; None for too few of them.

    Args:
        metric: The metric.
        wordings: Of each wording the values by example.
    """
    observed = [task_metrics.observations(metric, one) for one in wordings]
    if not observed or len(observed[0].rows) < 2:
        return None
    low, high = bootstrap.percentiles(bootstrap.task_samples(observed))
    return [round(100 * low, 4), round(100 * high, 4)]


def samples_jsonl(results: Iterable[TaskResult]) -> str:
    """Every answer as a line of JSON: ``id, task, template, shots, input, target, prediction, score, ...``."""
    lines = []
    for result in results:
        name = result.task.card.name
        for wording in result.wordings:
            for one in wording.samples:
                fields = asdict(one)
                row = fields.pop("row")
                head = {"id": f"{name}/{row}", "task": name, "template": wording.template, "shots": wording.shots}
                lines.append(json.dumps({**head, **fields}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
