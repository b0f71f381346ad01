"""Opening a split of a task card as examples, from the hub, local files, or the miniature world."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import cache_folder
from metalm_cli.common.paths import expand_user
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.examples.validation_share import validation_rows, without
from metalm_cli.data.sources.arrow_tables import DatasetRows, is_saved_dataset
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.file_tables import open_prepared, open_table
from metalm_cli.data.sources.image_check import BrokenImages, ImageCheck
from metalm_cli.data.sources.locate import FileFacts, data_folder, local_files, shards_exist
from metalm_cli.data.sources.tar_rows import TEXT_MISSING, TarRows
from metalm_cli.data.sources.usable_rows import UsableRows, find_usable_rows
from metalm_cli.data.sources.world_rows import open_world_rows
from metalm_cli.errors import MetalmError, RowsUnavailableError
from metalm_cli.sessions.images import MISSING
from metalm_cli.tasks import Card, Example, ExampleMaker, Split
from metalm_cli.tasks.example import LocateRow

FILTERED = "left out by row_filter"
"""Reason why a row of a task is not used."""
FEATURES = "features.json"
"""File next to mirrored files with the class names of the hub's columns, ``{"label": ["entailment", ...]}``."""


class Examples:
    """The examples of a card's split. Picklable.

    Args:
        card: The card.
        role: Role of the split.
        table: All rows of the data set's split, from which the slice is taken.
        split: The split with its slice.
        location: Where the rows are read.
        revision: Commit of a hub data set.
        files: Files of the split.
        label_ids: Whether integers in the label column are class ids, as the data set declares.
        cache: Folder of the cache, which holds the rows that a card gives up for validation.
        image_root: Folder of the data, at which the card's folder of images starts; None: the rows hold their images.
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
        label_ids: bool = False,
        cache: Path | None = None,
        image_root: Path | None = None,
    ) -> None:
        self.card, self.role, self.table, self.split = card, role, table, split
        self.location, self.revision, self.files = location, revision, files
        if image_root is not None and card.image_folder is not None:
            image_root = image_root / expand_user(card.image_folder)
        self.make_example = ExampleMaker(card, label_ids, None if image_root is None else str(image_root.absolute()))
        self._row_indices: Sequence[int] = split.rows(table.rows)
        if card.shares_validation and role in ("train", "validation"):
            rows = split.rows(table.rows)
            validation = validation_rows(self.make_example, table, rows, self._identity("share"), cache_folder(cache))
            self._row_indices = validation if role == "validation" else without(rows, validation)

    def __len__(self) -> int:
        return len(self._row_indices)

    def __getitem__(self, index: int) -> Example | None:
        """The example in a row of the slice; None for a row that the card excludes, or that lacks its image or text.

        Raises:
            MetalmError: The row does not fit the card.
        """
        row = self._row_indices[index]
        columns, where = self.table.load(row), partial(self.table.where, row)
        return None if self._lacking(columns, row, where) else self.make_example(columns, row, where)

    def __iter__(self) -> Iterator[Example]:
        """Iterate over the examples that the card does not exclude."""
        for index in range(len(self)):
            example = self[index]
            if example is not None:
                yield example

    def usable_rows(self, cache: Path | None = None, broken_images: BrokenImages = "skip") -> UsableRows:
        """The rows of the slice that the card includes, from a pass over its rows if they can be left out.

        The pass opens each image file once and reads its header. As files of images can change, its result is not
        cached, except that for shards, which hold their images.

        Args:
            cache: Folder of the cache, which holds the result.
            broken_images: ``skip``: rows with images that cannot be read are left out; ``fail``: they are errors.

        Raises:
            MetalmError: The filter fails on a row, a row holds no image, or an image lies outside its folder.
        """
        rows, row_filter = self._row_indices, self.card.row_filter
        has_image_files = bool(self.card.images) and self.card.world is None
        has_shards = isinstance(self.table, TarRows)
        if row_filter is None and not has_image_files and not has_shards:
            return UsableRows.every(len(rows))
        check = ImageCheck(self.make_example, broken_images) if has_image_files else None
        named = check.named if check is not None else {}

        def reasons() -> Iterator[tuple[str, int]]:
            columns_of_rows = self.table.scan(rows) if isinstance(rows, range) else map(self.table.load, rows)
            for row, columns in zip(rows, columns_of_rows, strict=True):
                where = partial(self.table.where, row)
                reason = self._lacking(columns, row, where)
                if not reason:
                    included = self.make_example.includes(columns, where)
                    reason = FILTERED if not included else "" if check is None else check.reason(columns, where)
                yield reason, 0

        identity = None
        if has_shards:
            settings = self.card.model_dump(
                mode="json", include={"row_filter", "images", "optional_fields", "fields", "answer"}
            )
            identity = self._identity(json.dumps([broken_images, settings]))
        elif check is None and row_filter is not None:
            identity = self._identity(row_filter)
        return find_usable_rows(reasons(), len(rows), identity, cache_folder(cache), named)

    def _lacking(self, columns: Any, row: int, where: LocateRow) -> str:
        """The image or the text that a row lacks and the card needs; empty if it lacks none."""
        lacking = self.table.lacks(columns, self.make_example.columns)
        if MISSING in lacking and set(self.card.images) - set(self.card.optional_fields):
            return MISSING
        if TEXT_MISSING in lacking:
            try:
                return TEXT_MISSING if self.make_example(columns, row, where) is None else ""
            except MetalmError:
                return TEXT_MISSING
        return ""

    def _identity(self, purpose: str) -> list[object] | None:
        """What determines which rows are used, for a purpose; None if the content of the rows is not known."""
        content = self.table.identity or [file.sha256 for file in self.files] or None
        if content is None:
            return None
        identity = [type(self.table).__name__, self.table.rows, content, self.split.first, self.split.last, purpose]
        if self.card.shares_validation:
            identity += [self.role if purpose != "share" else "", self.card.validation_share, self.card.row_filter]
            identity += [self.card.fields, *([self.card.images] if self.card.images else [])]
        return identity

    def where(self, index: int) -> str:
        """Location of a row of the slice, such as ``file:line``."""
        return self.table.where(self._row_indices[index])


def open_examples(
    card: Card,
    role: str,
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
    card_path: Path | None = None,
) -> Examples:
    """Open a split of a card.

    Args:
        card: The card.
        role: ``train``, ``validation``, ``test``, or another role of the card.
        data_root: Folder of local data sets, which take precedence over the hub; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.
        card_path: The file of the card; a ``file`` in the card is relative to its folder.

    Raises:
        MetalmError: The card has no such split; no data is found, or it is empty; class names differ from the card's.
    """
    root, cache = data_folder(data_root), cache_folder(cache)
    local_split = card.split(role, local=True)
    split = card.split(role, local=False)
    if local_split is None and split is None:
        raise MetalmError(
            f"task {card.name} has no {role} split",
            why=f"the splits of its card are {', '.join(card.splits)}",
            remedy="choose one of these splits",
        )
    examples = _open_split(card, role, local_split or split, split or local_split, root, cache, offline, card_path)
    if not len(examples) and card.shares_validation and examples.split.rows(examples.table.rows):
        raise RowsUnavailableError(
            f"{card.name} has too few rows for a validation split",
            where=examples.location,
            why="rows of at least two different inputs are needed to give up a share for validation",
            remedy="add rows, or train without validation: data.validation.examples=0",
        )
    if not len(examples):
        raise MetalmError(f"the {role} split of {card.name} has no rows", where=examples.location)
    return examples


def is_available(card: Card, role: str, data_root: Path | None = None, card_path: Path | None = None) -> bool:
    """Whether a split can be read without the hub. No file is opened.

    Args:
        card: The card.
        role: Role of the split.
        data_root: Folder of local data sets; default ``$METALM_DATA``.
        card_path: The file of the card.

    Raises:
        MetalmError: The data root is not a folder.
    """
    local_split, split = card.split(role, local=True), card.split(role, local=False)
    if card.world is not None:
        return split is not None
    if card.file is not None:
        path = _card_file(card, card_path)
        is_data = path.is_file() or is_saved_dataset(path)
        return split is not None and (is_data or shards_exist(path, split.name))
    root = data_folder(data_root)
    if root is None or local_split is None:
        return False
    return _find_local(card, local_split, split or local_split, root) is not None


def _root_of(card: Card, root: Path, paths: list[Path]) -> Path:
    """The folder of a local data set: the one below the data root that holds its files, also those of its splits."""
    name = card.local.name if card.local is not None else card.data_name
    return root / name if paths[0].is_relative_to(root / name) else paths[0].parent


def _card_file(card: Card, card_path: Path | None) -> Path:
    assert card.file is not None
    return (card_path.parent if card_path is not None else Path.cwd()) / expand_user(card.file)


def _open_split(
    card: Card,
    role: str,
    local_split: Split | None,
    split: Split | None,
    root: Path | None,
    cache: Path,
    offline: bool,
    card_path: Path | None,
) -> Examples:
    assert local_split is not None
    assert split is not None
    if card.world is not None:
        table: RandomAccessRows = open_world_rows(card.world, split.name)
        return Examples(card, role, table, split, "the miniature world", cache=cache)
    if card.file is not None:
        return _open_file(card, role, _card_file(card, card_path), split, cache)
    if root is not None and (local := _find_local(card, local_split, split, root)):
        paths, split = local
        label_ids = _check_class_names(card, _mirrored_class_names(paths[0]), str(paths[0]))
        table, facts = open_prepared(paths, cache)
        return Examples(
            card, role, table, split, str(paths[0]), None, facts, label_ids, cache, _root_of(card, root, paths)
        )
    return _open_hub_split(card, role, split, offline, root, cache)


def _find_local(card: Card, local_split: Split, split: Split, root: Path) -> tuple[list[Path], Split] | None:
    """Files below the data root and the split in them: the hub's split in a mirror, else the card's local split."""
    for candidate, in_mirror in ((split, True), (local_split, False)):
        paths = _split_files(card, candidate, root)
        if paths and (paths[0].parent / FEATURES).is_file() == in_mirror:
            return paths, candidate
    return None


def _split_files(card: Card, split: Split, root: Path) -> list[Path] | None:
    name = card.local.name if card.local is not None else card.data_name
    hub, config = (card.hub.id, card.hub.config) if card.hub is not None else (name, None)
    return local_files(DocumentSource(name=name, hub=hub, config=config, split=split.name), root)


def _open_file(card: Card, role: str, path: Path, split: Split, cache: Path) -> Examples:
    table, facts = open_table(path, cache, split.name)
    names = table.class_names() if isinstance(table, DatasetRows) else {}
    label_ids = _check_class_names(card, names, str(path))
    folder = path if path.is_dir() else path.parent
    return Examples(card, role, table, split, str(path), None, facts, label_ids, cache, folder)


def _open_hub_split(card: Card, role: str, split: Split, offline: bool, root: Path | None, cache: Path) -> Examples:
    from metalm_cli.data.sources.hub import HubTable, open_hub

    assert card.hub is not None, "a card has a hub, a file or a world"
    source = DocumentSource(
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
        local_reason = (
            f"{root} has no {card.local.name if card.local else card.name}" if root else "no --data-root is given"
        )
        raise RowsUnavailableError(
            f"no data found for the {role} split of {card.name}: {error.what}",
            where=error.where,
            why="; ".join(part for part in (error.why, local_reason) if part),
            remedy=error.remedy or "set --data-root DIR, or METALM_DATA, to the folder of the data",
            exit_code=error.exit_code,
        ) from error
    assert isinstance(table, HubTable), "streaming is off"
    label_ids = _check_class_names(card, table.class_names(), card.hub.id)
    return Examples(card, role, table, split, card.hub.id, revision, (), label_ids, cache)


def _mirrored_class_names(path: Path) -> dict[str, list[str]]:
    """Class names in the file next to mirrored files, by column."""
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


def _check_class_names(card: Card, names_by_column: dict[str, list[str]], where: str) -> bool:
    """Check that the class names of a data set, in the order of their ids, are those of the card.

    Returns:
        Whether the data set has class names, so that integers in its label column are ids.

    Raises:
        MetalmError: The names or their order differ.
    """
    names = names_by_column.get(card.answer.label or "")
    if names and names != card.answer.class_names:
        raise MetalmError(
            f"the classes of {card.name} differ from those of its card",
            where=where,
            why=f"in the order of ids, the data has {', '.join(names)}; the card {', '.join(card.answer.class_names)}",
            remedy="correct answer.class_names of the card, in the order of the ids of this data set",
        )
    return bool(names)
