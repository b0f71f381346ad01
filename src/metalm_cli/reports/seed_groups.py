"""Evaluations grouped by protocol, with the seeds of a model pooled."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.reports.reading.evaluation_summary import ClusterScore, EvaluationSummary, TaskScore
from metalm_cli.reports.reading.find_runs import SEED_PREFIX
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.tables import named_evaluations

NamedEvaluations = Sequence[tuple[str, EvaluationSummary]]
SEED_NAME = re.compile(rf"{SEED_PREFIX}\d+")


@dataclass(frozen=True)
class SeedGroup:
    """Evaluations by one protocol.

    Args:
        protocol: Name of the protocol.
        evaluations: Evaluations with labels that name the seed.
        pooled: Evaluations with the seeds of a model pooled.
        seed_count: Largest number of seeds that were pooled.
    """

    protocol: str
    evaluations: NamedEvaluations
    pooled: NamedEvaluations
    seed_count: int


def group_by_protocol(runs: Sequence[RunSummary]) -> list[SeedGroup]:
    """Group the evaluations of runs by protocol, the protocol of the newest evaluation first."""
    members_by_protocol: dict[str, list[tuple[str, str, EvaluationSummary]]] = {}
    for label, evaluation in named_evaluations(runs):
        members = members_by_protocol.setdefault(evaluation.record.protocol, [])
        members.append((*_name_and_seed(label, evaluation), evaluation))

    def newest(protocol: str) -> str:
        return max(evaluation.record.created for *_, evaluation in members_by_protocol[protocol])

    groups = []
    for protocol in sorted(members_by_protocol, key=newest, reverse=True):
        members = members_by_protocol[protocol]
        scored = [(f"{label}, {seed}" if seed else label, evaluation) for label, seed, evaluation in members]
        pooled = []
        for label in dict.fromkeys(label for label, *_ in members):
            pooled.append((label, pool_seeds([evaluation for name, _, evaluation in members if name == label])))
        seed_count = max(sum(name == label for name, *_ in members) for label, *_ in members)
        groups.append(SeedGroup(protocol.replace("_", "-"), scored, pooled, seed_count))
    return groups


def _name_and_seed(label: str, evaluation: EvaluationSummary) -> tuple[str, str]:
    """Name of an evaluation without protocol and seed, and the name of its seed (empty if it has none)."""
    protocol = f", {evaluation.record.protocol.replace('_', '-')}"
    seeds = [part for part in evaluation.path.resolve().parts if SEED_NAME.fullmatch(part)]
    if not seeds:
        return label.removesuffix(protocol), ""
    unnumbered = re.sub(r" \(\d+\)$", "", label).removesuffix(protocol)
    return SEED_NAME.sub("", unnumbered).strip("/, ") or evaluation.path.resolve().parents[2].name, seeds[-1]


def pool_seeds(seeds: Sequence[EvaluationSummary]) -> EvaluationSummary:
    """Pool the evaluations of several seeds: mean scores, with intervals from the lowest to the highest seed.

    Args:
        seeds: Evaluations of the same tasks; a single one is returned unchanged.
    """
    first = seeds[0]
    if len(seeds) == 1:
        return first
    tasks = _group_by(lambda task: (task.task, task.shots), (task for evaluation in seeds for task in evaluation.tasks))
    clusters = _group_by(
        lambda mean: (mean.cluster, mean.shots), (mean for evaluation in seeds for mean in evaluation.clusters)
    )
    means = _group_by(lambda mean: mean.shots, (mean for evaluation in seeds for mean in evaluation.means))
    return replace(
        first,
        tasks=tuple(map(_pool_task, tasks)),
        clusters=tuple(map(_pool_means, clusters)),
        means=tuple(map(_pool_means, means)),
    )


def _group_by(key: Callable[[Any], Any], items: Iterable[Any]) -> list[list[Any]]:
    grouped: dict[Any, list[Any]] = {}
    for item in items:
        grouped.setdefault(key(item), []).append(item)
    return list(grouped.values())


def _pool_means(seeds: list[ClusterScore]) -> ClusterScore:
    values = [score.value for score in seeds]
    return replace(seeds[0], value=statistics.fmean(values), low=min(values), high=max(values))


def _spread(scores: Sequence[float]) -> float | None:
    return statistics.stdev(scores) if len(scores) > 1 else None


def _pool_task(seeds: list[TaskScore]) -> TaskScore:
    values = [score.score for score in seeds if score.score is not None]
    chances = [score.chance for score in seeds if score.chance is not None]
    template_groups = _group_by(lambda score: score.template, (score for task in seeds for score in task.templates))
    pooled_templates = []
    for template_scores in template_groups:
        known = [score.score for score in template_scores if score.score is not None]
        pooled_templates.append(
            replace(template_scores[0], score=statistics.fmean(known) if known else None, low=None, high=None)
        )
    return replace(
        seeds[0],
        score=statistics.fmean(values) if values else None,
        low=min(values, default=None),
        high=max(values, default=None),
        chance=statistics.fmean(chances) if chances else None,
        templates=tuple(pooled_templates),
        spread=_spread([template.score for template in pooled_templates if template.score is not None]),
    )
