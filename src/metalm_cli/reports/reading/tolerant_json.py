"""Files of a run as plain data of the wanted shape: what is misshapen is named and left out where it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

DEEPEST = 200
"""Levels of lists and mappings that are read."""


def load_json(text: bytes | str) -> Any:
    """JSON as plain data.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return printable(found)


def printable(value: Any, depth: int = 0) -> Any:
    """Lists and mappings whose texts can all be written as UTF-8: ``?`` stands for half a surrogate pair.

    Raises:
        ValueError: It is nested too deeply, or holds itself.
    """
    if isinstance(value, str):
        return is_readable(value)
    if not isinstance(value, list | dict):
        return value
    if depth == DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, list):
        return [printable(one, depth + 1) for one in value]
    return {printable(key): printable(one, depth + 1) for key, one in value.items()}


def is_readable(text: str) -> str:
    """A text that can be written as UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def read_jsonl(path: Path) -> list[dict[str, Any] | None]:
    """The JSON object of each line; None for a damaged one.

    Raises:
        OSError: The file cannot be read.
    """
    lines = path.read_bytes().rstrip().split(b"\n")
    return [object_of(line) for line in lines] if lines != [b""] else []


def object_of(found: bytes | Mapping[str, Any]) -> dict[str, Any] | None:
    """A JSON object, as it stands in a line or has been read, as plain data; None for what is none."""
    try:
        made = load_json(found) if isinstance(found, bytes) else printable(found)
    except ValueError:
        return None
    return made if isinstance(made, dict) else None


def with_known_keys(
    found: Mapping[str, Any],
    what: str,
    problems: list[str],
    kinds: Mapping[str, type] = MappingProxyType({}),
    entries: Mapping[str, type] = MappingProxyType({}),
) -> dict[str, Any]:
    """A mapping without the values that are not of their kind; null is no value.

    Args:
        found: The mapping.
        what: What it is called in problems.
        problems: Gets a line for each value that is left out.
        kinds: Of some keys, the kind of their value.
        entries: Of keys that hold lists, the kind of what stands in them.
    """
    sound: dict[str, Any] = {}
    for key, value in found.items():
        if key in entries and isinstance(value, list):
            sound[key] = [one for one in value if isinstance(one, entries[key])]
            left = len(value) - len(sound[key])
            problems += [f"{what}: damaged entries of {key}, left out: {left}"] if left else []
        elif key not in entries and isinstance(value, kinds.get(key, object)):
            sound[key] = value
        elif value is not None:
            problems.append(f"{what}: {key} is damaged and left out")
    return sound
