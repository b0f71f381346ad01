"""Tolerant reading of a run's files: values of a wrong type are reported and left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metalm_cli.common.paths import read_regular

MAX_DEPTH = 200
"""Largest nesting depth of lists and mappings."""


def load_json(text: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return encodable(value)


def encodable(value: Any, depth: int = 0) -> Any:
    """Lists and mappings whose texts can be written as UTF-8: ``?`` replaces half a surrogate pair.

    Raises:
        ValueError: The value is nested too deeply, or contains itself.
    """
    if isinstance(value, str):
        return encodable_text(value)
    if not isinstance(value, list | dict):
        return value
    if depth == MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [encodable(item, depth + 1) for item in value]
    return {encodable(key): encodable(item, depth + 1) for key, item in value.items()}


def encodable_text(text: str) -> str:
    """The text with ``?`` for characters that cannot be written as UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def read_jsonl(path: Path) -> list[dict[str, Any] | None]:
    """Read the JSON object of each line; None for a damaged line.

    Raises:
        OSError: The file cannot be read.
    """
    lines = read_regular(path).rstrip().split(b"\n")
    return [as_object(line) for line in lines] if lines != [b""] else []


def as_object(source: bytes | Mapping[str, Any]) -> dict[str, Any] | None:
    """A JSON object from a line or from parsed data; None if it is not an object."""
    try:
        value = load_json(source) if isinstance(source, bytes) else encodable(source)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def with_valid_values(
    record: Mapping[str, Any],
    name: str,
    problems: list[str],
    kinds: Mapping[str, type] = MappingProxyType({}),
    entries: Mapping[str, type] = MappingProxyType({}),
) -> dict[str, Any]:
    """A mapping without values of a wrong type; a null value counts as missing.

    Args:
        record: The mapping.
        name: Name of the mapping in problems.
        problems: Collects a line for each value that is left out.
        kinds: Type of the value, for some keys.
        entries: Type of the items, for keys that hold lists.
    """
    valid: dict[str, Any] = {}
    for key, value in record.items():
        if key in entries and isinstance(value, list):
            valid[key] = [item for item in value if isinstance(item, entries[key])]
            dropped = len(value) - len(valid[key])
            problems += [f"{name}: damaged entries of {key}, left out: {dropped}"] if dropped else []
        elif key not in entries and isinstance(value, kinds.get(key, object)):
            valid[key] = value
        elif value is not None:
            problems.append(f"{name}: {key} is damaged and left out")
    return valid
