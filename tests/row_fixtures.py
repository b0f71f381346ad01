"""Fixtures for tests of rows: documents by number, comparison of rows, and checks of rows against documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from metalm_cli.data.documents.session_rows import DocumentSegment, SessionWriter
from metalm_cli.data.sampling.row_slots import RowSlot, SlotState
from metalm_cli.sessions import ROOT, Row


@dataclass(frozen=True)
class Text:
    text: str


@dataclass
class Shelf:
    """Documents by number, repeated without end."""

    documents: Sequence[str]
    requested_numbers: list[int] = field(default_factory=list)

    def get(self, number: int) -> Text:
        self.requested_numbers.append(number)
        return Text(self.documents[number % len(self.documents)])


def assert_same_rows(left: Iterable[Row], right: Iterable[Row]) -> None:
    for row, other in zip(left, right, strict=True):
        for row_field in fields(Row):
            value, other_value = getattr(row, row_field.name), getattr(other, row_field.name)
            if isinstance(value, np.ndarray):
                assert value.dtype == other_value.dtype
                assert value.tolist() == other_value.tolist(), row_field.name
            elif row_field.name == "docks":
                assert [(position, dock.key) for position, dock in value] == [
                    (position, dock.key) for position, dock in other_value
                ]
            else:
                assert value == other_value, row_field.name


def rows_of_slot(slot: RowSlot, count: int) -> tuple[list[Row], list[SlotState]]:
    """Rows of a slot, and its state before each."""
    rows, states = [], []
    for _ in range(count):
        states.append(slot.state)
        rows.append(slot.next_row())
    return rows, states


class RowChecker:
    """Checks rows of a session writer against the documents that they were made of, position by position.

    Every position must be the next item of its document: a start token where the rules require one, a dock, a token,
    or the end token. The items are counted.

    Attributes:
        offsets: Document tokens used, by number.
        finished: Numbers of the documents read to their end token.
        covered: Marks of the document tokens (trained, docked, lowered, unpredicted), by number.
    """

    def __init__(self, writer: SessionWriter, shelf: Shelf) -> None:
        self.writer, self.shelf = writer, shelf
        self.offsets: dict[int, int] = {}
        self.finished: list[int] = []
        self.covered: dict[int, list[str]] = {}

    def check_rows(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.check_row(row)

    def check_row(self, row: Row) -> None:
        assert len(row) <= self.writer.length
        assert (row.parents == ROOT).all()
        trained = set((row.predict_at + 1).tolist())
        assert [row.ids[trained_position] for trained_position in sorted(trained)] == row.targets.tolist()
        docks = dict(row.docks)
        counts: Counter[str] = Counter(trained_tokens=len(trained))
        position = 0
        for index, number in enumerate(row.numbers):
            begin = position
            position = self._check_segment(row, position, index, number, docks, trained, counts)
            segments = set(row.segments[begin:position].tolist())
            assert segments == {index if self.writer.isolate else 0}
            expected = range(position - begin) if self.writer.isolate else range(begin, position)
            assert row.positions[begin:position].tolist() == list(expected)
        assert position == len(row)
        assert not docks
        assert not trained
        assert {k: v for k, v in row.counts.items() if v} == {k: v for k, v in counts.items() if v}

    def _check_segment(self, row, position, index, number, docks, trained, counts) -> int:
        tokenizer = self.writer.tokenizer
        read = self.writer.read(self.shelf.get(number).text, number)
        document, begin = read.document, position
        offset = self.offsets.get(number, 0)
        marks = self.covered.setdefault(number, [])
        segments = {segment.first: segment for segment in read.segments}
        begins = self.writer.isolate or index == 0
        if begins and self._expects_start_token(position, offset, read.segments, docks):
            assert row.ids[position] == tokenizer.start_id
            assert position not in trained
            counts["special_tokens"] += 1
            position += 1
        segment = next((candidate for candidate in read.segments if candidate.first <= offset < candidate.last), None)
        first = offset
        while position < len(row):
            if self.writer.isolate and row.segments[position] != row.segments[begin]:
                break
            if offset == len(document):
                assert row.ids[position] == tokenizer.document_end_id
                assert position in trained or position == begin
                trained.discard(position)
                counts["special_tokens"] += 1
                counts["documents"] += 1
                self.finished.append(number)
                position += 1
                break
            segment = segments.get(offset, segment)
            assert segment is not None
            if position in docks:
                dock = docks.pop(position)
                assert segment.first == offset
                assert segment.dock is not None
                assert dock.key == segment.dock.key
                assert not trained & set(range(position, position + dock.positions))
                # The token that the dock predicts is in the same row and in the same session.
                assert position + dock.positions < len(row)
                assert row.segments[position + dock.positions] == row.segments[position]
                counts.update(
                    docked_positions=dock.positions, docked_spans=1, docked_tokens=segment.last - segment.first
                )
                marks += ["docked"] * (segment.last - segment.first)
                position, offset = position + dock.positions, segment.last
                continue
            assert row.ids[position] == document.ids[offset]
            if segment.dock is not None and offset == segment.first:
                assert position + segment.dock.positions + 1 > self.writer.length
            self._check_causal(segment, offset, position in trained, begins and position == begin, counts, marks)
            trained.discard(position)
            position, offset = position + 1, offset + 1
        if offset == len(document) and number not in self.finished and self.writer.isolate:
            assert position == self.writer.length  # the end token does not fit
            counts["cut_ends"] += 1
            counts["documents"] += 1
            self.finished.append(number)
        if first == 0 and number not in self.finished:
            counts["split_documents"] += 1
        counts["source_tokens"] += offset - first
        counts["trained_bytes"] += _trained_bytes(document, first, marks[first:offset])
        self.offsets[number] = offset
        return position

    def _expects_start_token(
        self, position: int, offset: int, segments: tuple[DocumentSegment, ...], docks: dict
    ) -> bool:
        """Whether the token rules require a start token here."""
        rule, adds = self.writer.tokenizer.rules.start, self.writer.tokenizer.adds_start_token
        segment = next((candidate for candidate in segments if candidate.first <= offset < candidate.last), None)
        if rule != "auto":
            return rule == "always"
        return adds or (position not in docks and (segment is None or segment.trained))

    def _check_causal(
        self, segment: DocumentSegment, offset: int, is_trained: bool, first: bool, counts: Counter, marks: list[str]
    ) -> None:
        if offset == segment.first:
            counts["cut_spans"] += segment.dock is not None
            if segment.reject_reason:
                counts[f"{segment.reject_reason}_spans"] += 1
        if segment.trained and first:  # it has no context
            assert not is_trained
            assert self.writer.tokenizer.rules.start == "never"
            counts["unpredicted_tokens"] += 1
            marks.append("unpredicted")
        elif segment.trained:
            assert is_trained
            marks.append("trained")
        else:
            assert not is_trained
            counts["lowered_tokens"] += 1
            marks.append("lowered")


def _trained_bytes(document, first: int, marks: list[str]) -> int:
    """UTF-8 bytes of the trained tokens, token by token."""
    return sum(
        len(document.slice(first + index, first + index + 1).encode())
        for index, mark in enumerate(marks)
        if mark == "trained"
    )
