"""Rows of a language model: documents with docked spans, cut where a row ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from metalm_cli.data.sampling.lanes import Draw, RowSegment, numpy_generator, text_bytes
from metalm_cli.sessions import (
    DOCKED,
    DecoderTokenizer,
    DockInput,
    Processor,
    Row,
    TokenisedDocument,
    TokenisedSession,
    UnreadableContentError,
    build_row,
)

SPANS, VALIDATION = 1, 2
"""Purposes of random numbers."""
VALIDATION_SHARE = 0.75
"""Tokens of a validation window as a share of the row: docks may take more positions than the tokens they replace."""


@dataclass(frozen=True)
class DocumentSegment:
    """Document tokens ``first`` to ``last - 1``: docked, or causal and then trained or not.

    ``refused`` says why a span that was to be docked is causal: its encoder reads it as ``empty`` or ``too_long``.
    """

    first: int
    last: int
    dock: DockInput | None = None
    trained: bool = True
    refused: str = ""


@dataclass(frozen=True)
class ReadDocument:
    document: TokenisedDocument
    units: tuple[DocumentSegment, ...]


class SessionWriter:
    """Turns documents into rows of a decoder.

    Args:
        tokenizer: The decoder's.
        processor: Of the text encoder that spans are docked into. None: spans become untrained causal text, so that
            a decoder alone is trained and compared on the same positions.
        draw: The objective's spans.
        length: Positions of a row.
        isolate: Documents in a row do not see each other; each is a session.
        packs: The decoder can be packed; otherwise an isolated row holds one document.
        seed: Seeds the spans.
    """

    def __init__(
        self,
        tokenizer: DecoderTokenizer,
        processor: Processor | None,
        draw: Draw,
        length: int,
        *,
        isolate: bool = True,
        packs: bool = True,
        seed: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.processor = processor
        self.draw = draw
        self.length = length
        self.isolate = isolate
        self.packs = packs
        self.seed = seed

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, text: str, number: int) -> ReadDocument:
        document = self.tokenizer.document(text)
        units = self.units(document, 0, len(document), numpy_generator(self.seed, SPANS, number))
        return ReadDocument(document, units)

    def units(
        self, document: TokenisedDocument, first: int, last: int, rng: np.random.Generator
    ) -> tuple[DocumentSegment, ...]:
        """Divide tokens ``first`` to ``last - 1`` into docked and causal units."""
        spans = [(first + begin, first + end) for begin, end in self.draw(last - first, rng)]
        units: list[DocumentSegment] = []
        at = first
        for index, (begin, end) in enumerate(spans):
            low = at + 1 if units else first
            high = spans[index + 1][0] - 1 if index + 1 < len(spans) else last
            begin, end = document.expand_to_word_boundaries(begin, end, low, high)
            if begin > at:
                units.append(DocumentSegment(at, begin))
            units.append(self._span(document, begin, end))
            at = end
        if last > at:
            units.append(DocumentSegment(at, last))
        return tuple(units)

    def _span(self, document: TokenisedDocument, begin: int, end: int) -> DocumentSegment:
        if self.processor is None:
            return DocumentSegment(begin, end, trained=False)
        try:
            return DocumentSegment(begin, end, self.processor.prepare(document.slice(begin, end)))
        except UnreadableContentError as error:
            return DocumentSegment(begin, end, refused=error.reason)

    # -- cutting ------------------------------------------------------------------------------------------------------

    def take(self, document: ReadDocument, offset: int, room: int, first: bool) -> RowSegment | None:
        if not first and self.isolate and not self.packs:
            return None
        cut = RowFiller(self, document, offset, room)
        if self.isolate or first:
            cut.start()
        return cut.piece()

    def write(self, pieces: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        sessions = [TokenisedSession(piece.ids, *piece.marks) for piece in pieces]
        if not self.isolate:
            sessions = [join_segments(sessions)]
        return build_row(sessions, counts=dict(counts), numbers=numbers)

    # -- validation ---------------------------------------------------------------------------------------------------

    def validation_windows(self, texts: Iterable[str]) -> list[tuple[TokenisedSession, dict[str, int]]]:
        """Validation sessions: each document in windows of whole tokens, each window a session of its own.

        Windows and spans depend on the decoder's tokenizer and the draw alone, so that models with and without an
        encoder, of any seed, are compared on the same positions.
        """
        size = max(4, int(self.length * VALIDATION_SHARE) - 2)
        found = []
        for index, text in enumerate(texts):
            document = self.tokenizer.document(text)
            for begin in range(0, len(document), size):
                end = min(begin + size, len(document))
                units = self.units(document, begin, end, numpy_generator(0, VALIDATION, index, begin))
                # A decoder alone does not train these spans either.
                units = tuple(replace(unit, trained=False) if unit.refused else unit for unit in units)
                found.append(self._window(document, units, end))
        return found

    def _window(
        self, document: TokenisedDocument, units: tuple[DocumentSegment, ...], end: int
    ) -> tuple[TokenisedSession, dict]:
        while sum(map(_positions, units)) + 2 > self.length:
            last = max(index for index, unit in enumerate(units) if unit.dock is not None)
            lowered = DocumentSegment(units[last].first, units[last].last, trained=False)
            units = (*units[:last], lowered, *units[last + 1 :])
        cut = RowFiller(self, ReadDocument(document, units), units[0].first, self.length)
        cut.stop = end
        cut.start()
        piece = cut.piece()
        assert piece is not None, "a window always fits"
        return TokenisedSession(piece.ids, *piece.marks), dict(piece.counts)


def _positions(unit: DocumentSegment) -> int:
    return unit.last - unit.first if unit.dock is None else unit.dock.positions


class RowFiller:
    """Takes units of one document until the room is used up."""

    def __init__(self, writer: SessionWriter, read: ReadDocument, offset: int, room: int) -> None:
        self.writer = writer
        self.read = read
        self.at = offset
        self.room = room
        self.stop: int | None = None
        self.alone = False
        """Nothing stands before the first token, so that nothing predicts it."""
        self.ids: list[np.ndarray] = []
        self.trained: list[np.ndarray] = []
        self.docks: list[tuple[int, DockInput]] = []
        self.size = 0
        self.counts: Counter[str] = Counter()
        self.left = [unit for unit in read.units if unit.last > offset]

    def start(self) -> None:
        """Put the start token first, where the rules want one."""
        tokenizer = self.writer.tokenizer
        unit = self.left[0] if self.left else None
        docked = unit is not None and unit.dock is not None and unit.first >= self.at
        if docked and self._fits(unit, 1 if tokenizer.starts_with(False, False) else 0):  # type: ignore[arg-type]
            wanted = tokenizer.starts_with(False, False)
        else:
            wanted = tokenizer.starts_with(True, unit is None or unit.trained)
        self.alone = not wanted
        if wanted:
            self._add(np.array([tokenizer.start_id]), False)
            self.counts["special_tokens"] += 1

    def _fits(self, unit: DocumentSegment, before: int = 0) -> bool:
        # One position more, so that the token which the dock predicts is in the same row.
        assert unit.dock is not None
        return before + unit.dock.positions + 1 <= self.room

    def _add(self, ids: np.ndarray, trained: bool) -> None:
        self.ids.append(ids)
        self.trained.append(np.full(len(ids), trained))
        self.size += len(ids)
        self.room -= len(ids)

    def piece(self) -> RowSegment | None:
        """Fill the room; None if no document token fits."""
        before, document = self.at, self.read.document
        for unit in self.left:
            if self.room <= 0:
                break
            if unit.dock is not None and unit.first >= self.at and self._fits(unit):
                self._dock(unit, unit.dock)
            else:
                self._causal(unit)
        done = False
        if self.at == len(document) and self.room > 0 and (self.stop is None or self.stop == len(document)):
            self._add(np.array([self.writer.tokenizer.document_id]), True)
            self.counts["special_tokens"] += 1
            self.counts["documents"] += 1
            done = True
        elif self.at == len(document) and self.writer.isolate and self.stop is None:
            # The next row would begin with a session of an end alone, which says that documents may be empty.
            self.counts["cut_ends"] += 1
            self.counts["documents"] += 1
            done = True
        if self.at == before and not done:
            return None
        self.counts["source_tokens"] += self.at - before
        marks = (np.concatenate(self.trained), tuple(self.docks))
        return RowSegment(np.concatenate(self.ids), self.at, done, marks, self.counts)

    def _dock(self, unit: DocumentSegment, dock: DockInput) -> None:
        self.docks.append((self.size, dock))
        self._add(np.full(dock.positions, DOCKED), False)
        self.counts["docked_positions"] += dock.positions
        self.counts["docked_tokens"] += unit.last - unit.first
        self.counts["docked_spans"] += 1
        self.at = unit.last

    def _causal(self, unit: DocumentSegment) -> None:
        document = self.read.document
        begin = max(unit.first, self.at)
        end = min(unit.last, begin + self.room)
        if unit.dock is not None and begin == unit.first:
            self.counts["cut_spans"] += 1
        if unit.refused and begin == unit.first:
            self.counts[f"{unit.refused}_spans"] += 1
        if unit.trained and self.alone and not self.size:
            self._add(document.ids[begin : begin + 1], False)
            self.counts["unpredicted_tokens"] += 1
            begin += 1
        self._add(document.ids[begin:end], unit.trained)
        if unit.trained:
            self.counts["trained_bytes"] += text_bytes(document, begin, end)
        else:
            self.counts["lowered_tokens"] += end - begin
        self.at = end


def join_segments(sessions: list[TokenisedSession]) -> TokenisedSession:
    """One session out of several, in which each goes on from the one before."""
    docks: list[tuple[int, DockInput]] = []
    offset = 0
    for session in sessions:
        docks.extend((offset + at, dock) for at, dock in session.docks)
        offset += len(session)
    return TokenisedSession(
        np.concatenate([session.ids for session in sessions]),
        np.concatenate([session.trained for session in sessions]),
        tuple(docks),
    )
