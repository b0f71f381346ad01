"""The columns of a data file: what their values are like, for guesses at what they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metalm_cli.errors import MetalmError
from metalm_cli.tasks.expressions import ROW

MOST_CLASSES = 20
"""A column of more distinct values than these is no label."""
PER_CLASS = 4
"""Rows of a class on average, at least."""
LONG_LABEL = 40
"""Characters of a class, at most."""
IDS = ("id", "idx", "uid", "guid", "uuid", "index", "qid", "pairid", "row_id")

Kind = Literal["text", "number", "bool", "list", "other"]


@dataclass
class Column:
    """What the values of a column are like.

    Args:
        name: Its name.
        kinds: Kinds of its values that are not blank.
        rows: Rows that have it, blank or not.
        blank: Rows in which it is missing, empty or null.
        nulls: Those in which it is missing or null.
        values: Distinct values as text, as long as there are few.
        length: Most characters.
        unlabelled: Rows whose value is -1.
        distinct: Hashes of all distinct values.
        least: Items of its shortest list.
    """

    name: str
    kinds: set[Kind] = field(default_factory=set)
    rows: int = 0
    blank: int = 0
    nulls: int = 0
    values: dict[str, int] = field(default_factory=dict)
    length: int = 0
    unlabelled: int = 0
    distinct: set[int] = field(default_factory=set)
    least: int = 0

    def add(self, value: Any) -> None:
        """Take a value into account."""
        self.rows += 1
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            self.blank += 1
            self.nulls += value is None
            return
        kind = _kind(value)
        self.kinds.add(kind)
        text = value.strip() if isinstance(value, str) else str(value)
        if text == "-1":
            self.unlabelled += 1
            return
        self.length = max(self.length, len(text))
        self.distinct.add(hash(text))
        if kind == "list":
            self.least = min(self.least or len(value), len(value))
        if len(self.values) <= MOST_CLASSES:
            self.values[text] = self.values.get(text, 0) + 1

    @property
    def plain(self) -> bool:
        """Whether all values are texts, or all numbers."""
        return self.kinds in ({"text"}, {"number"})

    @property
    def expression(self) -> str:
        """What reads it."""
        return self.name if re.fullmatch(r"[A-Za-z_]\w*", self.name) else f"{ROW}[{json.dumps(self.name)}]"

    @property
    def present(self) -> str:
        """What is true of rows in which it is not blank."""
        there = f"{self.expression} is defined and {self.expression} is not none and " if self.nulls else ""
        return f"{there}{self.expression} | string | trim"

    @property
    def is_id(self) -> bool:
        """Whether it counts or names rows."""
        return self.name.lower() in IDS or (self.kinds == {"number"} and len(self.distinct) == self.rows > MOST_CLASSES)

    def is_label(self, rows: int) -> bool:
        """Whether it looks like a class: few values, each of them short and frequent."""
        few = 2 <= len(self.values) <= min(MOST_CLASSES, max(2, rows // PER_CLASS))
        return few and self.length <= LONG_LABEL and self.kinds <= {"text", "number", "bool"} and len(self.kinds) == 1


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    texts = isinstance(value, list) and all(isinstance(one, str | int | float) for one in value)
    return "list" if texts else "other"


def columns_of(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Column], int]:
    """What the columns of rows are like, and how many rows there are.

    Raises:
        MetalmError: A row is no object with named columns.
    """
    found: dict[str, Column] = {}
    count = 0
    for count, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise MetalmError(f"row {count} is no object", why=f"got {type(row).__name__}, expected columns by name")
        for name, value in row.items():
            found.setdefault(str(name), Column(str(name))).add(value)
    for column in found.values():
        column.blank += count - column.rows
        column.nulls += count - column.rows
    return list(found.values()), count
