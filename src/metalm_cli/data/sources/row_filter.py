"""Filter of rows: the text of a row's document, or the reason why the row is skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metalm_cli.common.unicode_text import well_formed
from metalm_cli.errors import MetalmError

EXCLUDED, EMPTY, HELD_OUT = "excluded", "empty", "validation"
"""Reasons to skip a row: excluded by the recipe, no text but whitespace, held out for validation."""

ABSENT = object()


def nested_field(row: dict[str, Any], path: str) -> Any:
    """Value at a dotted path, or ``ABSENT``; a column whose name contains the dots takes precedence.

    >>> nested_field({"meta": {"set": "a"}}, "meta.set")
    'a'
    """
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def text_hash(text: str) -> int:
    """Stable 64-bit hash of a document's text: the first bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


@dataclass(frozen=True)
class DocumentFilter:
    """Filter that extracts the document of a row.

    Attributes:
        source: Name of the source, for messages.
        text: Column that holds the document; dots reach into nested objects.
        exclude: Values by field; a row with one of these values is excluded.
        hold_out_every: Documents whose text hash is 0 modulo this are held out; 0: none are.
    """

    source: str
    text: str
    exclude: dict[str, list[Any]]
    hold_out_every: int = 0

    @property
    def identity(self) -> list[object]:
        """What decides which rows have a document."""
        return [self.text, self.exclude, self.hold_out_every]

    def extract(self, row: Any, where: Callable[[], str]) -> tuple[str, str]:
        """Extract (text, skip reason); the reason is empty for a training document.

        Raises:
            MetalmError: The row is not a mapping, has no text column, or its text column does not hold text.
        """
        if not isinstance(row, dict):
            raise MetalmError(
                f"a row of source {self.source} is not an object",
                where=where(),
                why=f"got {type(row).__name__}, expected {{...}} with a column {self.text!r}",
                remedy="write one JSON object per line",
            )
        for path, values in self.exclude.items():
            if nested_field(row, path) in values:
                return "", EXCLUDED
        text = nested_field(row, self.text)
        if not isinstance(text, str):
            raise self._no_text_error(row, text, where())
        if not text or text.isspace():
            return "", EMPTY
        text = well_formed(text)
        if self.hold_out_every and text_hash(text) % self.hold_out_every == 0:
            return text, HELD_OUT
        return text, ""

    def _no_text_error(self, row: dict[str, Any], value: Any, where: str) -> MetalmError:
        if value is ABSENT:
            return MetalmError(
                f"a row of source {self.source} has no column {self.text!r}",
                where=where,
                why=f"its columns are {', '.join(map(repr, row)) or 'none'}",
                remedy="set `text` of the source to the column that holds the document",
            )
        kind = "null" if value is None else type(value).__name__
        return MetalmError(
            f"column {self.text!r} of source {self.source} does not hold text",
            where=where,
            why=f"got {kind}, expected a string",
            remedy="set `text` of the source to a column of strings, or repair the row",
        )
