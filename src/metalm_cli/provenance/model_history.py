"""What a model has been trained on, by its lineage: whether a task is new to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from metalm_cli.tasks import Card, leaking
from metalm_cli.templates import PromptStyle, collections
from metalm_cli.templates.render import DemonstrationLayout, Route

LINEAGE = "lineage.json"
Label = Literal["seen", "leak partner", "held out", "unknown"]
"""``seen``: it was trained on. ``leak partner``: something that shares data with it, or leaks into it, was.
``held out``: neither. ``unknown``: neither as far as is known, but an ancestor says nothing of what it has read."""


@dataclass(frozen=True)
class SeenLabel:
    """How new a task is to a model, and why."""

    label: Label
    why: str


@dataclass(frozen=True)
class ModelHistory:
    """What a model and its ancestors were trained on.

    Args:
        tasks: Task of the training, and the checkpoint that was trained on it.
        silent: Ancestors of which nothing is known.
        command: The command that made the model; empty where nothing is known.
        worded: How tasks were put into words when the model was trained: ``collection`` and fields of
            :class:`~metalm_cli.templates.PromptStyle`; those that are known and sound.
    """

    tasks: Mapping[str, str]
    unknown_ancestors: tuple[str, ...]
    command: str = ""
    worded: Mapping[str, Any] = field(default_factory=dict)

    def of(self, card: Card, known: Mapping[str, Card]) -> SeenLabel:
        """How new a task is.

        Args:
            card: Its card.
            known: Cards of the tasks that were trained on, by name, as far as they are at hand.
        """
        if card.name in self.tasks:
            return SeenLabel("seen", f"{self.tasks[card.name]} was trained on it")
        held = {card.name: (card.cluster, frozenset(card.tags))}
        for name, where in self.tasks.items():
            other = known.get(name)
            why = None if other is None else leaking(name, other.cluster, other.tags, held)
            if why is not None:
                return SeenLabel("leak partner", f"{where} was trained on {name}, which {why}")
        strange = [name for name in self.tasks if name not in known]
        if self.unknown_ancestors or strange:
            what = (
                f"{', '.join(self.unknown_ancestors)} says nothing of its training data"
                if self.unknown_ancestors
                else ""
            )
            unread = f"no card of {', '.join(strange)} is at hand" if strange else ""
            return SeenLabel("unknown", "; ".join(part for part in (what, unread) if part))
        return SeenLabel("held out", "neither it nor what leaks into it was trained on")


def read_history(folder: Path | None, source: str) -> ModelHistory:
    """The history of a model.

    Args:
        folder: Its folder, or None if there is none.
        source: What it is called.
    """
    path = None if folder is None else next((one for one in _places(folder) if one.is_file()), None)
    try:
        found = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, Mapping):
        return ModelHistory({}, (source,))
    tasks: dict[str, str] = {}
    silent: list[str] = []
    for name, lineage in _lineages(source, found):
        if lineage is None:
            silent.append(name)
            continue
        for task in lineage.get("tasks") or []:
            tasks.setdefault(str(task), name)
    return ModelHistory(tasks, tuple(dict.fromkeys(silent)), str(found.get("command") or ""), _worded(found))


def _worded(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """How a lineage says that tasks were put into words, without what cannot be."""
    told = lineage.get("templates")
    if not isinstance(told, Mapping):
        return {}
    found: dict[str, Any] = {}
    collection = told.get("collection")
    if isinstance(collection, str) and (collection in collections() or Path(collection).is_dir()):
        found["collection"] = collection
    for one in fields(PromptStyle):
        value = told.get(one.name)
        choices = {"route": get_args(Route), "layout": get_args(DemonstrationLayout)}.get(one.name, (True, False))
        if value is not None and value in choices:
            found[one.name] = value
    return found


def _places(folder: Path) -> Iterator[Path]:
    for part in ("", "model", "adapter"):
        yield folder / part / LINEAGE


def _lineages(name: str, lineage: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """A model and all its ancestors."""
    yield name, lineage
    for one in lineage.get("ancestors") or []:
        found, checkpoint = one.get("lineage"), str(one.get("checkpoint"))
        if isinstance(found, Mapping):
            yield from _lineages(checkpoint, found)
        else:
            yield checkpoint, None
