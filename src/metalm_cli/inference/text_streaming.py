"""Text that is said token by token: what is certain of it, where it ends, and what of it is the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from metalm_cli.sessions import DecoderTokenizer

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A piece that stands for one byte, as SentencePiece spells what its vocabulary lacks."""
BROKEN = "\ufffd"
"""Stands where bytes are no character, or no whole one yet."""
EVERY = 4
"""Tokens between two looks for stop texts in a batch."""


class TextStream:
    """The text of tokens that come one after another, as far as no later token can change it.

    A character may be spread over several tokens: byte-level pieces hold parts of it, and SentencePiece spells it in
    pieces of a byte each, which are read together with their neighbours. Tokenizers that tidy spaces before
    punctuation change the last words.

    Args:
        tokenizer: The decoder's.
    """

    def __init__(self, tokenizer: DecoderTokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        """What is certain."""
        self._special = set(tokenizer.tokenizer.all_special_ids) - {tokenizer.paragraph_id}
        self._tidies = _tidies(tokenizer.tokenizer)

    def push(self, token: int) -> str:
        """Take a token; returns all text that is certain now, which begins with what was certain before."""
        self.ids.append(token)
        if token in self._special or self._is_byte(token):
            return self.text
        text = self.tokenizer.decode(self.ids).rstrip(BROKEN)
        if self._tidies:
            text = text[: max(0, text.rfind(" ", 0, max(0, text.rfind(" "))))]
        if text.startswith(self.text):
            self.text = text
        return self.text

    def finish(self) -> str:
        """All text: no more tokens come."""
        self.text = self.tokenizer.decode(self.ids)
        return self.text

    def _is_byte(self, token: int) -> bool:
        if token == self.tokenizer.paragraph_id:
            return False
        return BYTE.fullmatch(self.tokenizer.tokenizer.convert_ids_to_tokens(token) or "") is not None


def _tidies(tokenizer: Any) -> bool:
    """Whether decoding takes spaces before punctuation out: measured, as settings and decoders decide it together."""
    text = tokenizer.decode(tokenizer("a , b", add_special_tokens=False).input_ids)
    return " ," not in text and " b" in text


class VisibleText:
    """What is shown of a text.

    Args:
        stop: Texts that end it; they are not part of it.
        delimiter: What a model says before an answer; it and space around the answer are left out. None: leave
            everything.
    """

    def __init__(self, stop: Sequence[str] = (), delimiter: str | None = None) -> None:
        self.stop = tuple(stop)
        self.delimiter = delimiter

    def whole(self, text: str) -> str:
        """What is shown of a finished text."""
        text = cut_at_stop(text, self.stop, self.delimiter or "")
        return text if self.delimiter is None else strip_delimiter(text, self.delimiter)

    def so_far(self, text: str) -> str:
        """What is shown of a text that goes on: the beginning of what :meth:`whole` will show, whatever follows."""
        if stop_position(text, self.stop, self.delimiter or "") is not None:
            return self.whole(text)
        held = max((_overlap(text, one) for one in self.stop), default=0)
        text = text[: len(text) - held]
        if self.delimiter is None:
            return text
        said, mark = text.strip(), self.delimiter.strip()
        return "" if len(said) < len(mark) and mark.startswith(said) else strip_delimiter(text, self.delimiter)


def strip_delimiter(text: str, delimiter: str) -> str:
    """What was said after the delimiter, which a model says first.

    >>> strip_delimiter(" Answer: yes ", " Answer:")
    'yes'
    """
    return text.strip().removeprefix(delimiter.strip()).strip()


def stop_position(text: str, stop: Sequence[str], lead: str = "") -> int | None:
    """Where the first stop text begins: of several, the one that is complete first; None where there is none.

    Args:
        text: The text.
        stop: The stop texts.
        lead: What is said first, and where no stop text counts: the delimiter before an answer.

    Example:
        >>> stop_position("one two", ["ne two", "e"])
        2
        >>> stop_position("\\nyes\\nno", ["\\n"], lead="\\n")
        4
    """
    begin = len(lead) if text.startswith(lead) else 0
    places = [(text.find(one, begin), len(one)) for one in stop]
    ends = [(at + size, at) for at, size in places if at >= 0]
    return min(ends)[1] if ends else None


def cut_at_stop(text: str, stop: Sequence[str], lead: str = "") -> str:
    """A text up to its first stop text (:func:`stop_position`).

    >>> cut_at_stop("one\\n\\ntwo", ["\\n\\n"])
    'one'
    """
    return text[: stop_position(text, stop, lead)]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which a stop text may begin."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class StopStrings(StoppingCriteria):
    """Ends sequences of a batch that hold a stop text; looks every few tokens, so that more may have been said.

    Args:
        language_model: Whose tokens they are.
        stop: The texts.
        leads: What each sequence says first, and where none counts.
    """

    def __init__(self, language_model: Any, stop: Sequence[str], leads: Sequence[str]) -> None:
        self.language_model = language_model
        self.stop = tuple(stop)
        self.leads = tuple(leads)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which sequences end: ``[b]`` bool."""
        found = [False] * len(input_ids)
        if input_ids.shape[1] % EVERY == 0:
            texts = [self.language_model._text(row) for row in input_ids.tolist()]
            said = zip(texts, self.leads, strict=True)
            found = [stop_position(text, self.stop, lead) is not None for text, lead in said]
        return torch.tensor(found, device=input_ids.device)


class TokenStreamer(StoppingCriteria):
    """Tells the text of one sequence as it is said, and ends it at a stop text.

    Args:
        tokenizer: The decoder's.
        answer: What is shown.
        tell: Given each new piece of what is shown.

    Attributes:
        told: What has been told.
        stopped: A stop text has ended it.
    """

    def __init__(self, tokenizer: DecoderTokenizer, answer: VisibleText, tell: Any) -> None:
        self.end = tokenizer.document_id
        self.stream = TextStream(tokenizer)
        self.answer = answer
        self.tell = tell
        self.told = ""
        self.stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether the sequence ends: ``[1]`` bool."""
        token = int(input_ids[0, -1])
        if token != self.end:
            text = self.stream.push(token)
            self.stopped = stop_position(text, self.answer.stop, self.answer.delimiter or "") is not None
            self.add(self.answer.so_far(text))
        return torch.tensor([self.stopped], device=input_ids.device)

    def add(self, shown: str) -> None:
        """Tell what has come to what is shown."""
        if len(shown) > len(self.told) and shown.startswith(self.told):
            self.tell(shown[len(self.told) :])
            self.told = shown
