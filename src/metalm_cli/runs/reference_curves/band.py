"""The band of a reference curve: where the loss of one more seed is expected.

At each record, the band is the mean over the seeds ± :data:`WIDTH` standard deviations. Three seeds tell little about
the standard deviation at one step, so the variance is the mean of that of the record and of :data:`NEIGHBOURS` records
on each side; and three seeds are often close by chance, so :data:`SHARE` of the mean, squared, is added to it. A
validation loss varies no more than the training loss, which has other rows for each seed; its band is at least as wide,
as a share, as that of the training loss at the nearest record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH = 4.0
"""Half of the band's width in standard deviations."""
SHARE = 0.02
"""Standard deviation that is added to that of the seeds, in quadrature, as a share of the mean."""
NEIGHBOURS = 2
"""Records on each side whose variance counts."""


@dataclass(frozen=True)
class Band:
    """Bounds of the loss at some steps.

    Args:
        steps: The steps.
        lower: Lower bounds.
        upper: Upper bounds.
    """

    steps: tuple[int, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def holds(self, index: int, loss: float) -> bool:
        """Whether a loss at a step is inside; NaN is not."""
        return self.lower[index] <= loss <= self.upper[index]

    def text(self, index: int) -> str:
        """Format the bounds at a step."""
        return f"{self.lower[index]:.4g} to {self.upper[index]:.4g}"


def train_band(steps: Sequence[int], losses: Sequence[Sequence[float]]) -> Band:
    """Band of training losses.

    Args:
        steps: The steps.
        losses: Losses ``[seeds][steps]``.

    Example:
        >>> band = train_band([10, 20], [[4.0, 2.0], [4.0, 2.2]])
        >>> [round(value, 2) for value in (*band.lower, *band.upper)]
        [3.49, 1.67, 4.51, 2.53]
    """
    values = np.asarray(losses, dtype=float)
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    pooled = [variance[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1].mean() for index in range(len(steps))]
    return _band(steps, mean, WIDTH * np.sqrt(pooled + (SHARE * mean) ** 2))


def validation_band(steps: Sequence[int], losses: Sequence[Sequence[float]], train: Band) -> Band:
    """Band of validation losses.

    Args:
        steps: The steps.
        losses: Losses ``[seeds][steps]``.
        train: Band of the training losses.
    """
    values = np.asarray(losses, dtype=float)
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    lower, upper, train_steps = map(np.asarray, (train.lower, train.upper, train.steps))
    nearest = [int(np.abs(train_steps - step).argmin()) for step in steps]
    shares = ((upper - lower) / (upper + lower))[nearest]
    return _band(steps, mean, np.maximum(WIDTH * np.sqrt(variance.mean()), shares * mean))


def _band(steps: Sequence[int], mean: np.ndarray, half: np.ndarray) -> Band:
    return Band(tuple(steps), tuple((mean - half).tolist()), tuple((mean + half).tolist()))
