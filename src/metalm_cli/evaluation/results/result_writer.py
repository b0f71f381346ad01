"""Result writer: means over clusters, and the record of an evaluation for its result file."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import metalm_cli
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.evaluation.evaluator import ShotResult, TaskResult, TemplateResult
from metalm_cli.evaluation.metrics import bootstrap, task_metrics
from metalm_cli.evaluation.results.schema import (
    BestTemplate,
    Chance,
    CostRecord,
    FileRecord,
    MeanRecord,
    ResultRecord,
    SampleRecord,
    SeenRecord,
    SettingRecord,
    TaskRecord,
    TemplateRecord,
)
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.configuration_hash import configuration_sha256
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models.weights_hash import weights_sha256
from metalm_cli.provenance.lineage import dequantised_parts
from metalm_cli.provenance.model_history import SeenLabel, source_ancestors
from metalm_cli.tasks.card import MetricName

MEAN = "mean"
"""Name of the mean over clusters among the names of scores."""


def named_scores(tasks: Mapping[str, TaskRecord], shots: Sequence[int]) -> dict[str, float]:
    """Return all scores by name: those of tasks, of clusters, and ``mean`` over clusters; without those that are None.

    A task that has the name of a cluster takes precedence.

    Args:
        tasks: Results by task.
        shots: Numbers of demonstrations; if there are several, names are as in :func:`score_name`.
    """
    scores: dict[str, float | None] = {}
    for number in shots:
        means = cluster_means(tasks, number)
        mean = mean_over_clusters(means)
        by_task = {
            name: setting.score for name, task in tasks.items() if (setting := task.with_shots(number)) is not None
        }
        by_name = {
            **by_task,
            **{cluster: cluster_mean.value for cluster, cluster_mean in means.items() if cluster not in by_task},
            **({} if MEAN in by_task or mean is None else {MEAN: mean.value}),
        }
        scores |= {score_name(name, number, shots): score for name, score in by_name.items()}
    return {name: score for name, score in scores.items() if score is not None}


def score_name(name: str, number: int, shots: Sequence[int]) -> str:
    """Return the name of a score: ``rte``, or ``rte@4`` if there are several numbers of demonstrations.

    >>> score_name("rte", 4, [4]), score_name("rte", 4, [0, 4])
    ('rte', 'rte@4')
    """
    return f"{name}@{number}" if len(shots) > 1 else name


def cluster_means(tasks: Mapping[str, TaskRecord], shots: int) -> dict[str, MeanRecord]:
    """Return the mean score of each cluster over its core tasks, or over all tasks if none is core."""
    scored = [
        (name, task, setting)
        for name, task in tasks.items()
        if (setting := task.with_shots(shots)) is not None and setting.score is not None
    ]
    clusters: dict[str, dict[str, SettingRecord]] = {}
    for name, task, setting in [entry for entry in scored if entry[1].core] or scored:
        clusters.setdefault(task.cluster, {})[name] = setting
    return {
        cluster: _mean({name: (setting.score or 0.0, setting.error) for name, setting in settings.items()})
        for cluster, settings in clusters.items()
    }


def mean_over_clusters(means: Mapping[str, MeanRecord]) -> MeanRecord | None:
    """Return the mean over clusters; None if there are no clusters."""
    return _mean({name: (mean.value, mean.error) for name, mean in means.items()}) if means else None


def _mean(scores: Mapping[str, tuple[float, float | None]]) -> MeanRecord:
    """Return the mean of named values with standard errors."""
    errors = [error for _, error in scores.values() if error is not None]
    error = math.hypot(*errors) / len(scores) if len(errors) == len(scores) else None
    return MeanRecord(value=sum(value for value, _ in scores.values()) / len(scores), error=error, of=list(scores))


def model_record(source: str, language_model: LanguageModel) -> dict[str, Any]:
    """Return the record of the model."""
    dequantised = dequantised_parts(source_ancestors(source))
    return {
        "source": source,
        "weights_sha256": weights_sha256(language_model.model),
        "configuration_sha256": configuration_sha256(language_model),
        "parameters": sum(parameter.numel() for parameter in language_model.model.parameters()),
        "encoders": list(language_model.model.encoders),
        **decoder_type(language_model),
        **({"dequantised_from": dequantised} if dequantised else {}),
    }


def decoder_type(language_model: LanguageModel) -> dict[str, str]:
    """Return the type of the decoder, or of the encoder–decoder; a dual encoder has none."""
    part = getattr(language_model.model, "text_model", None)
    return {} if part is None else {"decoder": part.config.model_type}


def model_hash(model: Mapping[str, Any]) -> str:
    """Return the hash of all that a model's answers depend on, from its record."""
    return hashlib.sha256(f"{model['weights_sha256']} {model['configuration_sha256']}".encode()).hexdigest()


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
) -> ResultRecord:
    """Return the record of an evaluation: its results, and all that is needed to reproduce it.

    Args:
        model: From :func:`model_record`.
        settings: Settings of the evaluation.
        results: Results by task.
        missing: Tasks without data, with reasons.
        seen: Label of each task: seen in training or held out.
        complete: Whether all requested tasks are included.
        environment: Hardware and software versions.
        created: Start of the evaluation in ISO 8601.
        contamination: Result of a contamination check.
    """
    tasks = {result.task.card.name: task_record(result, seen.get(result.task.card.name)) for result in results}
    means = {str(shots): cluster_means(tasks, shots) for shots in settings.shots}
    return ResultRecord(
        metalm=metalm_cli.__version__,
        created=created,
        protocol=settings.protocol,
        complete=complete,
        model=dict(model),
        settings=settings_of(settings),
        tasks=tasks,
        missing=dict(missing),
        clusters=means,
        mean={shots: mean_over_clusters(clusters) for shots, clusters in means.items()},
        contamination=None if contamination is None else dict(contamination),
        environment={"python": platform.python_version(), **(environment or {})},
        seconds=round(
            sum(template_result.seconds for result in results for template_result in result.template_results), 3
        ),
    )


def settings_of(settings: EvaluationSettings) -> dict[str, Any]:
    """Return the record of the settings."""
    return {
        "templates": settings.collection,
        "template": settings.template,
        "split": settings.split,
        "limit": settings.limit,
        "shots": list(settings.shots),
        "demonstrations": "drawn" if settings.draw_per_example else "frozen",
        "seed": settings.seed,
        "sequence_length": settings.length,
        "batch_size": settings.batch_size,
        "max_answer_tokens": settings.max_answer_tokens,
        "end_tokens": list(settings.end_tokens) or None,
        "normalise": settings.normalise,
        "samples": settings.samples,
        "temperature": settings.temperature if settings.samples > 1 else None,
        "also_fit": [limit.length for limit in settings.also_fit],
        "style": asdict(settings.style),
        **({"exchange_docks": settings.exchange_docks} if settings.exchange_docks else {}),
    }


def task_record(result: TaskResult, seen: SeenLabel | None = None) -> TaskRecord:
    """Return the record of a task."""
    task = result.task
    metric = result.other_metric or task.card.metric.name
    return TaskRecord(
        cluster=task.card.cluster,
        core=task.card.core,
        metric=metric,
        metric_source="" if result.other_metric else task.card.metric.source,
        seen=SeenRecord(why="not looked up") if seen is None else SeenRecord(**asdict(seen)),
        split=task.source.role,
        examples=len(task.examples),
        settings=[shot_record(shot_result, metric) for shot_result in result.shot_results],
        card_sha256=file_sha256(task.card_path),
        templates_sha256=file_sha256(task.template_path),
        location=task.source.location,
        revision=task.source.revision,
        files=[FileRecord(**asdict(file)) for file in task.source.files],
    )


def shot_record(shot_result: ShotResult, metric: MetricName) -> SettingRecord:
    """Return the record of a task with a number of demonstrations."""
    best = shot_result.oracle if len(shot_result.scores) > 1 else None
    scored_results = [result for result in shot_result.template_results if result.score is not None]
    record = SettingRecord(
        shots=shot_result.shots,
        score=shot_result.value,
        error=shot_result.error,
        interval=score_interval(metric, [result.each for result in scored_results]),
        spread=shot_result.spread,
        oracle=BestTemplate(template=best.template, score=best.score.value) if best and best.score else None,
        templates=[template_record(result, metric) for result in shot_result.template_results],
    )
    return record.model_copy(update={"above_chance": record.is_above_chance})


def template_record(template_result: TemplateResult, metric: MetricName) -> TemplateRecord:
    """Return the record of a task with one template."""
    score = template_result.score
    return TemplateRecord(
        template=template_result.template,
        score=None if score is None else score.value,
        error=None if score is None else score.error,
        interval=score_interval(metric, [template_result.each] if score is not None else []),
        n=0 if score is None else score.n,
        counts={} if score is None else dict(score.counts),
        chance=Chance(**asdict(template_result.chance)),
        extra=dict(template_result.extra),
        extra_intervals=dict(template_result.extra_intervals),
        extra_chance=dict(template_result.extra_chance),
        each={name: list(values) for name, values in template_result.each.items()},
        also_each={
            metric: {name: list(values) for name, values in columns.items()}
            for metric, columns in template_result.also_each.items()
        },
        cut=template_result.cut,
        skipped=template_result.skipped,
        empty=template_result.empty,
        seconds=round(template_result.seconds, 3),
        note=template_result.note,
        max_answer_tokens=template_result.max_answer_tokens,
        at_limit=template_result.at_limit,
        warnings=list(template_result.warnings),
        cost=None if template_result.cost is None else CostRecord(**asdict(template_result.cost)),
    )


def score_interval(
    metric: MetricName, columns_by_template: Sequence[Mapping[str, Sequence[Any]]]
) -> list[float] | None:
    """Return the 95% interval of a mean over templates, 0 to 100, as :func:`bootstrap.score_interval`, or None.

    Args:
        metric: The metric.
        columns_by_template: Columns by example, for each template.
    """
    observations = [task_metrics.observations(metric, columns) for columns in columns_by_template]
    bounds = bootstrap.score_interval(observations)
    return None if bounds is None else [round(100 * bound, 4) for bound in bounds]


def samples_jsonl(results: Iterable[TaskResult]) -> str:
    """Return predictions as JSON lines of :class:`~metalm_cli.evaluation.results.schema.SampleRecord`."""
    return "".join(
        SampleRecord(
            id=f"{result.task.card.name}/{prediction.row}",
            task=result.task.card.name,
            template=template_result.template,
            shots=template_result.shots,
            input=prediction.input,
            target=prediction.target,
            prediction=prediction.prediction,
            score=prediction.score,
            log_likelihood=prediction.log_likelihood,
        ).to_line()
        for result in results
        for template_result in result.template_results
        for prediction in template_result.samples
    )
