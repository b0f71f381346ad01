"""Beginnings that many questions share, found in their token ids: each is then read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

MIN_SHARED_TOKENS = 32
"""Tokens that a beginning must have to be worth a cache of its own."""


@dataclass
class _Run:
    """Neighbours in sorted order that share ``height`` tokens, and the best way found to share inside it."""

    length: int
    first: int
    saved: int = 0
    runs: list[tuple[int, int, int]] = field(default_factory=list)

    def close(self, last: int) -> None:
        """Share all of it, where that saves more tokens than what was found inside."""
        saved = (last - self.first) * self.length
        if saved > self.saved:
            self.saved, self.runs = saved, [(self.first, last, self.length)]


def shared_prefixes(prefixes: Sequence[np.ndarray], min_tokens: int = MIN_SHARED_TOKENS) -> list[int]:
    """How many tokens of each prefix to read in front of it, once for all prefixes that begin so.

    Frozen demonstrations are found this way, whoever wrote them into the text. In order, prefixes that begin alike are
    neighbours; a run of neighbours shares what all of it begins with, unless shorter runs inside save more tokens.

    Args:
        prefixes: Token ids of each. ``[n]`` int64 each.
        least: Fewest tokens in front; below it nothing is shared.

    Returns:
        Tokens in front of each, 0 for none, in the order given; always fewer than the prefix has.

    Example:
        >>> shared_prefixes([np.array(ids) for ids in ([5, 6, 7, 1], [2, 2], [5, 6, 7, 3, 4])], least=2)
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
    """Tokens that two prefixes have in common, so that both keep one for themselves."""
    size = min(len(first), len(second)) - 1
    if size <= 0:
        return 0
    differ = first[:size] != second[:size]
    return int(differ.argmax()) if differ.any() else size
