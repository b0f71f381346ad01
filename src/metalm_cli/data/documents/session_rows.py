"""Rows for language model pretraining: documents with docked spans, cut at the end of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from metalm_cli.data.sampling.row_slots import RowSegment, SpanDrawer, numpy_generator, text_bytes
from metalm_cli.sessions import (
    DOCKED_ID,
    DecoderTokenizer,
    DockInput,
    PairFormat,
    Processor,
    Row,
    RowFormat,
    TokenisedDocument,
    TokenisedSession,
    UnreadableContentError,
    row_format_of,
)

SPANS_PURPOSE, VALIDATION_PURPOSE = 1, 2
"""Purposes of random generators."""
VALIDATION_SHARE = 0.75
"""Length of a validation window as a share of a row: docks may take more positions than the tokens they replace."""


@dataclass(frozen=True)
class DocumentSegment:
    """Document tokens ``first`` to ``last - 1``: docked, or causal and then trained or not.

    ``reject_reason`` is why a drawn span is causal: for its encoder it is ``empty`` or ``too_long``.
    """

    first: int
    last: int
    dock: DockInput | None = None
    trained: bool = True
    reject_reason: str = ""


@dataclass(frozen=True)
class ReadDocument:
    """A tokenised document divided into segments."""

    document: TokenisedDocument
    segments: tuple[DocumentSegment, ...]


class SessionWriter:
    """Writer that turns documents into rows of a decoder.

    Args:
        tokenizer: The decoder's tokenizer.
        processor: Processor of the text encoder that reads docked spans. None: spans become untrained causal text, so
            that a decoder alone is trained and compared on the same positions.
        draw_spans: Draws the objective's spans.
        length: Positions of a row.
        isolate: Whether documents in a row do not attend to each other; each is a session.
        packs: Whether the decoder can be packed; otherwise an isolated row holds one document.
        seed: Seed of the spans.
        row_format: How sessions become rows; default: that of the tokenizer.
    """

    def __init__(
        self,
        tokenizer: DecoderTokenizer,
        processor: Processor | None,
        draw_spans: SpanDrawer,
        length: int,
        *,
        isolate: bool = True,
        packs: bool = True,
        seed: int = 0,
        row_format: RowFormat | PairFormat | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.processor = processor
        self.draw_spans = draw_spans
        self.length = length
        self.isolate = isolate
        self.packs = packs
        self.seed = seed
        self.row_format = row_format or row_format_of(tokenizer)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, text: str, number: int) -> ReadDocument:
        document = self.tokenizer.encode_document(text)
        segments = self.split_document(document, 0, len(document), numpy_generator(self.seed, SPANS_PURPOSE, number))
        return ReadDocument(document, segments)

    def split_document(
        self, document: TokenisedDocument, first: int, last: int, rng: np.random.Generator
    ) -> tuple[DocumentSegment, ...]:
        """Divide tokens ``first`` to ``last - 1`` into docked and causal segments."""
        spans = [(first + begin, first + end) for begin, end in self.draw_spans(last - first, rng)]
        segments: list[DocumentSegment] = []
        position = first
        for index, (begin, end) in enumerate(spans):
            low = position + 1 if segments else first
            high = spans[index + 1][0] - 1 if index + 1 < len(spans) else last
            begin, end = document.expand_to_word_boundaries(begin, end, low, high)
            if begin > position:
                segments.append(DocumentSegment(position, begin))
            segments.append(self._span_segment(document, begin, end))
            position = end
        if last > position:
            segments.append(DocumentSegment(position, last))
        return tuple(segments)

    def _span_segment(self, document: TokenisedDocument, begin: int, end: int) -> DocumentSegment:
        if self.processor is None:
            return DocumentSegment(begin, end, trained=False)
        try:
            dock = self.processor.prepare(document.slice(begin, end))
            return DocumentSegment(begin, end, replace(dock, text_ids=document.ids[begin:end]))
        except UnreadableContentError as error:
            return DocumentSegment(begin, end, reject_reason=error.reason)

    # -- cutting ------------------------------------------------------------------------------------------------------

    def take(self, document: ReadDocument, offset: int, free_positions: int, row_is_empty: bool) -> RowSegment | None:
        if not row_is_empty and self.isolate and not self.packs:
            return None
        filler = RowFiller(self, document, offset, free_positions)
        if self.isolate or row_is_empty:
            filler.add_start_token()
        return filler.fill()

    def write(self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        sessions = [TokenisedSession(row_segment.ids, *row_segment.payload) for row_segment in row_segments]
        if not self.isolate:
            sessions = [join_segments(sessions)]
        return self.row_format.row(sessions, counts=dict(counts), numbers=numbers)

    # -- validation ---------------------------------------------------------------------------------------------------

    def validation_windows(self, texts: Iterable[str]) -> list[tuple[TokenisedSession, dict[str, int]]]:
        """Validation sessions with their counters: documents are cut into windows, and each window is a session.

        Windows and spans depend only on the decoder's tokenizer and on the drawn spans, so that models with and without
        an encoder, of any seed, are compared on the same positions.
        """
        size = max(4, int(self.length * VALIDATION_SHARE) - 2)
        windows = []
        for index, text in enumerate(texts):
            document = self.tokenizer.encode_document(text)
            for begin in range(0, len(document), size):
                end = min(begin + size, len(document))
                segments = self.split_document(
                    document, begin, end, numpy_generator(0, VALIDATION_PURPOSE, index, begin)
                )
                # A decoder alone does not train on these spans.
                segments = tuple(
                    replace(segment, trained=False) if segment.reject_reason else segment for segment in segments
                )
                windows.append(self._validation_window(document, segments, end))
        return windows

    def _validation_window(
        self, document: TokenisedDocument, segments: tuple[DocumentSegment, ...], end: int
    ) -> tuple[TokenisedSession, dict]:
        while sum(map(_positions, segments)) + 2 > self.length:
            last = max(index for index, segment in enumerate(segments) if segment.dock is not None)
            lowered = DocumentSegment(segments[last].first, segments[last].last, trained=False)
            segments = (*segments[:last], lowered, *segments[last + 1 :])
        filler = RowFiller(self, ReadDocument(document, segments), segments[0].first, self.length)
        filler.stop = end
        filler.add_start_token()
        row_segment = filler.fill()
        assert row_segment is not None, "a window always fits"
        return TokenisedSession(row_segment.ids, *row_segment.payload), dict(row_segment.counts)


def _positions(segment: DocumentSegment) -> int:
    return segment.last - segment.first if segment.dock is None else segment.dock.positions


class RowFiller:
    """Fills a row with segments of a document until no position is free."""

    def __init__(self, writer: SessionWriter, read_document: ReadDocument, offset: int, free_positions: int) -> None:
        self.writer = writer
        self.read_document = read_document
        self.offset = offset
        self.free_positions = free_positions
        self.stop: int | None = None
        self.no_context = False
        """Whether the first token has no context, so that nothing predicts it."""
        self.ids: list[np.ndarray] = []
        self.trained: list[np.ndarray] = []
        self.docks: list[tuple[int, DockInput]] = []
        self.size = 0
        self.counts: Counter[str] = Counter()
        self.segments_left = [segment for segment in read_document.segments if segment.last > offset]

    def add_start_token(self) -> None:
        """Add the start token, if the token rules require one."""
        tokenizer = self.writer.tokenizer
        segment = self.segments_left[0] if self.segments_left else None
        begins_with_dock = segment is not None and segment.dock is not None and segment.first >= self.offset
        if begins_with_dock and self._fits(segment, 1 if tokenizer.needs_start_token(False, False) else 0):  # type: ignore[arg-type]
            needs_start = tokenizer.needs_start_token(False, False)
        else:
            needs_start = tokenizer.needs_start_token(True, segment is None or segment.trained)
        self.no_context = not needs_start
        if needs_start:
            self._add_tokens(np.array([tokenizer.start_id]), False)
            self.counts["special_tokens"] += 1

    def _fits(self, segment: DocumentSegment, extra_positions: int = 0) -> bool:
        # One more position, so that the token that the dock predicts is in the same row.
        assert segment.dock is not None
        return extra_positions + segment.dock.positions + 1 <= self.free_positions

    def _add_tokens(self, ids: np.ndarray, trained: bool) -> None:
        self.ids.append(ids)
        self.trained.append(np.full(len(ids), trained))
        self.size += len(ids)
        self.free_positions -= len(ids)

    def fill(self) -> RowSegment | None:
        """Fill the free positions; None if no document token fits."""
        first_token, document = self.offset, self.read_document.document
        for segment in self.segments_left:
            if self.free_positions <= 0:
                break
            if segment.dock is not None and segment.first >= self.offset and self._fits(segment):
                self._add_dock(segment, segment.dock)
            else:
                self._add_causal(segment)
        done = False
        if (
            self.offset == len(document)
            and self.free_positions > 0
            and (self.stop is None or self.stop == len(document))
        ):
            self._add_tokens(np.array([self.writer.tokenizer.document_end_id]), True)
            self.counts["special_tokens"] += 1
            self.counts["documents"] += 1
            done = True
        elif self.offset == len(document) and self.writer.isolate and self.stop is None:
            # The next row would begin with a session of an end token only, which would teach that documents are empty.
            self.counts["cut_ends"] += 1
            self.counts["documents"] += 1
            done = True
        if self.offset == first_token and not done:
            return None
        self.counts["source_tokens"] += self.offset - first_token
        payload = (np.concatenate(self.trained), tuple(self.docks))
        return RowSegment(np.concatenate(self.ids), self.offset, done, payload, self.counts)

    def _add_dock(self, segment: DocumentSegment, dock: DockInput) -> None:
        self.docks.append((self.size, dock))
        self._add_tokens(np.full(dock.positions, DOCKED_ID), False)
        self.counts["docked_positions"] += dock.positions
        self.counts["docked_tokens"] += segment.last - segment.first
        self.counts["docked_spans"] += 1
        self.offset = segment.last

    def _add_causal(self, segment: DocumentSegment) -> None:
        document = self.read_document.document
        begin = max(segment.first, self.offset)
        end = min(segment.last, begin + self.free_positions)
        if segment.dock is not None and begin == segment.first:
            self.counts["cut_spans"] += 1
        if segment.reject_reason and begin == segment.first:
            self.counts[f"{segment.reject_reason}_spans"] += 1
        if segment.trained and self.no_context and not self.size:
            self._add_tokens(document.ids[begin : begin + 1], False)
            self.counts["unpredicted_tokens"] += 1
            begin += 1
        self._add_tokens(document.ids[begin:end], segment.trained)
        if segment.trained:
            self.counts["trained_bytes"] += text_bytes(document, begin, end)
        else:
            self.counts["lowered_tokens"] += end - begin
        self.offset = end


def join_segments(sessions: list[TokenisedSession]) -> TokenisedSession:
    """Join sessions into one, in which each continues the previous one."""
    docks: list[tuple[int, DockInput]] = []
    offset = 0
    for session in sessions:
        docks.extend((offset + position, dock) for position, dock in session.docks)
        offset += len(session)
    return TokenisedSession(
        np.concatenate([session.ids for session in sessions]),
        np.concatenate([session.trained for session in sessions]),
        tuple(docks),
    )
