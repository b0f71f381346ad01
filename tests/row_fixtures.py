"""What tests of rows share: a shelf of documents by number, comparing rows, reading rows back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from metalm_cli.data.documents.session_rows import DocumentSegment, SessionWriter
from metalm_cli.data.sampling.lanes import RowSlot, SlotState
from metalm_cli.sessions import ROOT, Row


@dataclass(frozen=True)
class Text:
    text: str


@dataclass
class Shelf:
    """Documents by number, again and again from the first; None is a number that holds none."""

    documents: Sequence[str | None]
    asked: list[int] = field(default_factory=list)
    reason: str = "empty"

    def get(self, number: int) -> Text | None:
        self.asked.append(number)
        text = self.documents[number % len(self.documents)]
        return None if text is None else Text(text)


def same_rows(left: Iterable[Row], right: Iterable[Row]) -> None:
    for one, two in zip(left, right, strict=True):
        for part in fields(Row):
            a, b = getattr(one, part.name), getattr(two, part.name)
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype
                assert a.tolist() == b.tolist(), part.name
            elif part.name == "docks":
                assert [(at, dock.key) for at, dock in a] == [(at, dock.key) for at, dock in b]
            else:
                assert a == b, part.name


def lane_rows(lane: RowSlot, count: int) -> tuple[list[Row], list[SlotState]]:
    """Rows, and the state before each."""
    rows, states = [], []
    for _ in range(count):
        states.append(lane.state)
        rows.append(lane.next_row())
    return rows, states


class ReadBack:
    """Follows rows of a session writer through the documents that they were made of, position by position.

    Every position has to be the next thing of its document: a start token where one belongs, a dock, a token, or the
    end token. What is found on the way is counted.

    Attributes:
        finished: Numbers of the documents read to their end token.
        trained: Document tokens trained, and those docked or lowered, by number.
    """

    def __init__(self, writer: SessionWriter, shelf: Shelf) -> None:
        self.writer, self.shelf = writer, shelf
        self.at: dict[int, int] = {}
        self.finished: list[int] = []
        self.covered: dict[int, list[str]] = {}

    def rows(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        assert len(row) <= self.writer.length
        assert (row.parents == ROOT).all()
        trained = set((row.predict_at + 1).tolist())
        assert [row.ids[at] for at in sorted(trained)] == row.targets.tolist()
        docks = dict(row.docks)
        counts: Counter[str] = Counter(trained_tokens=len(trained))
        position = 0
        for index, number in enumerate(row.numbers):
            begin = position
            position = self._piece(row, position, index, number, docks, trained, counts)
            segments = set(row.segments[begin:position].tolist())
            assert segments == {index if self.writer.isolate else 0}
            expected = range(position - begin) if self.writer.isolate else range(begin, position)
            assert row.positions[begin:position].tolist() == list(expected)
        assert position == len(row)
        assert not docks
        assert not trained
        assert {k: v for k, v in row.counts.items() if v} == {k: v for k, v in counts.items() if v}

    def _piece(self, row, position, index, number, docks, trained, counts) -> int:
        tokenizer = self.writer.tokenizer
        read = self.writer.read(self.shelf.get(number).text, number)
        document, begin = read.document, position
        at = self.at.get(number, 0)
        marks = self.covered.setdefault(number, [])
        units = {unit.first: unit for unit in read.units}
        begins = self.writer.isolate or index == 0
        if begins and self._starts(position, at, read.units, docks):
            assert row.ids[position] == tokenizer.start_id
            assert position not in trained
            counts["special_tokens"] += 1
            position += 1
        unit = next((one for one in read.units if one.first <= at < one.last), None)
        first = at
        while position < len(row):
            if self.writer.isolate and row.segments[position] != row.segments[begin]:
                break
            if at == len(document):
                assert row.ids[position] == tokenizer.document_id
                assert position in trained or position == begin
                trained.discard(position)
                counts["special_tokens"] += 1
                counts["documents"] += 1
                self.finished.append(number)
                position += 1
                break
            unit = units.get(at, unit)
            assert unit is not None
            if position in docks:
                dock = docks.pop(position)
                assert unit.first == at
                assert unit.dock is not None
                assert dock.key == unit.dock.key
                assert not trained & set(range(position, position + dock.positions))
                # What the dock predicts is in the same row, and in the same session.
                assert position + dock.positions < len(row)
                assert row.segments[position + dock.positions] == row.segments[position]
                counts.update(docked_positions=dock.positions, docked_spans=1, docked_tokens=unit.last - unit.first)
                marks += ["docked"] * (unit.last - unit.first)
                position, at = position + dock.positions, unit.last
                continue
            assert row.ids[position] == document.ids[at]
            if unit.dock is not None and at == unit.first:
                assert position + unit.dock.positions + 1 > self.writer.length
            self._causal(unit, at, position in trained, begins and position == begin, counts, marks)
            trained.discard(position)
            position, at = position + 1, at + 1
        if at == len(document) and number not in self.finished and self.writer.isolate:
            assert position == self.writer.length  # an end token would have been one too many
            counts["cut_ends"] += 1
            counts["documents"] += 1
            self.finished.append(number)
        if first == 0 and number not in self.finished:
            counts["split_documents"] += 1
        counts["source_tokens"] += at - first
        counts["trained_bytes"] += _bytes(document, first, marks[first:at])
        self.at[number] = at
        return position

    def _starts(self, position: int, at: int, units: tuple[DocumentSegment, ...], docks: dict) -> bool:
        """Whether a start token stands here, from the contract alone."""
        rule, adds = self.writer.tokenizer.rules.start, self.writer.tokenizer.adds_start
        unit = next((one for one in units if one.first <= at < one.last), None)
        if rule != "auto":
            return rule == "always"
        return adds or (position not in docks and (unit is None or unit.trained))

    def _causal(
        self, unit: DocumentSegment, at: int, is_trained: bool, first: bool, counts: Counter, marks: list[str]
    ) -> None:
        if at == unit.first:
            counts["cut_spans"] += unit.dock is not None
            if unit.refused:
                counts[f"{unit.refused}_spans"] += 1
        if unit.trained and first:  # nothing stands before it
            assert not is_trained
            assert self.writer.tokenizer.rules.start == "never"
            counts["unpredicted_tokens"] += 1
            marks.append("unpredicted")
        elif unit.trained:
            assert is_trained
            marks.append("trained")
        else:
            assert not is_trained
            counts["lowered_tokens"] += 1
            marks.append("lowered")


def _bytes(document, first: int, marks: list[str]) -> int:
    """UTF-8 bytes of the trained tokens, token by token."""
    return sum(
        len(document.slice(first + at, first + at + 1).encode()) for at, mark in enumerate(marks) if mark == "trained"
    )
