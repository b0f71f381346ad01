"""Mirrors: copies of hub data sets below a data root, in the layout that sources and cards are read from.

``ROOT/<name>/<split>.jsonl.gz`` with the hub's columns, ``ROOT/<name>/features.json`` with the class names of columns,
and an entry in ``ROOT/MANIFEST.json``: hub id, configuration, commit, and rows, bytes and SHA-256 of each split.
"""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from metalm_cli.common.atomic_files import write_error
from metalm_cli.common.cache import write_to_cache
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.common.jsonl_files import JSONL_SUFFIXES
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.examples.open_examples import FEATURES
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.locate import SAFE_NAME, check_hub_name
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.tasks import Card

MANIFEST = "MANIFEST.json"
PROGRESS_EVERY = 1_000
"""Rows between calls of ``progress``."""

Progress = Callable[[str, str, int], None]
"""Callback with the data set, the split and the rows written."""


@dataclass(frozen=True)
class MirrorRequest:
    """Request to mirror a hub data set.

    Args:
        name: Folder below the data root.
        hub: Hub id.
        config: Configuration of the data set.
        revision: Revision.
        splits: Splits.
        streaming: Read the data set over the network without a copy in the hub's cache.
    """

    name: str
    hub: str
    config: str | None
    revision: str | None
    splits: tuple[str, ...]
    streaming: bool = False

    def source(self, split: str, revision: str | None) -> DocumentSource:
        """A split as a source."""
        return DocumentSource(
            name=self.name,
            hub=self.hub,
            config=self.config,
            revision=revision or self.revision,
            split=split,
            streaming=self.streaming,
        )


@dataclass(frozen=True)
class MirrorResult:
    """Result of mirroring a split.

    Args:
        name: Folder of the data set.
        split: The split; empty if the whole data set was left alone.
        state: ``written``; ``there`` if a complete file exists; ``left alone`` if the folder holds a copy that metalm
            did not write.
        rows: Rows of the split.
        size: Bytes of the file.
    """

    name: str
    split: str
    state: Literal["written", "there", "left alone"]
    rows: int = 0
    size: int = 0


def request_for_card(card: Card) -> MirrorRequest | None:
    """Request for a card's hub data set with all splits of its roles; None for a card without a hub data set."""
    if card.hub is None:
        return None
    splits = [split.name for role in card.splits if (split := card.split(role, local=False)) is not None]
    name = card.local.name if card.local is not None else card.name
    return MirrorRequest(name, card.hub.id, card.hub.config, card.hub.revision, tuple(dict.fromkeys(splits)))


def request_for_source(source: DocumentSource) -> MirrorRequest | None:
    """Request for the hub data set of a recipe's source; None for a source without a hub data set."""
    if source.hub is None:
        return None
    streaming = source.streaming is not False
    return MirrorRequest(source.name, source.hub, source.config, source.revision, (source.split,), streaming)


class Manifest:
    """Manifest of a data root (``MANIFEST.json``): a list of data sets. Entries of other data sets are preserved.

    Raises:
        MetalmError: The manifest cannot be read, or is not a list of data sets.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / MANIFEST
        self.entries: list[dict[str, Any]] = []
        if not self.path.exists():
            return
        try:
            entries = json.loads(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise self._broken_manifest_error(str(error)) from error
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._broken_manifest_error("expected a list of data sets")
        self.entries = entries

    def _broken_manifest_error(self, why: str) -> MetalmError:
        remedy = "repair the file, or move it away: data sets can be read without a manifest"
        return MetalmError("the manifest of a data root cannot be read", where=str(self.path), why=why, remedy=remedy)

    def entry(self, name: str) -> dict[str, Any] | None:
        """The entry of a data set, or None."""
        return next((entry for entry in self.entries if entry.get("name") == name), None)

    def splits(self, name: str) -> dict[str, dict[str, Any]]:
        """Facts of the splits of a data set."""
        splits = (self.entry(name) or {}).get("splits")
        return {split: facts for split, facts in splits.items() if isinstance(facts, dict)} if splits else {}

    def add_split(self, request: MirrorRequest, commit: str | None, split: str, facts: dict[str, Any]) -> None:
        """Record a written split."""
        splits = {**self.splits(request.name), split: facts}
        entry = {
            "name": request.name,
            "hub_id": request.hub,
            "hub_config": request.config,
            "revision": commit,
            "splits": splits,
        }
        self.entries = [other for other in self.entries if other.get("name") != request.name] + [entry]
        self.write()

    def remove(self, name: str) -> None:
        """Remove the entry of a data set."""
        self.entries = [entry for entry in self.entries if entry.get("name") != name]
        self.write()

    def write(self) -> None:
        """Write the manifest atomically."""
        with write_to_cache(self.path, _write_error) as file:
            file.write(json.dumps(self.entries, indent=1, ensure_ascii=False).encode() + b"\n")


def mirror(
    request: MirrorRequest, root: Path, *, offline: bool = False, progress: Progress | None = None
) -> Iterator[MirrorResult]:
    """Write the missing splits of a data set, one by one; complete files are not downloaded again.

    Splits that are added later are read from the commit of the existing ones.

    Args:
        request: The data set.
        root: The data root; created if it does not exist.
        offline: Open no connection: only data in the hub's cache can be mirrored.
        progress: Callback for the rows written.

    Raises:
        MetalmError: The data set cannot be read from the hub; a value cannot be written as JSON; the folder cannot be
            written, or is a mirror of another data set.
    """
    for name in (request.name, *request.splits):
        if not SAFE_NAME.match(name):
            raise MetalmError(f"{name!r} is not a valid name of a folder or a split", where=request.hub)
    folder, manifest = root / request.name, Manifest(root)
    if folder.is_dir() and not (folder / FEATURES).is_file() and any(_data_files(folder)):
        yield MirrorResult(request.name, "", "left alone")
        return
    entry = manifest.entry(request.name) if (folder / FEATURES).is_file() else None
    if entry is not None:
        _check_same_dataset(request, entry, folder)
    commit = entry.get("revision") if entry is not None else None
    for split in request.splits:
        facts = manifest.splits(request.name).get(split) if entry is not None else None
        path = folder / f"{split}.jsonl.gz"
        if facts is not None and _is_intact(path, facts):
            yield MirrorResult(request.name, split, "there", int(facts.get("rows", 0)), path.stat().st_size)
            continue
        rows, commit = _write_split(request, split, commit, path, offline, progress)
        size = path.stat().st_size
        relative = path.relative_to(root).as_posix()
        manifest.add_split(
            request, commit, split, {"rows": rows, "file": relative, "bytes": size, "sha256": file_sha256(path)}
        )
        entry = manifest.entry(request.name)
        yield MirrorResult(request.name, split, "written", rows, size)


def _data_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(JSONL_SUFFIXES)]


def _check_same_dataset(request: MirrorRequest, entry: dict[str, Any], folder: Path) -> None:
    mirrored, requested = (entry.get("hub_id"), entry.get("hub_config")), (request.hub, request.config)
    if mirrored != requested:
        raise MetalmError(
            f"the folder {request.name} is a mirror of another data set",
            where=str(folder),
            why=f"it holds {' '.join(filter(None, mirrored))}, but {' '.join(filter(None, requested))} is requested",
            remedy=f"remove it with `metalm data clean {request.name}`, or choose another --data-root",
        )


def _is_intact(path: Path, facts: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == facts.get("bytes") and file_sha256(path) == facts.get("sha256")


def _write_split(
    request: MirrorRequest, split: str, commit: str | None, path: Path, offline: bool, progress: Progress | None
) -> tuple[int, str | None]:
    """Write the class names and then the rows of a split; return the number of rows and the commit."""
    from metalm_cli.data.sources.hub import HubStream, HubTable, open_hub

    source = request.source(split, commit)
    check_hub_name(source)
    data, commit = open_hub(source, offline=offline)
    assert isinstance(data, HubTable | HubStream)
    rows = 0
    with write_to_cache(path, _write_error) as out:
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as compressed:
            for rows, row in enumerate(_all_rows(data), start=1):
                _write_row(compressed, row, f"{request.hub}, split {split}, row {rows - 1}")
                if progress is not None and rows % PROGRESS_EVERY == 0:
                    progress(request.name, split, rows)
        names = json.dumps(data.class_names(), indent=1, ensure_ascii=False)
        with write_to_cache(path.parent / FEATURES, _write_error) as file:
            file.write(names.encode() + b"\n")
    return rows, commit


def _all_rows(data: Any) -> Iterator[Any]:
    if isinstance(data, RandomAccessRows):
        for number in range(data.rows):
            yield data.load(number)
        return
    for shard in range(data.shards()):
        for raw in data.read(shard):
            yield data.load(raw)


def _write_row(file: IO[bytes] | gzip.GzipFile, row: Any, where: str) -> None:
    try:
        line = json.dumps(row, ensure_ascii=False, default=_json_default)
    except (TypeError, ValueError) as error:
        raise MetalmError(
            "a row cannot be written as JSON",
            where=where,
            why=str(error),
            remedy="data sets of images or audio are not mirrored: download the repository (hf download)",
            exit_code=Exit.FAILED,
        ) from error
    file.write(line.encode("utf-8", "surrogatepass") + b"\n")


def _json_default(value: Any) -> str:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"a value is {type(value).__name__}")


def _write_error(error: OSError, folder: Path) -> MetalmError:
    remedy = "free some space, or choose another --data-root that you may write to"
    return write_error(error, "the mirror cannot be written", folder, Exit.FAILED, remedy)
