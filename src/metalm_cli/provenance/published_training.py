"""What checkpoints that metalm did not train were trained on, by what their authors published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from metalm_cli.common.checkpoints.origin import Checkpoint
from metalm_cli.common.checkpoints.remembered_hash import remembered_sha256
from metalm_cli.config.schema.base import Section
from metalm_cli.config.yaml_records import read_record

WEIGHTS = "model.safetensors"


class PublishedCheckpoint(Section):
    """A checkpoint, or a family trained on the same data."""

    names: list[str] = Field(description="Hub ids, and names of packages' checkpoints.")
    weights: dict[str, int] = Field(default={}, description="Size in bytes of model.safetensors, by SHA-256.")
    source: str = Field(description="Where the training data is published.")
    data_sets: dict[str, list[str]] = Field(description="Names of task cards, by the published name of a data set.")
    incomplete: str = Field(default="", description="Why unlisted tasks may have been trained on as well.")


class PublishedTable(Section):
    """All checkpoints whose published training data is known."""

    checkpoints: list[PublishedCheckpoint] = Field(description="The checkpoints.")


@dataclass(frozen=True)
class PublishedTraining:
    """Published training data of a checkpoint.

    Args:
        data_sets: Names of task cards, by the published name of a data set; a data set may have no card.
        source: Where it is published.
        incomplete: Why unlisted tasks may have been trained on as well; empty if the list is complete.
    """

    data_sets: Mapping[str, tuple[str, ...]]
    source: str
    incomplete: str = ""

    def tasks(self) -> dict[str, str]:
        """Published name of the data set of each task."""
        return {task: data_set for data_set, tasks in self.data_sets.items() for task in tasks}

    def record(self) -> dict[str, Any]:
        """Record for a lineage."""
        record: dict[str, Any] = {
            "source": self.source,
            "data_sets": {name: list(tasks) for name, tasks in self.data_sets.items()},
        }
        return {**record, "incomplete": self.incomplete} if self.incomplete else record

    @classmethod
    def of_record(cls, record: Any) -> PublishedTraining | None:
        """Published training from :meth:`record`, as a lineage has it; None if it is of another form."""
        if not isinstance(record, Mapping) or not isinstance(record.get("data_sets"), Mapping):
            return None
        data_sets = {
            str(name): tuple(map(str, tasks)) for name, tasks in record["data_sets"].items() if isinstance(tasks, list)
        }
        return cls(data_sets, str(record.get("source")), str(record.get("incomplete") or ""))


@cache
def read_published_table() -> PublishedTable:
    """Read the shipped table (``provenance/published_training.yaml``)."""
    return read_record(Path(__file__).with_suffix(".yaml"), PublishedTable, "table of published training data")


def published_by_name(name: str) -> PublishedTraining | None:
    """Published training of a hub id or of a package's checkpoint; None if unknown."""
    return next((_training(entry) for entry in _entries() if name.lower() in _names(entry)), None)


def published_training(checkpoint: Checkpoint) -> PublishedTraining | None:
    """Published training of a checkpoint, by its name or the hash of its weights; None if unknown.

    A folder that only has the name of a checkpoint may hold other weights: the data sets of that checkpoint count, and
    the list is incomplete.
    """
    if checkpoint.origin.place not in ("folder", "GGUF file"):
        by_name = published_by_name(checkpoint.name)
        if by_name is not None:
            return by_name
    weights = checkpoint.folder / WEIGHTS
    size = weights.stat().st_size if weights.is_file() else -1
    for entry in _entries():
        if size in entry.weights.values() and entry.weights.get(remembered_sha256(weights)) == size:
            return _training(entry)
    for entry in _entries():
        if checkpoint.folder.name.lower() in {name.rpartition("/")[2] for name in _names(entry)}:
            training = _training(entry)
            reason = training.incomplete or f"the folder has the name of {entry.names[0]}, its weights may be others"
            return PublishedTraining(training.data_sets, training.source, reason)
    return None


def _entries() -> Iterator[PublishedCheckpoint]:
    return iter(read_published_table().checkpoints)


def _names(entry: PublishedCheckpoint) -> set[str]:
    return {name.lower() for name in entry.names}


def _training(entry: PublishedCheckpoint) -> PublishedTraining:
    data_sets = {name: tuple(tasks) for name, tasks in entry.data_sets.items()}
    return PublishedTraining(data_sets, entry.source, entry.incomplete)
