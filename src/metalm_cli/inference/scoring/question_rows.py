"""Rows of questions: the prefix that is read once, with the options as its children."""

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
    """Question with its options.

    Args:
        prefix: Session before the options; its tokens are not scored.
        options: Token ids of each option; an option without tokens has log-probability 0. ``[o]`` int64 each.
        shared_prefix: Session before ``prefix``, shared by many questions.
        name: Name of the question in errors; by default the name of the prefix.
    """

    prefix: TokenisedSession
    options: tuple[np.ndarray, ...]
    shared_prefix: TokenisedSession | None = None
    name: str = ""


@dataclass(frozen=True)
class ScoringRow:
    """Row of a question with the heads of its options (all tokens but the last), or with a single head.

    Args:
        row: Tokens that are read.
        predict: Position in the row that predicts each target. ``[m]``
        targets: Token ids. ``[m]``
        owners: Index of each target's option among the options of all questions. ``[m]``
        shared_prefix_key: Cache key of the shared prefix; None: no shared prefix.
        length: Positions of the longest path, shared prefix included.
    """

    row: Row
    predict: np.ndarray
    targets: np.ndarray
    owners: np.ndarray
    shared_prefix_key: str | None
    length: int


def join_sessions(first: TokenisedSession, second: TokenisedSession) -> TokenisedSession:
    """Concatenate two sessions."""
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
    length_switch: int | None = None,
) -> Iterator[ScoringRow]:
    """Pack a question into rows; there are none if no option has tokens.

    Args:
        question: The question.
        first_option: Index of its first option among the options of all questions.
        shared_prefixes: Shared prefixes by cache key; that of the question is added.
        max_positions: Positions of the decoder.
        share: Whether all options share one row. Else there is a row for each option, or for several options that
            differ only in their last token.
        use_cache: Whether the shared prefix is cached; else it is part of the row.
        length_switch: Length above which the decoder computes sessions in another way: a question with a longer
            option shares nothing.

    Raises:
        MetalmError: The options have no prefix, or the question exceeds the positions.
    """
    prefix, shared_prefix = question.prefix, question.shared_prefix
    key: str | None = None
    if length_switch is not None:
        session_length = (
            len(shared_prefix or ()) + len(prefix) + max((len(option) for option in question.options), default=0)
        )
        share = share and session_length <= length_switch
    use_cache = use_cache and share
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
            f"no prefix before the options of {name}",
            why="without a prefix nothing predicts the first token of an option",
            remedy="add a start token or a text before the options",
        )
    shared_length = 0 if key is None or shared_prefix is None else len(shared_prefix)
    heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for number, option in nonempty:
        heads.setdefault(tuple(option[:-1].tolist()), []).append((number, option))
    longest = shared_length + len(prefix) + max(map(len, heads))
    if max_positions is not None and longest > max_positions:
        raise MetalmError(
            f"{name} takes {longest + 1} positions with its longest option, the decoder has {max_positions}",
            remedy="shorten the question, use fewer demonstrations, or use a model with more positions",
        )
    heads_by_row = [heads] if share else [{head: head_options} for head, head_options in heads.items()]
    for row_heads in heads_by_row:
        row = _build_scoring_row(prefix, row_heads, key, shared_length, share)
        # The last token of an option is not read; where only it exceeds the switch, another token takes its place.
        yield _with_spare_token(row) if not share and row.length == length_switch else row


def _build_scoring_row(
    prefix: TokenisedSession,
    heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]],
    key: str | None,
    shared_length: int,
    share: bool,
) -> ScoringRow:
    """Build the row of a question, with the heads of its options as children."""
    segments, parents, head_starts = [prefix], [ROOT], {}
    offset = len(prefix)
    for head in heads:
        if head:
            head_starts[head] = offset
            offset += len(head)
            segments.append(TokenisedSession(np.array(head, dtype=np.int64), np.zeros(len(head), dtype=bool)))
            parents.append(0)
    if not share and len(segments) == 2:  # a row without a mask: question and option in a single segment
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


def _with_spare_token(scoring_row: ScoringRow) -> ScoringRow:
    """Return a row of one segment with another token behind it, which predicts nothing."""
    row = scoring_row.row
    longer = replace(
        row,
        ids=np.append(row.ids, row.ids[-1]),
        positions=np.append(row.positions, row.positions[-1] + 1),
        segments=np.append(row.segments, row.segments[-1]),
    )
    return replace(scoring_row, row=longer, length=scoring_row.length + 1)


def session_digest(session: TokenisedSession, options: Sequence[np.ndarray] = ()) -> str:
    """Return a hash of token ids, docked contents with their positions, and options."""
    hasher = hashlib.sha256(session.ids.astype(np.int64).tobytes())
    for position, dock in session.docks:
        hasher.update(f" dock {position} ".encode() + dock.key)
    for option in options:
        hasher.update(b" option " + np.asarray(option, dtype=np.int64).tobytes())
    return hasher.hexdigest()
