"""Truncating examples to length limits: only the long field of a card is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation
from metalm_cli.tasks import Card, Example

MAX_BISECTIONS = 12
"""Bisection steps for the length of a truncated field; the remaining error is below a 4,000th of its length."""
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


class LengthLimits:
    """Length limits of a session, shared by all models that are compared.

    A docked text must fit its encoder; the session must fit ``length`` decoder positions, both with docks and with
    their text read by the decoder instead. Hence a MetaLM and its twins read the same characters.

    Args:
        tokenizer: Tokenizer of the decoder.
        length: Decoder positions of a session.
        encoder_limits: Limits by encoder name; every docked text must fit all of them.
    """

    def __init__(self, tokenizer: DecoderTokenizer, length: int, encoder_limits: dict[str, EncoderLimit]) -> None:
        self.tokenizer, self.length, self.encoder_limits = tokenizer, length, encoder_limits

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
            length,
            {**encoder_limits, **{f"*{index}": limit for index, limit in enumerate(other_limits)}},
        )

    def fits(self, session: Session) -> bool:
        """Whether a session fits."""
        docked_texts = [span.content for span in session if isinstance(span, Docked) and isinstance(span.content, str)]
        causal_texts = [span.content for span in session if isinstance(span, Causal) and isinstance(span.content, str)]
        special_tokens = MAX_SPECIAL_TOKENS + sum(isinstance(span, Causal) and span.end for span in session)
        # A text has at most as many tokens as bytes, so short texts need not be tokenised.
        dock_bounds = [len(text.encode()) + MAX_SPECIAL_TOKENS for text in docked_texts]
        fits_by_bytes = (
            sum(dock_bounds) + sum(len(text.encode()) for text in causal_texts) + special_tokens <= self.length
        )
        causal_tokens = 0
        if not fits_by_bytes:
            causal_tokens = sum(len(self.tokenizer.encode_continuation(text)) for text in causal_texts) + special_tokens
            if (
                causal_tokens + sum(len(self.tokenizer.encode_continuation(text)) for text in docked_texts)
                > self.length
            ):
                return False
        for encoder_limit in self.encoder_limits.values():
            if fits_by_bytes and max(dock_bounds, default=0) <= encoder_limit.length:
                continue
            counts = [encoder_limit.tokens(text) for text in docked_texts]
            if any(count > encoder_limit.length for count in counts) or causal_tokens + sum(counts) > self.length:
                return False
        return True


def truncate_example(
    example: Example, card: Card, make_session: Callable[[Example], Session], limits: LengthLimits
) -> tuple[Example, bool] | None:
    """Truncate the long field of an example so that its session fits.

    Args:
        example: The example.
        card: Its card.
        make_session: Builds the session of an example.
        limits: Length limits of the session.

    Returns:
        The fitting example, and whether it was truncated; None if it does not fit even without the long field, or if
        the card has no long field.
    """
    if limits.fits(make_session(example)):
        return example, False
    if card.long_inputs is None:
        return None
    name, cut_from = card.long_inputs.field, card.long_inputs.truncate
    text = example.fields[name]

    def truncated(length: int) -> Example:
        return replace(example, fields={**example.fields, name: truncate_at_space(text, length, cut_from)})

    low, high = 0, len(text)
    for _ in range(MAX_BISECTIONS):
        middle = (low + high) // 2
        if middle == low:
            break
        candidate = truncated(middle)
        if candidate.fields[name] and limits.fits(make_session(candidate)):
            low = middle
        else:
            high = middle
    best = truncated(low)
    if not best.fields[name]:
        return None
    return best, True


def truncate_at_space(text: str, length: int, cut_from: str) -> str:
    """Truncate a text to at most ``length`` characters, at spaces where possible.

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
        return _first_words(text, length)
    if cut_from == "head":
        return _first_words(text[::-1], length)[::-1]
    half = max(0, length - 5) // 2
    if not half:
        return ""
    return f"{_first_words(text, half)} ... {_first_words(text[::-1], half)[::-1]}"


def _first_words(text: str, length: int) -> str:
    words = text[:length]
    if length < len(text) and not text[length].isspace():
        space = max(words.rfind(" "), words.rfind("\n"))
        words = words[:space] if space > 0 else words
    return words.strip()
