"""Comparison of two result files: differences by task and cluster, on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.bootstrap import (
    PAIRED_RESAMPLES,
    Estimate,
    PairedScores,
    compare_paired,
    interval_of_mean,
    percentiles,
    two_sided_p,
)
from metalm_cli.evaluation.results.schema import MeanRecord, ResultRecord, TaskRecord

COMPARED_SETTINGS = (
    "template",
    "limit",
    "demonstrations",
    "seed",
    "sequence_length",
    "max_answer_tokens",
    "normalise",
    "samples",
    "temperature",
    "style",
)
"""Settings that must be equal, in addition to protocol, split, card, templates and rows."""
DRAW_SETTINGS = ("demonstrations", "seed")
"""Settings without effect unless demonstrations or samples are drawn."""
OVER_CLUSTERS = "over clusters"
"""Name of the mean of cluster means."""


@dataclass(frozen=True)
class TaskComparison:
    """Comparison of a task of both files.

    Args:
        task: Name of the task.
        cluster: Cluster of the task.
        core: Whether the task is one of the paper's core tasks.
        shots: Number of demonstrations.
        metric: Metric of the first file.
        first: Score of the first file on the common examples, 0 to 100; None if there is none.
        second: Score of the second file on the common examples.
        test: Paired test of the difference, 0 to 1; None if the metrics differ or no example is common.
        obstacles: Reasons why the scores are not comparable; empty if they are.
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
        """Better file, 1 or 2, if the scores are comparable and the interval excludes 0; else 0."""
        return self.test.winner if self.test is not None and not self.obstacles else 0


@dataclass(frozen=True)
class MeanDifference:
    """Difference of means over comparable tasks.

    Args:
        name: Cluster, or :data:`OVER_CLUSTERS`.
        shots: Number of demonstrations.
        first: Mean of the first file, 0 to 100.
        second: Mean of the second file.
        interval: 95% interval of the difference.
        p: Two-sided p.
        of: Names of the averaged tasks or clusters.
        aggregate: Name of the aggregate; empty for means over tasks and clusters.
    """

    name: str
    shots: int
    first: float
    second: float
    interval: tuple[float, float]
    p: float
    of: tuple[str, ...]
    aggregate: str = ""

    @property
    def winner(self) -> int:
        """Better file, 1 or 2, if the interval excludes 0; else 0."""
        return 1 if self.interval[0] > 0 else 2 if self.interval[1] < 0 else 0


@dataclass(frozen=True)
class Comparison:
    """Comparison of two result files.

    Args:
        first: The first file.
        second: The second file.
        tasks: Tasks of both files, by shots.
        means: Means over comparable tasks.
        only_first: Tasks and shots of the first file alone.
        only_second: Tasks and shots of the second file alone.
    """

    first: ResultRecord
    second: ResultRecord
    tasks: tuple[TaskComparison, ...]
    means: tuple[MeanDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def obstacles(self) -> dict[str, list[str]]:
        """Tasks that are not comparable, by reason."""
        tasks_by_obstacle: dict[str, list[str]] = {}
        for task in self.tasks:
            for obstacle in task.obstacles:
                tasks_by_obstacle.setdefault(obstacle, []).append(f"{task.task} ({task.shots}-shot)")
        return tasks_by_obstacle


def compare(first: ResultRecord, second: ResultRecord, *, resamples: int = PAIRED_RESAMPLES) -> Comparison:
    """Compare two files task by task, and their cluster means, on common rows.

    Args:
        first: The first file.
        second: The second file.
        resamples: Number of bootstrap resamples.

    Raises:
        MetalmError: The files have no common task with the same number of demonstrations, or a file is damaged.
    """
    candidates = [
        {(name, shots): None for shots in record.shots for name in record.tasks} for record in (first, second)
    ]
    first_cases, second_cases = (
        {(name, shots) for name, shots in keys if record.tasks[name].with_shots(shots) is not None}
        for keys, record in zip(candidates, (first, second), strict=True)
    )
    common = [case for case in candidates[0] if case in first_cases and case in second_cases]
    if not common:
        raise MetalmError(
            "the two files have no task in common with the same number of demonstrations",
            where=f"{first.name}, {second.name}",
            why=f"the first has {_list_cases(first_cases)}; the second {_list_cases(second_cases)}",
            remedy="evaluate one model again with the settings of the other",
        )
    tasks = tuple(
        _compare_task(first, second, *case, seed=index, resamples=resamples) for index, case in enumerate(common)
    )
    shot_counts = list(dict.fromkeys(task.shots for task in tasks))
    means = tuple(
        mean for shots in shot_counts for mean in _mean_differences([task for task in tasks if task.shots == shots])
    )
    return Comparison(
        first,
        second,
        tasks,
        means,
        *(_case_names(a - b) for a, b in ((first_cases, second_cases), (second_cases, first_cases))),
    )


def _case_names(cases: set[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"{name} ({shots}-shot)" for name, shots in sorted(cases))


def _list_cases(cases: set[tuple[str, int]]) -> str:
    names = _case_names(cases)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "nothing"


def _compare_task(
    first: ResultRecord, second: ResultRecord, name: str, shots: int, *, seed: int, resamples: int
) -> TaskComparison:
    first_task, second_task = first.tasks[name], second.tasks[name]
    obstacles = incomparable_because(first, second, name, shots)
    observations = first.observations[name, shots], second.observations[name, shots]
    test = None
    if first_task.metric == second_task.metric and all(observations):
        test = compare_paired(*observations, seed=seed, resamples=resamples)
        if test is None:
            obstacles.append("the files have no rows in common")
    obstacles += [
        f"{letter} has no score"
        for letter, side_observations in zip("AB", observations, strict=True)
        if not side_observations
    ]
    if test is not None:
        scores: tuple[float | None, float | None] = 100 * test.first, 100 * test.second
    else:
        scores = _score(first_task, shots), _score(second_task, shots)
    return TaskComparison(
        name,
        first_task.cluster,
        first_task.core,
        shots,
        first_task.metric,
        scores[0],
        scores[1],
        test,
        tuple(obstacles),
    )


def _score(task: TaskRecord, shots: int) -> float | None:
    setting = task.with_shots(shots)
    return None if setting is None else setting.score


def incomparable_because(first: ResultRecord, second: ResultRecord, name: str, shots: int) -> list[str]:
    """List the reasons why scores of a task in two files are not comparable; empty if they are."""
    first_task, second_task = first.tasks[name], second.tasks[name]
    obstacles = []
    if first.protocol != second.protocol:
        obstacles.append(f"the protocols differ: {first.protocol}, {second.protocol}")
    has_draws = shots > 0 or any((record.settings.get("samples") or 1) > 1 for record in (first, second))
    for key in COMPARED_SETTINGS:
        if key in DRAW_SETTINGS and not has_draws:
            continue
        sides = first.settings.get(key), second.settings.get(key)
        if sides[0] != sides[1]:
            obstacles.append(f"{key} differs: {_describe_difference(*sides)}")
    exchanged = [record.settings.get("exchange_docks") or "none" for record in (first, second)]
    if exchanged[0] != exchanged[1] and not _is_one_model(first, second):
        obstacles.append(f"exchange_docks differs: {', '.join(exchanged)}")
    for subject, sides in (
        ("metrics", (first_task.metric, second_task.metric)),
        ("splits", (first_task.split, second_task.split)),
        ("task cards", (first_task.card_sha256[:12], second_task.card_sha256[:12])),
        ("template files", (first_task.templates_sha256[:12], second_task.templates_sha256[:12])),
        ("templates", _template_names(first_task, second_task, shots)),
        ("rows", _data_fingerprints(first_task, second_task)),
    ):
        if sides[0] != sides[1]:
            separator = "; " if any(", " in side for side in sides) else ", "
            obstacles.append(f"the {subject} differ: {separator.join(sides)}")
    return obstacles


def _is_one_model(first: ResultRecord, second: ResultRecord) -> bool:
    """Whether both files are of one model, of which docks exchanged and kept may be compared."""
    hashes = [record.model.get("weights_sha256") for record in (first, second)]
    return bool(hashes[0]) and hashes[0] == hashes[1]


def _describe_difference(first: object, second: object) -> str:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
        return ", ".join(f"{key} {first.get(key)!r} and {second.get(key)!r}" for key in keys)
    return ", ".join("all" if value is None else str(value) for value in (first, second))


def _template_names(first: TaskRecord, second: TaskRecord, shots: int) -> tuple[str, str]:
    settings = first.with_shots(shots), second.with_shots(shots)
    names = [", ".join(template.template for template in side.templates) if side else "" for side in settings]
    return names[0], names[1]


def _data_fingerprints(first: TaskRecord, second: TaskRecord) -> tuple[str, str]:
    """Return fingerprints of the data, or two empty texts if a file has none."""
    sides = [[file.sha256 for file in task.files] for task in (first, second)]
    if all(side and all(side) for side in sides):
        return "+".join(str(sha)[:12] for sha in sides[0]), "+".join(str(sha)[:12] for sha in sides[1])
    return (first.revision or "", second.revision or "") if first.revision and second.revision else ("", "")


def _mean_differences(tasks: Sequence[TaskComparison]) -> list[MeanDifference]:
    """Return the mean differences by cluster of comparable tasks: core tasks, or all tasks if none is core."""
    usable = [task for task in tasks if task.test is not None and not task.obstacles]
    usable = [task for task in usable if task.core] or usable
    clusters: dict[str, list[TaskComparison]] = {}
    for task in usable:
        clusters.setdefault(task.cluster, []).append(task)
    differences = []
    samples = []
    for name, members in clusters.items():
        tests = [task.test for task in members if task.test is not None]
        samples.append(np.mean([test.samples for test in tests], axis=0))
        scores = [(100 * test.first, 100 * test.second) for test in tests]
        differences.append(
            _mean_difference(name, members[0].shots, scores, samples[-1], [task.task for task in members])
        )
    if len(differences) > 1:
        scores = [(difference.first, difference.second) for difference in differences]
        differences.append(
            _mean_difference(OVER_CLUSTERS, differences[0].shots, scores, np.mean(samples, axis=0), list(clusters))
        )
    return differences


def _mean_difference(
    name: str, shots: int, scores: Sequence[tuple[float, float]], samples: np.ndarray, members: Sequence[str]
) -> MeanDifference:
    first, second = np.mean(scores, axis=0).tolist()
    return MeanDifference(name, shots, first, second, percentiles(100 * samples), two_sided_p(samples), tuple(members))


def record_cluster_means(record: ResultRecord, shots: int) -> dict[str, tuple[Estimate, tuple[str, ...]]]:
    """Return cluster means with intervals, and under :data:`OVER_CLUSTERS` their mean, 0 to 100.

    Args:
        record: The result file.
        shots: Number of demonstrations.

    Raises:
        MetalmError: The file is damaged.
    """
    estimates: dict[str, tuple[Estimate, tuple[str, ...]]] = {}
    for name, mean in record.clusters.get(str(shots), {}).items():
        settings = [record.tasks[task].with_shots(shots) for task in mean.of if task in record.tasks]
        scores = [(setting.score, setting.interval) for setting in settings if setting is not None]
        estimates[name] = _mean_estimate(mean, scores), tuple(mean.of)
    overall = record.mean.get(str(shots))
    if overall is not None and len(estimates) > 1:
        means = [(estimate.value, estimate.interval) for estimate, _ in estimates.values()]
        estimates[OVER_CLUSTERS] = _mean_estimate(overall, means), tuple(overall.of)
    return estimates


def _mean_estimate(mean: MeanRecord, scores: Sequence[tuple[float | None, Sequence[float] | None]]) -> Estimate:
    known = [(value, interval) for value, interval in scores if value is not None and interval is not None]
    if len(known) < len(mean.of):
        return Estimate(mean.value, mean.error, None)
    values, intervals = zip(*known, strict=True)
    return Estimate(mean.value, mean.error, interval_of_mean(values, intervals))
