"""The decoder's tokeniser: whole documents with offsets, and task spans that continue a session.

Running text is tokenised whole and sliced, because tokenising its pieces apart gives other tokens. Task spans are
tokenised apart and joined as ids; a span that is not first in its session is tokenised *as a continuation*.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from metalm_cli.errors import MetalmError

SENTINELS = ("\n", "a", ".")
"""Texts put before a continuation, and dropped again; the first that leaves a token boundary is used."""


SHORT = 48
"""Characters of continuations that are kept: answers and what stands between spans come again and again."""
KEPT = 10_000
"""Continuations that are kept."""


@dataclass(frozen=True)
class TokenRules:
    """Which tokens mark starts and ends, as saved in a model's ``config.json``.

    Args:
        start: ``auto``, ``always`` or ``never`` (see :meth:`DecoderTokenizer.starts_with`).
        document: ``eos``, or a token of the vocabulary.
        paragraph: ``newline`` (text as it is), or a token that stands for each newline.
        target_delimiter: Text between a docked input and an answer.
    """

    start: str = "auto"
    document: str = "eos"
    paragraph: str = "newline"
    target_delimiter: str = " "

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class TokenisedDocument:
    """A whole document as decoder tokens.

    Args:
        text: The document.
        ids: Token ids, without start and end tokens. ``[n]`` int64.
        starts: First character of each token. ``[n]`` int64.
        ends: Character after each token; not decreasing. ``[n]`` int64.
    """

    text: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """Characters that tokens ``first`` to ``last - 1`` stand for, spaces before them included."""
        begin = int(self.ends[first - 1]) if first else 0
        end = len(self.text) if last == len(self.ids) else int(self.ends[last - 1])
        return begin, end

    def slice(self, first: int, last: int) -> str:
        """The text that tokens ``first`` to ``last - 1`` stand for."""
        begin, end = self.characters(first, last)
        return self.text[begin:end]

    def word_boundary(self, token: int) -> bool:
        """Whether a word may begin at ``token`` (and so a span may begin or end before it)."""
        if token <= 0 or token >= len(self.ids):
            return True
        before, at = int(self.ends[token - 1]), int(self.starts[token])
        if at < before:  # both tokens hold bytes of one character
            return False
        if at == 0 or at >= len(self.text) or at > before:
            return True
        return not (_in_word(self.text[at - 1]) and _in_word(self.text[at]))

    def expand_to_word_boundaries(self, first: int, last: int, low: int, high: int) -> tuple[int, int]:
        """Widen a span to word boundaries without leaving ``low..high``.

        An edge whose word reaches beyond a limit moves inward instead; where the span is inside one word, it stays.
        """
        outward, inward = range(first, low - 1, -1), range(first + 1, last)
        begin = next(filter(self.word_boundary, chain(outward, inward)), first)
        outward, inward = range(last, high + 1), range(last - 1, begin, -1)
        return begin, next(filter(self.word_boundary, chain(outward, inward)), last)


def _in_word(character: str) -> bool:
    # Scripts written without spaces have no word boundary to look for: every character may end a span.
    return character.isalnum() and ord(character) < 0x0E00


class DecoderTokenizer:
    """A decoder's tokeniser and its token rules.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        rules: Token rules; the model's own where a checkpoint states them.

    Raises:
        MetalmError: The tokenizer is not a fast one, or lacks a token that the rules name.
    """

    def __init__(self, tokenizer: Any, rules: TokenRules) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise MetalmError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
                why="spans are cut from documents by character; that needs a fast tokenizer (tokenizer.json)",
                remedy="use a checkpoint with a tokenizer.json, or name one in model.decoder.tokenizer",
            )
        self.tokenizer = tokenizer
        self.rules = rules
        self._plain = backend_without_truncation(tokenizer)
        self._kept: dict[str, list[int]] = {}
        self.document_id = self._document_id()
        bos = tokenizer.bos_token_id
        self.start_id: int = self.document_id if bos is None else bos
        probe = tokenizer("x").input_ids
        self.adds_start = bos is not None and bool(probe) and probe[0] == bos
        self.paragraph_id = None if rules.paragraph == "newline" else self._token_id(rules.paragraph, "paragraph")
        self.pad_id: int = self.document_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def _document_id(self) -> int:
        if self.rules.document != "eos":
            return self._token_id(self.rules.document, "document")
        if self.tokenizer.eos_token_id is None:
            raise MetalmError(
                "the decoder's tokenizer has no end token",
                where="model.special_tokens.document: eos",
                remedy="name a token of its vocabulary in model.special_tokens.document",
            )
        return self.tokenizer.eos_token_id

    def _token_id(self, token: str, key: str) -> int:
        vocabulary = self.tokenizer.get_vocab()
        if token not in vocabulary:
            raise MetalmError(
                f"the token {token!r} is not in the decoder's vocabulary of {len(vocabulary):,}",
                where=f"model.special_tokens.{key}",
                remedy="name a token that the tokenizer has; nothing is added to a checkpoint's vocabulary",
            )
        return vocabulary[token]

    def starts_with(self, causal: bool, trained: bool) -> bool:
        """Whether a session gets the start token.

        ``auto``: the decoder's own tokenizer adds one, or the session begins with a trained causal token, which
        nothing else could predict.

        Args:
            causal: The session begins with a causal span.
            trained: ... which is trained.
        """
        if self.rules.start == "auto":
            return self.adds_start or (causal and trained)
        return self.rules.start == "always"

    def document(self, text: str) -> TokenisedDocument:
        """Tokenise a document whole, without start and end tokens."""
        if self.paragraph_id is None:
            encoding = self._plain.encode(text, add_special_tokens=False)
            ids = np.array(encoding.ids, dtype=np.int64)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        else:
            ids, offsets = self._by_paragraph(text, self.paragraph_id)
        return TokenisedDocument(text, ids, offsets[:, 0], np.maximum.accumulate(offsets[:, 1]))

    def _by_paragraph(self, text: str, paragraph_id: int) -> tuple[np.ndarray, np.ndarray]:
        lines = text.split("\n")
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        encodings = self._plain.encode_batch(lines, add_special_tokens=False)
        for index, (line, encoding) in enumerate(zip(lines, encodings, strict=True)):
            if index:
                ids.append(paragraph_id)
                offsets.append((at - 1, at))
            ids.extend(encoding.ids)
            offsets.extend((start + at, end + at) for start, end in encoding.offsets)
            at += len(line) + 1
        return np.array(ids, dtype=np.int64), np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def first(self, text: str) -> list[int]:
        """Token ids of a text that begins a session; no start token."""
        return self._lines(text, self._encode)

    def continuation(self, text: str) -> list[int]:
        """Token ids of a text that follows something in its session.

        A sentinel is put before the text and its ids are dropped, so that no dummy prefix is added
        (SentencePiece's leading space) and a leading space keeps its usual token.
        """
        return self._lines(text, self._continued)

    def _lines(self, text: str, begin: Callable[[str], list[int]]) -> list[int]:
        """Tokens of a text whose first line is tokenised by ``begin``; of all of it where newlines stay text."""
        if self.paragraph_id is None:
            return begin(text)
        line, newline, rest = text.partition("\n")
        if not newline:
            return begin(line)
        return [*begin(line), self.paragraph_id, *self._by_paragraph(rest, self.paragraph_id)[0].tolist()]

    def _continued(self, text: str) -> list[int]:
        if len(text) > SHORT:
            return self._after_sentinel(text)
        found = self._kept.get(text)
        if found is None:
            if len(self._kept) == KEPT:
                self._kept.clear()
            found = self._kept[text] = self._after_sentinel(text)
        return list(found)

    def _after_sentinel(self, text: str) -> list[int]:
        if not text:
            return []
        for sentinel in SENTINELS:
            encoding = self._plain.encode(sentinel + text, add_special_tokens=False)
            cut = len(sentinel)
            first = encoding.char_to_token(cut)
            if first is None:  # the tokenizer drops that character
                first = next((index for index, (_, end) in enumerate(encoding.offsets) if end > cut), None)
            if first is not None and encoding.token_to_chars(first)[0] >= cut:
                return list(encoding.ids[first:])
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens; a paragraph token is a newline."""
        lines: list[list[int]] = [[]]
        for token in ids:
            if token == self.paragraph_id:
                lines.append([])
            else:
                lines[-1].append(token)
        return "\n".join(self.tokenizer.decode(line, skip_special_tokens=True) for line in lines)


def backend_without_truncation(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer's backend without truncation and padding.

    Control tokens that are spelled out in a text are read as that text, not as control tokens.
    """
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend
