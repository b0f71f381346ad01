"""Pack examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metalm_cli.data.sampling.lanes import SlotState
from metalm_cli.data.sampling.loader import StepRows
from metalm_cli.data.sampling.micro_batching import cheapest_split
from metalm_cli.sessions import Row, TokenisedSession, build_row

TRAINED = "trained_of."
"""Begins the counters of trained tokens by index of the task: losses are divided by them, known on the host."""


@dataclass(frozen=True)
class TaskSession:
    """A session ready to be packed.

    Args:
        session: It.
        task: Index of its task.
        counts: Counters.
        number: Of the index plan.
    """

    session: TokenisedSession
    task: int
    counts: dict[str, int]
    number: int


@dataclass(frozen=True)
class RowPacking:
    """How the sessions of a step become rows.

    Args:
        pack: Several sessions a row, isolated; else one each, in the order of their lengths.
        length: Decoder positions of a packed row.
        encoder_tokens: Most encoder tokens of a packed row.
        snug: Packed rows are shorter where that costs less on a CPU: as long as one of the step's sessions, and
            longer sessions stand alone.
    """

    pack: bool
    length: int
    encoder_tokens: int | None = None
    snug: bool = False

    def rows(self, sessions: Sequence[TaskSession]) -> list[Row]:
        """The rows of a step's sessions, the longest first."""
        ordered = sorted(sessions, key=lambda one: (-len(one.session), one.number))
        if not self.pack:
            groups = [[one] for one in ordered]
        elif self.snug and ordered:
            lengths = {len(ordered[at].session) for at in (0, 1, 2, 4, 8, 16, 32, 64) if at < len(ordered)}
            groups = min((self._packed(ordered, length) for length in sorted(lengths)), key=_cost)
        else:
            groups = self._packed(ordered, self.length)
        return [pack_sessions(group) for group in groups]

    def _packed(self, ordered: Sequence[TaskSession], length: int) -> list[list[TaskSession]]:
        """First fit, the longest first; bounded in decoder positions and in encoder tokens."""
        rows: list[list[TaskSession]] = []
        room: list[list[float]] = []
        for one in ordered:
            need = (len(one.session), encoder_positions(one.session))
            at = next((at for at, (free, left) in enumerate(room) if free >= need[0] and left >= need[1]), None)
            if at is None:
                rows.append([])
                room.append(
                    [max(length, need[0]), float("inf") if self.encoder_tokens is None else self.encoder_tokens]
                )
                at = len(rows) - 1
            rows[at].append(one)
            room[at][0] -= need[0]
            room[at][1] -= need[1]
        return rows

    def join(self, made: Sequence[tuple[int, TaskSession, SlotState]]) -> StepRows:
        """One step's rows of a process, from the sessions of its lanes."""
        return StepRows(self.rows([one for _, one, _ in made]), {lane: state for lane, _, state in made})


def _cost(groups: Sequence[Sequence[TaskSession]]) -> float:
    """What rows of these sessions cost on a CPU."""
    return cheapest_split([sum(len(one.session) for one in group) for group in groups])[0]


def encoder_positions(session: TokenisedSession) -> int:
    """Encoder positions that a session's docks take."""
    return sum(sum(dock.cost.values()) for _, dock in session.docks)


def pack_sessions(sessions: Sequence[TaskSession]) -> Row:
    """A row of isolated sessions."""
    counts: Counter[str] = Counter(sessions=len(sessions))
    for one in sessions:
        counts.update(one.counts)
        counts[TRAINED + str(one.task)] += int(one.session.trained[1:].sum())
    row = build_row(
        [one.session for one in sessions],
        groups=[one.task for one in sessions],
        counts=dict(counts),
        numbers=[one.number for one in sessions],
    )
    return replace(row, counts={**row.counts, "positions": len(row)})
