"""How sure a score is: standard errors, bootstrap intervals, and paired tests of two models on the same examples.

Everything is in the unit of the values it is given. Draws are seeded: the same values give the same interval.

Legend of shapes: ``n`` examples, ``b`` resamples (bootstrap samples of the examples, drawn with replacement).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A score of whole splits, many at once: what was found ``[..., n]`` and what is right ``[..., n]``, to ``[...]``."""

RESAMPLES = 1_000
"""Resamples of an interval."""
PAIRED_RESAMPLES = 10_000
"""Resamples of a paired test: its smallest p is about 2 / 10,000."""
LEVEL = 0.95
"""Coverage of intervals."""
CHUNK = 2_000_000
"""Numbers drawn at once."""


@dataclass(frozen=True)
class Observations:
    """What each example says of a score.

    Args:
        rows: Row of each example in the split. ``[n]``
        found: Its value, whose mean is the score; or what :attr:`measure` needs of what was said. ``[n]`` or ``[n, k]``
        right: What is right, for :attr:`measure`. ``[n]``
        measure: None where the score is a mean of values.
    """

    rows: np.ndarray
    found: np.ndarray
    right: np.ndarray | None = None
    measure: Measure | None = None

    def at(self, rows: np.ndarray) -> Observations:
        """The examples of some rows, in their order.

        Raises:
            KeyError: A row is not there.
        """
        places = {int(row): at for at, row in enumerate(self.rows)}
        chosen = np.array([places[int(row)] for row in rows], dtype=np.int64)
        return Observations(rows, self.found[chosen], None if self.right is None else self.right[chosen], self.measure)

    @property
    def value(self) -> float:
        """The score."""
        return float(self._measured(np.arange(len(self.rows))[None])[0])

    def resampled(self, *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
        """Scores of resamples; equal numbers of examples are drawn alike under one seed. ``[b]``"""
        return np.concatenate([self._measured(draws) for draws in _draws(len(self.rows), self.width, seed, resamples)])

    @property
    def width(self) -> int:
        """Numbers of an example."""
        return 1 if self.found.ndim == 1 else self.found.shape[1]

    def _measured(self, draws: np.ndarray) -> np.ndarray:
        if self.measure is None:
            return self.found[draws].mean(axis=1)
        right = np.zeros(draws.shape) if self.right is None else self.right[draws]
        return np.asarray(self.measure(self.found[draws], right), dtype=float)


def _draws(n: int, width: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Examples of each resample, some resamples at a time. ``[b, n]``"""
    if n == 0:
        raise ValueError("no examples to draw from")
    random = np.random.default_rng(seed)
    rows = max(1, CHUNK // (n * width))
    for start in range(0, resamples, rows):
        yield random.integers(0, n, size=(min(rows, resamples - start), n))


def standard_error(values: np.ndarray) -> float | None:
    """Standard error of a mean; None for fewer than two values.

    Args:
        values: Of each example. ``[n]``
    """
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def percentiles(samples: np.ndarray) -> tuple[float, float]:
    """The middle 95% of resampled scores. ``[b]``"""
    low, high = np.quantile(samples, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def interval(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95% interval of a mean, by bootstrap (percentiles; Efron and Tibshirani 1993, chapter 13).

    It has no width where all values are equal, as for a model that is always right: there it says nothing.

    Args:
        values: Of each example, in any unit. ``[n]``, at least one
        seed: Of the draws.
        resamples: How many.

    Returns:
        Its ends, in the unit of the values.

    Raises:
        ValueError: There is no value.
    """
    return percentiles(resampled_means(np.asarray(values, dtype=float), seed=seed, resamples=resamples))


def resampled_means(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of resamples of values. ``[n]`` to ``[b]``

    Few distinct values are drawn by how often each comes, which is the same distribution and far less work.
    """
    if len(values) == 0:
        raise ValueError("no values to draw from")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) * 8 <= len(values):
        drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
        return drawn @ distinct / len(values)
    return Observations(np.arange(len(values)), values).resampled(seed=seed, resamples=resamples)


def corpus_interval(
    measure: Callable[[np.ndarray, np.ndarray], float | np.ndarray],
    found: np.ndarray,
    right: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The 95% interval of a score of whole splits, over resampled examples (percentiles).

    Args:
        measure: Score of one resample, such as those of ``metrics.MEASURES``, by the name of the metric.
        found: What was said of each example. ``[n]``, or more numbers of each: ``[n, ...]``
        right: What is right. ``[n]``
        seed: Of the draws.
        resamples: How many.

    Returns:
        Its ends, in the unit of the measure (those of ``metrics.MEASURES``: 0 to 1, correlations -1 to 1).

    Raises:
        ValueError: There is no example.
    """
    said, truth = np.asarray(found), np.asarray(right)
    width = max(1, said.size // max(1, len(said)))
    drawn = [measure(said[one], truth[one]) for draws in _draws(len(truth), width, seed, resamples) for one in draws]
    return percentiles(np.array(drawn, dtype=float))


def corpus_error(whole: Observations, *, seed: int = 0, resamples: int = RESAMPLES) -> float | None:
    """Standard error of a score of whole splits, by bootstrap; None for fewer than two examples."""
    if len(whole.rows) < 2:
        return None
    return float(whole.resampled(seed=seed, resamples=resamples).std(ddof=1))


@dataclass(frozen=True)
class Estimate:
    """A score, a mean or a difference, with its standard error and 95% interval; None for too few examples."""

    value: float
    error: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, value: float, samples: np.ndarray | None) -> Estimate:
        """What resampled values say of a value. ``[b]``"""
        if samples is None:
            return cls(value, None, None)
        return cls(value, float(samples.std(ddof=1)), percentiles(samples))


def task_samples(wordings: Sequence[Observations], *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Resampled mean scores of a task over its wordings, whose draws are alike where they have as many rows. ``[b]``"""
    return np.mean([one.resampled(seed=seed, resamples=resamples) for one in wordings], axis=0)


def mean_samples(
    tasks: Sequence[Sequence[Observations]], *, seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray | None:
    """Resampled mean scores of tasks, each the mean of its wordings; None where one has fewer than two examples.

    Tasks are drawn apart from each other: their examples are independent.

    Args:
        tasks: Of a cluster, each in one wording or more.
        seed: Of the draws.
        resamples: How many.

    Returns:
        ``[b]``
    """
    if not tasks or any(len(wordings) == 0 or min(len(one.rows) for one in wordings) < 2 for wordings in tasks):
        return None
    drawn = [task_samples(one, seed=seed + at, resamples=resamples) for at, one in enumerate(tasks)]
    return np.asarray(np.mean(drawn, axis=0))


def mean_of(tasks: Sequence[Sequence[Observations]], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean score of tasks (:func:`mean_samples`), with its standard error and interval."""
    value = float(np.mean([np.mean([one.value for one in wordings]) for wordings in tasks]))
    return Estimate.of(value, mean_samples(tasks, seed=seed, resamples=resamples))


@dataclass(frozen=True)
class PairedScores:
    """Two models on the same examples.

    Args:
        first: Score of the first model on the examples that both have.
        second: Of the second.
        difference: First less second.
        interval: 95% of the difference, by bootstrap over examples.
        p: Two-sided: twice the share of resamples on the far side of no difference.
        mcnemar: Exact McNemar's p, where every value is 0 or 1 and there is one wording; else None.
        both: Examples that both have.
        only: Examples that only the first has, and only the second.
        samples: Differences of resamples. ``[b]``
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float
    mcnemar: float | None
    both: int
    only: tuple[int, int]
    samples: np.ndarray = field(repr=False, compare=False)

    @property
    def winner(self) -> int:
        """1 or 2: the model that is better, where the interval excludes 0; else 0."""
        low, high = self.interval
        return 1 if low > 0 else 2 if high < 0 else 0


def common_rows(first: Sequence[Observations], second: Sequence[Observations]) -> np.ndarray:
    """Rows that every wording of both models has, ascending."""
    rows = set.intersection(*(set(one.rows.tolist()) for one in [*first, *second]))
    return np.array(sorted(rows), dtype=np.int64)


def paired(
    first: Sequence[Observations], second: Sequence[Observations], *, seed: int = 0, resamples: int = PAIRED_RESAMPLES
) -> PairedScores | None:
    """Compare two models on one task: the difference of their mean scores over wordings.

    Both are scored on the same resamples of the rows that both have, so what makes an example hard for both cancels.

    Args:
        first: A model's observations, one for each wording.
        second: The other's.
        seed: Of the draws.
        resamples: How many.

    Returns:
        None where they have no row in common.

    Source: Koehn 2004 (paired bootstrap); McNemar 1947.
    """
    rows = common_rows(first, second)
    if len(rows) == 0:
        return None
    ours, theirs = [one.at(rows) for one in first], [one.at(rows) for one in second]
    values = float(np.mean([one.value for one in ours])), float(np.mean([one.value for one in theirs]))
    drawn = difference_samples(ours, theirs, seed=seed, resamples=resamples)
    return PairedScores(
        *values,
        values[0] - values[1],
        percentiles(drawn),
        two_sided_p(drawn),
        _mcnemar_of(ours, theirs),
        len(rows),
        (_union(first) - len(rows), _union(second) - len(rows)),
        drawn,
    )


def difference_samples(
    first: Sequence[Observations], second: Sequence[Observations], *, seed: int = 0, resamples: int = PAIRED_RESAMPLES
) -> np.ndarray:
    """Differences of two models' scores on the same resamples; all observations are of the same rows. ``[b]``"""
    if all(one.measure is None for one in [*first, *second]):
        apart = np.mean([one.found for one in first], axis=0) - np.mean([one.found for one in second], axis=0)
        return resampled_means(np.round(apart, 12), seed=seed, resamples=resamples)
    draw = {"seed": seed, "resamples": resamples}
    return task_samples(first, **draw) - task_samples(second, **draw)


def two_sided_p(samples: np.ndarray) -> float:
    """Twice the share of resampled differences on the rarer side of 0, zeros on both sides; at most 1."""
    below, above = int((samples <= 0).sum()), int((samples >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(samples) + 1))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact McNemar's test: whether two models err alike on the same examples.

    Args:
        first: 1 where the first model is right, else 0. ``[n]``
        second: The same of the second. ``[n]``

    Returns:
        The two-sided p: 1 where they differ on no example.
    """
    from scipy.stats import binomtest

    only = int((first > second).sum()), int((second > first).sum())
    return float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0


def _mcnemar_of(first: Sequence[Observations], second: Sequence[Observations]) -> float | None:
    if len(first) != 1 or len(second) != 1 or first[0].measure or second[0].measure:
        return None
    one, other = first[0].found, second[0].found
    return mcnemar(one, other) if np.isin([one, other], (0, 1)).all() else None


def _union(observed: Sequence[Observations]) -> int:
    return len(set().union(*(one.rows.tolist() for one in observed)))
