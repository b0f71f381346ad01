"""Contexts and continuations as token ids, with lm_eval's boundaries, start token and truncation.

The token ids equal those of lm_eval's ``hf`` backend, so that scores are comparable; but each distinct text is
tokenised once, and all texts in one call. This module does not need lm_eval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.inference import LanguageModel
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.inference.scoring.shared_prefixes import shared_prefixes
from metalm_cli.sessions import PairFormat, TokenisedSession, row_format_of

UNSET_LENGTH = 10**18
"""A tokenizer has no maximum length if its ``model_max_length`` is at least this."""
DEFAULT_MAX_LENGTH = 2048
"""Maximum length of a model whose configuration has none; lm_eval's default."""


@dataclass(frozen=True)
class ContextAndContinuation:
    """Context with the continuation that is scored after it.

    Args:
        context: Token ids, at least one; with an encoder–decoder those of its encoder, without special tokens.
        continuation: Token ids, at least one.
        tokens_cut: Number of tokens cut from the beginning of the context.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    tokens_cut: int = 0


class ContinuationTokenizer:
    """Tokenizer of lm_eval's requests for a model.

    Args:
        language_model: The model.
        add_start: Whether texts begin with the tokenizer's start token; None: as configured in the tokenizer and the
            model's token rules.
        prefix_token_id: Token before continuations without context; None: the start token, or else the end token.
        max_length: Maximum number of tokens that the model reads; None: from its configuration.

    Raises:
        MetalmError: The model has fewer positions than ``max_length``.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        add_start: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.language_model = language_model
        self.tokenizer: Any = language_model.tokenizer
        self.add_start = add_start
        self.max_length = _max_length(language_model, max_length)
        known = (prefix_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        self.prefix_token_id: int = next(
            token for token in (*known, language_model.decoder_tokenizer.start_id) if token is not None
        )
        self.reads_pairs = language_model.decoder_tokenizer.reads_pairs
        self._prefix_text = self.tokenizer.decode(self.prefix_token_id)

    def encode(self, texts: Iterable[str], special: bool | None = None) -> dict[str, list[int]]:
        """Return the token ids of each distinct text.

        Args:
            texts: The texts.
            special: Whether to add the tokenizer's special tokens; None: as configured, but never before a text that
                already begins with the start token.
        """
        distinct = list(dict.fromkeys(texts))
        decoder_tokenizer = self.language_model.decoder_tokenizer
        if decoder_tokenizer.paragraph_id is not None or (
            decoder_tokenizer.rules.start != "auto" and self.add_start is None
        ):
            return {text: self._encode_by_rules(text, special) for text in distinct}
        groups: dict[bool | None, list[str]] = {}
        for text in distinct:
            add_special = self.add_start if special is None else special
            if special is None and text.startswith(self._prefix_text):
                add_special = False
            groups.setdefault(add_special, []).append(text)
        ids_by_text: dict[str, list[int]] = {}
        for add_special, group_texts in groups.items():
            options = {} if add_special is None else {"add_special_tokens": add_special}
            encoded = self.tokenizer(
                group_texts, return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
            )
            ids_by_text.update(zip(group_texts, encoded["input_ids"], strict=True))
        return ids_by_text

    def _encode_by_rules(self, text: str, special: bool | None) -> list[int]:
        """Encode a text with the token rules of the model: its paragraph token and start token."""
        decoder_tokenizer = self.language_model.decoder_tokenizer
        add_start = special if special is not None else self.add_start
        if add_start is None:
            add_start = decoder_tokenizer.needs_start_token(True, False)
        return [*([decoder_tokenizer.start_id] if add_start else []), *decoder_tokenizer.encode_start(text)]

    def encode_pairs(self, requests: Sequence[tuple[str, str]]) -> list[ContextAndContinuation]:
        """Tokenise requests.

        Args:
            requests: Context and continuation of each. Trailing spaces of a context belong to the continuation.

        Raises:
            MetalmError: A continuation has no token of its own, or more tokens than the model reads.
        """
        request_texts = [_move_trailing_space(context, continuation) for context, continuation in requests]
        if self.reads_pairs:  # the encoder reads the context, the decoder the continuation
            ids = self.encode([text for pair in request_texts for text in pair], special=False)
            return [
                self.build_pair(ids[context], ids[continuation], request[1])
                for (context, continuation), request in zip(request_texts, requests, strict=True)
            ]
        encoded = self.encode(
            [text for context, continuation in request_texts if context for text in (context, context + continuation)]
        )
        encoded_alone = self.encode(
            [continuation for context, continuation in request_texts if not context], special=False
        )
        pairs = []
        for (context, continuation), request in zip(request_texts, requests, strict=True):
            if context:
                context_ids, continuation_ids = (
                    encoded[context],
                    encoded[context + continuation][len(encoded[context]) :],
                )
            else:
                continuation_ids = encoded_alone[continuation]
                context_ids = [self.prefix_token_id]
                if continuation_ids[:1] == context_ids:
                    continuation_ids = continuation_ids[1:]
            pairs.append(self.build_pair(context_ids, continuation_ids, request[1]))
        return pairs

    def build_pair(self, context: Sequence[int], continuation: Sequence[int], text: str = "") -> ContextAndContinuation:
        """Build a pair that the model can read; a context that is too long is cut from the left.

        Raises:
            MetalmError: As in :meth:`encode_pairs`.
        """
        if not continuation:
            raise MetalmError(
                f"the continuation {text!r} has no token of its own",
                why="the continuation is empty, or its characters are part of the last token of the context",
                remedy="end the context before a space, and begin the continuation with the space (target_delimiter)",
                exit_code=Exit.FAILED,
            )
        if len(continuation) > self.max_length:
            raise MetalmError(
                f"the continuation {text[:60]!r} has {len(continuation)} tokens, the model reads {self.max_length}",
                remedy="use a model with more positions",
                exit_code=Exit.FAILED,
            )
        context_room = self.max_length + 1 - len(continuation)
        row_format = row_format_of(self.language_model.decoder_tokenizer)
        if isinstance(row_format, PairFormat):
            context_room = self.max_length - len(row_format.source_prefix) - len(row_format.source_suffix)
        cut = max(0, len(context) - context_room)
        return ContextAndContinuation(tuple(context[cut:]), tuple(continuation), cut)

    def rolling_windows(self, text: str) -> Iterator[ContextAndContinuation]:
        """Split a text into disjoint continuations, each with the longest context that fits (at least one token).

        Args:
            text: The text; its first token follows the prefix token.
        """
        ids = self.encode([text], special=False if self.reads_pairs else None)[text]
        size = self.max_length
        if ids:
            yield ContextAndContinuation(() if self.reads_pairs else (self.prefix_token_id,), tuple(ids[:size]))
        for begin in range(size, len(ids), size):
            end = min(begin + size, len(ids))
            yield ContextAndContinuation(tuple(ids[end - size - 1 : begin]), tuple(ids[begin:end]))


def _move_trailing_space(context: str, continuation: str) -> tuple[str, str]:
    """Move trailing spaces of the context to the beginning of the continuation."""
    stripped = context.rstrip()
    return (stripped, context[len(stripped) :] + continuation) if context else ("", continuation)


def _max_length(language_model: LanguageModel, requested: int | None) -> int:
    """Return the maximum number of tokens that the model reads.

    Raises:
        MetalmError: The model has fewer positions than requested.
    """
    positions = language_model.model.max_positions
    if requested is not None:
        if requested < 2 or (positions is not None and requested > positions):
            raise MetalmError(
                f"max_length={requested}: the decoder has {positions or 'any number of'} positions",
                remedy="set it to at least 2 and at most the positions of the decoder",
            )
        return requested
    config = language_model.model.text_model.config
    config = getattr(config, "text_config", None) or config
    configured = [getattr(config, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")]
    length = next((int(value) for value in configured if value is not None), None)
    if length is None:
        limit = getattr(language_model.tokenizer, "model_max_length", None)
        length = int(limit) if limit is not None and limit < UNSET_LENGTH else DEFAULT_MAX_LENGTH
    return length if positions is None else min(length, positions)


def group_by_context(pairs: Sequence[ContextAndContinuation]) -> tuple[list[OptionQuestion], list[list[int]]]:
    """Group pairs with the same context into questions; prefixes that many contexts share become shared prefixes.

    Returns:
        The questions, and for each question the indices of the pairs of its options.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.context, []).append(index)
    contexts = [np.array(context, dtype=np.int64) for context in groups]
    shared_prefixes_by_ids: dict[bytes, TokenisedSession] = {}
    questions = []
    for context, prefix_length, pair_indices in zip(contexts, shared_prefixes(contexts), groups.values(), strict=True):
        shared_prefix = (
            shared_prefixes_by_ids.setdefault(
                context[:prefix_length].tobytes(), tokens_to_session(context[:prefix_length], "")
            )
            if prefix_length
            else None
        )
        options = tuple(np.array(pairs[index].continuation, dtype=np.int64) for index in pair_indices)
        questions.append(
            OptionQuestion(
                tokens_to_session(context[prefix_length:], f"request {pair_indices[0]}"), options, shared_prefix
            )
        )
    return questions, list(groups.values())


def tokens_to_session(ids: Sequence[int] | np.ndarray, name: str) -> TokenisedSession:
    """Return a session of tokens that are read and not scored."""
    array = np.asarray(ids, dtype=np.int64)
    return TokenisedSession(array, np.zeros(len(array), dtype=bool), (), name)
