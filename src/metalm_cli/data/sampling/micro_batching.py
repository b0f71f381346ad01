"""Micro-batches of a step's padded rows on a CPU: rows are split where padding costs more than another pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metalm_cli.sessions import Row

PASS_COST = 128
"""Positions that cost as much as another pass, which casts the weights and adds the gradients once more. Measured with
a GPT-2 shape of 9 million parameters on two cores (125); both costs grow with the number of weights."""

ATTENTION_LENGTH = 768
"""Length of a row at which attention costs as much as the rest of the model, with the same shape. For wider decoders
this length is larger."""


def split_micro_batches(lengths: Sequence[int]) -> list[slice]:
    """Split rows, in their order, into passes of least cost (:func:`cheapest_split`).

    Args:
        lengths: Positions of each row; splitting saves most if rows are sorted by length.

    Returns:
        The rows of each pass, in order.

    Example:
        >>> [(rows.start, rows.stop) for rows in split_micro_batches([500, 480, 90, 80, 75, 30])]
        [(0, 2), (2, 6)]
        >>> split_micro_batches([100, 90, 80])
        [slice(0, 3, None)]
    """
    return cheapest_split(lengths)[1]


def cheapest_split(lengths: Sequence[int]) -> tuple[float, list[slice]]:
    """Cost in positions of the cheapest split of rows into passes, and the split.

    A pass of b rows, the longest of n positions, costs ``PASS + b * n * (1 + n / ATTENTION)``.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    best = np.zeros(len(sizes) + 1)
    begins = np.zeros(len(sizes) + 1, dtype=np.int64)
    for end in range(1, len(sizes) + 1):
        longest = np.maximum.accumulate(sizes[:end][::-1])[::-1]  # of the rows from each begin to this end
        cost = best[:end] + PASS_COST + longest * (1 + longest / ATTENTION_LENGTH) * np.arange(end, 0, -1)
        begins[end] = cost.argmin()
        best[end] = cost[begins[end]]
    passes: list[slice] = []
    end = len(sizes)
    while end:
        passes.append(slice(int(begins[end]), end))
        end = int(begins[end])
    return float(best[-1]), passes[::-1]


def micro_batches_of_step(rows: list[Row], size: int | None, cpu: bool) -> list[list[Row]]:
    """Rows of each forward pass of a step.

    Args:
        rows: Rows of the step in this process.
        size: Rows per pass, if the recipe sets it.
        cpu: Whether the device is a CPU, where the rows are split by cost; other devices take all rows in one pass.
    """
    if size is None:
        return (
            [rows[rows_of_pass] for rows_of_pass in split_micro_batches([len(row) for row in rows])] if cpu else [rows]
        )
    return [rows[start : start + size] for start in range(0, len(rows), size)]
