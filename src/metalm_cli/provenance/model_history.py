"""The training history of a model, read from its lineage: whether a task is new to the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from metalm_cli.data.sources.locate import FileFacts
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.generalization_levels import leaking_task
from metalm_cli.provenance.lineage import ancestors_and_lineages, read_lineage, trained_files, trained_tasks
from metalm_cli.tasks import Card
from metalm_cli.templates import PromptStyle, collection_names
from metalm_cli.templates.render import DemonstrationLayout, Route

Label = Literal["seen", "leak partner", "held out", "unknown"]
"""``seen``: the task was trained on. ``leak partner``: its data, or a task that leaks into it, was trained on.
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
        files: SHA-256 of each training file, with the checkpoint that was trained on it and the name of its source.
    """

    tasks: Mapping[str, str]
    unknown_ancestors: tuple[str, ...]
    command: str = ""
    prompt_settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, ancestors: Iterable[Mapping[str, Any]]) -> ModelHistory:
        """History of the training of base models and their ancestors.

        Args:
            ancestors: From :func:`metalm_cli.provenance.lineage.read_ancestors`, or from a lineage.
        """
        tasks: dict[str, str] = {}
        files: dict[str, tuple[str, str]] = {}
        unknown_ancestors: dict[str, None] = {}
        for checkpoint, lineage in ancestors_and_lineages(ancestors):
            if lineage is None:
                unknown_ancestors[checkpoint] = None
                continue
            for task in trained_tasks(lineage):
                tasks.setdefault(task, checkpoint)
            for sha256, source in trained_files(lineage):
                files.setdefault(sha256, (checkpoint, source))
        return cls(tasks, tuple(unknown_ancestors), files=files)

    def label_for(self, card: Card, known: Mapping[str, Card], files: Sequence[FileFacts] = ()) -> SeenLabel:
        """Label of a task.

        Args:
            card: The card of the task.
            known: Available cards of the tasks that were trained on, by name.
            files: Files of the evaluated rows. A file with the same content may have another name in the training.
        """
        card = card.model_copy(update={"name": card.data_name})
        if card.name in self.tasks:
            return SeenLabel("seen", f"{self.tasks[card.name]} was trained on the task")
        leak = leaking_task(card, (known[name] for name in self.tasks if name in known))
        if leak is not None:
            name, why = leak
            return SeenLabel("leak partner", f"{self.tasks[name]} was trained on {name}, which {why}")
        for file in files:
            if file.sha256 is not None and file.sha256 in self.files:
                checkpoint, source = self.files[file.sha256]
                why = f"{checkpoint} was trained on {source}, which read a file with the content of {file.path}"
                return SeenLabel("leak partner", why)
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
    try:
        lineage = None if folder is None else read_lineage(folder)
    except MetalmError:
        lineage = None
    return history_of_lineage(lineage, source)


def history_of_lineage(lineage: Mapping[str, Any] | None, source: str) -> ModelHistory:
    """Return the history of a model by its lineage; None: nothing is known.

    Args:
        lineage: The lineage.
        source: Name of the model.
    """
    history = ModelHistory.of([{"checkpoint": source, "lineage": lineage}])
    if lineage is None:
        return history
    return replace(history, command=str(lineage.get("command") or ""), prompt_settings=_prompt_settings(lineage))


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
