"""Rows: packed forests of segments.

A row is a list of segments; each has a parent (or none) and starts where its parent ends. Roots do not see each
other; a child sees its own chain of parents and itself. Training packs roots; scoring hangs the options of a question
under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.processors import DockInput
from metalm_cli.sessions.session_tokenizer import TokenisedSession

ROOT = -1
"""Parent of a segment that has none, and segment of padding."""


@dataclass(frozen=True)
class Row:
    """One packed row of a decoder (or of an encoder that trains alone).

    Args:
        ids: Token ids; 0 at docked positions. ``[n]`` int64.
        positions: Position of each within its session, counted from the root. ``[n]`` int64.
        segments: Segment of each. ``[n]`` int64.
        parents: Parent of each segment, :data:`ROOT` for roots. ``[g]`` int64.
        docks: First position and input of each dock.
        predict_at: Positions whose output predicts a trained token. ``[m]`` int64.
        targets: Those tokens. ``[m]`` int64.
        owners: Segment of each target. ``[m]`` int64.
        uniforms: A number in [0, 1) per target, for objectives that sample. ``[m]`` float32, or None.
        groups: What each segment belongs to, for losses that are told apart. ``[g]`` int64, or None.
        counts: What the row holds (``source_tokens``, ``docked_positions``, ``trained_tokens``, ...).
        numbers: Numbers of the index plan that the row reads, for messages.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    parents: np.ndarray
    docks: tuple[tuple[int, DockInput], ...]
    predict_at: np.ndarray
    targets: np.ndarray
    owners: np.ndarray
    uniforms: np.ndarray | None = None
    groups: np.ndarray | None = None
    counts: dict[str, int] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def build_row(
    sessions: Sequence[TokenisedSession],
    parents: Sequence[int] | None = None,
    *,
    groups: Sequence[int] | None = None,
    counts: dict[str, int] | None = None,
    numbers: Iterable[int] = (),
) -> Row:
    """Put sessions into one row, each as a segment.

    Args:
        sessions: At least one.
        parents: Index of each one's parent, earlier in the list, or :data:`ROOT`. Default: all roots.
        groups: What each session belongs to.
        counts: Counters to keep with the row; ``trained_tokens`` is set here.
        numbers: Index plan numbers to keep with the row.

    Returns:
        The row. A trained token is predicted by the position before it; the first of a child by its parent's last;
        the first of a root by nothing, and so it is not trained.

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
        last = None if parent == ROOT else int(offsets[parent + 1]) - 1
        chosen, before = _predicted(session, offset, last)
        predict_at.append(before)
        targets.append(session.ids[chosen])
        owners.append(np.full(len(chosen), index, dtype=np.int64))
        docks.extend((offset + at, dock) for at, dock in session.docks)
    ids = np.concatenate([session.ids for session in sessions])
    found = {**(counts or {}), "trained_tokens": sum(map(len, targets))}
    return Row(
        ids=np.where(ids < 0, 0, ids),
        positions=np.concatenate(positions),
        segments=np.concatenate(segments),
        parents=np.array(parents, dtype=np.int64),
        docks=tuple(docks),
        predict_at=np.concatenate(predict_at).astype(np.int64),
        targets=np.concatenate(targets).astype(np.int64),
        owners=np.concatenate(owners),
        groups=None if groups is None else np.array(groups, dtype=np.int64),
        counts=found,
        numbers=tuple(numbers),
    )


def _predicted(session: TokenisedSession, offset: int, last: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Trained positions of a session, and the row's positions that predict them.

    Args:
        session: The session.
        offset: Its first position in the row.
        last: The row's position before its first one: its parent's last, or None for a root.
    """
    chosen = np.flatnonzero(session.trained)
    before = offset + chosen - 1
    if len(chosen) and chosen[0] == 0:
        if last is None:
            return chosen[1:], before[1:]
        before[0] = last
    return chosen, before


def pack(sessions: Iterable[TokenisedSession], length: int) -> list[list[int]]:
    """Pack whole sessions into rows, first fit in the order given.

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
    room: list[int] = []
    for index, session in enumerate(sessions):
        need = len(session)
        if need > length:
            raise MetalmError(
                f"{session.name or 'a session'} takes {need} positions, a row has {length}",
                remedy="shorten its long text, or raise sequence_length",
            )
        fits = next((row for row, free in enumerate(room) if free >= need), None)
        if fits is None:
            rows.append([index])
            room.append(length - need)
        else:
            rows[fits].append(index)
            room[fits] -= need
    return rows


def can_attend(segments: np.ndarray, positions: np.ndarray, parents: np.ndarray, causal: bool = True) -> np.ndarray:
    """Which position sees which, straight from the definition: the reference of every mask.

    Args:
        segments: Segment of each position, :data:`ROOT` for padding. ``[n]``
        positions: Position of each within its session. ``[n]``
        parents: Parent of each segment. ``[g]``
        causal: Only what is not later; else (encoders) everything in the same segment.

    Returns:
        ``[n, n]`` bool; row: who looks, column: what is seen.
    """
    chains = []
    for segment in range(len(parents)):
        chain, at = {segment}, int(parents[segment])
        while at != ROOT:
            chain.add(at)
            at = int(parents[at])
        chains.append(chain)
    count = len(segments)
    seen = np.zeros((count, count), dtype=bool)
    for query in range(count):
        for key in range(count):
            if segments[query] == ROOT or segments[key] == ROOT:
                seen[query, key] = segments[query] == segments[key] and (key <= query or not causal)
            elif causal:
                seen[query, key] = segments[key] in chains[segments[query]] and positions[key] <= positions[query]
            else:
                seen[query, key] = segments[key] == segments[query]
    return seen
