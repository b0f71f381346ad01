"""The two kinds of source: tables with random access to rows, and streams that are read in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import Any


class RandomAccessRows(ABC):
    """Rows with random access by index. Picklable, also after reading."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number of rows before any filter."""

    @abstractmethod
    def load(self, row: int) -> Any:
        """Load a row, normally a mapping of columns.

        Raises:
            MetalmError: The row cannot be read.
        """

    @abstractmethod
    def where(self, row: int) -> str:
        """Location of a row that the user can open, for error messages."""

    @property
    def identity(self) -> list[object] | None:
        """Identity of the content: equal for equal rows, on any machine; None if it is unknown."""
        return None

    def lacks(self, _row: Any, _read: Collection[str] = ()) -> tuple[str, ...]:
        """Return the reasons to leave a row out, if rows of the table may lack columns and it lacks some that are read.

        Args:
            _row: A row of :meth:`load`.
            _read: Names of the columns that are read.
        """
        return ()

    def scan(self, rows: range) -> Iterator[Any]:
        """Iterate over consecutive rows, as :meth:`load` returns them.

        Raises:
            MetalmError: A row cannot be read.
        """
        return map(self.load, rows)


class SequentialRows(ABC):
    """Rows read in order, shard by shard; their number is unknown. Picklable, also after reading."""

    @abstractmethod
    def shards(self) -> int:
        """Number of shards; each epoch draws a new order of shards."""

    @abstractmethod
    def read(self, shard: int) -> Iterator[Any]:
        """Iterate over the rows of a shard from its start, not yet parsed.

        Raises:
            MetalmError: The shard cannot be read.
        """

    @abstractmethod
    def load(self, raw: Any) -> Any:
        """Parse a row of :meth:`read`.

        Raises:
            MetalmError: The row is broken.
        """

    @abstractmethod
    def where(self, raw: Any) -> str:
        """Location of a row that the user can open, for error messages."""
