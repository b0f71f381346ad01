"""Truncating examples to length limits: only the long field of a card is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.common.table import counted
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation
from metalm_cli.tasks import Card, Example

LENGTH_PRECISION = 512
"""The length of a truncated field is found up to this fraction of it."""
TYPICAL_TOKEN_LENGTH = 4
"""Characters of a token at which the search for the length of a truncated field begins."""
MAX_WORD_LENGTH = 20
"""Characters in which a cut looks for white space; without any, it divides a word."""
MAX_SPECIAL_TOKENS = 4
"""Upper bound of the special tokens that an encoder adds to a text."""


@dataclass(frozen=True)
class EncoderLimit:
    """Length limit of an encoder of this model, or of another model that is compared with it.

    Args:
        backend: Encoder of texts: a processor, or the backend of a tokenizer.
        length: Maximum tokens that the encoder reads.
    """

    backend: Any
    length: int

    @classmethod
    def of(cls, tokenizer: Any, length: int) -> EncoderLimit:
        """Make the limit from a fast Hugging Face tokenizer and the maximum tokens of its encoder."""
        return cls(backend_without_truncation(tokenizer), length)

    def tokens(self, text: str) -> int:
        """Encoder tokens of a text, including special tokens."""
        return len(self.backend.encode(text))

    def dock_positions(self, texts: Sequence[str]) -> int | None:
        """Encoder tokens of docked texts; None if the encoder reads a text as empty, or does not read all of it."""
        encodings = [self.backend.encode(text) for text in texts]
        if any(len(encoding) > self.length or 0 not in encoding.special_tokens_mask for encoding in encodings):
            return None
        return sum(map(len, encodings))

    @property
    def is_compressed(self) -> bool:
        """Whether the encoder's connector gives another number of positions than docked outputs."""
        return getattr(self.backend, "compression", None) is not None


class LengthLimits:
    """Length limits of a session, shared by all models that are compared.

    A docked text must fit its encoder; the session must fit ``length`` decoder positions, both with docks and with
    their text read by the decoder instead. Hence a MetaLM and its twins read the same characters. Docks of an encoder
    whose connector gives fewer positions (:mod:`metalm_cli.sessions.compression`) count with these positions only,
    because the decoder need not have room for their text; unless other models must read the same text.

    Args:
        tokenizer: Tokenizer of the decoder.
        length: Decoder positions of a session.
        encoder_limits: Limits by encoder name; every docked text must fit all of them.
        is_shared: Whether other models must read the same text.
        image_positions: Decoder positions of an image, by name of the encoder that reads it.
    """

    def __init__(
        self,
        tokenizer: DecoderTokenizer,
        length: int,
        encoder_limits: dict[str, EncoderLimit],
        is_shared: bool = False,
        image_positions: dict[str, int] | None = None,
    ) -> None:
        self.tokenizer, self.length, self.encoder_limits = tokenizer, length, encoder_limits
        self.is_shared, self.image_positions = is_shared, image_positions or {}

    @classmethod
    def of(cls, tokenise: SessionTokeniser, length: int, other_limits: Sequence[EncoderLimit] = ()) -> LengthLimits:
        """Limits of a model, and of other models that must read the same text."""
        encoder_limits = {
            name: EncoderLimit(processor, processor.max_length)
            for name, processor in tokenise.processors.items()
            if isinstance(processor, TextProcessor)
        }
        return cls(
            tokenise.tokenizer,
            min(length, tokenise.max_positions or length),
            {**encoder_limits, **{f"*{index}": limit for index, limit in enumerate(other_limits)}},
            bool(other_limits),
            {
                name: processor.dummy().positions
                for name, processor in tokenise.processors.items()
                if not isinstance(processor, TextProcessor)
            },
        )

    def fits(self, session: Session) -> bool:
        """Whether a session fits; a dock that an encoder reads as empty does not fit."""
        docks = [span for span in session if isinstance(span, Docked) and isinstance(span.content, str)]
        causal_texts = [span.content for span in session if isinstance(span, Causal) and isinstance(span.content, str)]
        other_positions = MAX_SPECIAL_TOKENS + sum(isinstance(span, Causal) and span.end for span in session)
        other_positions += self._positions_with_images(session)
        if None in self._dock_positions(docks):
            return False
        for span in filter(self._is_compressed, docks):
            other_positions += self.encoder_limits[span.encoder].backend.prepare(span.content).positions
        docks = [span for span in docks if not self._is_compressed(span)]
        docked_texts = [span.content for span in docks]
        # An ASCII text has at most as many tokens as characters; others may grow when a tokenizer normalises them.
        texts = [*docked_texts, *causal_texts]
        bound = sum(map(len, texts)) + MAX_SPECIAL_TOKENS * len(docked_texts) + other_positions
        if bound <= self.length and all(map(str.isascii, texts)):
            return True
        causal_tokens = sum(map(self._decoder_tokens, causal_texts)) + other_positions
        dock_positions = filter(None, self._dock_positions(docks))
        docked_tokens = max([sum(map(self._decoder_tokens, docked_texts)), *dock_positions])
        return causal_tokens + docked_tokens <= self.length

    def obstacle(self, session: Session) -> tuple[str, str]:
        """Return the limit that a session exceeds, and what to change; the first of several.

        Args:
            session: A session that does not fit.
        """
        texts = [span.content for span in session if isinstance(span, Docked) and isinstance(span.content, str)]
        if (positions := self._positions_with_images(session)) >= self.length:
            count = sum(isinstance(span, Docked) and not isinstance(span.content, str) for span in session)
            return (
                f"decoder: {self.length:,} positions; {counted(count, 'image')} take {positions:,}",
                "raise data.sequence_length, or set a connector that gives fewer positions",
            )
        for name, limit in self.encoder_limits.items():
            if any(limit.tokens(text) > limit.length for text in texts):
                if name.startswith("*"):
                    reason = f"an encoder of data.match_input_lengths_of reads {limit.length:,} tokens"
                    return reason, "change data.match_input_lengths_of"
                key = f"model.encoders.{name}.max_length"
                return f"encoder {name}: {limit.length:,} tokens", f"raise {key} if the encoder can read more"
            if limit.dock_positions(texts) is None:
                return "an encoder reads a part of the input as empty", ""
        return f"decoder: {self.length:,} positions", "raise data.sequence_length"

    def _positions_with_images(self, session: Session) -> int:
        """Decoder positions of the docks that hold images, and of the texts in them, without decoding an image."""
        docks = [span for span in session if isinstance(span, Docked) and not isinstance(span.content, str)]
        texts = [span.content["text"] for span in docks if isinstance(span.content, dict) and span.content.get("text")]
        return sum(self.image_positions.get(span.encoder, 0) for span in docks) + sum(map(self._decoder_tokens, texts))

    def _dock_positions(self, docks: Sequence[Docked]) -> list[int | None]:
        """Return :meth:`EncoderLimit.dock_positions` of each encoder, all of which must be able to read every text."""
        texts = [span.content for span in docks]
        return [limit.dock_positions(texts) for limit in self.encoder_limits.values()]

    def _is_compressed(self, span: Docked) -> bool:
        limit = self.encoder_limits.get(span.encoder)
        return limit is not None and limit.is_compressed and not self.is_shared

    def _decoder_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode_continuation(text))


def shorten_long_field(
    example: Example, card: Card, tokens: int, truncate: str | None, tokenizer: DecoderTokenizer
) -> Example:
    """Shorten the long field of an example to a number of decoder tokens, whatever its session has room for.

    Args:
        example: The example.
        card: Its card; without a long field, the example stays as it is.
        tokens: Maximum decoder tokens of the field, as a text that continues a session.
        truncate: Part of the field that is removed; None: as the card says.
        tokenizer: Tokenizer of the decoder.
    """
    if card.long_inputs is None:
        return example
    name, cut_from = card.long_inputs.field, truncate or card.long_inputs.truncate
    text = example.fields[name]

    def fits(length: int) -> bool:
        return len(tokenizer.encode_continuation(truncate_at_space(text, length, cut_from))) <= tokens

    if fits(len(text)):
        return example
    low, high = 0, min(len(text), 2 * TYPICAL_TOKEN_LENGTH * tokens)
    while high < len(text) and fits(high):
        low, high = high, min(len(text), 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return replace(example, fields={**example.fields, name: truncate_at_space(text, low, cut_from)})


def truncate_example(
    example: Example,
    card: Card,
    make_session: Callable[[Example], Session],
    limits: LengthLimits,
    truncate: str | None = None,
) -> tuple[Example, bool] | None:
    """Truncate the long field of an example so that its session fits.

    Args:
        example: The example.
        card: Its card.
        make_session: Builds the session of an example.
        limits: Length limits of the session.
        truncate: Part of the field that is removed; None: as the card says.

    Returns:
        The fitting example, and whether it was truncated; None if it does not fit even without the long field, or if
        the card has no long field.
    """
    if limits.fits(make_session(example)):
        return example, False
    if card.long_inputs is None:
        return None
    name, cut_from = card.long_inputs.field, truncate or card.long_inputs.truncate
    text = example.fields[name]

    def truncated(length: int) -> Example:
        return replace(example, fields={**example.fields, name: truncate_at_space(text, length, cut_from)})

    def fits(length: int) -> bool:
        candidate = truncated(length)
        return bool(candidate.fields[name]) and limits.fits(make_session(candidate))

    low, high = 0, min(len(text), TYPICAL_TOKEN_LENGTH * max(0, limits.length))
    while high < len(text) and fits(high):
        low, high = high, min(len(text), 2 * high)
    while high - low > max(1, low // LENGTH_PRECISION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    best = truncated(low)
    if not best.fields[name]:
        return None
    return best, True


def truncate_at_space(text: str, length: int, cut_from: str) -> str:
    """Truncate a text to at most ``length`` characters, at white space if there is some near the cut.

    Args:
        text: The text.
        length: Maximum characters of the result.
        cut_from: The part that is removed: ``head``, ``tail`` or ``middle``.

    Example:
        >>> truncate_at_space("one two three four", 9, "tail"), truncate_at_space("one two three four", 9, "head")
        ('one two', 'four')
    """
    if length >= len(text):
        return text
    if cut_from == "tail":
        return text[: last_break(text, length)].rstrip()
    if cut_from == "head":
        return _last_words(text, length)
    half = max(0, length - 5) // 2
    if not half:
        return ""
    return f"{text[: last_break(text, half)].rstrip()} ... {_last_words(text, half)}"


def _last_words(text: str, length: int) -> str:
    return text[len(text) - last_break(text[::-1], length) :].lstrip()


def last_break(text: str, length: int) -> int:
    """Find the last white space among the last characters of the first ``length`` ones, and return its position.

    A cut there divides no word. Without white space in :data:`MAX_WORD_LENGTH` characters (a long address, a script
    that is written without spaces), the position is ``length``.

    >>> last_break("one two three", 9), last_break("see https://example.org/a/long/address", 30)
    (7, 30)
    """
    if length >= len(text) or text[length].isspace():
        return length
    nearest = range(length - 1, max(0, length - 1 - MAX_WORD_LENGTH), -1)
    return next((index for index in nearest if text[index].isspace()), length)
