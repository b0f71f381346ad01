"""Row tables other than JSON lines: CSV files, Natural Instructions and the miniature world."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.paths import check_regular
from metalm_cli.config.schema.data import MiniworldSource
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.natural_instructions import read_task

MAX_CSV_FIELD = 1 << 30
"""Maximum characters of a value in a CSV file."""


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

    Raises:
        MetalmError: The file cannot be read; two columns have the same name; a row has more or fewer values
            than the header has columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, str]] = []
        self._lines: list[int] = []
        try:
            check_regular(path)
            with path.open(encoding="utf-8-sig", newline="") as file:
                csv.field_size_limit(MAX_CSV_FIELD)
                reader = csv.DictReader(file)
                self._check_header(reader.fieldnames or ())
                last_line = reader.line_num if reader.fieldnames else 0
                for row in reader:
                    self._rows.append(row)
                    self._lines.append(last_line + 1)
                    last_line = reader.line_num
                    if None in row or None in row.values():
                        raise self._ragged_row_error(len(reader.fieldnames or ()))
        except UnicodeDecodeError as error:
            raise MetalmError(
                "a CSV file is not UTF-8 text", where=str(path), why=str(error), remedy="save the file as UTF-8"
            ) from error
        except (OSError, csv.Error) as error:
            raise MetalmError("a CSV file cannot be read", where=str(path), why=str(error)) from error

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


class MiniworldExampleRows(_RowsInMemory):
    """Labelled rows of a task of the miniature world."""

    def __init__(self, task: str, split: str) -> None:
        from metalm_cli.miniworld.tasks import task_rows

        self.task, self.split = task, split
        self._rows = task_rows.rows(task, split)

    def __reduce__(self) -> Any:
        return MiniworldExampleRows, (self.task, self.split)

    def where(self, row: int) -> str:
        return f"task {self.task} of the world, {self.split} row {row}"


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
