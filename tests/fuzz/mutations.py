"""Mutations of bytes, texts and structured values, and hostile values to put into them. All draw from one generator."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HOSTILE_TEXTS = [
    "",
    " ",
    "\n\n\n",
    "\u200b",
    "\x00",
    "\ud83d",
    "\u202e txet",
    "ﷺ" * 40,
    "a\u0301" * 30,
    "👩‍👩‍👧‍👦" * 10,
    "A" * 70_000,
    "word " * 3_000,
    "第21篇" + "春天来了" * 120,
    "../../../etc/passwd",
    "/dev/zero",
    "~nosuch/file",
    "x" * 6_000,
    "{{ 7 * 7 }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "<img src=x onerror=alert(1)>",
    "[red]markup[/bold]",
    "NaN",
    "null",
    "-",
    "--help",
    "=",
    "%s%n%d",
    "\\",
    '"',
    "|||",
    "1e999",
]
HOSTILE_NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2,
    3.5,
    -0.0,
    1e-300,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    2**31,
    2**63,
    -(2**63) - 1,
    10**40,
    True,
    False,
]


def hostile(rng: random.Random) -> Any:
    """A scalar or a small container that a reader may not expect."""
    kind = rng.randrange(6)
    if kind == 0:
        return None
    if kind in (1, 2):
        return rng.choice(HOSTILE_TEXTS)
    if kind == 3:
        return [rng.choice(HOSTILE_NUMBERS) for _ in range(rng.randrange(4))]
    if kind == 4:
        return {rng.choice(HOSTILE_TEXTS)[:40]: rng.choice(HOSTILE_NUMBERS) for _ in range(rng.randrange(3))}
    return rng.choice(HOSTILE_NUMBERS)


def perturb(rng: random.Random, value: Any) -> Any:
    """A value of the same type near the given one, which is often still valid."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice([value + 1, value - 1, value * 2, value * 10, value / 2, -value, 0])
    if isinstance(value, str) and value:
        position = rng.randrange(len(value))
        return rng.choice(
            [value[:position], value[position:], value.upper(), value + " ", value[:position] + "é" + value[position:]]
        )
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside a structure, the containers included."""
    paths = [path] if path else []
    if isinstance(value, dict):
        for key, child in value.items():
            paths += places(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            paths += places(child, (*path, index))
    return paths


def mutate_value(rng: random.Random, value: Any, count: int | None = None) -> Any:
    """Copy of a structure with values replaced, removed, doubled, exchanged or under another key."""
    mutant = copy.deepcopy(value)
    for _ in range(count or rng.choice([1, 1, 1, 2, 3])):
        paths = places(mutant)
        if not paths:
            return hostile(rng)
        *parents, last = rng.choice(paths)
        container = mutant
        for step in parents:
            container = container[step]
        action = rng.randrange(8)
        if action >= 5:
            container[last] = perturb(rng, container[last])
        elif action == 0:
            del container[last]
        elif action == 1 and isinstance(container, list):
            container.insert(last, copy.deepcopy(container[last]))
        elif action == 1:
            container[rng.choice(HOSTILE_TEXTS)[:200] or "key"] = container.pop(last)
        elif action == 2:
            container[last] = copy.deepcopy(_value_of(mutant, rng.choice(paths), container[last]))
        else:
            container[last] = hostile(rng)
    return mutant


def _value_of(value: Any, path: tuple[Any, ...], default: Any) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return default
    return value


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some flipped, cut out, repeated, or replaced by hostile text."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        start = rng.randrange(len(mutant) + 1)
        length = rng.choice([1, 1, 2, 8, 64])
        action = rng.randrange(6)
        if action == 0:
            del mutant[start:]
        elif action == 1:
            del mutant[start : start + length]
        elif action == 2:
            mutant[start:start] = mutant[start : start + length] * rng.choice([1, 2, 50])
        elif action == 3:
            mutant[start:start] = rng.choice(HOSTILE_TEXTS).encode("utf-8", "surrogatepass")
        else:
            mutant[start : start + length] = bytes(rng.randrange(256) for _ in range(length))
    return bytes(mutant)


def to_json(value: Any) -> str:
    """JSON text of a structure that may hold what strict JSON cannot."""
    return json.dumps(value, default=str, skipkeys=True)
