"""Record of a run's training data, saved in its folder so that a resumed run reads the same rows or fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from metalm_cli.config.schema.data import DataConfig, DocumentSource
from metalm_cli.data.documents.corpus import SourceInfo
from metalm_cli.errors import MetalmError
from metalm_cli.runs.folder import RunFolder

DATA_FILE = "data.json"
"""File of a run folder that records the data the run started with."""
DATA_FORMAT = 2
"""Version of the record. In format 1 the index plan also numbered rows that were left out."""


class DataSource(Protocol):
    """Training data of a run: documents, or the examples of tasks."""

    @property
    def sources(self) -> list[SourceInfo]:
        """Training sources."""

    @property
    def validation_sources(self) -> list[SourceInfo]:
        """Separate validation sources, if any."""

    @property
    def fingerprint(self) -> str:
        """Hash that changes whenever a number of the index plan could mean another row."""


def source_record(info: SourceInfo) -> dict[str, Any]:
    """Record of a source in run folders and lineages, with names of files but not their paths."""
    return {
        "name": info.name,
        "kind": info.kind,
        "location": info.location,
        "revision": info.revision,
        "rows": info.rows,
        "usable": info.usable,
        "left_out": dict(info.left_out),
        "share": info.share,
        "files": [{"name": Path(file.path).name, "sha256": file.sha256, "size": file.size} for file in info.files],
    }


def data_record(corpus: DataSource) -> dict[str, Any]:
    """Content of ``data.json``: every source, and a fingerprint of the order in which they are read."""
    return {
        "format": DATA_FORMAT,
        "fingerprint": corpus.fingerprint,
        "sources": [source_record(info) for info in corpus.sources],
        "validation": [source_record(info) for info in corpus.validation_sources],
    }


def read_data_record(folder: RunFolder) -> dict[str, Any] | None:
    """Read the record of the data that a run started with; None if there is no record.

    Raises:
        MetalmError: The file is damaged.
    """
    path = folder.path / DATA_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _sources_by_name(record)
        int(record["format"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetalmError(
            "the data record of the run cannot be read",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            remedy="start a new run, because the rows that this run has read are unknown",
        ) from error
    return record


def pinned_revisions(data: DataConfig, saved: dict[str, Any] | None) -> DataConfig:
    """Return the ``data`` section with hub data sets pinned to the commits that the run started with.

    A branch or an unpinned data set may have changed since; a resumed run must read the same commit.
    """
    if saved is None:
        return data
    records = _sources_by_name(saved)

    def pin(source: DocumentSource, section: str) -> DocumentSource:
        commit = records.get((section, source.name), {}).get("revision")
        return source if commit is None or source.hub is None else source.model_copy(update={"revision": commit})

    changes: dict[str, Any] = {"sources": [pin(source, "sources") for source in data.sources]}
    if data.validation.sources is not None:
        validation_sources = [pin(source, "validation") for source in data.validation.sources]
        changes["validation"] = data.validation.model_copy(update={"sources": validation_sources})
    return data.model_copy(update=changes)


def check_data(folder: RunFolder, saved: dict[str, Any], corpus: DataSource) -> None:
    """Compare the opened data with the data that the run started with.

    Raises:
        MetalmError: Sources differ; the message names all of them.
    """
    current = data_record(corpus)
    before, after = _sources_by_name(saved), _sources_by_name(current)
    old_format = saved["format"] < DATA_FORMAT
    differences = []
    for key in sorted(before.keys() | after.keys()):
        difference = _describe_difference(before.get(key), after.get(key), old_format)
        if difference:
            differences.append(f"{key[1]}{' (validation)' if key[0] == 'validation' else ''}: {difference}")
    streamed = any(file["sha256"] is None for source in current["sources"] for file in source["files"])
    order_differs = saved["fingerprint"] != current["fingerprint"]
    if not differences and old_format and (order_differs or streamed):
        raise MetalmError(
            "the order of the training data has changed with the version of metalm",
            where=str(folder.path / DATA_FILE),
            why="this version draws usable rows only; the version that started the run also drew rows that are "
            "excluded, empty, held out or rejected by the audit, and left them out",
            remedy="start a new run, or resume it with the version that started it",
        )
    if not differences and order_differs and not streamed:  # streams count their paths in
        differences.append("the order in which the sources are read has changed")
    if differences:
        raise MetalmError(
            "the data differs from the data that this run started with",
            where=str(folder.path / DATA_FILE),
            why="; ".join(differences),
            remedy="restore the data, or start a new run",
        )


def _sources_by_name(record: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(section, source["name"]): source for section in ("sources", "validation") for source in record[section]}


def _describe_difference(before: dict[str, Any] | None, after: dict[str, Any] | None, old_format: bool) -> str:
    """Describe the changes in a source; empty if there are none. Files may have moved to another folder.

    In the old format the rows of a task include those that are left out, so they are not compared.
    """
    if before is None or after is None:
        return "the source is new" if before is None else "the source is missing"
    changes = [
        f"{key} was {before[key]} and is {after[key]}"
        for key in ("kind", "revision", *(() if old_format else ("rows",)))
        if before[key] != after[key]
    ]
    if not before["files"] and not after["files"] and before["location"] != after["location"]:
        changes.append(f"location was {before['location']} and is {after['location']}")
    changes += _changed_files(before["files"], after["files"])
    return ", ".join(changes)


def _changed_files(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    if len(before) != len(after):
        return [f"the source had {len(before)} files and has {len(after)}"]
    changes = []
    for old, new in zip(before, after, strict=True):
        # The same bytes under another name are the same rows; a streamed file has no hash, so names are compared.
        same_content = old["sha256"] == new["sha256"] if old["sha256"] and new["sha256"] else old["name"] == new["name"]
        if old["size"] != new["size"]:
            changes.append(f"{new['name']} had {old['size']:,} bytes and has {new['size']:,}")
        elif not same_content:
            changes.append(f"the content of {new['name']} has changed")
    return changes
