"""Opening a data file as a table of rows, by its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metalm_cli.common.file_hash import file_sha256
from metalm_cli.common.jsonl_files import is_json_array, parse_json_exactly, unreadable_file
from metalm_cli.common.tar_shards import SHARD_SUFFIX
from metalm_cli.data.sources.arrow_tables import ParquetRows, is_saved_dataset, open_saved, saved_files
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.jsonl import JsonlTable, prepare
from metalm_cli.data.sources.locate import FileFacts, shard_files
from metalm_cli.data.sources.row_tables import CsvRows, JsonArrayRows, NaturalInstructionsRows, TextRows
from metalm_cli.data.sources.tar_rows import TarRows
from metalm_cli.tasks.record_files import has_records


def open_table(path: Path, cache: Path, split: str) -> tuple[RandomAccessRows, tuple[FileFacts, ...]]:
    """Open the rows of a data file, or of shards, with the facts that the lineage records.

    Args:
        path: JSON lines; CSV or TSV; Parquet; plain text; JSON: a list of records, one record per line, or a Natural
            Instructions task; a folder of ``save_to_disk``; or a tar file, a pattern of tar files or a folder of them.
        cache: Folder for unpacked files and indexes.
        split: Split of a saved data set, or of shards, if there are several.

    Raises:
        MetalmError: The file cannot be read.
    """
    if shards := shard_files(path, split):
        return open_prepared(shards, cache)
    try:
        if path.is_dir() and is_saved_dataset(path):
            return open_saved(path, split), tuple(map(_file_facts, saved_files(path, split)))
        if path.suffix == ".parquet":
            facts = _file_facts(path)
            return ParquetRows(path, str(facts.sha256), cache), (facts,)
        if path.suffix in (".csv", ".tsv"):
            return CsvRows(path), (_file_facts(path),)
        if path.suffix == ".txt":
            return TextRows(path), (_file_facts(path),)
        if path.suffix == ".json" and is_json_array(path):
            return JsonArrayRows(path), (_file_facts(path),)
        if path.suffix == ".json" and not has_records(path):
            return NaturalInstructionsRows(path), (_file_facts(path),)
    except OSError as error:
        raise unreadable_file(path, error) from error
    return open_prepared([path], cache)


def open_prepared(
    paths: Sequence[Path], cache: Path, *, with_images: bool = True
) -> tuple[RandomAccessRows, tuple[FileFacts, ...]]:
    """Open files of JSON lines, or tar shards, as one table, with the facts that the lineage records.

    Args:
        paths: Files of one kind.
        cache: Folder for unpacked files, listings and indexes.
        with_images: Whether rows of shards have their images.

    Raises:
        MetalmError: A file cannot be read.
    """
    prepared = [prepare(path, cache) for path in paths]
    facts = tuple(FileFacts(str(file.path), file.sha256, file.size) for file in prepared)
    if paths[0].suffix == SHARD_SUFFIX:
        return TarRows(prepared, with_images=with_images), facts
    return JsonlTable(prepared, parse_json_exactly), facts


def _file_facts(path: Path) -> FileFacts:
    return FileFacts(str(path), file_sha256(path), path.stat().st_size)
