"""Shared prefixes of questions, derived from their token ids, so that each is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

MIN_SHARED_TOKENS = 32
"""Minimum length of a shared prefix that is worth a cache."""


@dataclass
class _Run:
    """Run of neighbours in sorted order that share ``length`` tokens, with the best division of the run so far."""

    length: int
    first: int
    saved: int = 0
    runs: list[tuple[int, int, int]] = field(default_factory=list)

    def close(self, last: int) -> None:
        """Share the prefix across the whole run if that saves more tokens than the shorter runs inside it."""
        saved = (last - self.first) * self.length
        if saved > self.saved:
            self.saved, self.runs = saved, [(self.first, last, self.length)]


def shared_prefixes(prefixes: Sequence[np.ndarray], min_tokens: int = MIN_SHARED_TOKENS) -> list[int]:
    """Return the number of tokens of each prefix that it shares with others, to be read once for all of them.

    This detects frozen demonstrations even if they are part of the text. In sorted order, prefixes with the same
    beginning are neighbours; a run of neighbours shares its common beginning, unless shorter runs inside it save more
    tokens.

    Args:
        prefixes: Token ids of each prefix. ``[n]`` int64 each.
        min_tokens: Minimum number of shared tokens.

    Returns:
        Number of shared tokens of each prefix, in the order of ``prefixes``: 0 for none, and always less than the
        length of the prefix.

    Example:
        >>> shared_prefixes([np.array(ids) for ids in ([5, 6, 7, 1], [2, 2], [5, 6, 7, 3, 4])], min_tokens=2)
        [3, 0, 3]
    """
    shared_lengths = [0] * len(prefixes)
    order = sorted(range(len(prefixes)), key=lambda index: prefixes[index].tolist())
    common_lengths = [
        _common_length(prefixes[previous], prefixes[following]) for previous, following in pairwise(order)
    ]
    stack = [_Run(0, 0)]
    for index, length in enumerate([*(length if length >= min_tokens else 0 for length in common_lengths), 0]):
        first = index
        while stack[-1].length > length:
            run = stack.pop()
            run.close(index)
            first = run.first
            if stack[-1].length < length:
                stack.append(_Run(length, first))
            stack[-1].saved += run.saved
            stack[-1].runs += run.runs
        if stack[-1].length < length:
            stack.append(_Run(length, first))
    for start, last, length in stack[0].runs:
        for position in range(start, last + 1):
            shared_lengths[order[position]] = length
    return shared_lengths


def _common_length(first: np.ndarray, second: np.ndarray) -> int:
    """Return the length of the common prefix, at most all tokens but one of each."""
    size = min(len(first), len(second)) - 1
    if size <= 0:
        return 0
    differ = first[:size] != second[:size]
    return int(differ.argmax()) if differ.any() else size
