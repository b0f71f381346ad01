"""The training history of a model, read from its lineage: whether a task is new to the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from metalm_cli.common.checkpoints.find import find_local_checkpoint
from metalm_cli.data.sources.locate import FileFacts
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.generalization_levels import leaking_task
from metalm_cli.provenance.lineage import all_ancestors, ancestor_record, trained_files, trained_tasks
from metalm_cli.provenance.published_training import PublishedTraining, published_by_name
from metalm_cli.tasks import Card
from metalm_cli.templates import PromptStyle, collection_names
from metalm_cli.templates.render import is_style_value

Label = Literal["seen", "seen by the encoder", "seen by the decoder", "leak partner", "held out", "unknown"]
"""``seen``: the task was trained on. ``seen by the encoder``, ``seen by the decoder``: a checkpoint of that part was
trained on the task before, by its published training data. ``leak partner``: its data, or a task that leaks into it,
was trained on. ``held out``: neither. ``unknown``: neither as far as known, but the training data of an ancestor is
unknown."""


@dataclass(frozen=True)
class SeenLabel:
    """Label of a task for a model, and its reason."""

    label: Label
    why: str


@dataclass(frozen=True)
class PublishedTask:
    """A task that a checkpoint was trained on by its published training data.

    Args:
        part: ``encoder`` or ``decoder``.
        checkpoint: Name of the checkpoint.
        data_set: Published name of the data set.
        source: Where the training data is published.
    """

    part: Literal["encoder", "decoder"]
    checkpoint: str
    data_set: str
    source: str

    def __str__(self) -> str:
        return f"the {self.part} {self.checkpoint}"


@dataclass(frozen=True)
class ModelHistory:
    """Training history of a model and its ancestors.

    Args:
        tasks: Tasks of the training, with the checkpoint that was trained on each; those of ``published`` included.
        unknown_ancestors: Ancestors whose training data is unknown.
        command: The command that made the model; empty if unknown.
        objective: Its objective, if that is another than the command's usual one.
        prompt_settings: How tasks were rendered when the model was trained: ``collection`` and fields of
            :class:`~metalm_cli.templates.PromptStyle`, as far as known and valid.
        files: SHA-256 of each training file, with the checkpoint that was trained on it and the name of its source.
        published: Tasks that only checkpoints from outside were trained on, by their published training data.
        incomplete: Why the published training data of a checkpoint is not all, by checkpoint.
    """

    tasks: Mapping[str, str]
    unknown_ancestors: tuple[str, ...]
    command: str = ""
    objective: str = ""
    prompt_settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    published: Mapping[str, PublishedTask] = field(default_factory=dict)
    incomplete: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, ancestors: Iterable[Mapping[str, Any]]) -> ModelHistory:
        """History of the training of base models and their ancestors.

        Args:
            ancestors: From :func:`metalm_cli.provenance.lineage.read_ancestors`, or from a lineage.
        """
        tasks: dict[str, str] = {}
        files: dict[str, tuple[str, str]] = {}
        unknown_ancestors: dict[str, None] = {}
        published: dict[str, PublishedTask] = {}
        incomplete: dict[str, str] = {}
        for ancestor in all_ancestors(ancestors):
            checkpoint, lineage = str(ancestor.get("checkpoint")), ancestor.get("lineage")
            if not isinstance(lineage, Mapping):
                training = PublishedTraining.of_record(ancestor.get("published")) or published_by_name(checkpoint)
                if training is None:
                    unknown_ancestors[checkpoint] = None
                    continue
                part: Literal["encoder", "decoder"] = (
                    "encoder" if str(ancestor.get("part")).startswith("encoders") else "decoder"
                )
                for task, data_set in training.tasks().items():
                    published.setdefault(task, PublishedTask(part, checkpoint, data_set, training.source))
                if training.incomplete:
                    incomplete[checkpoint] = training.incomplete
                continue
            for task in trained_tasks(lineage):
                tasks.setdefault(task, checkpoint)
            for sha256, source in trained_files(lineage):
                files.setdefault(sha256, (checkpoint, source))
        published = {task: facts for task, facts in published.items() if task not in tasks}
        all_tasks = {**tasks, **{task: str(facts) for task, facts in published.items()}}
        return cls(all_tasks, tuple(unknown_ancestors), files=files, published=published, incomplete=incomplete)

    def published_notes(self, tasks: Iterable[str]) -> list[str]:
        """Notes on tasks that a part was trained on before, by published training data: they are not held out.

        Args:
            tasks: Names of tasks.
        """
        by_checkpoint: dict[tuple[str, str], list[str]] = {}
        for task in dict.fromkeys(tasks):
            facts = self.published.get(task)
            if facts is not None:
                by_checkpoint.setdefault((facts.part, facts.checkpoint), []).append(task)
        return [
            f"seen by the {part} ({checkpoint}, by its published training data): {', '.join(names)}"
            for (part, checkpoint), names in by_checkpoint.items()
        ]

    def training_note(self) -> str:
        """Note that names all tasks of the training; empty without tasks. Published training data is not included."""
        names = [name for name in self.tasks if name not in self.published]
        return f"trained on {len(names)} task{'s' * (len(names) > 1)}: {', '.join(names)}" if names else ""

    def incomplete_notes(self) -> list[str]:
        """Notes on checkpoints whose published training data is not all."""
        return [f"the training data of {name} is partly known: {why}" for name, why in self.incomplete.items()]

    def label_for(self, card: Card, known: Mapping[str, Card], files: Sequence[FileFacts] = ()) -> SeenLabel:
        """Label of a task.

        Args:
            card: The card of the task.
            known: Available cards of the tasks that were trained on, by name.
            files: Files of the evaluated rows. A file with the same content may have another name in the training.
        """
        card = card.model_copy(update={"name": card.data_name})
        if card.name in self.published:
            facts = self.published[card.name]
            why = f"{facts} was trained on {facts.data_set}, by {facts.source}"
            return SeenLabel("seen by the encoder" if facts.part == "encoder" else "seen by the decoder", why)
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
        unknown_tasks = [name for name in self.tasks if name not in known and name not in self.published]
        if self.unknown_ancestors or self.incomplete or unknown_tasks:
            unknown_data = (
                f"the training data of {', '.join(self.unknown_ancestors)} is unknown" if self.unknown_ancestors else ""
            )
            missing_cards = f"no card of {', '.join(unknown_tasks)} is available" if unknown_tasks else ""
            reasons = (unknown_data, *self.incomplete_notes(), missing_cards)
            return SeenLabel("unknown", "; ".join(reason for reason in reasons if reason))
        return SeenLabel("held out", "neither the task nor a task that leaks into it was trained on")


def source_ancestors(source: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """Return the record of a model as an ancestor: its lineage, or what is published of a checkpoint.

    Args:
        source: Folder of a run or model, GGUF file, or name of a checkpoint.
        folder: Folder of the model, if it is not that of the source.
    """
    with suppress(MetalmError):
        checkpoint = find_local_checkpoint(source if folder is None else str(folder))
        if checkpoint is not None:
            return [ancestor_record("decoder", replace(checkpoint, name=source))]
    return [{"checkpoint": source, "part": "decoder", "lineage": None}]


def read_history(folder: Path | None, source: str) -> ModelHistory:
    """Read the history of a model.

    Args:
        folder: Folder of the model, or None: a GGUF file, a checkpoint found by its name, or a hub id.
        source: Name of the model.
    """
    ancestors = source_ancestors(source, folder)
    return _history_of_ancestors(ancestors, ancestors[0]["lineage"])


def history_of_lineage(lineage: Mapping[str, Any] | None, source: str) -> ModelHistory:
    """Return the history of a model by its lineage; None: nothing is known.

    Args:
        lineage: The lineage.
        source: Name of the model.
    """
    return _history_of_ancestors([{"checkpoint": source, "lineage": lineage}], lineage)


def _history_of_ancestors(ancestors: Sequence[Mapping[str, Any]], lineage: Mapping[str, Any] | None) -> ModelHistory:
    history = ModelHistory.of(ancestors)
    if lineage is None:
        return history
    command, objective = (str(lineage.get(key) or "") for key in ("command", "objective"))
    return replace(history, command=command, objective=objective, prompt_settings=_prompt_settings(lineage))


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
        if value is not None and is_style_value(style_field.name, value):
            settings[style_field.name] = value
    return settings
