"""Row slots: they turn documents into rows, and their state is two integers.

A row slot is a position of the global batch. It reads its own numbers of the index plan, tokenises each document as a
whole, and fills rows of a fixed length; a document that does not fit continues in the slot's next row. A checkpoint
holds only the number that the slot reads next and the offset in that document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from metalm_cli.sessions import Row, TokenisedDocument


class SlotState(NamedTuple):
    """State of a row slot: the number that it reads next, and the tokens of that document that it has used."""

    number: int
    offset: int


class DocumentReaderProtocol(Protocol):
    """Interface of what row slots read from (:class:`metalm_cli.data.documents.corpus.DocumentReader`)."""

    def get(self, number: int) -> Any:
        """The document (with ``.text``) at a number of the index plan."""


@dataclass
class RowSegment:
    """A segment of a row: consecutive tokens of one document.

    Args:
        ids: Token ids, -1 at docked positions. ``[n]`` int64.
        end: Document tokens used up to the end of this segment; the document's end token counts as one.
        done: Whether the document is used up.
        payload: Data that the writer needs to build the row.
        counts: Counters.
    """

    ids: np.ndarray
    end: int
    done: bool
    payload: Any
    counts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.ids)


class RowWriter(Protocol):
    """Interface of an objective's writer, which turns documents into rows."""

    length: int

    def read(self, text: str, number: int) -> Any:
        """Tokenise a document and draw the objective's spans; a pure function of text and number."""

    def take(self, document: Any, offset: int, free_positions: int, row_is_empty: bool) -> RowSegment | None:
        """Take the next segment of a document.

        Args:
            document: From :meth:`read`.
            offset: Document tokens already used.
            free_positions: Positions left in the row.
            row_is_empty: Whether the row has no segment yet.

        Returns:
            The segment, or None if nothing useful fits.
        """

    def write(self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        """Build a row from its segments."""


class RowSlot:
    """A row slot of the global batch.

    Args:
        index: Index of the slot.
        slot_count: Slots of the global batch.
        reader: Reads documents by number.
        writer: Turns documents into rows.
        state: State to continue from; default the beginning.
    """

    def __init__(
        self,
        index: int,
        slot_count: int,
        reader: DocumentReaderProtocol,
        writer: RowWriter,
        state: SlotState | None = None,
    ) -> None:
        self.slot_count = slot_count
        self.reader = reader
        self.writer = writer
        self.state = SlotState(index, 0) if state is None else state
        self._open_document: tuple[int, Any] | None = None

    def next_row(self) -> Row:
        """Fill the next row.

        Raises:
            MetalmError: A document cannot be read.
        """
        row_segments: list[RowSegment] = []
        counts: Counter[str] = Counter()
        numbers: list[int] = []
        free_positions = self.writer.length
        while free_positions > 0:
            document = self._current_document()
            row_segment = self.writer.take(document, self.state.offset, free_positions, not row_segments)
            if row_segment is None:
                break
            row_segments.append(row_segment)
            counts.update(row_segment.counts)
            numbers.append(self.state.number)
            free_positions -= len(row_segment)
            if row_segment.done:
                self._next_document()
            else:
                counts.update({"split_documents": 1} if self.state.offset == 0 else {})
                self.state = SlotState(self.state.number, row_segment.end)
        return self.writer.write(row_segments, counts, numbers)

    def _current_document(self) -> Any:
        number = self.state.number
        if self._open_document is None or self._open_document[0] != number:
            self._open_document = (number, self.writer.read(self.reader.get(number).text, number))
        return self._open_document[1]

    def _next_document(self) -> None:
        self.state = SlotState(self.state.number + self.slot_count, 0)
        self._open_document = None


def numpy_generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """Random generator that depends only on the arguments."""
    return np.random.default_rng(np.random.SeedSequence([seed, purpose, *numbers]))


def text_bytes(document: TokenisedDocument, first: int, last: int) -> int:
    """UTF-8 bytes of the text of tokens ``first`` to ``last - 1``."""
    return len(document.slice(first, last).encode()) if last > first else 0


SpanDrawer = Callable[[int, np.random.Generator], list[tuple[int, int]]]
"""Draws the spans to dock in a document of n tokens: disjoint, in order, at least one token apart."""
