"""Record of a run's training data, saved in its folder so that a resumed run reads the same rows or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, Protocol

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from metalm_cli.config.schema.data import DataConfig, DocumentSource
from metalm_cli.data.documents.corpus import SourceInfo
from metalm_cli.errors import MetalmError
from metalm_cli.runs.folder import RunFolder

DATA_FILE = "data.json"
"""File of a run folder that records the data the run started with."""
DATA_FORMAT = 2
"""Version of the record. In format 1 the index plan also numbered rows that were left out."""


class FileRecord(TypedDict):
    """Record of a file: its name, its sha256 (None if it is streamed) and its bytes."""

    name: str
    sha256: str | None
    size: int


class SourceRecord(TypedDict):
    """Record of a source, with names of files but not their paths."""

    name: str
    kind: str
    location: str
    revision: str | None
    rows: int | None
    usable: NotRequired[int | None]
    left_out: NotRequired[dict[str, int]]
    share: float
    files: list[FileRecord]


class DataRecord(TypedDict):
    """Content of ``data.json``: every source, a fingerprint of the order in which they are read, the recipe and start.

    ``start`` describes the checkpoints that the run starts from, by part.
    """

    format: int
    fingerprint: str
    sources: list[SourceRecord]
    validation: list[SourceRecord]
    recipe: NotRequired[dict[str, Any]]
    start: NotRequired[dict[str, str]]


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


def source_record(info: SourceInfo) -> SourceRecord:
    """Record of a source in run folders and lineages."""
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


def data_record(corpus: DataSource) -> DataRecord:
    """Record of the data of a run."""
    return {
        "format": DATA_FORMAT,
        "fingerprint": corpus.fingerprint,
        "sources": [source_record(info) for info in corpus.sources],
        "validation": [source_record(info) for info in corpus.validation_sources],
    }


def read_data_record(folder: RunFolder) -> DataRecord | None:
    """Read the record of the data that a run started with; None if there is no record.

    Raises:
        MetalmError: The file is damaged.
    """
    remedy = "start a new run, because the rows that this run has read are unknown"
    record = folder.read_json(DATA_FILE, "the data record of the run cannot be read", remedy)
    if record is None:
        return None
    try:
        return TypeAdapter(DataRecord).validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise MetalmError(
            "the data record of the run cannot be read",
            where=str(folder.path / DATA_FILE),
            why=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            remedy=remedy,
        ) from error


def pinned_revisions(data: DataConfig, saved: DataRecord | None) -> DataConfig:
    """Return the ``data`` section with hub data sets pinned to the commits that the run started with.

    A branch or an unpinned data set may have changed since; a resumed run must read the same commit.
    """
    if saved is None:
        return data
    records = _sources_by_name(saved)

    def pin(source: DocumentSource, section: str) -> DocumentSource:
        record = records.get((section, source.name))
        commit = None if record is None else record["revision"]
        return source if commit is None or source.hub is None else source.model_copy(update={"revision": commit})

    changes: dict[str, Any] = {"sources": [pin(source, "sources") for source in data.sources]}
    if data.validation.sources is not None:
        validation_sources = [pin(source, "validation") for source in data.validation.sources]
        changes["validation"] = data.validation.model_copy(update={"sources": validation_sources})
    return data.model_copy(update=changes)


def check_data(folder: RunFolder, saved: DataRecord, corpus: DataSource) -> None:
    """Compare the opened data with the data that the run started with.

    Raises:
        MetalmError: Sources differ; the message names all of them.
    """
    current = data_record(corpus)
    differences = data_differences(saved, current)
    if not differences and saved["format"] < DATA_FORMAT:
        _check_order_of_old_format(folder, saved, current)
    if differences:
        raise MetalmError(
            "the data differs from the data that this run started with",
            where=str(folder.path / DATA_FILE),
            why="; ".join(differences),
            remedy="restore the data, or start a new run",
        )


def data_differences(first: DataRecord, second: DataRecord) -> list[str]:
    """Describe the differences between two records; an empty list if they are of the same data."""
    before, after = _sources_by_name(first), _sources_by_name(second)
    old_format = first["format"] < second["format"]
    differences = []
    for key in sorted(before.keys() | after.keys()):
        difference = _describe_difference(before.get(key), after.get(key), old_format)
        if difference:
            differences.append(f"{key[1]}{' (validation)' if key[0] == 'validation' else ''}: {difference}")
    # The fingerprint of a stream depends on the paths of its files.
    if (
        not differences
        and not old_format
        and first["fingerprint"] != second["fingerprint"]
        and not _is_streamed(second)
    ):
        differences.append("the order in which the sources are read has changed")
    return differences


def _is_streamed(record: DataRecord) -> bool:
    return any(file["sha256"] is None for source in record["sources"] for file in source["files"])


def _check_order_of_old_format(folder: RunFolder, saved: DataRecord, current: DataRecord) -> None:
    """Raise an error if the rows of a run of an earlier version are numbered in another way now."""
    if saved["fingerprint"] != current["fingerprint"] or _is_streamed(current):
        raise MetalmError(
            "the order of the training data has changed with the version of metalm",
            where=str(folder.path / DATA_FILE),
            why="this version draws usable rows only; the version that started the run also drew rows that are "
            "excluded, empty, held out or rejected by the audit, and left them out",
            remedy="start a new run, or resume it with the version that started it",
        )


def _sources_by_name(record: DataRecord) -> dict[tuple[str, str], SourceRecord]:
    sections = {"sources": record["sources"], "validation": record["validation"]}
    return {(section, source["name"]): source for section, sources in sections.items() for source in sources}


def _describe_difference(before: SourceRecord | None, after: SourceRecord | None, old_format: bool) -> str:
    """Describe the changes in a source; empty if there are none. Files may have moved to another folder.

    In the old format the rows of a task include those that are left out, so they are not compared.
    """
    if before is None or after is None:
        return "the source is new" if before is None else "the source is missing"
    changes = [
        f"{key} was {old} and is {new}"
        for key, old, new in (
            ("kind", before["kind"], after["kind"]),
            ("revision", before["revision"], after["revision"]),
            ("rows", before["rows"], before["rows"] if old_format else after["rows"]),
        )
        if old != new
    ]
    if not before["files"] and not after["files"] and before["location"] != after["location"]:
        changes.append(f"location was {before['location']} and is {after['location']}")
    changes += _changed_files(before["files"], after["files"])
    return ", ".join(changes)


def _changed_files(before: list[FileRecord], after: list[FileRecord]) -> list[str]:
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
