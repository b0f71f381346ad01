"""Values that templates make: lists and mappings that they may extend, and picks that the row and the place determine.

A template never changes a row: only the lists and mappings that it makes itself have methods that change them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import pass_context


class OwnList(list[Any]):
    """List that a template made, and may extend."""


class OwnMapping(dict[Any, Any]):
    """Mapping that a template made, and may extend."""


def own(value: Any) -> Any:
    """Return a list or mapping as one that the template may extend; other values as they are."""
    if type(value) is list:
        return OwnList(value)
    return OwnMapping(value) if type(value) is dict else value


class _Picks(threading.local):
    seed = ""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()


_picks = _Picks()


def start_picks(seed: str) -> None:
    """Begin a rendering: equal seeds give equal picks."""
    _picks.seed = seed
    _picks.counts = Counter()


@pass_context
def choice(_: Any, values: Sequence[Any], place: int = 0) -> Any:
    """Pick a value, as promptsource's ``choice`` does at random; here the row and the place determine the pick.

    Args:
        values: A list, tuple or text that is not empty.
        place: Number of the filter in its template; the same number picks the same in the input and the target.

    Raises:
        LookupError: There is nothing to pick from.
    """
    if not isinstance(values, Sequence) or not values:
        raise LookupError(f"choice picks from a list that is not empty, got {values!r:.40}")
    evaluation = _picks.counts[place]
    _picks.counts[place] += 1
    digest = hashlib.blake2b(f"{_picks.seed}\0{place}\0{evaluation}".encode(), digest_size=8).digest()
    return values[int.from_bytes(digest) % len(values)]


def most_frequent(values: Iterable[Any]) -> list[Any] | None:
    """Return the most frequent values, in the order in which they occur first; None if there are none."""
    counts = Counter(values)
    return [value for value, count in counts.items() if count == max(counts.values())] or None


def zipped(*values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return the tuples of ``zip``."""
    return list(zip(*values, strict=False))
