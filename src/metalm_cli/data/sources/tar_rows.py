"""Rows of WebDataset shards, read from the tar files at the offsets of their members."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import IO, Any

from metalm_cli.common.jsonl_files import parse_json_exactly
from metalm_cli.common.tar_shards import IMAGE_COLUMNS, KEY_COLUMN, LISTING_VERSION, TEXT_COLUMNS, kind_of
from metalm_cli.common.unicode_text import is_blank
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.jsonl import MAX_OPEN_FILES, JsonlFile, JsonlTable, open_unchanged, read_bytes
from metalm_cli.errors import MetalmError
from metalm_cli.sessions.images import MAX_FILE_BYTES, MISSING

CLASS_NUMBER = re.compile(r"-?\d{1,18}")
TEXT_MISSING = "text missing"
"""Reason why a row is not used."""


class TarRows(RandomAccessRows):
    """Rows of one or more shards, in the order of the shards. Picklable; files are opened at the first read.

    A row has its key (``__key__``) and a column for each of its members: an image as ``{bytes, path}``, ``txt`` as a
    text, ``json`` as its value, ``cls`` as a whole number if it is one.

    Args:
        shards: The shards, whose lines are the listing of their rows.
        with_images: Read images; otherwise rows have their texts only.
    """

    def __init__(self, shards: list[JsonlFile], *, with_images: bool = True) -> None:
        self.shards, self.with_images, self._listing = shards, with_images, JsonlTable(shards)
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def rows(self) -> int:
        return self._listing.rows

    @property
    def identity(self) -> list[object] | None:
        return [LISTING_VERSION, self._listing.identity]

    def load(self, row: int) -> Any:
        """Load the columns of a row.

        Raises:
            MetalmError: A text is not UTF-8 or not JSON, or the shard was changed since the run began.
        """
        entry, shard = self._listing.load(row), self._listing.find(row)[0]
        file, key = self._file(shard), entry["key"]
        columns: dict[str, Any] = {KEY_COLUMN: key}
        for column, (offset, size) in entry["members"].items():
            is_image = kind_of(column) in IMAGE_COLUMNS
            if is_image and not self.with_images:
                continue
            # One byte beyond the limit is enough for an image to be counted as too large.
            size = min(size, MAX_FILE_BYTES + 1) if is_image else size
            data = read_bytes(file, offset, size)
            if len(data) < size:
                raise self._changed_error(row)
            if is_image:
                columns[column] = {"bytes": data, "path": f"{self.shards[shard].path.name}/{key}.{column}"}
            else:
                columns[column] = self._text(data, column, row)
        return columns

    def lacks(self, row: Any, read: Collection[str] = ()) -> tuple[str, ...]:
        """Return ``image missing`` or ``text missing``, or both: no image, or none of those read; no text, or not all.

        Blank texts count as missing.
        """
        present = {column for column, value in row.items() if not (value is None or _is_blank_text(value))}
        images, texts = _of_kinds(present, IMAGE_COLUMNS), _of_kinds(present, TEXT_COLUMNS)
        read_images, read_texts = _of_kinds(read, IMAGE_COLUMNS), _of_kinds(read, TEXT_COLUMNS)
        has_image = bool(images & read_images if read_images else images)
        has_text = bool(texts) and read_texts <= texts
        return (() if has_image else (MISSING,)) + (() if has_text else (TEXT_MISSING,))

    def where(self, row: int) -> str:
        """Location of a row: its shard and its key."""
        return f"{self.shards[self._listing.find(row)[0]].path}, key {self._listing.load(row)['key']}"

    def _file(self, index: int) -> IO[bytes]:
        if index not in self._open:
            self._open[index] = open_unchanged(self.shards[index].path.absolute(), self.shards[index].size)
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[index]

    def _text(self, data: bytes, column: str, row: int) -> Any:
        kind = kind_of(column)
        try:
            if kind == "json":
                return parse_json_exactly(data)
            text = data.decode("utf-8-sig")
        except (ValueError, RecursionError) as error:
            raise MetalmError(
                f"a member of a shard is not {'JSON' if kind == 'json' else 'UTF-8 text'}",
                where=f"{self.where(row)}, column {column}",
                why=str(error),
                remedy="write the shard again without it, or with a correct text",
            ) from error
        return int(text) if kind == "cls" and CLASS_NUMBER.fullmatch(text.strip()) else text

    def _changed_error(self, row: int) -> MetalmError:
        return MetalmError(
            "a data file was changed while it was read",
            where=self.where(row),
            why="the file ends inside a member",
            remedy="do not change data files during a run; start the run again",
        )


def _is_blank_text(value: Any) -> bool:
    return isinstance(value, str) and is_blank(value)


def _of_kinds(columns: Iterable[str], kinds: Collection[str]) -> set[str]:
    return {column for column in columns if kind_of(column) in kinds}
