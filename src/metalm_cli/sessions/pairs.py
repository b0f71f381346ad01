"""Pairs of an encoder–decoder: what its encoder reads, and what its decoder predicts.

A session gives one pair for each trained span: the source is all text before the span, in order; the target is the
span.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.batch import DECODER, Batch, collate
from metalm_cli.sessions.decoder_tokenizer import DecoderTokenizer, TokenRules
from metalm_cli.sessions.packing import Row, build_row
from metalm_cli.sessions.processors import Processor
from metalm_cli.sessions.session_tokenizer import TokenisedSession
from metalm_cli.sessions.spans import Causal, Docked

ENCODER = "encoder"
"""Name of the stream that the encoder of an encoder–decoder reads."""


@dataclass(frozen=True)
class PairFormat:
    """Special tokens of pairs.

    Args:
        source_prefix: Tokens before a source (``<s>`` for BART).
        source_suffix: Tokens after it (``</s>``).
        target_prefix: Tokens that the decoder reads before it predicts a target: its start token, and what the
            tokenizer puts before a target (``<s>`` for BART).
        end_id: Token that stands for an empty source, if nothing surrounds it.
        packs: Whether several pairs share a row; otherwise each has a row of its own.
    """

    source_prefix: tuple[int, ...]
    source_suffix: tuple[int, ...]
    target_prefix: tuple[int, ...]
    end_id: int
    packs: bool = False

    def without_packing(self) -> PairFormat:
        """Return the format with one pair in each row of a batch."""
        return replace(self, packs=False)

    def source(self, ids: np.ndarray) -> np.ndarray:
        """Surround the tokens before a target with the encoder's special tokens: int64[n]."""
        source = np.concatenate([self.source_prefix, ids, self.source_suffix]).astype(np.int64)
        return source if len(source) else np.array([self.end_id], dtype=np.int64)

    def row(
        self,
        sessions: Sequence[TokenisedSession],
        *,
        task_ids: Sequence[int] | None = None,
        counts: dict[str, int] | None = None,
        numbers: Iterable[int] = (),
    ) -> Row:
        """Build a row of the pairs of sessions, one segment each; arguments as :func:`~.packing.build_row`.

        The counter ``sessions`` becomes the number of pairs, which are the examples that train.

        Example, a question of two tokens with the answer ``7 1``, a source that ends with 1, and the start token 0::

            session     5 6 7t 1t
            source      5 6 1
            decoder     0 7
            targets     7 1

            >>> session = TokenisedSession(np.array([5, 6, 7, 1]), np.array([False, False, True, True]))
            >>> row = PairFormat((), (1,), (0,), end_id=1).row([session])
            >>> row.source.ids.tolist(), row.ids.tolist(), row.predict_at.tolist(), row.targets.tolist()
            ([5, 6, 1], [0, 7], [0, 1], [7, 1])
        """
        sources: list[TokenisedSession] = []
        inputs: list[TokenisedSession] = []
        targets: list[np.ndarray] = []
        pair_tasks: list[int] = []
        for index, session in enumerate(sessions):
            for begin, end in target_spans(session):
                sources.append(_unscored(self.source(session.ids[:begin])))
                inputs.append(_unscored(np.concatenate([self.target_prefix, session.ids[begin : end - 1]])))
                targets.append(session.ids[begin:end])
                pair_tasks.append(-1 if task_ids is None else task_ids[index])
        if not inputs:  # nothing is predicted: the last source is there to be continued
            sources.append(_unscored(self.source(np.concatenate([session.ids for session in sessions]))))
            inputs.append(_unscored(np.array(self.target_prefix)))
            targets.append(np.zeros(0, dtype=np.int64))
            pair_tasks.append(-1 if task_ids is None else task_ids[-1])
        starts = np.cumsum([0, *map(len, inputs)])[:-1] + len(self.target_prefix) - 1
        counts = dict(counts or {})
        if "sessions" in counts:
            counts["sessions"] = len(inputs)
        row = build_row(inputs, task_ids=None if task_ids is None else pair_tasks, counts=counts, numbers=numbers)
        return replace(
            row,
            predict_at=np.concatenate(
                [start + np.arange(len(ids)) for start, ids in zip(starts, targets, strict=True)]
            ).astype(np.int64),
            targets=np.concatenate(targets),
            target_segments=np.repeat(np.arange(len(targets)), [len(ids) for ids in targets]),
            counts={**row.counts, "trained_tokens": sum(map(len, targets))},
            source=build_row(sources),
        )

    def collate(
        self, rows: Sequence[Row], processors: Mapping[str, Processor], *, length: int | None = None, pad_id: int = 0
    ) -> Batch:
        """Join rows into a batch of two streams, ``encoder`` and ``decoder``, each as long as its longest row.

        Args:
            rows: Rows of :meth:`row`.
            processors: Not read: an encoder–decoder docks nothing.
            length: Not read: source and target have lengths of their own.
            pad_id: Token at padded positions.
        """
        if not self.packs:
            rows = [single for row in rows for single in split_segments(row)]
        batch = collate(rows, {}, pad_id=pad_id)
        sources = collate([_source_of(row) for row in rows], {}, stream=ENCODER, pad_id=pad_id)
        padded = batch.counts["padded_positions"] + sources.counts["padded_positions"]
        return replace(
            batch,
            streams={**sources.streams, DECODER: batch.decoder},
            counts={**batch.counts, "padded_positions": padded},
        )


@dataclass(frozen=True)
class RowFormat:
    """Rows of a decoder: sessions as they are (:func:`~.packing.build_row`, :func:`~.batch.collate`)."""

    row = staticmethod(build_row)
    collate = staticmethod(collate)


DECODER_ROWS = RowFormat()


def row_format_of(tokenizer: DecoderTokenizer) -> RowFormat | PairFormat:
    """Return how sessions of a tokenizer become rows and batches."""
    return tokenizer.format if isinstance(tokenizer, PairTokenizer) else DECODER_ROWS


def target_spans(session: TokenisedSession) -> list[tuple[int, int]]:
    """Return first and last position (exclusive) of each trained span: each run of trained tokens if they are unknown.

    >>> target_spans(TokenisedSession(np.arange(5), np.array([False, True, True, False, True])))
    [(1, 3), (4, 5)]
    """
    if session.trained_spans:
        return list(session.trained_spans)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], session.trained.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def split_segments(row: Row) -> Iterator[Row]:
    """Split a row of pairs into rows of one pair each; the counters and numbers stay with the first."""
    source = _source_of(row)
    if len(row.parents) == 1:
        yield row
        return
    for segment in range(len(row.parents)):
        inside, chosen = np.flatnonzero(row.segments == segment), row.target_segments == segment
        source_row = build_row([_unscored(source.ids[source.segments == segment])])
        targets = row.targets[chosen]
        yield replace(
            build_row([_unscored(row.ids[inside])]),
            predict_at=row.predict_at[chosen] - inside[0],
            targets=targets,
            target_segments=np.zeros(len(targets), dtype=np.int64),
            task_ids=None if row.task_ids is None else row.task_ids[segment : segment + 1],
            counts=row.counts if segment == 0 else {},
            numbers=row.numbers if segment == 0 else (),
            source=source_row,
        )


def _source_of(row: Row) -> Row:
    assert row.source is not None, "rows of pairs have sources"
    return row.source


def _unscored(ids: np.ndarray) -> TokenisedSession:
    return TokenisedSession(np.asarray(ids, dtype=np.int64), np.zeros(len(ids), dtype=bool))


class PairTokenizer(DecoderTokenizer):
    """Tokeniser of an encoder–decoder: its encoder and its decoder share one vocabulary.

    A source is tokenised as one text, and a target as a text of its own, as ``tokenizer(source, text_target=target)``
    does; special tokens around them are added when rows are built.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        rules: Token rules; the rule for start tokens is not read.
        decoder_start_id: The decoder's start token.
        embedding_rows: As in :class:`DecoderTokenizer`.
        end_ids: As in :class:`DecoderTokenizer`.
        packs: Whether several pairs share a row.

    Attributes:
        format: Special tokens of pairs.
    """

    reads_pairs = True

    def __init__(
        self,
        tokenizer: Any,
        rules: TokenRules,
        *,
        decoder_start_id: int,
        embedding_rows: int | None = None,
        end_ids: Iterable[int] = (),
        packs: bool = False,
    ) -> None:
        super().__init__(tokenizer, rules, embedding_rows=embedding_rows, end_ids=end_ids)
        prefix, suffix = special_tokens_around(tokenizer)
        target_prefix, _ = _special_tokens(tokenizer(text_target="x").input_ids, tokenizer, "text_target")
        self.start_id = decoder_start_id
        self.format = PairFormat(prefix, suffix, (decoder_start_id, *target_prefix), self.document_end_id, packs)

    def needs_start_token(self, causal: bool, trained: bool) -> bool:
        """No session gets a start token: the decoder's own one predicts the first token of a target."""
        return False

    def encode_target(self, text: str) -> list[int]:
        """Tokenise a target, as a text of its own."""
        return self.encode_start(text)

    def empty_context(self) -> list[int]:
        return []

    def join_texts(self, spans: Sequence[Causal | Docked]) -> list[Causal | Docked]:
        """Join neighbouring untrained texts, which are tokenised as one text.

        >>> joined = PairTokenizer.join_texts(None, [Causal("a"), Causal(" b", end=True), Causal("c", trained=True)])
        >>> [(span.content, span.end) for span in joined]
        [('a b', True), ('c', False)]
        """
        joined: list[Causal | Docked] = []
        for span in spans:
            last = joined[-1] if joined else None
            if _is_untrained_text(span) and _is_untrained_text(last) and not last.end:  # type: ignore[union-attr]
                joined[-1] = Causal(last.content + span.content, end=span.end)  # type: ignore
            else:
                joined.append(span)
        return joined


def _is_untrained_text(span: Causal | Docked | None) -> bool:
    return isinstance(span, Causal) and isinstance(span.content, str) and not span.trained


def special_tokens_around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens that a tokenizer puts before and after a source."""
    return _special_tokens(tokenizer("x").input_ids, tokenizer, "text")


def _special_tokens(ids: Sequence[int], tokenizer: Any, argument: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens that a tokenizer puts before and after the text ``x``."""
    content = list(tokenizer(**{argument: "x"}, add_special_tokens=False).input_ids)
    for begin in range(len(ids) - len(content) + 1):
        if list(ids[begin : begin + len(content)]) == content:
            return tuple(ids[:begin]), tuple(ids[begin + len(content) :])
    raise MetalmError(
        "the tokenizer tokenises a text differently with special tokens",
        where=f"tokenizer {tokenizer.name_or_path or 'built in memory'}",
        why=f"'x' is {list(ids)} with special tokens and {content} without",
        remedy="use a tokenizer that only adds special tokens before and after a text",
    )
