"""Lineage of a model as a tree: what the model and its ancestors were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalm_cli.reports.reading.tolerant_json import with_valid_values

MAX_GENERATIONS = 12
"""Generations of ancestors that are shown."""


def valid_lineage(lineage: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """A lineage without invalid values, also in its ancestors.

    Args:
        lineage: Content of ``lineage.json``.
        problems: Collects a line for each value that is left out.
    """
    valid = with_valid_values(lineage, "lineage.json", problems, {"held_out": list}, {"data": dict, "ancestors": dict})
    if "ancestors" in valid:
        valid["ancestors"] = [_valid_ancestor(parent, problems) for parent in valid["ancestors"]]
    return valid


def _valid_ancestor(ancestor: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """An ancestor without invalid values: no lineage if it was not made by metalm, an empty one if it is damaged."""
    if ancestor.get("lineage") is None:
        return dict(ancestor)
    valid = with_valid_values(ancestor, "lineage.json", problems, {"lineage": dict})
    return {**valid, "lineage": valid_lineage(valid.get("lineage", {}), problems)}


def lineage_view(name: str, lineage: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """View of a lineage with ``title``, ``detail`` and ``parents``.

    Args:
        name: Name of the model.
        lineage: Lineage from :func:`valid_lineage`; values may be missing.
        depth: Number of generations above this one.
    """
    data = lineage.get("data")
    parts = [f"{lineage.get('command', '?')} {lineage.get('recipe', '')}".strip()]
    if isinstance(lineage.get("steps"), int):
        parts.append(f"{lineage['steps']:,} steps")
    if isinstance(lineage.get("tokens"), int):
        parts.append(f"{lineage['tokens']:,} tokens")
    parts.append(f"metalm {lineage.get('metalm', '?')}")
    if data:
        parts.append(f"data: {', '.join(str(source.get('name')) for source in data)}")
    if lineage.get("held_out"):
        parts.append(f"held out: {', '.join(map(str, lineage['held_out']))}")
    if lineage.get("audits"):
        parts.append("audited by 13-grams")
    return {"title": name, "detail": "; ".join(parts), "parents": _parents(lineage, depth)}


def _parents(lineage: Mapping[str, Any], depth: int) -> list[dict[str, Any]]:
    parents = []
    for ancestor in lineage.get("ancestors", []) if depth < MAX_GENERATIONS else []:
        name = f"started from {ancestor.get('checkpoint', '?')}"
        ancestor_lineage = ancestor.get("lineage")
        if ancestor_lineage is not None:
            parents.append(lineage_view(name, ancestor_lineage, depth + 1))
        else:
            known = ancestor.get("description") or "its training data is unknown"
            parents.append({"title": name, "detail": f"not made by metalm: {known}", "parents": []})
    return parents
