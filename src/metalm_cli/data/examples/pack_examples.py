"""Packing the sessions of a step into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metalm_cli.data.sampling.loader import SlotResult, StepRows
from metalm_cli.data.sampling.micro_batching import cheapest_split
from metalm_cli.sessions import DECODER_ROWS, PairFormat, Row, RowFormat, TokenisedSession


@dataclass(frozen=True)
class TaskSession:
    """A tokenised session of an example, ready to be packed.

    Args:
        tokenised: The tokenised session.
        task: Index of its task.
        counts: Counters.
        number: Number in the index plan.
    """

    tokenised: TokenisedSession
    task: int
    counts: dict[str, int]
    number: int


@dataclass(frozen=True)
class RowPacking:
    """Packing of a step's sessions into rows.

    Args:
        pack: Pack several isolated sessions into a row; otherwise one per row, in the order of their lengths.
        length: Decoder positions of a packed row.
        max_encoder_tokens: Maximum encoder tokens of a packed row.
        shorten_rows: Shorten packed rows if that costs less on a CPU: to the length of one of the step's sessions;
            longer sessions get rows of their own.
        row_format: How sessions become rows.
        one_row: Pack all sessions of a step into one row, within the limit of encoder tokens: the model computes the
            sessions of a row apart, so that one pass without padding costs least.
    """

    pack: bool
    length: int
    max_encoder_tokens: int | None = None
    shorten_rows: bool = False
    row_format: RowFormat | PairFormat = DECODER_ROWS
    one_row: bool = False

    def rows(self, sessions: Sequence[TaskSession]) -> list[Row]:
        """The rows of a step's sessions, the longest first."""
        ordered = sorted(sessions, key=lambda session: (-len(session.tokenised), session.number))
        if not self.pack:
            groups = [[session] for session in ordered]
        elif self.one_row:
            groups = self._first_fit(ordered, sum(len(session.tokenised) for session in ordered))
        elif self.shorten_rows and ordered:
            lengths = {len(ordered[index].tokenised) for index in (0, 1, 2, 4, 8, 16, 32, 64) if index < len(ordered)}
            groups = min((self._first_fit(ordered, length) for length in sorted(lengths)), key=_row_cost)
        else:
            groups = self._first_fit(ordered, self.length)
        return [pack_sessions(group, self.row_format) for group in groups]

    def _first_fit(self, ordered: Sequence[TaskSession], length: int) -> list[list[TaskSession]]:
        """First-fit packing, the longest first, within the limits of decoder positions and encoder tokens."""
        rows: list[list[TaskSession]] = []
        free_space: list[list[float]] = []
        for session in ordered:
            needed = (len(session.tokenised), encoder_positions(session.tokenised))
            row_index = next(
                (
                    index
                    for index, (positions_left, tokens_left) in enumerate(free_space)
                    if positions_left >= needed[0] and tokens_left >= needed[1]
                ),
                None,
            )
            if row_index is None:
                rows.append([])
                free_space.append(
                    [
                        max(length, needed[0]),
                        float("inf") if self.max_encoder_tokens is None else self.max_encoder_tokens,
                    ]
                )
                row_index = len(rows) - 1
            rows[row_index].append(session)
            free_space[row_index][0] -= needed[0]
            free_space[row_index][1] -= needed[1]
        return rows

    def join(self, results: SlotResult) -> StepRows:
        """This process's rows of a step, from the sessions of its slots."""
        return StepRows(self.rows([session for _, session, _ in results]), {})


def _row_cost(groups: Sequence[Sequence[TaskSession]]) -> float:
    """Cost on a CPU of the rows of these sessions."""
    return cheapest_split([sum(len(session.tokenised) for session in group) for group in groups])[0]


def encoder_positions(session: TokenisedSession) -> int:
    """Encoder positions of a session's docks."""
    return sum(sum(dock.cost.values()) for _, dock in session.docks)


def pack_sessions(sessions: Sequence[TaskSession], row_format: RowFormat | PairFormat = DECODER_ROWS) -> Row:
    """Pack sessions into a row, isolated from each other."""
    counts: Counter[str] = Counter(sessions=len(sessions))
    for session in sessions:
        counts.update(session.counts)
    row = row_format.row(
        [session.tokenised for session in sessions],
        task_ids=[session.task for session in sessions],
        counts=dict(counts),
        numbers=[session.number for session in sessions],
    )
    return replace(row, counts={**row.counts, "positions": len(row)})
