"""Uncertainty of scores: standard errors, intervals, and paired tests of two models on the same examples.

All results are in the unit of the input values. Draws are seeded: the same values give the same interval.

Legend of shapes: ``n`` examples, ``b`` resamples (bootstrap samples of the examples, drawn with replacement).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Score of whole splits, batched: predictions ``[..., n]`` and references ``[..., n]`` to scores ``[...]``."""

RESAMPLES = 1_000
"""Number of resamples of an interval."""
PAIRED_RESAMPLES = 10_000
"""Number of resamples of a paired test, whose smallest p is about 2 / 10,000."""
CONFIDENCE = 0.95
"""Coverage of intervals."""
NORMAL_QUANTILE = 1.959963984540054
"""Quantile (1 + 0.95) / 2 of the standard normal distribution."""
MIN_WIDTH = 1e-9
"""Width below which a bootstrap interval has none."""
MAX_DRAWS = 2_000_000
"""Maximum number of values drawn at once."""


@dataclass(frozen=True)
class Observations:
    """Values by example from which a score is computed.

    Args:
        rows: Row of each example in the split. ``[n]``
        values: Value of each example, or predictions as :attr:`measure` takes them. ``[n]`` or ``[n, k]``
        references: References for :attr:`measure`. ``[n]``
        measure: Score of the split; None if the score is the mean of the values.
    """

    rows: np.ndarray
    values: np.ndarray
    references: np.ndarray | None = None
    measure: Measure | None = None

    def select(self, rows: np.ndarray) -> Observations:
        """Select the examples of some rows, in the order of these rows.

        Raises:
            KeyError: A row is missing.
        """
        indices = {int(row): index for index, row in enumerate(self.rows)}
        selected = np.array([indices[int(row)] for row in rows], dtype=np.int64)
        return Observations(
            rows, self.values[selected], None if self.references is None else self.references[selected], self.measure
        )

    @property
    def score(self) -> float:
        """The score."""
        return float(self._scores(np.arange(len(self.rows))[None])[0])

    def resample(self, *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
        """Return scores of resamples; the same seed and number of examples give the same draws. ``[b]``"""
        return np.concatenate([self._scores(draws) for draws in _draws(len(self.rows), self.width, seed, resamples)])

    @property
    def width(self) -> int:
        """Number of values per example."""
        return 1 if self.values.ndim == 1 else self.values.shape[1]

    def _scores(self, draws: np.ndarray) -> np.ndarray:
        if self.measure is None:
            return self.values[draws].mean(axis=1)
        references = np.zeros(draws.shape) if self.references is None else self.references[draws]
        return np.asarray(self.measure(self.values[draws], references), dtype=float)


def _draws(n: int, width: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Draw the examples of each resample, in chunks of resamples. ``[b, n]``"""
    if n == 0:
        raise ValueError("no examples to draw from")
    random = np.random.default_rng(seed)
    rows = max(1, MAX_DRAWS // (n * width))
    for start in range(0, resamples, rows):
        yield random.integers(0, n, size=(min(rows, resamples - start), n))


def standard_error(values: np.ndarray) -> float | None:
    """Return the standard error of a mean; None for fewer than two values.

    Args:
        values: Values by example. ``[n]``
    """
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def percentiles(samples: np.ndarray) -> tuple[float, float]:
    """Return the ends of the middle 95% of resampled scores. ``[b]``"""
    low, high = np.quantile(samples, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def interval(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% interval of a mean, by bootstrap (percentiles; Efron and Tibshirani 1993, chapter 13).

    If all values are equal, as for a model that is always right, the interval has zero width and is uninformative.

    Args:
        values: Values by example, at least one, in any unit. ``[n]``
        seed: Seed of the draws.
        resamples: Number of resamples.

    Returns:
        Ends of the interval, in the unit of the values.

    Raises:
        ValueError: There are no values.
    """
    return percentiles(resampled_means(np.asarray(values, dtype=float), seed=seed, resamples=resamples))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval of a share, which has a width even if all or none of the examples are right.

    Args:
        share: Share of right examples, 0 to 1.
        n: Number of examples, at least 1.

    >>> [round(bound, 3) for bound in wilson_interval(1.0, 60)]
    [0.94, 1.0]

    Source: Wilson 1927; Brown, Cai and DasGupta 2001, equation 4.
    """
    squared = NORMAL_QUANTILE**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half_width = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / n + squared / (4 * n * n)) / (1 + squared / n)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def score_interval(by_template: Sequence[Observations], *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% interval of a mean score over templates.

    It is Wilson's if every value is 0 or 1 and there is a single template, as for accuracies, and by bootstrap
    otherwise. A bootstrap interval without width says nothing: it is replaced by Wilson's for scores that are means of
    values from 0 to 1, whose variance is at most that of shares with the same mean, and by None for scores of whole
    splits.

    Returns:
        Ends of the interval, in the unit of the values; None for fewer than two examples.
    """
    if not by_template or len(by_template[0].rows) < 2:
        return None
    mean = float(np.mean([observations.score for observations in by_template]))
    is_mean = all(observations.measure is None for observations in by_template)
    n = min(len(observations.rows) for observations in by_template)
    if is_mean and len(by_template) == 1 and np.isin(by_template[0].values, (0, 1)).all():
        return wilson_interval(mean, n)
    low, high = percentiles(task_samples(by_template, seed=seed))
    if high - low > MIN_WIDTH:
        return low, high
    return wilson_interval(min(max(mean, 0.0), 1.0), n) if is_mean else None


def interval_of_mean(
    values: Sequence[float], intervals: Sequence[Sequence[float] | None]
) -> tuple[float, float] | None:
    """Return the 95% interval of a mean of independent scores from their intervals; None if one has none.

    The distances from the scores to the ends of their intervals are added as squares, each side by itself. The mean of
    one score has the interval of the score.

    Source: Newcombe 1998, method 10; Zou and Donner 2008.
    """
    known = [bounds for bounds in intervals if bounds is not None]
    if not values or len(known) < len(values):
        return None
    if len(known) == 1:
        return known[0][0], known[0][1]
    mean = sum(values) / len(values)
    below = math.hypot(*(value - bounds[0] for value, bounds in zip(values, known, strict=True))) / len(values)
    above = math.hypot(*(bounds[1] - value for value, bounds in zip(values, known, strict=True))) / len(values)
    return mean - below, mean + above


def resampled_means(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Return means of resamples of values. ``[n]`` to ``[b]``

    If there are few distinct values, their counts are drawn instead: the same distribution at far lower cost.
    """
    if len(values) == 0:
        raise ValueError("no values to draw from")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) * 8 <= len(values):
        samples = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
        return samples @ distinct / len(values)
    return Observations(np.arange(len(values)), values).resample(seed=seed, resamples=resamples)


def corpus_error(observations: Observations, *, seed: int = 0, resamples: int = RESAMPLES) -> float | None:
    """Return the standard error of a score of whole splits, by bootstrap; None for fewer than two examples."""
    if len(observations.rows) < 2:
        return None
    return float(observations.resample(seed=seed, resamples=resamples).std(ddof=1))


@dataclass(frozen=True)
class Estimate:
    """Score, mean or difference with its standard error and 95% interval; None for too few examples."""

    value: float
    error: float | None
    interval: tuple[float, float] | None


def task_samples(by_template: Sequence[Observations], *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Return resampled mean scores of a task over templates; those with equally many rows share draws. ``[b]``"""
    return np.mean([observations.resample(seed=seed, resamples=resamples) for observations in by_template], axis=0)


@dataclass(frozen=True)
class PairedScores:
    """Paired comparison of two models on the same examples.

    Args:
        first: Score of the first model on the common examples.
        second: Score of the second model on the common examples.
        difference: First score minus second score.
        interval: 95% interval of the difference, by bootstrap over examples.
        p: Two-sided p: twice the share of resamples whose difference has the opposite sign.
        mcnemar: Exact McNemar's p if every value is 0 or 1 and there is one template; else None.
        common: Number of examples that both models have.
        exclusive: Numbers of examples that only the first and only the second model has.
        samples: Differences of resamples. ``[b]``
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float
    mcnemar: float | None
    common: int
    exclusive: tuple[int, int]
    samples: np.ndarray = field(repr=False, compare=False)

    @property
    def winner(self) -> int:
        """Better model, 1 or 2, if the interval excludes 0; else 0."""
        low, high = self.interval
        return 1 if low > 0 else 2 if high < 0 else 0


def common_rows(first: Sequence[Observations], second: Sequence[Observations]) -> np.ndarray:
    """Return the rows that all templates of both models have, ascending."""
    rows = set.intersection(*(set(observations.rows.tolist()) for observations in [*first, *second]))
    return np.array(sorted(rows), dtype=np.int64)


def compare_paired(
    first: Sequence[Observations], second: Sequence[Observations], *, seed: int = 0, resamples: int = PAIRED_RESAMPLES
) -> PairedScores | None:
    """Compare two models on one task: the difference of their mean scores over templates.

    Both are scored on the same resamples of their common rows, so that differences in difficulty cancel.

    Args:
        first: Observations of the first model, by template.
        second: Observations of the second model, by template.
        seed: Seed of the draws.
        resamples: Number of resamples.

    Returns:
        The comparison; None if the models have no rows in common.

    Source: Koehn 2004 (paired bootstrap); McNemar 1947.
    """
    rows = common_rows(first, second)
    if len(rows) == 0:
        return None
    ours, theirs = (
        [observations.select(rows) for observations in first],
        [observations.select(rows) for observations in second],
    )
    means = (
        float(np.mean([observations.score for observations in ours])),
        float(np.mean([observations.score for observations in theirs])),
    )
    differences = difference_samples(ours, theirs, seed=seed, resamples=resamples)
    return PairedScores(
        *means,
        means[0] - means[1],
        percentiles(differences),
        two_sided_p(differences),
        _mcnemar_p(ours, theirs),
        len(rows),
        (_count_rows(first) - len(rows), _count_rows(second) - len(rows)),
        differences,
    )


def difference_samples(
    first: Sequence[Observations], second: Sequence[Observations], *, seed: int = 0, resamples: int = PAIRED_RESAMPLES
) -> np.ndarray:
    """Return score differences of two models on the same resamples; all observations have the same rows. ``[b]``"""
    if all(observations.measure is None for observations in [*first, *second]):
        differences = np.mean([observations.values for observations in first], axis=0) - np.mean(
            [observations.values for observations in second], axis=0
        )
        return resampled_means(np.round(differences, 12), seed=seed, resamples=resamples)
    sampling = {"seed": seed, "resamples": resamples}
    return task_samples(first, **sampling) - task_samples(second, **sampling)


def two_sided_p(samples: np.ndarray) -> float:
    """Return twice the share of resampled differences on the rarer side of 0, zeros on both sides; at most 1."""
    below, above = int((samples <= 0).sum()), int((samples >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(samples) + 1))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Return the p of McNemar's exact test: whether two models have the same error rate on the same examples.

    Args:
        first: 1 where the first model is right, else 0. ``[n]``
        second: 1 where the second model is right, else 0. ``[n]``

    Returns:
        The two-sided p; 1 if the models agree on all examples.
    """
    from scipy.stats import binomtest

    exclusive = int((first > second).sum()), int((second > first).sum())
    return float(binomtest(exclusive[0], sum(exclusive)).pvalue) if sum(exclusive) else 1.0


def _mcnemar_p(first: Sequence[Observations], second: Sequence[Observations]) -> float | None:
    if len(first) != 1 or len(second) != 1 or first[0].measure or second[0].measure:
        return None
    first_values, second_values = first[0].values, second[0].values
    return mcnemar(first_values, second_values) if np.isin([first_values, second_values], (0, 1)).all() else None


def _count_rows(observations: Sequence[Observations]) -> int:
    return len(set().union(*(template.rows.tolist() for template in observations)))
