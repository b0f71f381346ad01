"""Beginnings that many questions share, found in their token ids: each is then read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

LEAST = 32
"""Tokens that a beginning must have to be worth a cache of its own."""


@dataclass
class _Run:
    """Neighbours in sorted order that share ``height`` tokens, and the best way found to share inside it."""

    height: int
    first: int
    saved: int = 0
    chosen: list[tuple[int, int, int]] = field(default_factory=list)

    def close(self, last: int) -> None:
        """Share all of it, where that saves more tokens than what was found inside."""
        whole = (last - self.first) * self.height
        if whole > self.saved:
            self.saved, self.chosen = whole, [(self.first, last, self.height)]


def shared_prefixes(prefixes: Sequence[np.ndarray], least: int = LEAST) -> list[int]:
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
    found = [0] * len(prefixes)
    order = sorted(range(len(prefixes)), key=lambda index: prefixes[index].tolist())
    heights = [_common(prefixes[one], prefixes[other]) for one, other in pairwise(order)]
    stack = [_Run(0, 0)]
    for at, height in enumerate([*(one if one >= least else 0 for one in heights), 0]):
        first = at
        while stack[-1].height > height:
            run = stack.pop()
            run.close(at)
            first = run.first
            if stack[-1].height < height:
                stack.append(_Run(height, first))
            stack[-1].saved += run.saved
            stack[-1].chosen += run.chosen
        if stack[-1].height < height:
            stack.append(_Run(height, first))
    for begin, end, height in stack[0].chosen:
        for place in range(begin, end + 1):
            found[order[place]] = height
    return found


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens that two prefixes have in common, so that both keep one for themselves."""
    size = min(len(one), len(other)) - 1
    if size <= 0:
        return 0
    differ = one[:size] != other[:size]
    return int(differ.argmax()) if differ.any() else size
