"""Rows: sessions packed as a forest of segments.

A row is a list of segments. A segment is a root, or has a parent and starts where its parent ends. Roots do not attend
to each other; a child attends to its chain of parents and to itself. Training packs roots; scoring packs the options
of a question as its children.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.processors import DockInput
from metalm_cli.sessions.session_tokenizer import TokenisedSession

ROOT = -1
"""Parent of a root segment, and segment of padding."""


@dataclass(frozen=True)
class Row:
    """Packed row of a decoder, or of an encoder that trains alone.

    Args:
        ids: Token ids; 0 at docked positions. ``[n]`` int64.
        positions: Position of each token within its session, counted from the root. ``[n]`` int64.
        segments: Segment of each token. ``[n]`` int64.
        parents: Parent of each segment, :data:`ROOT` for roots. ``[g]`` int64.
        docks: First position and input of each dock.
        predict_at: Positions whose output predicts a trained token. ``[m]`` int64.
        targets: The trained tokens. ``[m]`` int64.
        target_segments: Segment of each target. ``[m]`` int64.
        uniforms: A random number in [0, 1) per target, for objectives that sample. ``[m]`` float32, or None.
        task_ids: Task of each segment, for losses per task. ``[g]`` int64, or None.
        source: What the encoder of an encoder–decoder reads, with the same segments; None for other models.
        counts: Counters of the row (``source_tokens``, ``docked_positions``, ``trained_tokens``, ...).
        numbers: Index plan numbers that the row contains, for messages.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    parents: np.ndarray
    docks: tuple[tuple[int, DockInput], ...]
    predict_at: np.ndarray
    targets: np.ndarray
    target_segments: np.ndarray
    uniforms: np.ndarray | None = None
    task_ids: np.ndarray | None = None
    counts: dict[str, int] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    source: Row | None = None

    def __len__(self) -> int:
        """Positions of the row, with those of its source."""
        return len(self.ids) + (0 if self.source is None else len(self.source.ids))


def build_row(
    sessions: Sequence[TokenisedSession],
    parents: Sequence[int] | None = None,
    *,
    task_ids: Sequence[int] | None = None,
    counts: dict[str, int] | None = None,
    numbers: Iterable[int] = (),
) -> Row:
    """Build a row of sessions, each as a segment.

    Args:
        sessions: One or more sessions.
        parents: Index of each session's parent, earlier in the list, or :data:`ROOT`. Default: all are roots.
        task_ids: Task of each session.
        counts: Counters to store in the row; ``trained_tokens`` is added.
        numbers: Index plan numbers to store in the row.

    Returns:
        The row. A trained token is predicted by the position before it, the first token of a child by the last
        position of its parent. The first token of a root has no such position and is not trained.

    Example, two roots and a child of the first (``t`` marks trained tokens)::

        sessions    [5 6t 7t]  [8 9t]  [4t 3t] (parent 0)
        ids          5 6 7      8 9     4 3
        positions    0 1 2      0 1     3 4
        segments     0 0 0      1 1     2 2
        predict_at   0 1        3       2 5
        targets      6 7        9       4 3

        >>> def session(*ids):
        ...     return TokenisedSession(np.array(ids), np.array([False] + [True] * (len(ids) - 1)))
        >>> child = TokenisedSession(np.array([4, 3]), np.array([True, True]))
        >>> row = build_row([session(5, 6, 7), session(8, 9), child], [-1, -1, 0])
        >>> row.positions.tolist(), row.predict_at.tolist(), row.targets.tolist()
        ([0, 1, 2, 0, 1, 3, 4], [0, 1, 3, 2, 5], [6, 7, 9, 4, 3])
    """
    parents = [ROOT] * len(sessions) if parents is None else parents
    offsets = np.cumsum([0, *map(len, sessions)])
    starts = np.zeros(len(sessions), dtype=np.int64)
    positions, segments, predict_at, targets, owners = [], [], [], [], []
    docks: list[tuple[int, DockInput]] = []
    for index, (session, parent) in enumerate(zip(sessions, parents, strict=True)):
        offset = int(offsets[index])
        if parent != ROOT:
            starts[index] = starts[parent] + len(sessions[parent])
        positions.append(starts[index] + np.arange(len(session)))
        segments.append(np.full(len(session), index, dtype=np.int64))
        parent_end = None if parent == ROOT else int(offsets[parent + 1]) - 1
        trained_positions, predicting_positions = _trained_targets(session, offset, parent_end)
        predict_at.append(predicting_positions)
        targets.append(session.ids[trained_positions])
        owners.append(np.full(len(trained_positions), index, dtype=np.int64))
        docks.extend((offset + start, dock) for start, dock in session.docks)
    ids = np.concatenate([session.ids for session in sessions])
    row_counts = {**(counts or {}), "trained_tokens": sum(map(len, targets))}
    return Row(
        ids=np.where(ids < 0, 0, ids),
        positions=np.concatenate(positions),
        segments=np.concatenate(segments),
        parents=np.array(parents, dtype=np.int64),
        docks=tuple(docks),
        predict_at=np.concatenate(predict_at).astype(np.int64),
        targets=np.concatenate(targets).astype(np.int64),
        target_segments=np.concatenate(owners),
        task_ids=None if task_ids is None else np.array(task_ids, dtype=np.int64),
        counts=row_counts,
        numbers=tuple(numbers),
    )


def _trained_targets(session: TokenisedSession, offset: int, parent_end: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the trained positions of a session, and the row's positions that predict them.

    Args:
        session: The session.
        offset: Its first position in the row.
        parent_end: Last position of its parent in the row, or None for a root.
    """
    trained_positions = np.flatnonzero(session.trained)
    predicting_positions = offset + trained_positions - 1
    if len(trained_positions) and trained_positions[0] == 0:
        if parent_end is None:
            return trained_positions[1:], predicting_positions[1:]
        predicting_positions[0] = parent_end
    return trained_positions, predicting_positions


def pack(sessions: Iterable[TokenisedSession], length: int) -> list[list[int]]:
    """Pack whole sessions into rows, first fit in their order.

    Args:
        sessions: The sessions.
        length: Positions of a row.

    Returns:
        For each row the indices of its sessions.

    Raises:
        MetalmError: A session is longer than a row.

    Example:
        >>> def session(n):
        ...     return TokenisedSession(np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool))
        >>> pack([session(5), session(4), session(3), session(2)], length=8)
        [[0, 2], [1, 3]]
    """
    rows: list[list[int]] = []
    free_positions: list[int] = []
    for index, session in enumerate(sessions):
        size = len(session)
        if size > length:
            raise MetalmError(
                f"{session.name or 'a session'} needs {size} positions, but a row has only {length}",
                remedy="shorten its long text, or raise sequence_length",
            )
        row_index = next((row for row, free in enumerate(free_positions) if free >= size), None)
        if row_index is None:
            rows.append([index])
            free_positions.append(length - size)
        else:
            rows[row_index].append(index)
            free_positions[row_index] -= size
    return rows


def can_attend(segments: np.ndarray, positions: np.ndarray, parents: np.ndarray, causal: bool = True) -> np.ndarray:
    """Return the attention mask of a row, directly from the definition: the reference of all other masks.

    Args:
        segments: Segment of each position, :data:`ROOT` for padding. ``[n]``
        positions: Position of each within its session. ``[n]``
        parents: Parent of each segment. ``[g]``
        causal: Attend to positions that are not later; otherwise (encoders) to all positions of the same segment.

    Returns:
        ``[n, n]`` bool; queries in rows, keys in columns.
    """
    chains = []
    for segment in range(len(parents)):
        chain, ancestor = {segment}, int(parents[segment])
        while ancestor != ROOT:
            chain.add(ancestor)
            ancestor = int(parents[ancestor])
        chains.append(chain)
    count = len(segments)
    visible = np.zeros((count, count), dtype=bool)
    for query in range(count):
        for key in range(count):
            if segments[query] == ROOT or segments[key] == ROOT:
                visible[query, key] = segments[query] == segments[key] and (key <= query or not causal)
            elif causal:
                visible[query, key] = segments[key] in chains[segments[query]] and positions[key] <= positions[query]
            else:
                visible[query, key] = segments[key] == segments[query]
    return visible
