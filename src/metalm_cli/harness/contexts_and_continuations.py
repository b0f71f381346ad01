"""Contexts and continuations as token ids, with lm_eval's boundaries, start token and truncation.

What lm_eval's own ``hf`` backend does, so that scores are comparable; but each distinct text is tokenised once, and all
of them in one call. Nothing here needs lm_eval.
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
from metalm_cli.sessions import TokenisedSession

UNSET = 10**18
"""A tokenizer's ``model_max_length`` beyond this says that it has none."""
POSITIONS = 2048
"""Positions of a model that states none, as lm_eval has it."""


@dataclass(frozen=True)
class ContextAndContinuation:
    """What is read, and what is scored after it.

    Args:
        context: Token ids, at least one.
        continuation: Token ids, at least one.
        cut: Tokens that were cut from the context's beginning.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    cut: int = 0


class ContinuationTokenizer:
    """Tokenises requests for one model.

    Args:
        language_model: The model.
        add_start: Whether texts begin with the tokenizer's start token; None: as the tokenizer and the model's own
            rules have it.
        prefix_token_id: Stands before what has no context; None: the start token, or else the end token.
        max_length: Most tokens that the model reads; None: what its configuration says.

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
        self.max_length = _length(language_model, max_length)
        known = (prefix_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        self.prefix_token_id: int = next(
            token for token in (*known, language_model.decoder_tokenizer.start_id) if token is not None
        )
        self._prefix_text = self.tokenizer.decode(self.prefix_token_id)

    def encode(self, texts: Iterable[str], special: bool | None = None) -> dict[str, list[int]]:
        """Token ids of each distinct text.

        Args:
            texts: The texts.
            special: Add the tokenizer's special tokens; None: as configured, but never before a text that begins with
                the start token already.
        """
        distinct = list(dict.fromkeys(texts))
        own = self.language_model.decoder_tokenizer
        if own.paragraph_id is not None or (own.rules.start != "auto" and self.add_start is None):
            return {text: self._by_rules(text, special) for text in distinct}
        groups: dict[bool | None, list[str]] = {}
        for text in distinct:
            wanted = self.add_start if special is None else special
            if special is None and text.startswith(self._prefix_text):
                wanted = False
            groups.setdefault(wanted, []).append(text)
        found: dict[str, list[int]] = {}
        for wanted, members in groups.items():
            extra = {} if wanted is None else {"add_special_tokens": wanted}
            made = self.tokenizer(
                members, return_attention_mask=False, return_token_type_ids=False, verbose=False, **extra
            )
            found.update(zip(members, made["input_ids"], strict=True))
        return found

    def _by_rules(self, text: str, special: bool | None) -> list[int]:
        """A text by rules that the model was saved with: its paragraph token, its start token."""
        own = self.language_model.decoder_tokenizer
        wanted = special if special is not None else self.add_start
        if wanted is None:
            wanted = own.starts_with(True, False)
        return [*([own.start_id] if wanted else []), *own.first(text)]

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[ContextAndContinuation]:
        """Tokenise requests.

        Args:
            requests: Context and continuation of each. Spaces that end a context belong to the continuation.

        Raises:
            MetalmError: A continuation has no token of its own, or more than the model reads.
        """
        split = [_moved(context, continuation) for context, continuation in requests]
        whole = self.encode([text for context, rest in split if context for text in (context, context + rest)])
        alone = self.encode([rest for context, rest in split if not context], special=False)
        found = []
        for (context, rest), request in zip(split, requests, strict=True):
            if context:
                first, after = whole[context], whole[context + rest][len(whole[context]) :]
            else:
                after = alone[rest]
                first = [self.prefix_token_id]
                if after[:1] == first:
                    after = after[1:]
            found.append(self.pair(first, after, request[1]))
        return found

    def pair(self, context: Sequence[int], continuation: Sequence[int], text: str = "") -> ContextAndContinuation:
        """A pair that the model can read, its context cut from the left where it is too long.

        Raises:
            MetalmError: As :meth:`pairs`.
        """
        if not continuation:
            raise MetalmError(
                f"the continuation {text!r} has no token of its own",
                why="it is empty, or its characters are part of the context's last token",
                remedy="end the context before a space, and begin the continuation with it (target_delimiter)",
                exit_code=Exit.FAILED,
            )
        if len(continuation) > self.max_length:
            raise MetalmError(
                f"the continuation {text[:60]!r} has {len(continuation)} tokens, the model reads {self.max_length}",
                remedy="use a model with more positions",
                exit_code=Exit.FAILED,
            )
        kept = self.max_length + 1 - len(continuation)
        cut = max(0, len(context) - kept)
        return ContextAndContinuation(tuple(context[cut:]), tuple(continuation), cut)

    def rolling_windows(self, text: str) -> Iterator[ContextAndContinuation]:
        """A text as disjoint continuations, each with as much before it as the model reads (one token at least).

        Args:
            text: Scored whole; after the prefix token.
        """
        ids = self.encode([text])[text]
        size = self.max_length
        if ids:
            yield ContextAndContinuation((self.prefix_token_id,), tuple(ids[:size]))
        for begin in range(size, len(ids), size):
            end = min(begin + size, len(ids))
            yield ContextAndContinuation(tuple(ids[end - size - 1 : begin]), tuple(ids[begin:end]))


def _moved(context: str, continuation: str) -> tuple[str, str]:
    """Context and continuation, with the space at their boundary in the continuation."""
    kept = context.rstrip()
    return (kept, context[len(kept) :] + continuation) if context else ("", continuation)


def _length(language_model: LanguageModel, wanted: int | None) -> int:
    """Most tokens that the model reads.

    Raises:
        MetalmError: It has fewer positions than wanted.
    """
    has = language_model.model.positions
    if wanted is not None:
        if wanted < 2 or (has is not None and wanted > has):
            raise MetalmError(
                f"max_length={wanted}: the decoder has {has or 'any number of'} positions",
                remedy="give at least 2, and no more than it has",
            )
        return wanted
    config = language_model.model.decoder.config
    config = getattr(config, "text_config", None) or config
    stated = [getattr(config, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")]
    length = next((int(one) for one in stated if one is not None), None)
    if length is None:
        limit = getattr(language_model.tokenizer, "model_max_length", None)
        length = int(limit) if limit is not None and limit < UNSET else POSITIONS
    return length if has is None else min(length, has)


def group_by_context(pairs: Sequence[ContextAndContinuation]) -> tuple[list[OptionQuestion], list[list[int]]]:
    """Pairs with the same context as one question each; beginnings that many of them share stand in front.

    Returns:
        The questions, and the pair of each option.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, pair in enumerate(pairs):
        groups.setdefault(pair.context, []).append(at)
    contexts = [np.array(context, dtype=np.int64) for context in groups]
    fronts: dict[bytes, TokenisedSession] = {}
    questions = []
    for context, front, places in zip(contexts, shared_prefixes(contexts), groups.values(), strict=True):
        before = fronts.setdefault(context[:front].tobytes(), tokens_to_session(context[:front], "")) if front else None
        options = tuple(np.array(pairs[at].continuation, dtype=np.int64) for at in places)
        questions.append(OptionQuestion(tokens_to_session(context[front:], f"request {places[0]}"), options, before))
    return questions, list(groups.values())


def tokens_to_session(ids: Sequence[int] | np.ndarray, name: str) -> TokenisedSession:
    """Tokens that are read and not scored."""
    array = np.asarray(ids, dtype=np.int64)
    return TokenisedSession(array, np.zeros(len(array), dtype=bool), (), name)
