"""Cards of hub data sets and of table files whose records have a known format, which need no card file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import cache_folder
from metalm_cli.common.paths import expand_user
from metalm_cli.common.slug import slug
from metalm_cli.config.locate import display
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.sources.arrow_tables import is_saved_dataset
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.file_tables import open_prepared, open_table
from metalm_cli.data.sources.locate import (
    ALL_SHARDS,
    data_folder,
    local_files,
    shard_files,
    shard_splits,
    shards_exist,
)
from metalm_cli.tasks import Card, is_hub_id
from metalm_cli.tasks.record_files import format_of_records, record_card

VALIDATION_SPLITS = ("validation", "valid", "dev")
"""Names of a validation split, the first of which is used."""
VALIDATION_SHARDS = (*VALIDATION_SPLITS, "val")
"""Names of a validation split of shards."""
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
"""Suffixes of files that are read as tables to recognise the format of their rows."""


def record_cards(
    names: Iterable[str], *, data_root: Path | None = None, offline: bool = False, cache: Path | None = None
) -> dict[str, Card]:
    """Build the cards of the hub ids and table files among task names; without a validation split, a share validates.

    Files of JSON and JSON lines are not among them: :class:`~metalm_cli.tasks.Cards` reads these.

    Args:
        names: Names of tasks, of which hub ids, files of CSV, TSV and Parquet, folders of ``save_to_disk``, and tar
            shards are used.
        data_root: Folder of local data sets, whose copy of a hub data set takes precedence; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.

    Returns:
        The cards, by hub id or path.

    Raises:
        MetalmError: Data cannot be read, records have no known format, or one has several turns.
    """
    cards: dict[str, Card] = {}
    for name in names:
        if is_hub_id(name):
            cards[name] = _card_of(name, data_folder(data_root), offline, cache_folder(cache))
        elif is_table(path := expand_user(name)):
            cards[name] = _card_of_table(path, cache_folder(cache))
    return cards


def is_table(path: Path) -> bool:
    """Whether a path is a file of CSV, TSV or Parquet, a folder of ``save_to_disk``, or tar shards.

    Raises:
        MetalmError: Shards of a pattern are missing, or they are compressed.
    """
    if (path.suffix in TABLE_SUFFIXES and path.is_file()) or is_saved_dataset(path):
        return True
    holds_cards = path.is_dir() and any(chain(path.rglob("*.yaml"), path.rglob("task*.json")))
    return not holds_cards and (shards_exist(path, "train") or bool(shard_files(path, ALL_SHARDS)))


def splits_of_table(path: Path) -> dict[str, str]:
    """The splits of a table file, a saved data set or shards; without a split for validation, both roles have one."""
    if is_saved_dataset(path) or not path.is_dir():
        train, splits = "train", [split for split in VALIDATION_SPLITS if is_saved_dataset(path / split)]
    else:
        train = next(iter(shard_splits(path, ["train"])), ALL_SHARDS)
        splits = shard_splits(path, VALIDATION_SHARDS) if train != ALL_SHARDS else []
    return {"train": train, "validation": splits[0] if splits else train}


def _card_of_table(path: Path, cache: Path) -> Card:
    roles = splits_of_table(path)
    table, _ = open_table(path, cache, roles["train"])
    record_format = format_of_records(_records(table), display(path))
    return record_card(record_format, slug(path.stem, "_"), path.name, roles, file=str(path.absolute()))


def _card_of(hub_id: str, root: Path | None, offline: bool, cache: Path) -> Card:
    from metalm_cli.data.sources.hub import open_hub

    name = slug(hub_id.rpartition("/")[2], "_")
    source = DocumentSource(name=name, hub=hub_id, split="train", streaming=False)
    paths = local_files(source, root)
    if paths is not None:
        table: Any = open_prepared(paths, cache)[0]
        splits = [split for split in VALIDATION_SPLITS if local_files(source.model_copy(update={"split": split}), root)]
    else:
        table, _ = open_hub(source, offline=offline)
        splits = [split for split in VALIDATION_SPLITS if split in table.splits()]
    record_format = format_of_records(_records(table), hub_id)
    roles = {"train": "train", "validation": splits[0] if splits else "train"}
    return record_card(record_format, name, hub_id, roles, hub={"id": hub_id})


def _records(table: RandomAccessRows) -> Iterator[tuple[str, Any]]:
    """Yield the location and the record of each row, from the first one that lacks nothing, if there is one."""
    rows = range(table.rows)
    first = next((row for row, record in zip(rows, table.scan(rows), strict=True) if not table.lacks(record)), 0)
    for row, record in enumerate(table.scan(rows[first:]), start=first):
        yield table.where(row), record
