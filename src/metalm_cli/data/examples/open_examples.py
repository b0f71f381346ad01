"""The rows of a task card as examples, from the hub, from files at hand, or from the miniature world."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from metalm_cli.common.cache import cache_folder
from metalm_cli.config.schema.data import Source
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.jsonl import JsonlTable, prepare
from metalm_cli.data.sources.locate import FileFacts, data_folder, local_files
from metalm_cli.data.sources.row_tables import CsvRows, MiniworldExampleRows, NaturalInstructionsRows
from metalm_cli.errors import MetalmError, RowsUnavailableError
from metalm_cli.tasks import Card, Example, ExampleMaker, Split

FEATURES = "features.json"
"""Beside mirrored files: the class names of the hub's columns, ``{"label": ["entailment", ...]}``."""


class Examples:
    """The examples of a card's split. Picklable.

    Args:
        card: The card.
        role: Role of the split.
        table: All rows of the split that the slice is taken from.
        split: The split with its slice.
        location: Where it was read.
        revision: Commit of a hub data set.
        files: Its files.
    """

    def __init__(
        self,
        card: Card,
        role: str,
        table: RandomAccessRows,
        split: Split,
        location: str,
        revision: str | None = None,
        files: tuple[FileFacts, ...] = (),
    ) -> None:
        self.card, self.role, self.table, self.split = card, role, table, split
        self.location, self.revision, self.files = location, revision, files
        self.make = ExampleMaker(card)
        self._numbers = split.rows(table.rows)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example | None:
        """The example in a row of the slice; None for a row that the card leaves out.

        Raises:
            MetalmError: The row does not fit the card.
        """
        row = self._numbers[index]
        return self.make(self.table.load(row), row, partial(self.table.where, row))

    def __iter__(self) -> Iterator[Example]:
        """The examples that the card does not leave out."""
        for index in range(len(self)):
            found = self[index]
            if found is not None:
                yield found

    def where(self, index: int) -> str:
        """``file:line`` of a row of the slice, or the like."""
        return self.table.where(self._numbers[index])


def open_examples(
    card: Card,
    role: str,
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
    beside: Path | None = None,
) -> Examples:
    """Open a split of a card.

    Args:
        card: The card.
        role: ``train``, ``validation``, ``test``, or another of the card's.
        data_root: Folder in which data sets lie; default ``$METALM_DATA``. What is there is read from there.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.
        beside: The card's own file; a ``file`` of the card is relative to its folder.

    Raises:
        MetalmError: The card has no such split; the rows are nowhere, or empty; class names are not the card's.
    """
    root, cache = data_folder(data_root), cache_folder(cache)
    here = card.split(role, local=True)
    split = card.split(role, local=False)
    if here is None and split is None:
        raise MetalmError(
            f"task {card.name} has no {role} split",
            why=f"its card has {', '.join(card.splits)}",
            remedy="name one of these",
        )
    opened = _opened(card, role, here or split, split or here, root, cache, offline, beside)
    if not len(opened):
        raise MetalmError(f"the {role} split of {card.name} has no rows", where=opened.location)
    return opened


def is_available(card: Card, role: str, data_root: Path | None = None, beside: Path | None = None) -> bool:
    """Whether a split can be read without the hub. Nothing is opened.

    Args:
        card: The card.
        role: Role of the split.
        data_root: Folder in which data sets lie; default ``$METALM_DATA``.
        beside: The card's own file.

    Raises:
        MetalmError: The data root is no folder.
    """
    here, split = card.split(role, local=True), card.split(role, local=False)
    if card.world is not None:
        return split is not None
    if card.file is not None:
        return split is not None and _file(card, beside).is_file()
    root = data_folder(data_root)
    if root is None or here is None:
        return False
    return _local(card, here, split or here, root) is not None


def _file(card: Card, beside: Path | None) -> Path:
    assert card.file is not None
    return (beside.parent if beside is not None else Path.cwd()) / Path(card.file).expanduser()


def _opened(
    card: Card,
    role: str,
    here: Split | None,
    split: Split | None,
    root: Path | None,
    cache: Path,
    offline: bool,
    beside: Path | None,
) -> Examples:
    assert here is not None
    assert split is not None
    if card.world is not None:
        return Examples(card, role, MiniworldExampleRows(card.world, split.name), split, "the miniature world")
    if card.file is not None:
        return _from_file(card, role, _file(card, beside), split, cache)
    if root is not None and (found := _local(card, here, split, root)):
        paths, split = found
        _check_names(card, _mirrored_names(paths[0]), str(paths[0]))
        prepared = [prepare(path, cache) for path in paths]
        facts = tuple(FileFacts(str(one.path), one.sha256, one.size) for one in prepared)
        return Examples(card, role, JsonlTable(prepared), split, str(paths[0]), None, facts)
    return _from_hub(card, role, split, offline, root)


def _local(card: Card, here: Split, split: Split, root: Path) -> tuple[list[Path], Split] | None:
    """Files below the data root and the split in them. A mirror has the hub's own; other copies what the card says."""
    for wanted, mirror in ((split, True), (here, False)):
        paths = _files_at_hand(card, wanted, root)
        if paths and (paths[0].parent / FEATURES).is_file() == mirror:
            return paths, wanted
    return None


def _files_at_hand(card: Card, split: Split, root: Path) -> list[Path] | None:
    name = card.local.name if card.local is not None else card.name
    hub, config = (card.hub.id, card.hub.config) if card.hub is not None else (name, None)
    return local_files(Source(name=name, hub=hub, config=config, split=split.name), root)


def _from_file(card: Card, role: str, path: Path, split: Split, cache: Path) -> Examples:
    if path.suffix == ".csv":
        return Examples(card, role, CsvRows(path), split, str(path), None, _facts(path))
    if path.suffix == ".json":
        return Examples(card, role, NaturalInstructionsRows(path), split, str(path), None, _facts(path))
    prepared = prepare(path, cache)
    facts = (FileFacts(str(path), prepared.sha256, prepared.size),)
    return Examples(card, role, JsonlTable([prepared]), split, str(path), None, facts)


def _facts(path: Path) -> tuple[FileFacts, ...]:
    data = path.read_bytes()
    return (FileFacts(str(path), hashlib.sha256(data).hexdigest(), len(data)),)


def _from_hub(card: Card, role: str, split: Split, offline: bool, root: Path | None) -> Examples:
    from metalm_cli.data.sources.hub import HubTable, open_hub

    assert card.hub is not None, "a card has a hub, a file or a world"
    source = Source(
        name=card.name,
        hub=card.hub.id,
        config=card.hub.config,
        revision=card.hub.revision,
        split=split.name,
        streaming=False,
    )
    try:
        table, revision = open_hub(source, offline=offline)
    except MetalmError as error:
        looked = f"{root} has no {card.local.name if card.local else card.name}" if root else "no --data-root is given"
        raise RowsUnavailableError(
            f"the {role} rows of {card.name} cannot be had: {error.what}",
            where=error.where,
            why="; ".join(part for part in (error.why, looked) if part),
            remedy=error.remedy or "give --data-root DIR, or METALM_DATA, where the data lies",
            exit_code=error.exit_code,
        ) from error
    assert isinstance(table, HubTable), "streaming is off"
    _check_names(card, table.class_names(), card.hub.id)
    return Examples(card, role, table, split, card.hub.id, revision)


def _mirrored_names(path: Path) -> dict[str, list[str]]:
    """Class names that were written beside mirrored files, by column."""
    for folder in (path.parent, path.parent.parent):
        if (folder / FEATURES).is_file():
            try:
                return dict(json.loads((folder / FEATURES).read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise MetalmError(
                    "the class names of mirrored data cannot be read",
                    where=str(folder / FEATURES),
                    why=str(error),
                    remedy="mirror the data again, or repair the file",
                ) from error
    return {}


def _check_names(card: Card, found: dict[str, list[str]], where: str) -> None:
    """Refuse a data set whose class ids mean something else than the card says.

    Raises:
        MetalmError: The names, or their order, differ.
    """
    names = found.get(card.answer.label or "")
    if names and names != card.answer.class_names:
        raise MetalmError(
            f"the classes of {card.name} are not those of its card",
            where=where,
            why=f"by id, the data has {', '.join(names)}; the card {', '.join(card.answer.class_names)}",
            remedy="correct answer.class_names of the card; the ids of this data set mean something else",
        )
