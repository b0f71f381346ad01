"""What a model and its ancestors have seen, as a tree of lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalm_cli.reports.reading.tolerant_json import with_known_keys

DEEPEST = 12
"""Generations that are told."""


def valid_lineage(found: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """A lineage without what is misshapen in it or its ancestors.

    Args:
        found: As in ``lineage.json``.
        problems: Gets a line for whatever is left out.
    """
    sound = with_known_keys(found, "lineage.json", problems, {"held_out": list}, {"data": dict, "ancestors": dict})
    if "ancestors" in sound:
        sound["ancestors"] = [_sound_ancestor(one, problems) for one in sound["ancestors"]]
    return sound


def _sound_ancestor(found: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """An ancestor: one that metalm did not make has no lineage, a damaged one an empty one."""
    if found.get("lineage") is None:
        return dict(found)
    sound = with_known_keys(found, "lineage.json", problems, {"lineage": dict})
    return {**sound, "lineage": valid_lineage(sound.get("lineage", {}), problems)}


def lineage_view(name: str, lineage: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """A lineage as ``what``, ``detail`` and ``parents``.

    Args:
        name: What the model is called.
        lineage: From :func:`valid_lineage`; one that was damaged is told as far as it goes.
        depth: Generations before.
    """
    data = lineage.get("data")
    parts = [f"{lineage.get('command', '?')} {lineage.get('recipe', '')}".strip()]
    if isinstance(lineage.get("steps"), int):
        parts.append(f"{lineage['steps']:,} steps")
    if isinstance(lineage.get("tokens"), int):
        parts.append(f"{lineage['tokens']:,} tokens")
    parts.append(f"metalm {lineage.get('metalm', '?')}")
    if data:
        parts.append(f"data: {', '.join(str(one.get('name')) for one in data)}")
    if lineage.get("held_out"):
        parts.append(f"held out: {', '.join(map(str, lineage['held_out']))}")
    if lineage.get("audits"):
        parts.append("audited by 13-grams")
    return {"what": name, "detail": "; ".join(parts), "parents": _parents(lineage, depth)}


def _parents(lineage: Mapping[str, Any], depth: int) -> list[dict[str, Any]]:
    found = []
    for one in lineage.get("ancestors", []) if depth < DEEPEST else []:
        name = f"began from {one.get('checkpoint', '?')}"
        inner = one.get("lineage")
        if inner is not None:
            found.append(lineage_view(name, inner, depth + 1))
        else:
            found.append({"what": name, "detail": "not made by metalm: what it has seen is not told", "parents": []})
    return found
