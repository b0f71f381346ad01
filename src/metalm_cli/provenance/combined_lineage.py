"""The lineage of a model that combines the encoders of several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import metalm_cli

NEWNESS = ("held_out_category", "held_out_task", "leaked", "held_out_instances")
"""Levels of generalisation, the newest tasks first."""


def combined_lineage(name: str, ancestors: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Make the content of ``lineage.json`` of a model with the encoders of several runs and their common decoder.

    The runs are its ancestors, so that what any of them was trained on counts as seen. Held out is what all of them
    held out, and a task has the level of the run to which it is least new. Command and prompt settings are recorded as
    far as the runs agree.

    Args:
        name: Name of the model.
        ancestors: A record for each encoder, with ``part`` and the lineage of its run.

    Returns:
        The lineage, and notes on settings that differ.
    """
    lineages = [ancestor["lineage"] for ancestor in ancestors if ancestor["lineage"] is not None]
    known = len(lineages) == len(ancestors)
    commands = {str(lineage.get("command")) for lineage in lineages}
    templates, notes = _common_settings([lineage.get("templates") for lineage in lineages])
    held_out = [set(lineage.get("held_out") or ()) for lineage in lineages] if known else []
    decoder = next(filter(None, map(_decoder_record, lineages)), None)
    lineage = {
        "format": 1,
        "metalm": metalm_cli.__version__,
        "command": commands.pop() if len(commands) == 1 and known else "export",
        "recipe": name,
        "steps": sum(int(lineage.get("steps") or 0) for lineage in lineages),
        "tokens": sum(int(lineage.get("tokens") or 0) for lineage in lineages),
        "data": [],
        "tasks": [],
        "clusters": [],
        "audits": [],
        "templates": templates,
        "held_out": sorted(set.intersection(*held_out)) if held_out else [],
        "levels": _least_new([lineage.get("levels") or {} for lineage in lineages]) if known else {},
        "ancestors": [*([] if decoder is None else [decoder]), *ancestors],
    }
    return lineage, notes


def _common_settings(templates: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
    """Prompt settings that are equal in all runs that have some, and notes on the others."""
    recorded = [settings for settings in templates if isinstance(settings, Mapping)]
    names = dict.fromkeys(name for settings in recorded for name in settings if name != "encoder")
    values = {name: [settings.get(name) for settings in recorded] for name in names}
    common = {name: each[0] for name, each in values.items() if all(value == each[0] for value in each)}
    notes = [
        f"prompts  the runs differ in {name} ({', '.join(map(str, each))}): name it when you evaluate"
        for name, each in values.items()
        if name not in common
    ]
    return common, notes


def _least_new(levels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Level of each task that all runs have a level of: that of the run to which it is least new.

    >>> _least_new([{"rte": "held_out_task", "sst2": "held_out_instances"}, {"rte": "leaked", "boolq": "leaked"}])
    {'rte': 'leaked'}
    """
    common = [name for name in levels[0] if all(each.get(name) in NEWNESS for each in levels)] if levels else []
    return {name: max((each[name] for each in levels), key=NEWNESS.index) for name in common}


def _decoder_record(lineage: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the decoder of a run started from, as an ancestor of its own; None if it started from nothing."""
    for ancestor in _own_ancestors(lineage):
        if ancestor.get("part") in ("decoder", "model", None):
            return {**ancestor, "part": "decoder"}
    return None


def _own_ancestors(lineage: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    entries = lineage.get("ancestors")
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
