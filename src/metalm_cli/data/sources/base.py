"""The two kinds of source: a table is read by row, a stream in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any


class RandomAccessRows(ABC):
    """Rows by number. Picklable, also after reading."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows there are, before any filter."""

    @abstractmethod
    def load(self, row: int) -> Any:
        """The row, normally a mapping of columns.

        Raises:
            MetalmError: It cannot be read.
        """

    @abstractmethod
    def where(self, row: int) -> str:
        """A place that the user can open."""


class SequentialRows(ABC):
    """Rows in order, shard by shard; how many is unknown. Picklable, also after reading."""

    @abstractmethod
    def shards(self) -> int:
        """How many parts there are; their order is drawn anew each epoch."""

    @abstractmethod
    def read(self, shard: int) -> Iterator[Any]:
        """The rows of a shard from its start, not yet parsed.

        Raises:
            MetalmError: The shard cannot be read.
        """

    @abstractmethod
    def load(self, raw: Any) -> Any:
        """The row that :meth:`append` gave, parsed.

        Raises:
            MetalmError: It is broken.
        """

    @abstractmethod
    def where(self, raw: Any) -> str:
        """A place that the user can open."""
