"""Row tables held in memory: CSV files, JSON lists, plain texts, Natural Instructions, the miniature world."""

from __future__ import annotations

import codecs
import csv
import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.jsonl_files import read_json_array, unreadable_file
from metalm_cli.common.paths import check_regular
from metalm_cli.config.schema.data import MiniworldSource
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.natural_instructions import read_task

MAX_CSV_FIELD = 1 << 30
"""Maximum characters of a value in a CSV file."""
CSV_DELIMITERS = (",", ";", "\t")
SNIFFED_ROWS = 20
"""Rows at the start of a CSV file that show its delimiter."""
MAX_DOCUMENT_CHARACTERS = 100_000
"""Characters of a document of a plain text file; a longer file is divided into several."""
IDENTITY_DOCUMENTS = 100
"""Documents of the miniature world that identify its generator."""


class _RowsInMemory(RandomAccessRows):
    """Rows that are held in memory."""

    _rows: Sequence[Any]

    @property
    def rows(self) -> int:
        return len(self._rows)

    def load(self, row: int) -> Any:
        return self._rows[row]


class CsvRows(_RowsInMemory):
    """Rows of a CSV file, held in memory.

    The text is UTF-8 or, with a byte order mark, UTF-16; values are separated by commas, semicolons or tabs.

    Raises:
        MetalmError: The file cannot be read; two columns have the same name; a row has more or fewer values
            than the header has columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, str]] = []
        self._lines: list[int] = []
        encoding = "UTF-8"
        try:
            check_regular(path)
            encoding = text_encoding(path)
            with path.open(encoding=encoding, newline="") as file:
                csv.field_size_limit(MAX_CSV_FIELD)
                self._read(csv.DictReader(file, delimiter=self._delimiter(encoding)))
        except UnicodeError as error:
            name = "UTF-16" if encoding == "utf-16" else "UTF-8"
            raise MetalmError(
                f"a CSV file is not {name} text", where=str(path), why=str(error), remedy="save the file as UTF-8"
            ) from error
        except (OSError, csv.Error) as error:
            raise MetalmError("a CSV file cannot be read", where=str(path), why=str(error)) from error

    def _delimiter(self, encoding: str) -> str:
        """The delimiter that divides the first rows into most columns, equally many; a comma if none does."""
        if self.path.suffix == ".tsv":
            return "\t"
        columns: dict[str, int] = {}
        for delimiter in CSV_DELIMITERS:
            with self.path.open(encoding=encoding, newline="") as file:
                rows = [row for row in islice(csv.reader(file, delimiter=delimiter), SNIFFED_ROWS) if row]
            if len({len(row) for row in rows}) == 1:
                columns[delimiter] = len(rows[0])
        best = max(columns, key=columns.__getitem__, default=",")
        return best if columns.get(best, 1) > 1 else ","

    def _read(self, reader: csv.DictReader[str]) -> None:
        self._check_header(reader.fieldnames or ())
        last_line = reader.line_num if reader.fieldnames else 0
        for row in reader:
            self._rows.append(row)
            self._lines.append(last_line + 1)
            last_line = reader.line_num
            if None in row or None in row.values():
                raise self._ragged_row_error(len(reader.fieldnames or ()))

    def _check_header(self, names: Sequence[str]) -> None:
        repeated = next((name for name, count in Counter(names).items() if name and count > 1), None)
        if repeated is not None:
            raise MetalmError(
                "two columns of a CSV file have the same name",
                where=f"{self.path}:1",
                why=f"the header names {repeated} twice",
                remedy="rename or remove one of the two",
            )

    def _ragged_row_error(self, columns: int) -> MetalmError:
        too_many = None in self._rows[-1]
        return MetalmError(
            f"a row has {'more' if too_many else 'fewer'} values than the header has columns",
            where=self.where(len(self._rows) - 1),
            why=f"the header has {columns}",
            remedy="repair the row; put values that contain a comma or a line break in double quotes",
        )

    def where(self, row: int) -> str:
        return f"{self.path}:{self._lines[row]}"


class TextRows(_RowsInMemory):
    """A plain text file as documents with the column ``text``, held in memory.

    A file of at most 100,000 characters is one document. A longer one is divided after blank lines, else after lines.

    Raises:
        MetalmError: The file cannot be read, or is not UTF-8 or (with a byte order mark) UTF-16 text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_regular(path)
            text = path.read_text(encoding=text_encoding(path))
        except UnicodeError as error:
            raise MetalmError(
                "a text file is not UTF-8", where=str(path), why=str(error), remedy="save the file as UTF-8"
            ) from error
        except OSError as error:
            raise unreadable_file(path, error) from error
        self._rows, self._lines, line = [], [], 1
        for document in divide_text(text, MAX_DOCUMENT_CHARACTERS):
            self._rows.append({"text": document})
            self._lines.append(line)
            line += document.count("\n")

    def where(self, row: int) -> str:
        return f"{self.path}:{self._lines[row]}"


def divide_text(text: str, max_length: int) -> Iterator[str]:
    """Divide a text into parts of at most ``max_length`` characters, after blank lines, else lines, else anywhere.

    >>> list(divide_text("one\\n\\ntwo\\nthree", 10))
    ['one\\n\\n', 'two\\nthree']
    """
    start = 0
    while len(text) - start > max_length:
        stop = start + max_length
        blank_line, line = text.rfind("\n\n", start, stop - 1), text.rfind("\n", start, stop)
        cut = blank_line + 2 if blank_line >= 0 else line + 1 if line >= 0 else stop
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def text_encoding(path: Path) -> str:
    """Encoding of a text file: UTF-16 or UTF-8 by its byte order mark, else UTF-8.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


class ConcatenatedRows(RandomAccessRows):
    """The rows of several tables in their order. Picklable.

    Args:
        tables: The tables.
        content: Hashes of their content.
    """

    def __init__(self, tables: Sequence[RandomAccessRows], content: Sequence[object]) -> None:
        self.tables, self._content = tables, content
        self._first_rows = np.cumsum([0] + [table.rows for table in tables]).tolist()

    @property
    def rows(self) -> int:
        return self._first_rows[-1]

    @property
    def identity(self) -> list[object] | None:
        return [*self._content]

    def load(self, row: int) -> Any:
        table, row_of_table = self._find(row)
        return table.load(row_of_table)

    def where(self, row: int) -> str:
        table, row_of_table = self._find(row)
        return table.where(row_of_table)

    def scan(self, rows: range) -> Iterator[Any]:
        for table, first in zip(self.tables, self._first_rows, strict=False):
            yield from table.scan(range(max(rows.start - first, 0), min(max(rows.stop - first, 0), table.rows)))

    def _find(self, row: int) -> tuple[RandomAccessRows, int]:
        index = bisect_right(self._first_rows, row) - 1
        return self.tables[index], row - self._first_rows[index]


class NaturalInstructionsRows(_RowsInMemory):
    """Instances of a task of Natural Instructions, held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = read_task(path)["Instances"]

    def where(self, row: int) -> str:
        """Location of an instance: the line with its id if it has one, else its number."""
        instance_id = self._rows[row].get("id") if isinstance(self._rows[row], dict) else None
        if isinstance(instance_id, str):
            for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
                if f'"{instance_id}"' in line:
                    return f"{self.path}:{number}, instance {row}"
        return f"{self.path}, instance {row}"


class JsonArrayRows(_RowsInMemory):
    """Records of a JSON list, held in memory.

    Raises:
        MetalmError: The file cannot be read, is too large, or is not a list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = read_json_array(path)

    def where(self, row: int) -> str:
        return f"{self.path}, record {row}"


class MiniworldDocumentRows(RandomAccessRows):
    """Documents of the miniature world."""

    def __init__(self, world: MiniworldSource) -> None:
        self.world = world
        self._documents: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"world": self.world, "_documents": None}

    @property
    def rows(self) -> int:
        return self.world.documents

    def load(self, row: int) -> Any:
        if self._documents is None:
            from metalm_cli.miniworld import miniworld_documents

            self._documents = miniworld_documents(self.world.documents, self.world.seed)
        return self._documents[row]

    def where(self, row: int) -> str:
        return f"document {row} of the world with seed {self.world.seed}"

    @property
    def identity(self) -> list[object] | None:
        """The settings of the world, and a sample of its documents, which changes with the generator."""
        sampled = np.unique(np.linspace(0, self.rows - 1, IDENTITY_DOCUMENTS).astype(np.int64)).tolist()
        texts = "\n".join(self.load(row)["text"] for row in sampled)
        return [self.world.documents, self.world.seed, hashlib.sha256(texts.encode("utf-8")).hexdigest()]
