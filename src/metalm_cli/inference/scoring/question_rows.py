"""Questions as rows: what is read once, and the options that hang under it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import TokenisedSession, build_row
from metalm_cli.sessions.packing import ROOT, Row


@dataclass(frozen=True)
class OptionQuestion:
    """What is read, and the options to go on with.

    Args:
        prefix: What is read; nothing in it is scored.
        options: Token ids of each option; one without tokens has log-probability 0. ``[o]`` int64 each.
        before: What stands in front of the prefix, for many questions the same.
        name: What errors call it; default the prefix's name.
    """

    prefix: TokenisedSession
    options: tuple[np.ndarray, ...]
    before: TokenisedSession | None = None
    name: str = ""


@dataclass(frozen=True)
class ScoringRow:
    """A row: a question with the heads of its options (all tokens but the last), or with one of them.

    Args:
        row: What is read.
        predict: Position in the row that predicts, of each target. ``[m]``
        targets: Tokens. ``[m]``
        owners: Number of the option, over all questions. ``[m]``
        before: Key of what stands in front, in a cache; None for nothing.
        length: Positions of the longest path, with what stands in front.
    """

    row: Row
    predict: np.ndarray
    targets: np.ndarray
    owners: np.ndarray
    before: str | None
    length: int


def join_sessions(first: TokenisedSession, second: TokenisedSession) -> TokenisedSession:
    """Two sessions in one."""
    docks = (*first.docks, *((at + len(first), dock) for at, dock in second.docks))
    ids, trained = np.concatenate([first.ids, second.ids]), np.concatenate([first.trained, second.trained])
    return TokenisedSession(ids, trained, docks, second.name or first.name)


def pack_questions(
    question: OptionQuestion,
    first: int,
    fronts: dict[str, TokenisedSession],
    most: int | None,
    *,
    share: bool,
    cached: bool,
) -> Iterator[ScoringRow]:
    """The rows of a question; none where no option has tokens.

    Args:
        question: The question.
        first: Number of its first option, over all questions.
        fronts: Takes what stands in front and is to be cached, by key.
        most: Positions of the decoder.
        share: All options in one row, else one of them in each (options that differ in their last token alone are
            one).
        cached: What stands in front is kept in a cache; else it is part of the row.

    Raises:
        MetalmError: Nothing stands before the options, or the question does not fit.
    """
    prefix, before = question.prefix, question.before
    key: str | None = None
    if before is not None and len(before):
        if cached and len(prefix):
            key = session_digest(before)
            fronts[key] = before
        else:
            prefix = join_sessions(before, prefix)
    full = [(first + at, option) for at, option in enumerate(question.options) if len(option)]
    if not full:
        return
    name = question.name or question.prefix.name or "a question"
    if not len(prefix):
        raise MetalmError(
            f"nothing stands before the options of {name}",
            why="nothing predicts their first token",
            remedy="give it a start token, or a text",
        )
    front = 0 if key is None or before is None else len(before)
    heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for number, option in full:
        heads.setdefault(tuple(option[:-1].tolist()), []).append((number, option))
    longest = front + len(prefix) + max(map(len, heads))
    if most is not None and longest > most:
        raise MetalmError(
            f"{name} takes {longest + 1} positions with its longest option, the decoder has {most}",
            remedy="shorten it, give fewer demonstrations, or use a model with more positions",
        )
    parts = [heads] if share else [{head: found} for head, found in heads.items()]
    for part in parts:
        yield _row(prefix, part, key, front, share)


def _row(
    prefix: TokenisedSession,
    heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]],
    key: str | None,
    front: int,
    share: bool,
) -> ScoringRow:
    """A row: the question, and the heads of its options under it."""
    segments, parents, begins = [prefix], [ROOT], {}
    offset = len(prefix)
    for head in heads:
        if head:
            begins[head] = offset
            offset += len(head)
            segments.append(TokenisedSession(np.array(head, dtype=np.int64), np.zeros(len(head), dtype=bool)))
            parents.append(0)
    if not share and len(segments) == 2:  # a row without a mask: the question and one option in one segment
        segments, parents = [join_sessions(*segments)], [ROOT]
    row = build_row([replace(one, trained=np.zeros(len(one), dtype=bool)) for one in segments], parents)
    predict, targets, owners = [], [], []
    for head, options in heads.items():
        places = np.concatenate([[len(prefix) - 1], begins.get(head, 0) + np.arange(len(head))])
        for number, option in options:
            predict.append(places)
            targets.append(option)
            owners.append(np.full(len(option), number))
    return ScoringRow(
        row,
        np.concatenate(predict),
        np.concatenate(targets),
        np.concatenate(owners),
        key,
        front + len(prefix) + max(map(len, heads)),
    )


def session_digest(session: TokenisedSession, options: Sequence[np.ndarray] = ()) -> str:
    """A digest of what is read: token ids, docked contents with their places, and options."""
    state = hashlib.sha256(session.ids.astype(np.int64).tobytes())
    for at, dock in session.docks:
        state.update(f" dock {at} ".encode() + dock.key)
    for option in options:
        state.update(b" option " + np.asarray(option, dtype=np.int64).tobytes())
    return state.hexdigest()
