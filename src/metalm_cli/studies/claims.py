"""Claims of a study: the difference of two models with its interval over examples and seeds, and the verdict.

Legend of shapes: ``b`` resamples, ``s`` seeds, ``n`` examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from metalm_cli.studies.schema import Verdict

if TYPE_CHECKING:
    from metalm_cli.evaluation.metrics.bootstrap import Observations

RESAMPLES = 10_000
"""Number of resamples of an interval."""
MAX_DRAWS = 2_000_000
"""Maximum number of values drawn at once."""
SEED_OF_SEEDS = 1_000_003
"""Seed of the draws of training seeds, apart from those of examples."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class TaskScores:
    """Scores of two models on a task, by training seed and template.

    Args:
        name: Name of the task.
        cluster: Its cluster.
        first: Observations of the first model, a list of templates for each seed.
        second: The same for the second model; or a constant from 0 to 1, such as a chance level.
    """

    name: str
    cluster: str
    first: Sequence[Sequence[Observations]]
    second: Sequence[Sequence[Observations]] | float


@dataclass(frozen=True)
class Difference:
    """Difference of two scores, 0 to 100, as a mean over seeds.

    Args:
        first: Score of the first model.
        second: Score of the second model, or the constant.
        first_interval: 95% interval of the first score, over examples and seeds.
        second_interval: The same of the second score.
        interval: 95% interval of first minus second: both are scored on the same resampled examples and seeds.
        by_seed: Difference of each seed.
        examples: Number of examples of all tasks.
    """

    first: float
    second: float
    first_interval: Interval
    second_interval: Interval
    interval: Interval
    by_seed: tuple[float, ...] = field(default=())
    examples: int = 0

    @property
    def value(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def is_zero(self) -> bool:
        """Whether the difference is 0 in every resample and every seed."""
        return all(abs(number) < 1e-9 for number in (*self.interval, *self.by_seed))


def compare_models(tasks: Sequence[TaskScores], weights: Sequence[float], resamples: int = RESAMPLES) -> Difference:
    """Compare two models by a weighted mean over tasks, by a paired bootstrap over examples and seeds.

    In each resample, the examples of each task and the training seeds are drawn with replacement; the drawn examples
    are the same for both models and all seeds, and the drawn seeds the same for both models and all tasks. With a
    single seed, the interval is one over examples only. A bootstrap interval without width, as of a model that answers
    all examples rightly, is replaced by Wilson's; if neither score has a width, the difference has Newcombe's interval.

    Args:
        tasks: The tasks, all with the same number of seeds, and at least one example that all seeds and models have.
        weights: Weight of each task; their sum is 1.
        resamples: Number of resamples.

    Raises:
        ValueError: A task has no example in common.
    """
    from metalm_cli.evaluation.metrics.bootstrap import percentiles

    seed_count = len(tasks[0].first)
    first, second = np.zeros((seed_count, resamples)), np.zeros((seed_count, resamples))
    exact = np.zeros((2, seed_count))
    examples = 0
    for index, (task, weight) in enumerate(zip(tasks, weights, strict=True)):
        sides = [task.first] if isinstance(task.second, float) else [task.first, task.second]
        rows = _common_rows([templates for side in sides for templates in side])
        if len(rows) == 0:
            raise ValueError(f"no example of {task.name} is common to all seeds and models")
        examples += len(rows)
        of_means = all(
            each.measure is None and each.values.ndim == 1 for side in sides for templates in side for each in templates
        )
        for number, side in enumerate(sides):
            selected = [[observations.select(rows) for observations in templates] for templates in side]
            (first, second)[number][:] += weight * _resampled(selected, of_means, index, resamples)
            exact[number] += [weight * np.mean([each.score for each in templates]) for templates in selected]
        if isinstance(task.second, float):
            second += weight * task.second
            exact[1] += weight * task.second
    drawn = np.random.default_rng(SEED_OF_SEEDS).integers(0, seed_count, size=(seed_count, resamples))
    resampled = [100 * np.take_along_axis(side, drawn, axis=0).mean(axis=0) for side in (first, second)]
    scores = [100 * float(side.mean()) for side in exact]
    recorded = isinstance(tasks[0].second, float)
    sampled = [percentiles(values) for values in resampled]
    intervals = [
        interval if recorded and number else _with_width(interval, score, examples)
        for number, (interval, score) in enumerate(zip(sampled, scores, strict=True))
    ]
    of_difference = percentiles(resampled[0] - resampled[1])
    if all(map(_has_no_width, sampled)) and not np.allclose(exact[0], exact[1]):
        of_difference = _newcombe(scores, intervals)
    by_seed = tuple(100 * float(value) for value in exact[0] - exact[1])
    return Difference(scores[0], scores[1], intervals[0], intervals[1], of_difference, by_seed, examples)


def _has_no_width(interval: Interval) -> bool:
    return interval[1] - interval[0] < 1e-9


def _with_width(interval: Interval, score: float, n: int) -> Interval:
    """The interval of a score from 0 to 100; Wilson's if it has no width."""
    from metalm_cli.evaluation.metrics.bootstrap import wilson_interval

    if not _has_no_width(interval) or not 0 <= score <= 100:
        return interval
    low, high = wilson_interval(score / 100, n)
    return 100 * low, 100 * high


def _newcombe(scores: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of the difference of two scores from those of the scores (Newcombe 1998, method 10)."""
    (first, second), ((low, high), (other_low, other_high)) = scores, intervals
    difference = first - second
    return (
        difference - float(np.hypot(first - low, other_high - second)),
        difference + float(np.hypot(high - first, second - other_low)),
    )


def _common_rows(sides: Sequence[Sequence[Observations]]) -> np.ndarray:
    """Rows that all templates of all seeds and models have, ascending. ``[n]``"""
    sets = [set(observations.rows.tolist()) for templates in sides for observations in templates]
    return np.array(sorted(set.intersection(*sets)) if sets else [], dtype=np.int64)


def _resampled(seeds: Sequence[Sequence[Observations]], of_means: bool, draw_seed: int, resamples: int) -> np.ndarray:
    """Mean scores over templates on resamples of the same rows, for each seed. ``[s, b]``"""
    if of_means:
        values = np.stack([np.mean([each.values for each in templates], axis=0) for templates in seeds])
        return _resampled_means(np.asarray(values, dtype=float), draw_seed, resamples)
    return np.stack(
        [
            np.mean([each.resample(seed=draw_seed, resamples=resamples) for each in templates], axis=0)
            for templates in seeds
        ]
    )


def _resampled_means(values: np.ndarray, draw_seed: int, resamples: int) -> np.ndarray:
    """Means of resampled columns. ``[s, n]`` to ``[s, b]``"""
    random = np.random.default_rng(draw_seed)
    count = values.shape[1]
    chunk = max(1, MAX_DRAWS // values.size)
    parts = []
    for start in range(0, resamples, chunk):
        drawn = random.integers(0, count, size=(min(chunk, resamples - start), count))
        parts.append(values[:, drawn].mean(axis=2))
    return np.concatenate(parts, axis=1)


def weights_over(tasks: Sequence[TaskScores], over: str) -> list[float]:
    """Weight of each task in the mean over clusters of the means over their tasks, or in the mean over tasks.

    Args:
        tasks: The tasks.
        over: ``clusters`` or ``tasks``.
    """
    if over == "tasks":
        return [1 / len(tasks)] * len(tasks)
    sizes: dict[str, int] = {}
    for task in tasks:
        sizes[task.cluster] = sizes.get(task.cluster, 0) + 1
    return [1 / (len(sizes) * sizes[task.cluster]) for task in tasks]


def verdict_of(interval: Interval, margin: float = 0.0, direction: str = "above") -> Verdict:
    """Judge a claim by the interval of first minus second.

    Args:
        interval: 95% interval of the difference, in points.
        margin: Points that the first score may be behind in the claimed direction.
        direction: Whether the claim places the first score ``above`` or ``below`` the second.

    Returns:
        ``agrees`` if the interval is clear of 0 in the claimed direction, ``disagrees`` if it is clear of 0 in the
        other one, else ``undecided``; with a margin, clear of minus the margin.

    >>> [verdict_of(interval) for interval in ((0.5, 3), (-3, -0.5), (-1, 1))]
    ['agrees', 'disagrees', 'undecided']
    >>> verdict_of((-1.5, 1), margin=2), verdict_of((-3, -0.5), direction="below")
    ('agrees', 'agrees')
    """
    low, high = interval if direction == "above" else (-interval[1], -interval[0])
    return "agrees" if low + margin > 0 else "disagrees" if high + margin < 0 else "undecided"


def verdict_of_each(verdicts: Sequence[Verdict], at_least: int) -> Verdict:
    """Judge a claim about a number of tasks by the verdict of each.

    Returns:
        ``agrees`` if enough tasks agree; ``disagrees`` if too few tasks are left that do not disagree; else
        ``undecided``.

    >>> verdict_of_each(["agrees", "undecided"], 1), verdict_of_each(["disagrees", "undecided"], 2)
    ('agrees', 'disagrees')
    """
    if verdicts.count("agrees") >= at_least:
        return "agrees"
    return "disagrees" if len(verdicts) - verdicts.count("disagrees") < at_least else "undecided"
