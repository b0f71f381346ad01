"""Sessions with their docks read as text, for a teacher: the decoder's own tokens take the place of each dock.

All other tokens stay as they are, so that each token that is trained after a dock has one position in the student's
rows and one in the teacher's. Example, a dock of 2 positions whose text has 3 tokens, and 2 trained tokens::

    student     D D  5t 6t          targets 5 6, predicted at 1 2
    teacher     7 8 9  5t 6t        targets 5 6, predicted at 2 3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metalm_cli.sessions.batch import PackedTokens, TeacherTokens, collate
from metalm_cli.sessions.packing import Row, build_row
from metalm_cli.sessions.pairs import RowFormat
from metalm_cli.sessions.session_tokenizer import TokenisedSession

if TYPE_CHECKING:
    from metalm_cli.sessions.processors import DockInput


class ReadSegment(NamedTuple):
    """A segment of a row with its docks read as text.

    Args:
        session: The segment, with the targets that follow a dock as its trained tokens.
        targets: Index of each of these targets among those of the row. ``[k]``
    """

    session: TokenisedSession
    targets: np.ndarray


@dataclass(frozen=True)
class TaughtRows(RowFormat):
    """Rows of a decoder that are taught by the same decoder reading the docks as text.

    Rows have three further counters: ``distilled_tokens`` are the targets with a teacher, ``teacher_positions`` are
    what it reads, and ``untaught_sessions`` are sessions with docks that it cannot read: their text is longer than the
    decoder reads, or a dock is not a text.

    Args:
        max_length: Maximum positions of the decoder; None: no limit.
        skipped_tasks: Tasks whose sessions have no teacher, and are not counted.
    """

    max_length: int | None = None
    skipped_tasks: tuple[int, ...] = ()

    def row(self, sessions: Sequence[TokenisedSession], **options: Any) -> Row:  # type: ignore[override]
        """Build a row (:func:`~.packing.build_row`) with the counters of its teacher."""
        return self.counted(build_row(sessions, **options))

    def counted(self, row: Row) -> Row:
        """Return a row with the counters of its teacher."""
        readings = list(self.read_as_text(row))
        taught = [reading for reading in readings if reading is not None]
        counts = {
            "distilled_tokens": sum(len(reading.targets) for reading in taught),
            "teacher_positions": sum(len(reading.session) for reading in taught),
            "untaught_sessions": len(readings) - len(taught),
        }
        return replace(row, counts={**row.counts, **counts})

    def read_as_text(self, row: Row) -> Iterator[ReadSegment | None]:
        """Read the segments of a row that have targets after a dock; None for each that cannot be read as text."""
        starts = np.searchsorted(row.segments, np.arange(len(row.parents) + 1))
        for segment in range(len(row.parents)):
            first, last = int(starts[segment]), int(starts[segment + 1])
            docks = [(position, dock) for position, dock in row.docks if first <= position < last]
            if not docks or (row.task_ids is not None and row.task_ids[segment] in self.skipped_tasks):
                continue
            after_dock = row.predict_at >= docks[0][0] + docks[0][1].positions - 1
            targets = np.flatnonzero((row.target_segments == segment) & after_dock)
            if not len(targets):
                continue
            length = _text_length(last - first, docks)
            if length is None or (self.max_length is not None and length > self.max_length):
                yield None
            else:
                yield _read_segment(row, first, last, docks, targets)

    def teacher_tokens(
        self, rows: Sequence[Row], *, packs: bool, pass_positions: int | None, pad_id: int = 0
    ) -> TeacherTokens:
        """Read the docks of a batch as text, in rows of their own.

        Args:
            rows: Rows of the batch, in its order.
            packs: Pack several sessions into a row, in their order, up to the length of the student's rows and the
                decoder's positions.
            pass_positions: Maximum positions of a forward pass, padding included; a longer session is a pass of its
                own. None: a single pass, also if there is nothing to read.
            pad_id: Token at padded positions.
        """
        sessions: list[TokenisedSession] = []
        indices: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        offset = 0
        for row in rows:
            for reading in filter(None, self.read_as_text(row)):
                sessions.append(reading.session)
                indices.append(offset + reading.targets)
            offset += len(row.targets)
        if not sessions and pass_positions is None:
            sessions.append(TokenisedSession(np.array([pad_id]), np.array([False])))
        # Not above the decoder's positions, because positions continue in the padding of a row.
        limits = [max(len(row.ids) for row in rows), pass_positions, self.max_length]
        length = min(limit for limit in limits if limit is not None)
        text_rows = [build_row(group) for group in _in_order(sessions, length if packs else 0)]
        return TeacherTokens(_passes(text_rows, pass_positions, pad_id), _as_tensor(np.concatenate(indices)))


def _text_length(positions: int, docks: Sequence[tuple[int, DockInput]]) -> int | None:
    """Return the positions of a segment as text; None if a dock has no text."""
    for _, dock in docks:
        if dock.text_ids is None:
            return None
        positions += len(dock.text_ids) - dock.positions
    return positions


def _read_segment(
    row: Row, first: int, last: int, docks: Sequence[tuple[int, DockInput]], targets: np.ndarray
) -> ReadSegment:
    pieces, position = [], first
    moved = np.arange(last - first)  # position of each token in the session as text
    for start, dock in docks:
        assert dock.text_ids is not None
        pieces += [row.ids[position:start], dock.text_ids]
        position = start + dock.positions
        moved[position - first :] += len(dock.text_ids) - dock.positions
    pieces.append(row.ids[position:last])
    ids = np.concatenate(pieces)
    trained = np.zeros(len(ids), dtype=bool)
    trained[moved[row.predict_at[targets] + 1 - first]] = True
    assert np.array_equal(ids[trained], row.targets[targets]), "student and teacher predict the same tokens"
    return ReadSegment(TokenisedSession(ids, trained), targets)


def _in_order(sessions: Sequence[TokenisedSession], length: int) -> list[list[TokenisedSession]]:
    """Fill rows of a length with sessions in their order; at least one in each row."""
    groups: list[list[TokenisedSession]] = []
    free = 0
    for session in sessions:
        if groups and len(session) <= free:
            groups[-1].append(session)
        else:
            groups.append([session])
            free = length
        free -= len(session)
    return groups


def _passes(rows: Sequence[Row], pass_positions: int | None, pad_id: int) -> list[PackedTokens]:
    passes: list[list[Row]] = []
    for row in rows:
        width = max(map(len, [*passes[-1], row])) if passes else 0
        if passes and (pass_positions is None or width * (len(passes[-1]) + 1) <= pass_positions):
            passes[-1].append(row)
        else:
            passes.append([row])
    return [collate(group, {}, pad_id=pad_id).decoder for group in passes]


def _as_tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values.astype(np.int64))
