"""The training history of a model, read from its lineage: whether a task is new to the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from metalm_cli.tasks import Card, leak_reason
from metalm_cli.templates import PromptStyle, collection_names
from metalm_cli.templates.render import DemonstrationLayout, Route

LINEAGE = "lineage.json"
Label = Literal["seen", "leak partner", "held out", "unknown"]
"""``seen``: the task was trained on. ``leak partner``: a task that shares data with it or leaks into it was trained on.
``held out``: neither. ``unknown``: neither as far as known, but the training data of an ancestor is unknown."""


@dataclass(frozen=True)
class SeenLabel:
    """Label of a task for a model, and its reason."""

    label: Label
    why: str


@dataclass(frozen=True)
class ModelHistory:
    """Training history of a model and its ancestors.

    Args:
        tasks: Tasks of the training, with the checkpoint that was trained on each.
        unknown_ancestors: Ancestors whose training data is unknown.
        command: The command that made the model; empty if unknown.
        prompt_settings: How tasks were rendered when the model was trained: ``collection`` and fields of
            :class:`~metalm_cli.templates.PromptStyle`, as far as known and valid.
    """

    tasks: Mapping[str, str]
    unknown_ancestors: tuple[str, ...]
    command: str = ""
    prompt_settings: Mapping[str, Any] = field(default_factory=dict)

    def label_for(self, card: Card, known: Mapping[str, Card]) -> SeenLabel:
        """Label of a task.

        Args:
            card: The card of the task.
            known: Available cards of the tasks that were trained on, by name.
        """
        if card.name in self.tasks:
            return SeenLabel("seen", f"{self.tasks[card.name]} was trained on the task")
        facts = {card.name: (card.cluster, frozenset(card.tags))}
        for name, where in self.tasks.items():
            other = known.get(name)
            why = None if other is None else leak_reason(name, other.cluster, other.tags, facts)
            if why is not None:
                return SeenLabel("leak partner", f"{where} was trained on {name}, which {why}")
        unknown_tasks = [name for name in self.tasks if name not in known]
        if self.unknown_ancestors or unknown_tasks:
            unknown_data = (
                f"the training data of {', '.join(self.unknown_ancestors)} is unknown" if self.unknown_ancestors else ""
            )
            missing_cards = f"no card of {', '.join(unknown_tasks)} is available" if unknown_tasks else ""
            return SeenLabel("unknown", "; ".join(part for part in (unknown_data, missing_cards) if part))
        return SeenLabel("held out", "neither the task nor a task that leaks into it was trained on")


def read_history(folder: Path | None, source: str) -> ModelHistory:
    """Read the history of a model.

    Args:
        folder: Folder of the model, or None.
        source: Name of the model.
    """
    path = (
        None
        if folder is None
        else next((candidate for candidate in _lineage_paths(folder) if candidate.is_file()), None)
    )
    try:
        recorded = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recorded = None
    if not isinstance(recorded, Mapping):
        return ModelHistory({}, (source,))
    tasks: dict[str, str] = {}
    unknown_ancestors: list[str] = []
    for name, lineage in _lineages(source, recorded):
        if lineage is None:
            unknown_ancestors.append(name)
            continue
        for task in lineage.get("tasks") or []:
            tasks.setdefault(str(task), name)
    return ModelHistory(
        tasks, tuple(dict.fromkeys(unknown_ancestors)), str(recorded.get("command") or ""), _prompt_settings(recorded)
    )


def _prompt_settings(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Valid prompt settings of a lineage."""
    recorded = lineage.get("templates")
    if not isinstance(recorded, Mapping):
        return {}
    settings: dict[str, Any] = {}
    collection = recorded.get("collection")
    if isinstance(collection, str) and (collection in collection_names() or Path(collection).is_dir()):
        settings["collection"] = collection
    for style_field in fields(PromptStyle):
        value = recorded.get(style_field.name)
        choices = {"route": get_args(Route), "layout": get_args(DemonstrationLayout)}.get(
            style_field.name, (True, False)
        )
        if value is not None and value in choices:
            settings[style_field.name] = value
    return settings


def _lineage_paths(folder: Path) -> Iterator[Path]:
    for part in ("", "model", "adapter"):
        yield folder / part / LINEAGE


def _lineages(name: str, lineage: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Iterate over (name, lineage or None) of a model and all its ancestors."""
    yield name, lineage
    for ancestor in lineage.get("ancestors") or []:
        recorded, checkpoint = ancestor.get("lineage"), str(ancestor.get("checkpoint"))
        if isinstance(recorded, Mapping):
            yield from _lineages(checkpoint, recorded)
        else:
            yield checkpoint, None
