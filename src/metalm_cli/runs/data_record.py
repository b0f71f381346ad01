"""What a run was trained on, kept in its folder, so that a resumed run reads the same rows or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from metalm_cli.config.schema.data import Data, Source
from metalm_cli.data.documents.corpus import SourceInfo
from metalm_cli.errors import MetalmError
from metalm_cli.runs.folder import RunFolder

DATA = "data.json"
"""File of a run folder that tells which data the run began with."""


class DataSource(Protocol):
    """What a run reads: documents, or the examples of tasks."""

    @property
    def sources(self) -> list[SourceInfo]:
        """Where it comes from."""

    @property
    def validation_sources(self) -> list[SourceInfo]:
        """Validation sources of their own."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a number of the index plan could stand for something else."""


def source_record(info: SourceInfo) -> dict[str, Any]:
    """A source as run folders and lineages name it; of its files the names, not where they lie."""
    return {
        "name": info.name,
        "kind": info.kind,
        "location": info.location,
        "revision": info.revision,
        "rows": info.rows,
        "share": info.share,
        "files": [{"name": Path(file.path).name, "sha256": file.sha256, "size": file.size} for file in info.files],
    }


def data_record(corpus: DataSource) -> dict[str, Any]:
    """What ``data.json`` holds: every source, and the fingerprint of the order that they are read in."""
    return {
        "format": 1,
        "fingerprint": corpus.fingerprint,
        "sources": [source_record(info) for info in corpus.sources],
        "validation": [source_record(info) for info in corpus.validation_sources],
    }


def read_data_record(folder: RunFolder) -> dict[str, Any] | None:
    """The data that a run began with; None if its folder does not tell.

    Raises:
        MetalmError: The file is damaged.
    """
    path = folder.path / DATA
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        _by_name(facts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetalmError(
            "the run's record of its data cannot be read",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            remedy="start a new run: it is not known which rows this one has read",
        ) from error
    return facts


def pinned_revisions(data: Data, saved: dict[str, Any] | None) -> Data:
    """The ``data`` section with the commits of hub data sets that the run began with.

    A branch moves on, and so does a data set without a revision; a resumed run reads what it has begun to read.
    """
    if saved is None:
        return data
    found = _by_name(saved)

    def at(source: Source, part: str) -> Source:
        commit = found.get((part, source.name), {}).get("revision")
        return source if commit is None or source.hub is None else source.model_copy(update={"revision": commit})

    changes: dict[str, Any] = {"sources": [at(source, "sources") for source in data.sources]}
    if data.validation.sources is not None:
        own = [at(source, "validation") for source in data.validation.sources]
        changes["validation"] = data.validation.model_copy(update={"sources": own})
    return data.model_copy(update=changes)


def check_data(folder: RunFolder, saved: dict[str, Any], corpus: DataSource) -> None:
    """Compare the data that was opened with the data that the run began with.

    Raises:
        MetalmError: A source is not the same; all that differ are named.
    """
    now = data_record(corpus)
    before, after = _by_name(saved), _by_name(now)
    differ = []
    for key in sorted(before.keys() | after.keys()):
        why = _difference(before.get(key), after.get(key))
        if why:
            differ.append(f"{key[1]}{' (validation)' if key[0] == 'validation' else ''}: {why}")
    streamed = any(file["sha256"] is None for one in now["sources"] for file in one["files"])
    if not differ and saved["fingerprint"] != now["fingerprint"] and not streamed:  # streams count their paths in
        differ.append("the order in which the sources are read has changed")
    if differ:
        raise MetalmError(
            "the data is not what this run began with",
            where=str(folder.path / DATA),
            why="; ".join(differ),
            remedy="put the data back as it was, or start a new run",
        )


def _by_name(facts: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(part, one["name"]): one for part in ("sources", "validation") for one in facts[part]}


def _difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """What has changed in a source; empty if nothing has. Files may lie elsewhere."""
    if before is None or after is None:
        return "it was not there" if before is None else "it is gone"
    changes = [
        f"{key} was {before[key]} and is {after[key]}"
        for key in ("kind", "revision", "rows")
        if before[key] != after[key]
    ]
    if not before["files"] and not after["files"] and before["location"] != after["location"]:
        changes.append(f"it was {before['location']} and is {after['location']}")
    changes += _changed_files(before["files"], after["files"])
    return ", ".join(changes)


def _changed_files(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    if len(before) != len(after):
        return [f"it had {len(before)} files and has {len(after)}"]
    found = []
    for old, new in zip(before, after, strict=True):
        # The same bytes under another name are the same rows; a streamed file has no hash to go by.
        same = old["sha256"] == new["sha256"] if old["sha256"] and new["sha256"] else old["name"] == new["name"]
        if old["size"] != new["size"]:
            found.append(f"{new['name']} had {old['size']:,} bytes and has {new['size']:,}")
        elif not same:
            found.append(f"the content of {new['name']} has changed")
    return found
