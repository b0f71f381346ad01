"""Fitting examples into their session: the one long field of a card is cut, never anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation
from metalm_cli.tasks import Card, Example

SEARCHES = 12
"""Bisections of how much of a field is kept; the rest of the error is less than a 4,000th of its length."""
SPECIAL = 4
"""More special tokens than any encoder puts around a text."""


@dataclass(frozen=True)
class EncoderLimit:
    """An encoder that must be able to read a docked text: this model's, or one of another arm of a comparison.

    Args:
        backend: Encodes texts: a processor, or a tokenizer's backend.
        length: Most tokens that the encoder reads.
    """

    backend: Any
    length: int

    @classmethod
    def of(cls, tokenizer: Any, length: int) -> EncoderLimit:
        """From a fast Hugging Face tokenizer and the tokens that its encoder reads."""
        return cls(backend_without_truncation(tokenizer), length)

    def tokens(self, text: str) -> int:
        """Encoder tokens of a text, special ones included."""
        return len(self.backend.encode(text))


class LengthLimits:
    """What a session must fit into, in every arm of a comparison.

    A docked text must fit its encoder; the session must fit ``length`` decoder positions, both with docks and with
    their text read by the decoder instead. So a MetaLM and its twins read the same characters.

    Args:
        tokenizer: The decoder's.
        length: Decoder positions of a session.
        readers: Encoders by name; what a dock of no known encoder must fit is all of them.
    """

    def __init__(self, tokenizer: DecoderTokenizer, length: int, readers: dict[str, EncoderLimit]) -> None:
        self.tokenizer, self.length, self.encoder_limits = tokenizer, length, readers

    @classmethod
    def of(cls, tokenise: SessionTokeniser, length: int, also: Sequence[EncoderLimit] = ()) -> LengthLimits:
        """The limits of a model, and of others that are to read the same."""
        readers = {
            name: EncoderLimit(one, one.max_length)
            for name, one in tokenise.processors.items()
            if isinstance(one, TextProcessor)
        }
        return cls(tokenise.tokenizer, length, {**readers, **{f"*{at}": one for at, one in enumerate(also)}})

    def fits(self, session: Session) -> bool:
        """Whether a session fits."""
        docks = [span.content for span in session if isinstance(span, Docked) and isinstance(span.content, str)]
        texts = [span.content for span in session if isinstance(span, Causal) and isinstance(span.content, str)]
        extra = SPECIAL + sum(isinstance(span, Causal) and span.end for span in session)
        # No tokenizer gives more tokens than bytes; so what is short is not read to be counted.
        size = [len(text.encode()) + SPECIAL for text in docks]
        roomy = sum(size) + sum(len(text.encode()) for text in texts) + extra <= self.length
        said = 0
        if not roomy:
            said = sum(len(self.tokenizer.continuation(text)) for text in texts) + extra
            if said + sum(len(self.tokenizer.continuation(text)) for text in docks) > self.length:
                return False
        for reader in self.encoder_limits.values():
            if roomy and max(size, default=0) <= reader.length:
                continue
            counts = [reader.tokens(text) for text in docks]
            if any(count > reader.length for count in counts) or said + sum(counts) > self.length:
                return False
        return True


def truncate_example(
    example: Example, card: Card, make: Callable[[Example], Session], limits: LengthLimits
) -> tuple[Example, bool] | None:
    """Cut the long field of an example so that its session fits.

    Args:
        example: The example.
        card: Its card.
        make: Its session, for a template, a style and demonstrations.
        limits: What it must fit into.

    Returns:
        The example as it fits, and whether it was cut; None if even without the long field it does not fit, or if the
        card has none.
    """
    if limits.fits(make(example)):
        return example, False
    if card.long_inputs is None:
        return None
    name, how = card.long_inputs.field, card.long_inputs.truncate
    text = example.fields[name]

    def shortened(keep: int) -> Example:
        return replace(example, fields={**example.fields, name: truncate_at_space(text, keep, how)})

    low, high = 0, len(text)
    for _ in range(SEARCHES):
        middle = (low + high) // 2
        if middle == low:
            break
        kept = shortened(middle)
        if kept.fields[name] and limits.fits(make(kept)):
            low = middle
        else:
            high = middle
    best = shortened(low)
    if not best.fields[name]:
        return None
    return best, True


def truncate_at_space(text: str, keep: int, how: str) -> str:
    """A text cut to at most ``keep`` characters, at spaces where it has any.

    Args:
        text: The text.
        keep: Characters to keep.
        how: What goes: its ``head``, its ``tail`` or its ``middle``.

    Example:
        >>> truncate_at_space("one two three four", 9, "tail"), truncate_at_space("one two three four", 9, "head")
        ('one two', 'four')
    """
    if keep >= len(text):
        return text
    if how == "tail":
        return _first_words(text, keep)
    if how == "head":
        return _first_words(text[::-1], keep)[::-1]
    half = max(0, keep - 5) // 2
    if not half:
        return ""
    return f"{_first_words(text, half)} ... {_first_words(text[::-1], half)[::-1]}"


def _first_words(text: str, keep: int) -> str:
    piece = text[:keep]
    if keep < len(text) and not text[keep].isspace():
        space = max(piece.rfind(" "), piece.rfind("\n"))
        piece = piece[:space] if space > 0 else piece
    return piece.strip()
