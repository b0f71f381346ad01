"""promptsource's own way to render a template, written again from its documentation: plain Jinja, then a split."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment

PIPE = "3ed2dface8203c4c9dfb1a5dc58e41e0"
"""Text that stands for ||| in values of rows until the rendered text is split."""
MAX_RENDERINGS = 300


class _Picker:
    """Picks that follow a script, so that every outcome of random picks can be listed."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script, self.sizes = list(script), list[int]()

    def __call__(self, values: Sequence[Any]) -> Any:
        position = len(self.sizes)
        self.sizes.append(len(values))
        if not values:
            return random.choice(values)
        return values[self.script[position] if position < len(self.script) else 0]


def _most_frequent(items: Sequence[Any]) -> list[Any] | None:
    counts = Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]] if items else None


def _environment(picker: _Picker) -> Environment:
    environment = Environment()
    environment.globals["zip"] = zip
    environment.filters |= {"choice": picker, "random": picker, "most_frequent": _most_frequent}
    return environment


def _escaped(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.replace("|||", PIPE) if isinstance(value, str) else value for name, value in row.items()}


def _render(environment: Environment, text: str, values: Mapping[str, Any]) -> list[str]:
    return [part.replace(PIPE, "|||").strip() for part in environment.from_string(text).render(**values).split("|||")]


def choices(text: str | None, row: Mapping[str, Any]) -> list[str] | None:
    """The answer choices of a template for a row."""
    return None if text is None else _render(_environment(_Picker([])), text, _escaped(row))


def value_of(expression: str, row: Mapping[str, Any]) -> Any:
    """The value of an expression over the columns of a row."""
    return Environment().compile_expression(expression)(**row)


def renderings(text: str, answer_choices: str | None, row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every outcome of rendering a template for a row: input and target, or other than two parts for no example."""
    waiting: list[list[int]] = [[]]
    for _ in range(MAX_RENDERINGS):
        if not waiting:
            return
        script = waiting.pop()
        picker = _Picker(script)
        values = {**_escaped(row), "answer_choices": choices(answer_choices, row)}
        yield tuple(_render(_environment(picker), text, values))
        for position in range(len(script), len(picker.sizes)):
            fixed = [*script, *[0] * (position - len(script))]
            waiting += [[*fixed, pick] for pick in range(1, picker.sizes[position])]
