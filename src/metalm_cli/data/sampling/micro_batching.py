"""How many forward passes a step's padded rows take on a CPU: where padding costs more than another pass, it is cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metalm_cli.sessions import Row

PASS = 128
"""Positions that cost as much as a further pass: its weights are cast and its gradients added once more. Measured with
a GPT-2 shape of 9 million parameters on two cores (125); both sides grow with the number of weights."""


ATTENTION = 768
"""Positions of a row at which attention costs as much as all else, with the same shape; wider decoders reach it later,
and shorter rows cost them nothing."""


def split_micro_batches(lengths: Sequence[int]) -> list[slice]:
    """Cut rows, in their order, into passes of least cost (:func:`cheapest_split`).

    Args:
        lengths: Positions of each row; cuts save most where rows are sorted by length.

    Returns:
        The rows of each pass, in order.

    Example:
        >>> [(one.start, one.stop) for one in split_micro_batches([500, 480, 90, 80, 75, 30])]
        [(0, 2), (2, 6)]
        >>> split_micro_batches([100, 90, 80])
        [slice(0, 3, None)]
    """
    return cheapest_split(lengths)[1]


def cheapest_split(lengths: Sequence[int]) -> tuple[float, list[slice]]:
    """The cheapest cuts of rows, and what they cost in positions.

    A pass of b rows, the longest of n positions, costs ``PASS + b * n * (1 + n / ATTENTION)``.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    best = np.zeros(len(sizes) + 1)
    begins = np.zeros(len(sizes) + 1, dtype=np.int64)
    for end in range(1, len(sizes) + 1):
        longest = np.maximum.accumulate(sizes[:end][::-1])[::-1]  # of the rows from each one to this end
        cost = best[:end] + PASS + longest * (1 + longest / ATTENTION) * np.arange(end, 0, -1)
        begins[end] = cost.argmin()
        best[end] = cost[begins[end]]
    found: list[slice] = []
    end = len(sizes)
    while end:
        found.append(slice(int(begins[end]), end))
        end = int(begins[end])
    return float(best[-1]), found[::-1]


def micro_batches_of_step(rows: list[Row], size: int | None, cpu: bool) -> list[list[Row]]:
    """The rows of each forward pass of a step.

    Args:
        rows: Of the step, in this process.
        size: Rows of a pass, if the recipe says it.
        cpu: A pass costs little; elsewhere all rows are one.
    """
    if size is None:
        return [rows[one] for one in split_micro_batches([len(row) for row in rows])] if cpu else [rows]
    return [rows[at : at + size] for at in range(0, len(rows), size)]
