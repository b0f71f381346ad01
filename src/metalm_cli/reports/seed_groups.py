"""Evaluations side by side: grouped by how they were done, and seeds of one thing taken together."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.reports.reading.evaluation_summary import ClusterScore, EvaluationSummary, TaskScore
from metalm_cli.reports.reading.find_runs import SEED
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.tables import series_of

Scored = Sequence[tuple[str, EvaluationSummary]]
NUMBERED = re.compile(rf"{SEED}\d+")


@dataclass(frozen=True)
class SeedGroup:
    """Evaluations that were done by one protocol.

    Args:
        protocol: The protocol, as it is written.
        scored: Each evaluation under its name, seeds told apart.
        pooled: The same with seeds taken together.
        seeds: The largest number of seeds that were.
    """

    protocol: str
    scored: Scored
    pooled: Scored
    seeds: int


def group_by_protocol(runs: Sequence[RunSummary]) -> list[SeedGroup]:
    """Evaluations of some runs by protocol, the protocol of the newest first."""
    named = [(*_name(label, one), one) for label, one in series_of(runs)]
    newest = {
        one.protocol: max(each.created for *_, each in named if each.protocol == one.protocol) for *_, one in named
    }
    found = []
    for protocol in sorted(newest, key=lambda name: newest[name], reverse=True):
        mine = [(label, seed, one) for label, seed, one in named if one.protocol == protocol]
        scored = [(f"{label}, {seed}" if seed else label, one) for label, seed, one in mine]
        pooled = []
        for label in dict.fromkeys(label for label, *_ in mine):
            pooled.append((label, pool_seeds([one for name, _, one in mine if name == label])))
        most = max(sum(name == label for name, *_ in mine) for label, *_ in mine)
        found.append(SeedGroup(protocol.replace("_", "-"), scored, pooled, most))
    return found


def _name(label: str, one: EvaluationSummary) -> tuple[str, str]:
    """An evaluation's name without its protocol and its seed, and its seed; empty where it has none."""
    protocol = f", {one.protocol.replace('_', '-')}"
    seeds = [part for part in one.path.resolve().parts if NUMBERED.fullmatch(part)]
    if not seeds:
        return label.removesuffix(protocol), ""
    bare = re.sub(r" \(\d+\)$", "", label).removesuffix(protocol)
    return NUMBERED.sub("", bare).strip("/, ") or one.path.resolve().parents[2].name, seeds[-1]


def pool_seeds(seeds: Sequence[EvaluationSummary]) -> EvaluationSummary:
    """One evaluation of several seeds: means of their scores, from the lowest to the highest seed.

    Args:
        seeds: Evaluations of the same tasks; one alone stays as it is.
    """
    first = seeds[0]
    if len(seeds) == 1:
        return first
    tasks = _by(lambda one: (one.task, one.shots), (task for one in seeds for task in one.tasks))
    clusters = _by(lambda one: (one.cluster, one.shots), (one for each in seeds for one in each.clusters))
    means = _by(lambda one: one.shots, (one for each in seeds for one in each.means))
    return replace(
        first,
        tasks=tuple(map(_task, tasks)),
        clusters=tuple(map(_mean, clusters)),
        means=tuple(map(_mean, means)),
    )


def _by(key: Callable[[Any], Any], found: Iterable[Any]) -> list[list[Any]]:
    grouped: dict[Any, list[Any]] = {}
    for one in found:
        grouped.setdefault(key(one), []).append(one)
    return list(grouped.values())


def _mean(seeds: list[ClusterScore]) -> ClusterScore:
    values = [one.value for one in seeds]
    return replace(seeds[0], value=statistics.fmean(values), low=min(values), high=max(values))


def _spread(scores: Sequence[float]) -> float | None:
    return statistics.stdev(scores) if len(scores) > 1 else None


def _task(seeds: list[TaskScore]) -> TaskScore:
    values = [one.score for one in seeds if one.score is not None]
    chances = [one.chance for one in seeds if one.chance is not None]
    wordings = _by(lambda one: one.template, (one for each in seeds for one in each.templates))
    templates = []
    for same in wordings:
        known = [one.score for one in same if one.score is not None]
        templates.append(replace(same[0], score=statistics.fmean(known) if known else None, low=None, high=None))
    return replace(
        seeds[0],
        score=statistics.fmean(values) if values else None,
        low=min(values, default=None),
        high=max(values, default=None),
        chance=statistics.fmean(chances) if chances else None,
        templates=tuple(templates),
        spread=_spread([one.score for one in templates if one.score is not None]),
    )
