"""Rows of reconstruction: each text of a document is docked, and predicted again after a mark.

A document is cut into consecutive texts at word boundaries, each of which is a session::

    [start] D D D D  mark  text (trained)  end (trained)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metalm_cli.config.schema.objectives import Reconstruction
from metalm_cli.data.documents.session_rows import SPANS_PURPOSE, VALIDATION_PURPOSE, ReadDocument, SessionWriter
from metalm_cli.data.sampling.row_slots import RowSegment, numpy_generator, text_bytes
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import (
    DOCKED_ID,
    DecoderTokenizer,
    DockInput,
    Processor,
    Row,
    TokenisedDocument,
    TokenisedSession,
    UnreadableContentError,
)

KIND_PURPOSE = 3
"""Purpose of the random generator that decides which documents are reconstructed."""
KINDS = ("continuation", "reconstruction")
"""Kinds of sessions of a mixed objective; their indices are the tasks of its rows."""


@dataclass(frozen=True)
class Piece:
    """Document tokens ``first`` to ``last - 1``, docked; without a dock, their encoder reads them as empty."""

    first: int
    last: int
    dock: DockInput | None


@dataclass(frozen=True)
class DividedDocument:
    """A tokenised document divided into pieces."""

    document: TokenisedDocument
    pieces: tuple[Piece, ...]


def mark_ids(tokenizer: DecoderTokenizer, mark: str) -> list[int]:
    """Tokenise the mark before a reconstruction: the token of that name, or a text that continues a session.

    Raises:
        MetalmError: The tokenizer reads it as empty.
    """
    token = tokenizer.tokenizer.get_vocab().get(mark)
    ids = tokenizer.encode_continuation(mark) if token is None else [token]
    if not ids:
        raise MetalmError(
            f"the decoder's tokenizer reads the mark {mark!r} as empty",
            where="objective.mark",
            why="a reconstruction would begin like a continuation",
            remedy="set a text with letters, or a token of the decoder's vocabulary",
        )
    return ids


class ReconstructionWriter:
    """Writer that turns documents into sessions that reconstruct them.

    Args:
        tokenizer: The decoder's tokenizer.
        processor: Processor of the text encoder that reads the docks.
        options: How documents are cut.
        length: Positions of a row.
        packs: Whether the decoder can be packed; otherwise a row holds one session.
        seed: Seed of the lengths.
    """

    def __init__(
        self,
        tokenizer: DecoderTokenizer,
        processor: Processor,
        options: Reconstruction,
        length: int,
        *,
        packs: bool = True,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.processor, self.length = tokenizer, processor, length
        self.low, self.high = options.span_length
        self.mark = np.array(mark_ids(tokenizer, options.mark), dtype=np.int64)
        self.packs = packs
        self.seed = seed

    def read(self, text: str, number: int) -> DividedDocument:
        return self._divide(text, numpy_generator(self.seed, SPANS_PURPOSE, number))

    def _divide(self, text: str, rng: np.random.Generator) -> DividedDocument:
        document = self.tokenizer.encode_document(text)
        pieces: list[Piece] = []
        first, total = 0, len(document)
        while first < total:
            last = min(total, first + int(rng.integers(self.low, self.high + 1)))
            last = document.expand_to_word_boundaries(first, last, first, total)[1]
            pieces += self._pieces(document, first, last)
            first = last
        return DividedDocument(document, tuple(pieces))

    def _pieces(self, document: TokenisedDocument, first: int, last: int) -> Iterator[Piece]:
        """Yield a text as a piece, or halves of it if it is too long for its encoder or for a row."""
        reason = ""
        try:
            dock = self.processor.prepare(document.slice(first, last))
            if self._size(dock, last - first) <= self.length:
                yield Piece(first, last, dock)
                return
        except UnreadableContentError as error:
            reason = error.reason
        middle = document.expand_to_word_boundaries(first, (first + last) // 2, first, last)[1]
        middle = middle if first < middle < last else (first + last) // 2
        if reason == "empty" or last - first == 1:
            yield Piece(first, last, None)
        else:
            yield from self._pieces(document, first, middle)
            yield from self._pieces(document, middle, last)

    def _size(self, dock: DockInput, tokens: int) -> int:
        """Positions of a session, with its start and end tokens."""
        return int(self._starts) + dock.positions + len(self.mark) + tokens + 1

    @property
    def _starts(self) -> bool:
        return self.tokenizer.needs_start_token(False, False)

    def take(
        self, document: DividedDocument, offset: int, free_positions: int, row_is_empty: bool
    ) -> RowSegment | None:
        if not row_is_empty and not self.packs:
            return None
        counts: Counter[str] = Counter()
        for piece in document.pieces:
            if piece.first < offset:
                continue
            if piece.dock is None:  # counted with the session after it
                counts["empty_spans"] += 1
                continue
            if self._size(piece.dock, piece.last - piece.first) > free_positions:
                return None
            return self._segment(document, piece, piece.dock, counts)
        return self._end_token(document, counts)

    def _segment(self, divided: DividedDocument, piece: Piece, dock: DockInput, counts: Counter[str]) -> RowSegment:
        document, tokenizer = divided.document, self.tokenizer
        text = [document.ids[piece.first : piece.last], np.array([tokenizer.document_end_id])]
        start = np.array([tokenizer.start_id] * self._starts, dtype=np.int64)
        ids = np.concatenate([start, np.full(dock.positions, DOCKED_ID), self.mark, *text])
        trained = np.arange(len(ids)) >= len(ids) - len(text[0]) - 1
        tokens = piece.last - piece.first
        counts.update(
            source_tokens=tokens,
            docked_tokens=tokens,
            docked_positions=dock.positions,
            docked_spans=1,
            special_tokens=len(start) + len(self.mark) + 1,
            trained_bytes=text_bytes(document, piece.first, piece.last),
        )
        done = not any(other.dock is not None and other.first >= piece.last for other in divided.pieces)
        counts["documents"] += int(done)
        payload = (trained, ((len(start), dock),))
        return RowSegment(ids, len(document) if done else piece.last, done, payload, counts)

    def _end_token(self, divided: DividedDocument, counts: Counter[str]) -> RowSegment:
        """Return an end token alone, for a document that its encoder reads as empty."""
        counts["documents"] += 1
        ids = np.array([self.tokenizer.document_end_id])
        return RowSegment(ids, len(divided.document), True, (np.array([False]), ()), counts)

    def sessions(self, row_segments: Sequence[RowSegment]) -> list[TokenisedSession]:
        return [TokenisedSession(row_segment.ids, *row_segment.payload) for row_segment in row_segments]

    def validation_sessions(self, texts: Iterable[str]) -> list[tuple[TokenisedSession, dict[str, int]]]:
        """Sessions of validation documents with their counters, the same for every seed."""
        sessions = []
        for index, text in enumerate(texts):
            divided = self._divide(text, numpy_generator(0, VALIDATION_PURPOSE, index))
            for piece in divided.pieces:
                if piece.dock is not None:
                    segment = self._segment(divided, piece, piece.dock, Counter())
                    sessions.append((self.sessions([segment])[0], dict(segment.counts)))
        return sessions


@dataclass(frozen=True)
class MixedDocument:
    """A document of a mixed objective, as the writer of its kind reads it."""

    kind: int
    content: ReadDocument | DividedDocument

    @property
    def document(self) -> TokenisedDocument:
        return self.content.document


class ReconstructionRows:
    """Row writer of reconstruction alone.

    Args:
        writer: Makes the sessions.
        row_format: How sessions become rows.
    """

    def __init__(self, writer: ReconstructionWriter, row_format: Any) -> None:
        self.writer, self.row_format, self.length = writer, row_format, writer.length

    def read(self, text: str, number: int) -> DividedDocument:
        return self.writer.read(text, number)

    def take(
        self, document: DividedDocument, offset: int, free_positions: int, row_is_empty: bool
    ) -> RowSegment | None:
        return self.writer.take(document, offset, free_positions, row_is_empty)

    def write(self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        sessions = self.writer.sessions(row_segments)
        row: Row = self.row_format.row(sessions, counts=dict(counts), numbers=numbers)
        return row


class MixedRows:
    """Row writer of continuation and reconstruction; each document has one kind.

    Args:
        continuation: Writer of the documents that are continued.
        reconstruction: Writer of the others.
        share: Expected share of the documents that are reconstructed.
        seed: Seed of their kinds.
    """

    def __init__(
        self, continuation: SessionWriter, reconstruction: ReconstructionWriter, share: float, *, seed: int
    ) -> None:
        self.writers: tuple[Any, Any] = (continuation, reconstruction)
        self.row_format, self.length = continuation.row_format, continuation.length
        self.share, self.seed = share, seed

    def read(self, text: str, number: int) -> MixedDocument:
        kind = int(numpy_generator(self.seed, KIND_PURPOSE, number).random() < self.share)
        return MixedDocument(kind, self.writers[kind].read(text, number))

    def take(self, document: MixedDocument, offset: int, free_positions: int, row_is_empty: bool) -> RowSegment | None:
        segment = self.writers[document.kind].take(document.content, offset, free_positions, row_is_empty)
        return None if segment is None else replace(segment, payload=(document.kind, segment.payload))

    def write(self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        kinds = [segment.payload[0] for segment in row_segments]
        sessions = [TokenisedSession(segment.ids, *segment.payload[1]) for segment in row_segments]
        row: Row = self.row_format.row(sessions, task_ids=kinds, counts=dict(counts), numbers=numbers)
        return row
