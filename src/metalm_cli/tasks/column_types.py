"""Statistics of the columns of a data file, used to guess their roles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2 import TemplateError

from metalm_cli.common.slug import slug
from metalm_cli.common.tar_shards import KEY_COLUMN
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import RESERVED_NAMES
from metalm_cli.tasks.expressions import ROW_NAME, names_in

MAX_CLASSES = 20
"""Columns with more distinct values are not labels."""
MIN_ROWS_PER_CLASS = 4
"""Minimum rows per class, on average."""
MAX_CLASS_LENGTH = 40
"""Maximum characters of a class name."""
INDEX_NAME = re.compile(r"(unnamed(: \d+)?)?", re.IGNORECASE)
"""Names that pandas gives to the column of row numbers."""
ID_COLUMNS = ("id", "idx", "uid", "guid", "uuid", "index", "qid", "pairid", "row_id", KEY_COLUMN)
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "category",
    "gold",
    "gold_label",
    "sentiment",
    "cls",
    "target",
    "answer",
    "output",
)
ANSWER_COLUMNS = (
    "target",
    "targets",
    "output",
    "answer",
    "answers",
    "response",
    "completion",
    "summary",
    "reference",
    "label",
    "captions",
    "caption",
    "txt",
)
OPTION_COLUMNS = ("options", "choices", "candidates", "endings")
DRAFT_RESERVED_NAMES = RESERVED_NAMES | {ROW_NAME}
"""Names that drafted fields do not have."""

NUMBER = re.compile(r"\d+")
CODE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w-]{16,}")
"""UUIDs and hashes: long, with digits and letters, without spaces."""

NESTED = "json."
"""Start of the names of columns that are entries of the objects of shards."""

Kind = Literal["text", "number", "bool", "list", "image", "other"]


@dataclass
class Column:
    """Statistics of a column.

    Args:
        name: Name of the column.
        kinds: Kinds of the values that are not blank.
        rows: Rows that have the column, blank or not.
        blank_rows: Rows in which the value is missing, empty or null.
        null_rows: Rows in which the value is missing or null.
        value_counts: Counts of distinct values as text; complete only if there are few.
        max_length: Characters of the longest value.
        value_hashes: Hashes of all distinct values.
        min_items: Items of the shortest list.
        last_number: Whole number in the last row that was added; None if a value does not follow the one before it.
        all_codes: Whether every value looks like a UUID or a hash.
        shape: The values with each number replaced by 0, if that is one text with letters and no spaces; else empty.
        is_nested: Whether it is an entry of the column of objects ``json``.
    """

    name: str
    kinds: set[Kind] = field(default_factory=set)
    rows: int = 0
    blank_rows: int = 0
    null_rows: int = 0
    value_counts: dict[str, int] = field(default_factory=dict)
    max_length: int = 0
    value_hashes: set[int] = field(default_factory=set)
    min_items: int = 0
    last_number: int | None = None
    all_codes: bool = True
    shape: str = ""
    is_nested: bool = False

    def add(self, value: Any) -> None:
        """Add a value to the statistics."""
        self.rows += 1
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            self.blank_rows += 1
            self.null_rows += value is None
            return
        kind = _kind_of(value)
        self.kinds.add(kind)
        text = value.strip() if isinstance(value, str) else str(value)
        number = int(text) if text.isdecimal() and len(text) < 16 else None
        follows = number is not None and (not self.value_hashes or self.last_number == number - 1)
        self.last_number = number if follows else None
        self.max_length = max(self.max_length, len(text))
        self.all_codes &= kind == "text" and CODE.fullmatch(text) is not None
        shape = NUMBER.sub("0", text) if self.all_codes or len(text) <= MAX_CLASS_LENGTH else ""
        self.shape = shape if not self.value_hashes or shape == self.shape else ""
        self.value_hashes.add(hash(text))
        if kind == "list":
            self.min_items = min(self.min_items or len(value), len(value))
        if len(self.value_counts) <= MAX_CLASSES:
            self.value_counts[text] = self.value_counts.get(text, 0) + 1

    @property
    def is_plain(self) -> bool:
        """Whether all values are texts, or all are numbers."""
        return self.kinds in ({"text"}, {"number"})

    @property
    def unlabelled_rows(self) -> int:
        """Rows with the value -1 where it marks a missing label, beside classes from 0 that are far more frequent."""
        classes = {text: count for text, count in self.value_counts.items() if text != "-1"}
        rows = self.value_counts.get("-1", 0)
        is_numbered = len(classes) >= 2 and set(classes) == set(map(str, range(len(classes))))
        return rows if is_numbered and 2 * rows < min(classes.values()) else 0

    @property
    def classes(self) -> list[str]:
        """Distinct values as text, without the one that marks a missing label; complete only if there are few."""
        return [text for text in self.value_counts if text != "-1" or not self.unlabelled_rows]

    @property
    def expression(self) -> str:
        """Expression that reads the column."""
        return (
            self.name
            if self.is_nested or is_name(self.name)
            else f"{ROW_NAME}[{json.dumps(self.name, ensure_ascii=False)}]"
        )

    @property
    def not_blank_expression(self) -> str:
        """Expression that is true for rows in which the column is not blank."""
        defined = f"{self.expression} is defined and {self.expression} is not none and " if self.null_rows else ""
        return f"{defined}{self.expression} | string | trim"

    @property
    def is_id(self) -> bool:
        """Whether the column is a row id: a row number, a numbered name, a UUID or a hash, different in every row."""
        is_counted = self.kinds == {"number"} or self.last_number is not None
        is_numbered = re.fullmatch(r"[^\s\d]*[A-Za-z][^\s\d]*0\S*", self.shape) is not None
        return (
            self.name.lower() in ID_COLUMNS
            or INDEX_NAME.fullmatch(self.name) is not None
            or ((is_counted or is_numbered or self.all_codes) and len(self.value_hashes) == self.rows > MAX_CLASSES)
        )

    def is_label(self, row_count: int) -> bool:
        """Return whether the column looks like a class label: few distinct values, each short and frequent."""
        is_repeated = 2 <= len(self.classes) <= min(MAX_CLASSES, max(2, row_count // MIN_ROWS_PER_CLASS))
        return (
            is_repeated
            and self.max_length <= MAX_CLASS_LENGTH
            and self.kinds <= {"text", "number", "bool"}
            and len(self.kinds) == 1
        )


def is_name(text: str) -> bool:
    """Return whether an expression can read a column by its plain name; words of the language are not.

    >>> is_name("label"), is_name("not"), is_name("none"), is_name("2nd")
    (True, False, False, False)
    """
    try:
        return re.fullmatch(r"[A-Za-z_]\w*", text) is not None and names_in(text) == {text}
    except TemplateError:
        return False


def field_name(column: str) -> str:
    """Return the name of the field that is drafted for a column.

    >>> field_name("Review text"), field_name("answer")
    ('review_text', 'the_answer')
    """
    name = slug(column, "_")
    return f"the_{name}" if name in DRAFT_RESERVED_NAMES or not is_name(name) else name


def _kind_of(value: Any) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):
        return "image"
    is_flat_list = isinstance(value, list) and all(isinstance(entry, str | int | float) for entry in value)
    return "list" if is_flat_list else "other"


def summarize_columns(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Column], int]:
    """Compute the statistics of all columns, and the number of rows.

    Raises:
        MetalmError: A row is not an object with named columns.
    """
    columns: dict[str, Column] = {}
    count = 0
    for count, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise MetalmError(
                f"row {count} is not an object",
                why=f"got {type(row).__name__}, expected an object with columns",
                remedy="write one JSON object per line; jq -c '.[]' FILE converts a JSON array",
            )
        is_of_shard = KEY_COLUMN in row
        for name, value in row.items():
            column = columns.setdefault(
                str(name), Column(str(name), is_nested=is_of_shard and str(name).startswith(NESTED))
            )
            column.add(value)
    for column in columns.values():
        column.blank_rows += count - column.rows
        column.null_rows += count - column.rows
    return list(columns.values()), count


def with_entries(row: Any) -> Any:
    """Return a row of a shard with a column for each entry of its object; another row as it is.

    >>> with_entries({"__key__": "0", "json": {"caption": "A cat.", "2": 3}})
    {'__key__': '0', 'json.caption': 'A cat.'}
    """
    if not isinstance(row, Mapping) or KEY_COLUMN not in row:
        return row
    entries = row.get("json")
    if not isinstance(entries, Mapping):
        return row
    nested = {f"{NESTED}{name}": value for name, value in entries.items() if is_name(str(name))}
    return {**{name: value for name, value in row.items() if name != "json"}, **nested}


def one_line(text: str) -> str:
    """Return a text as one printable line, for comments."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def quote(text: str) -> str:
    """Format a text as a double-quoted YAML scalar."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escape(char) for char in escaped)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
