"""Text that is said token by token: what is certain of it, where it ends, and what of it is the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from metalm_cli.sessions import DecoderTokenizer

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
"""A piece that stands for one byte, as SentencePiece spells what its vocabulary lacks."""
REPLACEMENT_CHARACTER = "\ufffd"
"""Stands where bytes are no character, or no whole one yet."""
CHECK_INTERVAL = 4
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
        self._cleans_up = _cleans_up_spaces(tokenizer.tokenizer)

    def push(self, token: int) -> str:
        """Take a token; returns all text that is certain now, which begins with what was certain before."""
        self.ids.append(token)
        if token in self._special or self._is_byte(token):
            return self.text
        text = self.tokenizer.decode(self.ids).rstrip(REPLACEMENT_CHARACTER)
        if self._cleans_up:
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
        return BYTE_PIECE.fullmatch(self.tokenizer.tokenizer.convert_ids_to_tokens(token) or "") is not None


def _cleans_up_spaces(tokenizer: Any) -> bool:
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

    def of_finished_text(self, text: str) -> str:
        """What is shown of a finished text."""
        text = cut_at_stop(text, self.stop, self.delimiter or "")
        return text if self.delimiter is None else strip_delimiter(text, self.delimiter)

    def of_partial_text(self, text: str) -> str:
        """What is shown of a text that goes on: the beginning of what :meth:`whole` will show, whatever follows."""
        if stop_position(text, self.stop, self.delimiter or "") is not None:
            return self.of_finished_text(text)
        held_back = max((_overlap(text, stop_string) for stop_string in self.stop), default=0)
        text = text[: len(text) - held_back]
        if self.delimiter is None:
            return text
        stripped, mark = text.strip(), self.delimiter.strip()
        return "" if len(stripped) < len(mark) and mark.startswith(stripped) else strip_delimiter(text, self.delimiter)


def strip_delimiter(text: str, delimiter: str) -> str:
    """What was said after the delimiter, which a model says first.

    >>> strip_delimiter(" Answer: yes ", " Answer:")
    'yes'
    """
    return text.strip().removeprefix(delimiter.strip()).strip()


def stop_position(text: str, stop: Sequence[str], delimiter: str = "") -> int | None:
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
    begin = len(delimiter) if text.startswith(delimiter) else 0
    matches = [(text.find(stop_string, begin), len(stop_string)) for stop_string in stop]
    ends = [(start + length, start) for start, length in matches if start >= 0]
    return min(ends)[1] if ends else None


def cut_at_stop(text: str, stop: Sequence[str], delimiter: str = "") -> str:
    """A text up to its first stop text (:func:`stop_position`).

    >>> cut_at_stop("one\\n\\ntwo", ["\\n\\n"])
    'one'
    """
    return text[: stop_position(text, stop, delimiter)]


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

    def __init__(self, language_model: Any, stop: Sequence[str], delimiters: Sequence[str]) -> None:
        self.language_model = language_model
        self.stop = tuple(stop)
        self.delimiters = tuple(delimiters)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which sequences end: ``[b]`` bool."""
        stopped = [False] * len(input_ids)
        if input_ids.shape[1] % CHECK_INTERVAL == 0:
            texts = [self.language_model.decode(row) for row in input_ids.tolist()]
            pairs = zip(texts, self.delimiters, strict=True)
            stopped = [stop_position(text, self.stop, delimiter) is not None for text, delimiter in pairs]
        return torch.tensor(stopped, device=input_ids.device)


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

    def __init__(self, tokenizer: DecoderTokenizer, visible: VisibleText, on_text: Any) -> None:
        self.end_token_id = tokenizer.document_end_id
        self.stream = TextStream(tokenizer)
        self.visible = visible
        self.on_text = on_text
        self.emitted = ""
        self.stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether the sequence ends: ``[1]`` bool."""
        token = int(input_ids[0, -1])
        if token != self.end_token_id:
            text = self.stream.push(token)
            self.stopped = stop_position(text, self.visible.stop, self.visible.delimiter or "") is not None
            self.emit(self.visible.of_partial_text(text))
        return torch.tensor([self.stopped], device=input_ids.device)

    def emit(self, text: str) -> None:
        """Tell what has come to what is shown."""
        if len(text) > len(self.emitted) and text.startswith(self.emitted):
            self.on_text(text[len(self.emitted) :])
            self.emitted = text
