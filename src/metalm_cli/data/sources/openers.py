"""Openers of document sources: each kind of source is a key of a recipe's source, and opens its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common import registry
from metalm_cli.common.jsonl_files import JSONL_SUFFIXES
from metalm_cli.common.tar_shards import SHARD_SUFFIX
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.file_tables import open_prepared, open_table
from metalm_cli.data.sources.jsonl import JsonlStream, JsonlTable, prepare
from metalm_cli.data.sources.locate import FileFacts, check_hub_name, local_files
from metalm_cli.data.sources.row_tables import ConcatenatedRows, MiniworldDocumentRows
from metalm_cli.errors import MetalmError


@dataclass(frozen=True)
class OpeningContext:
    """What openers need besides the source.

    Args:
        data_root: Folder of local data sets, or None.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.
    """

    data_root: Path | None
    offline: bool
    cache: Path


@dataclass(frozen=True)
class OpenedRows:
    """Rows of an opened source.

    Args:
        rows: A table or a stream.
        location: Where the rows are, for the plan and for messages.
        revision: Revision of a hub data set.
        files: Files that the rows are read from, as the lineage records them.
    """

    rows: RandomAccessRows | SequentialRows
    location: str
    revision: str | None = None
    files: tuple[FileFacts, ...] = ()


def open_rows(source: DocumentSource, context: OpeningContext) -> OpenedRows:
    """Open the rows of a source with the opener that is registered for its kind.

    Raises:
        MetalmError: The source cannot be opened.
    """
    entry = registry.data_sources.entry(source.kind, where=f"source {source.name}")
    opener = registry.data_sources.load(source.kind)
    if entry.origin == registry.BUILT_IN:
        return opener(source, context)
    try:
        opened = opener(source, context)
    except MetalmError:
        raise
    except Exception as error:
        raise _fault(source, entry, f"{type(error).__name__}: {error}") from error
    if not (isinstance(opened, OpenedRows) and isinstance(opened.rows, RandomAccessRows | SequentialRows)):
        raise _fault(source, entry, f"it returns {type(opened).__name__}, expected OpenedRows")
    return opened


def _fault(source: DocumentSource, entry: registry.Entry, why: str) -> MetalmError:
    return MetalmError(
        f"the data source {entry.name} of {entry.origin} fails",
        where=f"source {source.name} ({entry.target})",
        why=why,
        remedy=f"correct the settings of the source, or repair, update or uninstall {entry.origin}",
    )


def open_world(source: DocumentSource, _context: OpeningContext) -> OpenedRows:
    """Open documents of the miniature world."""
    assert source.world is not None
    return OpenedRows(MiniworldDocumentRows(source.world), f"seed {source.world.seed}")


def open_path(source: DocumentSource, context: OpeningContext) -> OpenedRows:
    """Open local files."""
    paths = local_files(source, context.data_root)
    assert paths is not None
    return _open_files(source, paths, context)


def open_hub(source: DocumentSource, context: OpeningContext) -> OpenedRows:
    """Open a hub data set: its copy in the data root, else the hub."""
    check_hub_name(source)
    paths = local_files(source, context.data_root)
    if paths is not None:
        return _open_files(source, paths, context)
    from metalm_cli.data.sources import hub

    rows, revision = hub.open_hub(source, offline=context.offline)
    return OpenedRows(rows, str(source.hub), revision)


def _open_files(source: DocumentSource, paths: list[Path], context: OpeningContext) -> OpenedRows:
    location = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    is_shard = paths[0].suffix == SHARD_SUFFIX
    if not paths[0].name.endswith(JSONL_SUFFIXES):
        if source.streaming:
            raise MetalmError(
                f"source {source.name} cannot be streamed",
                where=location,
                why="only JSON lines and hub data sets are streamed",
                remedy="remove `streaming`"
                + ("; nothing of a shard is unpacked" if is_shard else ", or convert the files to JSON lines"),
            )
        if is_shard:
            shards, facts = open_prepared(paths, context.cache, with_images=False)
            return OpenedRows(shards, location, files=facts)
        tables = [open_table(path, context.cache, source.split) for path in paths]
        facts = tuple(fact for _, facts_of_table in tables for fact in facts_of_table)
        rows = ConcatenatedRows([table for table, _ in tables], [fact.sha256 for fact in facts])
        return OpenedRows(rows, location, files=facts)
    if source.streaming:
        files = tuple(FileFacts(str(path), None, path.stat().st_size) for path in paths)
        return OpenedRows(JsonlStream(paths), location, files=files)
    prepared = [prepare(path, context.cache) for path in paths]
    files = tuple(FileFacts(str(file.path), file.sha256, file.size) for file in prepared)
    return OpenedRows(JsonlTable(prepared), location, files=files)
