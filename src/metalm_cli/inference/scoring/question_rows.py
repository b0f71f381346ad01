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
    shared_prefix: TokenisedSession | None = None
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
    shared_prefix_key: str | None
    length: int


def join_sessions(first: TokenisedSession, second: TokenisedSession) -> TokenisedSession:
    """Two sessions in one."""
    docks = (*first.docks, *((position + len(first), dock) for position, dock in second.docks))
    ids, trained = np.concatenate([first.ids, second.ids]), np.concatenate([first.trained, second.trained])
    return TokenisedSession(ids, trained, docks, second.name or first.name)


def pack_question(
    question: OptionQuestion,
    first_option: int,
    shared_prefixes: dict[str, TokenisedSession],
    max_positions: int | None,
    *,
    share: bool,
    use_cache: bool,
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
    prefix, shared_prefix = question.prefix, question.shared_prefix
    key: str | None = None
    if shared_prefix is not None and len(shared_prefix):
        if use_cache and len(prefix):
            key = session_digest(shared_prefix)
            shared_prefixes[key] = shared_prefix
        else:
            prefix = join_sessions(shared_prefix, prefix)
    nonempty = [(first_option + index, option) for index, option in enumerate(question.options) if len(option)]
    if not nonempty:
        return
    name = question.name or question.prefix.name or "a question"
    if not len(prefix):
        raise MetalmError(
            f"nothing stands before the options of {name}",
            why="nothing predicts their first token",
            remedy="give it a start token, or a text",
        )
    shared_length = 0 if key is None or shared_prefix is None else len(shared_prefix)
    heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for number, option in nonempty:
        heads.setdefault(tuple(option[:-1].tolist()), []).append((number, option))
    longest = shared_length + len(prefix) + max(map(len, heads))
    if max_positions is not None and longest > max_positions:
        raise MetalmError(
            f"{name} takes {longest + 1} positions with its longest option, the decoder has {max_positions}",
            remedy="shorten it, give fewer demonstrations, or use a model with more positions",
        )
    heads_by_row = [heads] if share else [{head: head_options} for head, head_options in heads.items()]
    for row_heads in heads_by_row:
        yield _build_scoring_row(prefix, row_heads, key, shared_length, share)


def _build_scoring_row(
    prefix: TokenisedSession,
    heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]],
    key: str | None,
    shared_length: int,
    share: bool,
) -> ScoringRow:
    """A row: the question, and the heads of its options under it."""
    segments, parents, head_starts = [prefix], [ROOT], {}
    offset = len(prefix)
    for head in heads:
        if head:
            head_starts[head] = offset
            offset += len(head)
            segments.append(TokenisedSession(np.array(head, dtype=np.int64), np.zeros(len(head), dtype=bool)))
            parents.append(0)
    if not share and len(segments) == 2:  # a row without a mask: the question and one option in one segment
        segments, parents = [join_sessions(*segments)], [ROOT]
    row = build_row([replace(segment, trained=np.zeros(len(segment), dtype=bool)) for segment in segments], parents)
    predict, targets, owners = [], [], []
    for head, options in heads.items():
        positions = np.concatenate([[len(prefix) - 1], head_starts.get(head, 0) + np.arange(len(head))])
        for number, option in options:
            predict.append(positions)
            targets.append(option)
            owners.append(np.full(len(option), number))
    return ScoringRow(
        row,
        np.concatenate(predict),
        np.concatenate(targets),
        np.concatenate(owners),
        key,
        shared_length + len(prefix) + max(map(len, heads)),
    )


def session_digest(session: TokenisedSession, options: Sequence[np.ndarray] = ()) -> str:
    """A digest of what is read: token ids, docked contents with their places, and options."""
    hasher = hashlib.sha256(session.ids.astype(np.int64).tobytes())
    for position, dock in session.docks:
        hasher.update(f" dock {position} ".encode() + dock.key)
    for option in options:
        hasher.update(b" option " + np.asarray(option, dtype=np.int64).tobytes())
    return hasher.hexdigest()
