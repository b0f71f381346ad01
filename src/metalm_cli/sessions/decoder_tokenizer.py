"""Decoder tokeniser: whole documents with character offsets, and task spans that continue a session.

Running text is tokenised whole and then sliced, because tokenising its pieces separately gives different tokens. Task
spans are tokenised separately and concatenated as ids; every span after the first of its session is tokenised *as a
continuation*.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Set
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from metalm_cli.errors import MetalmError

SENTINELS = ("\n", "a", ".")
"""Texts prepended to a continuation, whose tokens are then dropped; the first that ends at a token boundary is used."""


START_RULES = ("auto", "always", "never")
MAX_CACHED_CHARACTERS = 48
"""Longest continuation that is cached, in characters: answers and separators between spans recur often."""
MAX_CACHED_CONTINUATIONS = 10_000
"""Size of the cache of continuations."""


@dataclass(frozen=True)
class TokenRules:
    """Rules for start, end and paragraph tokens, as saved in a model's ``config.json``.

    Args:
        start: ``auto``, ``always`` or ``never`` (see :meth:`DecoderTokenizer.needs_start_token`).
        document: End of a document: ``eos``, or a token of the vocabulary.
        paragraph: ``newline`` (newlines stay text), or a token that replaces each newline.
        target_delimiter: Text between a docked input and an answer.

    Raises:
        ValueError: A rule is not a text, or ``start`` has another value.
    """

    start: str = "auto"
    document: str = "eos"
    paragraph: str = "newline"
    target_delimiter: str = " "

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not isinstance(value, str):
                raise ValueError(f"the token rule {name} is {value!r}, expected a text")
        if self.start not in START_RULES:
            raise ValueError(f"the token rule start is {self.start!r}, expected one of {', '.join(START_RULES)}")

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class TokenisedDocument:
    """Document as decoder tokens, with character offsets.

    Args:
        text: The document.
        ids: Token ids, without start and end tokens. ``[n]`` int64.
        starts: First character of each token. ``[n]`` int64.
        ends: End of each token (exclusive); non-decreasing. ``[n]`` int64.
    """

    text: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def character_span(self, first: int, last: int) -> tuple[int, int]:
        """Return the character range of tokens ``first`` to ``last - 1``, including spaces before them."""
        begin = int(self.ends[first - 1]) if first else 0
        end = len(self.text) if last == len(self.ids) else int(self.ends[last - 1])
        return begin, end

    def slice(self, first: int, last: int) -> str:
        """Return the text of tokens ``first`` to ``last - 1``."""
        begin, end = self.character_span(first, last)
        return self.text[begin:end]

    def is_word_boundary(self, token: int) -> bool:
        """Return whether a word may begin at ``token``, so that a span may begin or end there."""
        if token <= 0 or token >= len(self.ids):
            return True
        previous_end, start = int(self.ends[token - 1]), int(self.starts[token])
        if start < previous_end:  # both tokens hold bytes of one character
            return False
        if start == 0 or start >= len(self.text) or start > previous_end:
            return True
        return not (_is_word_character(self.text[start - 1]) and _is_word_character(self.text[start]))

    def expand_to_word_boundaries(self, first: int, last: int, low: int, high: int) -> tuple[int, int]:
        """Widen a span to word boundaries without leaving ``low..high``.

        An edge whose word extends beyond a limit moves inward instead; if the span is inside one word, the edge stays.
        """
        outward, inward = range(first, low - 1, -1), range(first + 1, last)
        begin = next(filter(self.is_word_boundary, chain(outward, inward)), first)
        outward, inward = range(last, high + 1), range(last - 1, begin, -1)
        return begin, next(filter(self.is_word_boundary, chain(outward, inward)), last)


def _is_word_character(character: str) -> bool:
    # Scripts written without spaces have no word boundaries: a span may end after every character.
    return character.isalnum() and ord(character) < 0x0E00


class DecoderTokenizer:
    """Decoder tokeniser with its token rules.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        rules: Token rules; those of the checkpoint if it has some.
        embedding_rows: Rows of the decoder's embeddings; None: as many as the tokenizer has tokens.
        end_ids: Further tokens that end a generated text, as the user names them or a checkpoint's
            ``generation_config.json`` lists them. If the tokenizer has no end token, the first is the document end.

    Attributes:
        document_end_id: Token that ends a document.
        end_ids: All tokens that end a generated text.

    Raises:
        MetalmError: The tokenizer is not a fast one, lacks a token that the rules name, or has tokens beyond the
            embeddings.
    """

    reads_pairs = False
    """Whether sessions become pairs of a source and a target (:mod:`metalm_cli.sessions.pairs`)."""

    def __init__(
        self, tokenizer: Any, rules: TokenRules, *, embedding_rows: int | None = None, end_ids: Iterable[int] = ()
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise MetalmError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
                why="spans are cut from documents by character; that needs a fast tokenizer (tokenizer.json)",
                remedy="use a checkpoint with a tokenizer.json, or set model.decoder.tokenizer to one",
            )
        self.tokenizer = tokenizer
        self.rules = rules
        self._backend = backend_without_truncation(tokenizer)
        self._continuation_cache: dict[str, list[int]] = {}
        end_ids = list(end_ids)
        self.document_end_id = self._find_document_end_id(end_ids)
        bos = tokenizer.bos_token_id
        self.start_id: int = self.document_end_id if bos is None else bos
        probe = tokenizer("x").input_ids
        self.adds_start_token = bos is not None and bool(probe) and probe[0] == bos
        self.paragraph_id = None if rules.paragraph == "newline" else self._token_id(rules.paragraph, "paragraph")
        if embedding_rows is not None:
            self._check_embeddings(embedding_rows)
        pad = tokenizer.pad_token_id
        # Padding is masked, so that any token can stand for a pad token without an embedding.
        has_pad = pad is not None and (embedding_rows is None or pad < embedding_rows)
        self.pad_id: int = pad if has_pad else self.document_end_id
        self.end_ids = frozenset((self.document_end_id, *end_ids))

    def _check_embeddings(self, rows: int) -> None:
        used = {self.start_id, self.document_end_id, self.paragraph_id, self.tokenizer.unk_token_id}
        missing = tokens_without_embedding(self.tokenizer, rows, used)
        if missing:
            raise MetalmError(
                f"the decoder's tokenizer has {len(self.tokenizer):,} tokens, its embeddings {rows:,} rows",
                where=f"model.decoder.tokenizer: {self.tokenizer.name_or_path or 'built in memory'}",
                why=f"{len(missing):,} tokens of texts have no embedding, the first is {missing[0]!r}",
                remedy="use the tokenizer that the checkpoint was trained with, or set vocab_size in the config",
            )

    def _find_document_end_id(self, end_ids: list[int]) -> int:
        if self.rules.document != "eos":
            return self._token_id(self.rules.document, "document")
        if self.tokenizer.eos_token_id is not None:
            return self.tokenizer.eos_token_id
        if end_ids:
            return end_ids[0]
        raise MetalmError(
            "the decoder's tokenizer has no end token",
            where=f"tokenizer {self.tokenizer.name_or_path or 'built in memory'}, model.special_tokens.document: eos",
            remedy="name a token of its vocabulary: --end-token TOKEN of evaluate and generate, "
            "metalm.load(…, end_tokens=[TOKEN]), or model.special_tokens.document when a recipe assembles the model; "
            'or add "eos_token": "TOKEN" to tokenizer_config.json of the checkpoint',
        )

    def _token_id(self, token: str, key: str) -> int:
        vocabulary = self.tokenizer.get_vocab()
        if token not in vocabulary:
            raise MetalmError(
                f"the token {token!r} is not in the decoder's vocabulary of {len(vocabulary):,}",
                where=f"model.special_tokens.{key}",
                remedy="name a token that the tokenizer has; nothing is added to a checkpoint's vocabulary",
            )
        return vocabulary[token]

    def needs_start_token(self, causal: bool, trained: bool) -> bool:
        """Return whether a session gets the start token.

        ``auto``: the decoder's own tokenizer adds one, or the session begins with a trained causal token, which
        nothing else could predict.

        Args:
            causal: The session begins with a causal span.
            trained: That span is trained.
        """
        if self.rules.start == "auto":
            return self.adds_start_token or (causal and trained)
        return self.rules.start == "always"

    def encode_document(self, text: str) -> TokenisedDocument:
        """Tokenise a document whole, without start and end tokens."""
        if self.paragraph_id is None:
            encoding = self._backend.encode(text, add_special_tokens=False)
            ids = np.array(encoding.ids, dtype=np.int64)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        else:
            ids, offsets = self._encode_paragraphs(text, self.paragraph_id)
        return TokenisedDocument(text, ids, offsets[:, 0], np.maximum.accumulate(offsets[:, 1]))

    def _encode_paragraphs(self, text: str, paragraph_id: int) -> tuple[np.ndarray, np.ndarray]:
        lines = text.split("\n")
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        line_start = 0
        encodings = self._backend.encode_batch(lines, add_special_tokens=False)
        for index, (line, encoding) in enumerate(zip(lines, encodings, strict=True)):
            if index:
                ids.append(paragraph_id)
                offsets.append((line_start - 1, line_start))
            ids.extend(encoding.ids)
            offsets.extend((start + line_start, end + line_start) for start, end in encoding.offsets)
            line_start += len(line) + 1
        return np.array(ids, dtype=np.int64), np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def encode_target(self, text: str) -> list[int]:
        """Tokenise an answer, which continues the session."""
        return self.encode_continuation(text)

    def empty_context(self) -> list[int]:
        """Return the tokens that stand for no context: the start token, or the end token of a preceding document."""
        return [self.start_id]

    def join_texts(self, spans: list[Any]) -> list[Any]:
        """Return the spans as they are: each is tokenised separately."""
        return spans

    def encode_start(self, text: str) -> list[int]:
        """Tokenise a text that begins a session, without the start token."""
        return self._encode_lines(text, self._encode)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokenise a text that follows other spans of its session.

        A sentinel is prepended to the text and its ids are dropped, so that no dummy prefix is added (SentencePiece's
        leading space) and a leading space keeps its usual token.
        """
        return self._encode_lines(text, self._cached_continuation)

    def _encode_lines(self, text: str, encode_first_line: Callable[[str], list[int]]) -> list[int]:
        """Tokenise a text by ``begin``; with a paragraph token, only its first line."""
        if self.paragraph_id is None:
            return encode_first_line(text)
        line, newline, remainder = text.partition("\n")
        if not newline:
            return encode_first_line(line)
        return [
            *encode_first_line(line),
            self.paragraph_id,
            *self._encode_paragraphs(remainder, self.paragraph_id)[0].tolist(),
        ]

    def _cached_continuation(self, text: str) -> list[int]:
        if len(text) > MAX_CACHED_CHARACTERS:
            return self._encode_after_sentinel(text)
        ids = self._continuation_cache.get(text)
        if ids is None:
            if len(self._continuation_cache) == MAX_CACHED_CONTINUATIONS:
                self._continuation_cache.clear()
            ids = self._continuation_cache[text] = self._encode_after_sentinel(text)
        return list(ids)

    def _encode_after_sentinel(self, text: str) -> list[int]:
        if not text:
            return []
        for sentinel in SENTINELS:
            encoding = self._backend.encode(sentinel + text, add_special_tokens=False)
            sentinel_length = len(sentinel)
            first = encoding.char_to_token(sentinel_length)
            if first is None:  # the tokenizer drops that character
                first = next((index for index, (_, end) in enumerate(encoding.offsets) if end > sentinel_length), None)
            if first is not None and encoding.token_to_chars(first)[0] >= sentinel_length:
                return list(encoding.ids[first:])
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Decode token ids without special tokens; a paragraph token becomes a newline."""
        lines: list[list[int]] = [[]]
        for token in ids:
            if token == self.paragraph_id:
                lines.append([])
            else:
                lines[-1].append(token)
        return "\n".join(self.tokenizer.decode(line, skip_special_tokens=True) for line in lines)


def tokens_without_embedding(tokenizer: Any, rows: int, used: Set[int | None]) -> list[str]:
    """Return the tokens beyond the rows of a model's embeddings that a text can have, in the order of their ids.

    Args:
        tokenizer: A Hugging Face tokenizer.
        rows: Rows of the embeddings.
        used: Control tokens that are added to texts; other control tokens are never read.
    """
    control = set(tokenizer.all_special_ids)
    control |= {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id >= rows}
    return [beyond[token_id] for token_id in sorted(beyond) if token_id in used or token_id not in control]


def backend_without_truncation(tokenizer: Any) -> Any:
    """Copy the backend of a fast tokenizer, without truncation and padding.

    Control tokens that are spelled out in a text are tokenised as ordinary text.
    """
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend
