"""Lanes: documents become rows, and a row's place in the data is two numbers.

Each row slot of the global batch is a lane. It reads its own numbers of the index plan, tokenises a document whole,
and fills rows of a fixed length; a document that does not fit goes on in the lane's next row. What a lane will read
next is told by the number and the token it has come to, so a checkpoint holds nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.sessions import Row, TokenisedDocument

MAX_CONSECUTIVE_EMPTY = 100_000
"""Numbers in a row that may be empty before a lane gives up."""


class SlotState(NamedTuple):
    """Where a lane stands: the number it reads next, and how many of that document's tokens it has used."""

    number: int
    offset: int


class DocumentSource(Protocol):
    """What lanes read from (:class:`metalm_cli.data.documents.corpus.DocumentReader`)."""

    reason: str
    """Why the last number that was empty is so: excluded, empty or validation."""

    def get(self, number: int) -> Any:
        """The document (with ``.text``) at a number of the index plan, or None if the number is empty."""


@dataclass
class RowSegment:
    """A part of a document as a row takes it.

    Args:
        ids: Token ids, -1 at docked positions. ``[n]`` int64.
        end: Document tokens used up to here; the document's end token counts as one.
        done: Nothing of the document is left.
        marks: Whatever the writer needs to build the row.
        counts: Counters.
    """

    ids: np.ndarray
    end: int
    done: bool
    marks: Any
    counts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.ids)


class RowWriter(Protocol):
    """How an objective turns documents into rows."""

    length: int

    def read(self, text: str, number: int) -> Any:
        """Tokenise a document and draw what the objective draws. Pure: the same number gives the same."""

    def take(self, document: Any, offset: int, room: int, first: bool) -> RowSegment | None:
        """The next part of a document.

        Args:
            document: From :meth:`append`.
            offset: Document tokens already used.
            room: Positions left in the row.
            first: Nothing is in the row yet.

        Returns:
            The part, or None if nothing useful fits.
        """

    def write(self, pieces: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        """Build the row."""


class RowSlot:
    """One row slot of the global batch.

    Args:
        lane: Its index.
        lanes: How many there are.
        source: Documents by number.
        writer: Turns them into rows.
        state: Where to go on; default the beginning.
    """

    def __init__(
        self, lane: int, lanes: int, source: DocumentSource, writer: RowWriter, state: SlotState | None = None
    ) -> None:
        self.lanes = lanes
        self.source = source
        self.writer = writer
        self.state = SlotState(lane, 0) if state is None else state
        self._open: tuple[int, Any] | None = None

    def next_row(self) -> Row:
        """Fill one row.

        Raises:
            MetalmError: The sources give no document any more.
        """
        pieces: list[RowSegment] = []
        counts: Counter[str] = Counter()
        numbers: list[int] = []
        room = self.writer.length
        while room > 0:
            document = self._document(counts)
            piece = self.writer.take(document, self.state.offset, room, not pieces)
            if piece is None:
                break
            pieces.append(piece)
            counts.update(piece.counts)
            numbers.append(self.state.number)
            room -= len(piece)
            if piece.done:
                self._skip()
            else:
                counts.update({"split_documents": 1} if self.state.offset == 0 else {})
                self.state = SlotState(self.state.number, piece.end)
        return self.writer.write(pieces, counts, numbers)

    def _document(self, counts: Counter[str]) -> Any:
        for _ in range(MAX_CONSECUTIVE_EMPTY):
            number = self.state.number
            if self._open is not None and self._open[0] == number:
                return self._open[1]
            found = self.source.get(number)
            if found is not None:
                self._open = (number, self.writer.read(found.text, number))
                return self._open[1]
            counts[f"{self.source.reason}_documents"] += 1
            self._skip()
        raise MetalmError(
            f"{MAX_CONSECUTIVE_EMPTY:,} documents in a row are empty, excluded or held out",
            where="data.sources",
            remedy="check exclude, the text column, and that the sources hold text",
            exit_code=Exit.FAILED,
        )

    def _skip(self) -> None:
        self.state = SlotState(self.state.number + self.lanes, 0)
        self._open = None


def numpy_generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on nothing but these."""
    return np.random.default_rng(np.random.SeedSequence([seed, purpose, *numbers]))


def text_bytes(document: TokenisedDocument, first: int, last: int) -> int:
    """UTF-8 bytes that tokens ``first`` to ``last - 1`` stand for."""
    return len(document.slice(first, last).encode()) if last > first else 0


Draw = Callable[[int, np.random.Generator], list[tuple[int, int]]]
"""Spans to dock in a document of that many tokens: disjoint, in order, at least one token apart."""
