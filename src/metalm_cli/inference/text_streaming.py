"""Text streaming: incremental decoding, stop strings, and the visible part of an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from metalm_cli.sessions import DecoderTokenizer

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
"""Piece for a single byte, with which SentencePiece spells characters outside its vocabulary."""
REPLACEMENT_CHARACTER = "\ufffd"
"""Decoded form of bytes that are not a character, or not a complete one yet."""
CHECK_INTERVAL = 4
"""Tokens between two searches for stop strings in a batch."""


class TextStream:
    """Incremental decoding: the part of the text that later tokens cannot change.

    A character may be spread over several tokens: byte-level pieces hold parts of it, and SentencePiece spells it in
    pieces of one byte each, which are decoded together with their neighbours. Tokenizers that remove spaces before
    punctuation change the last words.

    Args:
        tokenizer: Tokenizer of the decoder.
    """

    def __init__(self, tokenizer: DecoderTokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        """Text that later tokens cannot change."""
        self._special = set(tokenizer.tokenizer.all_special_ids) - {tokenizer.paragraph_id}
        self._cleans_up = _cleans_up_spaces(tokenizer.tokenizer)

    def push(self, token: int) -> str:
        """Add a token, and return all final text; it begins with the final text before the token."""
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
        """Return the whole text after the last token."""
        self.text = self.tokenizer.decode(self.ids)
        return self.text

    def _is_byte(self, token: int) -> bool:
        if token == self.tokenizer.paragraph_id:
            return False
        return BYTE_PIECE.fullmatch(self.tokenizer.tokenizer.convert_ids_to_tokens(token) or "") is not None


def _cleans_up_spaces(tokenizer: Any) -> bool:
    """Measure whether decoding removes spaces before punctuation, which settings and decoders determine together."""
    text = tokenizer.decode(tokenizer("a , b", add_special_tokens=False).input_ids)
    return " ," not in text and " b" in text


class VisibleText:
    """Filter for the visible part of a generated text.

    Args:
        stop: Stop strings; they are not part of the text.
        delimiter: Target delimiter before an answer; stop strings in it are ignored. None: there is none.
        strips: Whether the delimiter and the space around the answer are removed.
    """

    def __init__(self, stop: Sequence[str] = (), delimiter: str | None = None, *, strips: bool = True) -> None:
        self.stop = tuple(stop)
        self.delimiter = delimiter
        self.strips = strips and delimiter is not None

    def of_finished_text(self, text: str) -> str:
        """Return the visible part of a finished text."""
        text = cut_at_stop(text, self.stop, self.delimiter or "")
        return strip_delimiter(text, self.delimiter or "") if self.strips else text

    def of_partial_text(self, text: str) -> str:
        """Return the visible part of an unfinished text: a prefix of :meth:`of_finished_text`, whatever follows."""
        if stop_position(text, self.stop, self.delimiter or "") is not None:
            return self.of_finished_text(text)
        held_back = max((_overlap(text, stop_string) for stop_string in self.stop), default=0)
        text = text[: len(text) - held_back]
        if not self.strips:
            return text
        delimiter = self.delimiter or ""
        stripped, mark = text.strip(), delimiter.strip()
        return "" if len(stripped) < len(mark) and mark.startswith(stripped) else strip_delimiter(text, delimiter)


def strip_delimiter(text: str, delimiter: str) -> str:
    """Return the answer after the delimiter.

    >>> strip_delimiter(" Answer: yes ", " Answer:")
    'yes'
    """
    return text.strip().removeprefix(delimiter.strip()).strip()


def stop_position(text: str, stop: Sequence[str], delimiter: str = "") -> int | None:
    """Return the start of the stop string that is complete first, or None.

    Args:
        text: The text.
        stop: The stop strings.
        delimiter: Delimiter with which the text may begin; stop strings inside it are ignored.

    Example:
        >>> stop_position("one two", ["ne two", "e"])
        2
        >>> stop_position("\\nyes\\nno", ["\\n"], delimiter="\\n")
        4
    """
    begin = len(delimiter) if text.startswith(delimiter) else 0
    matches = [(text.find(stop_string, begin), len(stop_string)) for stop_string in stop]
    ends = [(start + length, start) for start, length in matches if start >= 0]
    return min(ends)[1] if ends else None


def cut_at_stop(text: str, stop: Sequence[str], delimiter: str = "") -> str:
    """Cut a text at its first stop string (:func:`stop_position`).

    >>> cut_at_stop("one\\n\\ntwo", ["\\n\\n"])
    'one'
    """
    return text[: stop_position(text, stop, delimiter)]


def _overlap(text: str, stop: str) -> int:
    """Return the number of characters at the end of a text that may begin a stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class StopStrings(StoppingCriteria):
    """Stopping criterion for stop strings in a batch; it is checked every few tokens, so texts may be longer.

    Args:
        language_model: Model that decodes the tokens.
        stop: The stop strings.
        delimiters: Delimiter with which each sequence may begin; stop strings inside it are ignored.
    """

    def __init__(self, language_model: Any, stop: Sequence[str], delimiters: Sequence[str]) -> None:
        self.language_model = language_model
        self.stop = tuple(stop)
        self.delimiters = tuple(delimiters)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return which sequences end: ``[b]`` bool."""
        stopped = [False] * len(input_ids)
        if input_ids.shape[1] % CHECK_INTERVAL == 0:
            texts = [self.language_model.decode(row) for row in input_ids.tolist()]
            pairs = zip(texts, self.delimiters, strict=True)
            stopped = [stop_position(text, self.stop, delimiter) is not None for text, delimiter in pairs]
        return torch.tensor(stopped, device=input_ids.device)


class TokenStreamer(StoppingCriteria):
    """Stopping criterion that streams the text of one sequence, and ends it at a stop string.

    Args:
        tokenizer: Tokenizer of the decoder.
        visible: Filter for the visible text.
        on_text: Called with each new piece of visible text.

    Attributes:
        emitted: Text that was passed to ``on_text``.
        stopped: Whether a stop string has ended the sequence.
    """

    def __init__(self, tokenizer: DecoderTokenizer, visible: VisibleText, on_text: Any) -> None:
        self.end_ids = tokenizer.end_ids
        self.stream = TextStream(tokenizer)
        self.visible = visible
        self.on_text = on_text
        self.emitted = ""
        self.stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return whether the sequence ends: ``[1]`` bool."""
        token = int(input_ids[0, -1])
        if token not in self.end_ids:
            text = self.stream.push(token)
            self.stopped = stop_position(text, self.visible.stop, self.visible.delimiter or "") is not None
            self.emit(self.visible.of_partial_text(text))
        return torch.tensor([self.stopped], device=input_ids.device)

    def emit(self, text: str) -> None:
        """Pass the new part of the visible text to ``on_text``."""
        if len(text) > len(self.emitted) and text.startswith(self.emitted):
            self.on_text(text[len(self.emitted) :])
            self.emitted = text


def pieces_of(produce: Callable[[Callable[[str], None]], Any]) -> Iterator[str]:
    """Run a function in a thread, and yield the texts that it passes to its argument.

    Args:
        produce: The function. If the iterator is closed, the next call of its argument raises an exception.

    Example:
        >>> list(pieces_of(lambda on_text: [on_text(piece) for piece in ("one", " two")]))
        ['one', ' two']
    """
    pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
    closed = Event()

    def put(piece: str) -> None:
        if closed.is_set():
            raise GeneratorExit
        pieces.put(piece)

    def run() -> None:
        try:
            produce(put)
            pieces.put(None)
        except BaseException as error:
            pieces.put(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        closed.set()
        thread.join()
