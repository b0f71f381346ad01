"""Cards of hub data sets whose records have a known format, which need no card file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import cache_folder
from metalm_cli.common.jsonl_files import parse_json_exactly
from metalm_cli.common.slug import slug
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.jsonl import JsonlTable, prepare
from metalm_cli.data.sources.locate import data_folder, local_files
from metalm_cli.tasks import Card, is_hub_id
from metalm_cli.tasks.record_files import format_of_records, record_card

VALIDATION_SPLITS = ("validation", "valid", "dev")
"""Names of a validation split on the hub, the first of which is used."""


def hub_record_cards(
    names: Iterable[str], *, data_root: Path | None = None, offline: bool = False, cache: Path | None = None
) -> dict[str, Card]:
    """Build the cards of the hub ids among task names, by hub id; without a validation split, a share validates.

    Args:
        names: Names of tasks, of which hub ids are used.
        data_root: Folder of local data sets, whose copy takes precedence; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.

    Raises:
        MetalmError: A data set cannot be read, its records have no known format, or one has several turns.
    """
    return {
        name: _card_of(name, data_folder(data_root), offline, cache_folder(cache)) for name in names if is_hub_id(name)
    }


def _card_of(hub_id: str, root: Path | None, offline: bool, cache: Path) -> Card:
    from metalm_cli.data.sources.hub import open_hub

    name = slug(hub_id.rpartition("/")[2], "_")
    source = DocumentSource(name=name, hub=hub_id, split="train", streaming=False)
    paths = local_files(source, root)
    if paths is not None:
        table: Any = JsonlTable([prepare(path, cache) for path in paths], parse_json_exactly)
        splits = [split for split in VALIDATION_SPLITS if local_files(source.model_copy(update={"split": split}), root)]
    else:
        table, _ = open_hub(source, offline=offline)
        splits = [split for split in VALIDATION_SPLITS if split in table.splits()]
    record_format = format_of_records(_records(table), hub_id)
    roles = {"train": "train", "validation": splits[0] if splits else "train"}
    return record_card(record_format, name, hub_id, roles, hub={"id": hub_id})


def _records(table: RandomAccessRows) -> Iterator[tuple[str, Any]]:
    for row, record in enumerate(table.scan(range(table.rows))):
        yield table.where(row), record
