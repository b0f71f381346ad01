"""Two result files beside each other: differences by task and cluster, on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.bootstrap import (
    PAIRED_RESAMPLES,
    Estimate,
    PairedScores,
    mean_samples,
    paired,
    percentiles,
    two_sided_p,
)
from metalm_cli.evaluation.results.result_reader import MeanRecord, ResultRecord, TaskRecord

SETTINGS = (
    "template",
    "limit",
    "demonstrations",
    "seed",
    "sequence_length",
    "normalise",
    "samples",
    "temperature",
    "style",
)
"""Settings that must be the same, beside protocol, split, card, templates and rows."""
ONLY_WITH_DRAWS = ("demonstrations", "seed")
"""Settings that change nothing where nothing is drawn: without demonstrations and samples."""
OVER = "over clusters"
"""Name of the mean of cluster means."""
APART = 1_000
"""Seeds between the draws of two clusters."""


@dataclass(frozen=True)
class TaskComparison:
    """A task of both files.

    Args:
        task: Its name.
        cluster: Its cluster.
        core: Is it one of the paper's?
        shots: Demonstrations.
        metric: The first file's.
        first: Score of the first file on the examples that both have, 0 to 100; None: it has none.
        second: Of the second.
        test: The difference, 0 to 1; None where the scores are not of the same thing.
        obstacles: Why they cannot be compared; empty: they can.
    """

    task: str
    cluster: str
    core: bool
    shots: int
    metric: str
    first: float | None
    second: float | None
    test: PairedScores | None
    obstacles: tuple[str, ...]

    @property
    def winner(self) -> int:
        """1 or 2 where they can be compared and the interval excludes 0; else 0."""
        return self.test.winner if self.test is not None and not self.obstacles else 0


@dataclass(frozen=True)
class MeanDifference:
    """A mean over tasks that can be compared.

    Args:
        name: Cluster, or :data:`OVER`.
        shots: Demonstrations.
        first: Mean of the first file, 0 to 100.
        second: Of the second.
        interval: 95% of the difference.
        p: Two-sided.
        of: Tasks, or clusters.
    """

    name: str
    shots: int
    first: float
    second: float
    interval: tuple[float, float]
    p: float
    of: tuple[str, ...]

    @property
    def winner(self) -> int:
        """1 or 2 where the interval excludes 0; else 0."""
        return 1 if self.interval[0] > 0 else 2 if self.interval[1] < 0 else 0


@dataclass(frozen=True)
class Comparison:
    """Two files.

    Args:
        first: One.
        second: The other.
        tasks: Tasks of both, by shots.
        means: Means over the tasks that can be compared.
        only_first: Tasks and shots of the first alone.
        only_second: Of the second alone.
    """

    first: ResultRecord
    second: ResultRecord
    tasks: tuple[TaskComparison, ...]
    means: tuple[MeanDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def obstacles(self) -> dict[str, list[str]]:
        """Why tasks cannot be compared, and which."""
        found: dict[str, list[str]] = {}
        for one in self.tasks:
            for why in one.obstacles:
                found.setdefault(why, []).append(f"{one.task} ({one.shots}-shot)")
        return found


def compare(first: ResultRecord, second: ResultRecord, *, resamples: int = PAIRED_RESAMPLES) -> Comparison:
    """Compare two files task by task, and their cluster means, on the rows that both have.

    Args:
        first: One.
        second: The other.
        resamples: Bootstrap samples.

    Raises:
        MetalmError: They have no task with the same number of demonstrations in common, or one is damaged.
    """
    cases = [{(name, shots): None for shots in one.shots for name in one.tasks} for one in (first, second)]
    ours, theirs = (
        {(name, shots) for name, shots in case if record.tasks[name].at(shots) is not None}
        for case, record in zip(cases, (first, second), strict=True)
    )
    both = [case for case in cases[0] if case in ours and case in theirs]
    if not both:
        raise MetalmError(
            "the two have no task in common with the same number of demonstrations",
            where=f"{first.name}, {second.name}",
            why=f"the first has {_listed(ours)}; the second {_listed(theirs)}",
            remedy="evaluate one of them again, as the other was",
        )
    tasks = tuple(_task(first, second, *case, seed=at, resamples=resamples) for at, case in enumerate(both))
    shots = list(dict.fromkeys(one.shots for one in tasks))
    means = tuple(mean for count in shots for mean in _means([one for one in tasks if one.shots == count]))
    return Comparison(first, second, tasks, means, *(_named(a - b) for a, b in ((ours, theirs), (theirs, ours))))


def _named(cases: set[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"{name} ({shots}-shot)" for name, shots in sorted(cases))


def _listed(cases: set[tuple[str, int]]) -> str:
    named = _named(cases)
    return ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "") or "nothing"


def _task(
    first: ResultRecord, second: ResultRecord, name: str, shots: int, *, seed: int, resamples: int
) -> TaskComparison:
    one, other = first.tasks[name], second.tasks[name]
    obstacles = incomparable_because(first, second, name, shots)
    observed = first.observations[name, shots], second.observations[name, shots]
    test = None
    if one.metric == other.metric and all(observed):
        test = paired(*observed, seed=seed, resamples=resamples)
        if test is None:
            obstacles.append("they have no row in common")
    obstacles += [f"{letter} has no score" for letter, side in zip("AB", observed, strict=True) if not side]
    if test is not None:
        scores: tuple[float | None, float | None] = 100 * test.first, 100 * test.second
    else:
        scores = _score(one, shots), _score(other, shots)
    return TaskComparison(name, one.cluster, one.core, shots, one.metric, scores[0], scores[1], test, tuple(obstacles))


def _score(task: TaskRecord, shots: int) -> float | None:
    setting = task.at(shots)
    return None if setting is None else setting.score


def incomparable_because(first: ResultRecord, second: ResultRecord, name: str, shots: int) -> list[str]:
    """Why scores of a task in two files are not of the same thing; empty where they are."""
    one, other = first.tasks[name], second.tasks[name]
    found = []
    if first.protocol != second.protocol:
        found.append(f"the protocols differ: {first.protocol}, {second.protocol}")
    drawn = shots > 0 or any((record.settings.get("samples") or 1) > 1 for record in (first, second))
    for key in SETTINGS:
        if key in ONLY_WITH_DRAWS and not drawn:
            continue
        sides = first.settings.get(key), second.settings.get(key)
        if sides[0] != sides[1]:
            found.append(f"{key} differs: {_differing(*sides)}")
    for what, sides in (
        ("metrics", (one.metric, other.metric)),
        ("splits", (one.split, other.split)),
        ("task cards", (one.card_sha256[:12], other.card_sha256[:12])),
        ("template files", (one.templates_sha256[:12], other.templates_sha256[:12])),
        ("templates", _templates(one, other, shots)),
        ("rows", _rows(one, other)),
    ):
        if sides[0] != sides[1]:
            found.append(f"the {what} differ: {sides[0]}, {sides[1]}")
    return found


def _differing(one: object, other: object) -> str:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return ", ".join(f"{key} {one.get(key)!r} and {other.get(key)!r}" for key in keys)
    return ", ".join("all" if side is None else str(side) for side in (one, other))


def _templates(one: TaskRecord, other: TaskRecord, shots: int) -> tuple[str, str]:
    settings = one.at(shots), other.at(shots)
    names = [", ".join(wording.template for wording in side.templates) if side else "" for side in settings]
    return names[0], names[1]


def _rows(one: TaskRecord, other: TaskRecord) -> tuple[str, str]:
    """Fingerprints of the data, where both say."""
    sides = [[file.sha256 for file in task.files] for task in (one, other)]
    if all(side and all(side) for side in sides):
        return "+".join(str(sha)[:12] for sha in sides[0]), "+".join(str(sha)[:12] for sha in sides[1])
    return (one.revision or "", other.revision or "") if one.revision and other.revision else ("", "")


def _means(tasks: Sequence[TaskComparison]) -> list[MeanDifference]:
    """Means over clusters of the tasks that can be compared: of the paper's core ones, or of all if none is core."""
    usable = [one for one in tasks if one.test is not None and not one.obstacles]
    usable = [one for one in usable if one.core] or usable
    clusters: dict[str, list[TaskComparison]] = {}
    for one in usable:
        clusters.setdefault(one.cluster, []).append(one)
    found = []
    drawn = []
    for name, members in clusters.items():
        tests = [one.test for one in members if one.test is not None]
        drawn.append(np.mean([one.samples for one in tests], axis=0))
        scores = [(100 * one.first, 100 * one.second) for one in tests]
        found.append(_mean(name, members[0].shots, scores, drawn[-1], [one.task for one in members]))
    if len(found) > 1:
        scores = [(one.first, one.second) for one in found]
        found.append(_mean(OVER, found[0].shots, scores, np.mean(drawn, axis=0), list(clusters)))
    return found


def _mean(
    name: str, shots: int, scores: Sequence[tuple[float, float]], samples: np.ndarray, of: Sequence[str]
) -> MeanDifference:
    first, second = np.mean(scores, axis=0).tolist()
    return MeanDifference(name, shots, first, second, percentiles(100 * samples), two_sided_p(samples), tuple(of))


def record_cluster_means(record: ResultRecord, shots: int) -> dict[str, tuple[Estimate, tuple[str, ...]]]:
    """Cluster means of a file with their intervals, and under :data:`OVER` the mean of those, 0 to 100.

    Args:
        record: The file.
        shots: Demonstrations.

    Raises:
        MetalmError: The file is damaged.
    """
    found: dict[str, tuple[Estimate, tuple[str, ...]]] = {}
    drawn: list[np.ndarray | None] = []
    for at, (name, mean) in enumerate(record.clusters.get(str(shots), {}).items()):
        members = [record.observations.get((task, shots), []) for task in mean.of]
        drawn.append(mean_samples(members, seed=APART * at))
        found[name] = _estimate(mean, drawn[-1]), tuple(mean.of)
    whole = record.mean.get(str(shots))
    if whole is not None and len(found) > 1:
        known = [one for one in drawn if one is not None]
        found[OVER] = _estimate(whole, np.mean(known, axis=0) if len(known) == len(drawn) else None), tuple(whole.of)
    return found


def _estimate(mean: MeanRecord, samples: np.ndarray | None) -> Estimate:
    return Estimate(mean.value, mean.error, None if samples is None else percentiles(100 * samples))
