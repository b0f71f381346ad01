"""Budget of work of one rendering, which bounds the time and memory that a template or expression takes.

Every operation whose cost depends on its values is charged for their size before or right after it runs: about 16
characters, an item of a list or a node of a template cost one step. No clock is read, so the same template and row
always end the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import wraps
from types import NoneType
from typing import Any

from jinja2 import Undefined
from jinja2.sandbox import SecurityError

MAX_STEPS = 1_000_000
"""Budget of a rendering in steps: less than a second."""
CHARACTERS_PER_STEP = 16
SEARCHED_PER_STEP = 256
"""Comparisons of single characters that count as one step."""
_SCALARS = frozenset({int, float, bool, NoneType})


class _Budget(threading.local):
    left = MAX_STEPS


_budget = _Budget()


def start_budget() -> None:
    """Begin a rendering with the whole budget."""
    _budget.left = MAX_STEPS


def charge(steps: int) -> None:
    """Take steps from the budget.

    Raises:
        SecurityError: The budget is used up.
    """
    _budget.left -= steps
    if _budget.left < 0:
        raise SecurityError(f"it takes too much work: more than {MAX_STEPS:,} steps")


def charge_text(length: int) -> None:
    """Charge for a text of this length."""
    charge(length // CHARACTERS_PER_STEP)


def charge_values(*values: Any) -> None:
    """Charge for the size of values, with all that they contain; a part that occurs twice counts twice."""
    for value in values:
        kind = type(value)
        if kind is str:
            charge(1 + len(value) // CHARACTERS_PER_STEP)
        elif kind not in _SCALARS:
            _charge_nested(value)


def _charge_nested(value: Any) -> None:
    stack, steps, limit = [value], 0, max(_budget.left, 0)
    while stack and steps <= limit:
        item = stack.pop()
        steps += 1
        if isinstance(item, str | bytes):
            steps += len(item) // CHARACTERS_PER_STEP
        elif type(item) not in _SCALARS and isinstance(item, Collection) and not isinstance(item, Undefined):
            steps += len(item)
            if steps <= limit:
                stack.extend(item)
                stack.extend(item.values() if isinstance(item, Mapping) else ())
    charge(steps)


def charge_search(text: str, *arguments: Any) -> None:
    """Charge for comparing each character of a text with each character of the arguments that are texts."""
    charge(len(text) * sum(len(value) for value in arguments if isinstance(value, str)) // SEARCHED_PER_STEP)


def measured(value: Any) -> Any:
    """Charge for a value that was made, and return it; an iterator is read into a list."""
    if isinstance(value, Iterator):
        items = []
        for item in value:
            charge_values(item)
            items.append(item)
        return items
    charge_values(value)
    return value


def metered(function: Callable[..., Any], steps_per_item: int = 0) -> Callable[..., Any]:
    """Wrap a filter or test: it is charged for its arguments and its result.

    Args:
        function: The filter or test.
        steps_per_item: Further charge for each item of its value; a text has as many items as characters.
    """
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        charge_values(*arguments[first:], *options.values())
        value = arguments[first] if steps_per_item else None
        if isinstance(value, Collection) and not isinstance(value, Undefined):
            charge(steps_per_item * len(value))
        return measured(function(*arguments, **options))

    return call


def iterate(values: Any, nodes: int) -> Any:
    """Charge for a loop over values whose body has this many nodes, and return the values."""
    if isinstance(values, Undefined):
        return values
    if not isinstance(values, Collection):
        values = measured(iter(values))
    charge(len(values) * nodes)
    return values


def concatenate(*values: Any) -> str:
    """Join values as ``~`` does."""
    charge_values(*values)
    return "".join(map(str, values))


def join(separator: str, items: Iterable[Any]) -> str:
    """Join items as ``separator.join`` does, with other values as their text."""
    texts = [str(item) for item in measured(items)]
    charge_text(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """Replace as ``text.replace`` does."""
    charge_search(text, old)
    places = text.count(old) if count < 0 else min(count, text.count(old))
    charge_text(len(text) + places * max(0, len(new) - len(old)))
    return text.replace(old, new, count)
