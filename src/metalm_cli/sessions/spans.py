"""Sessions: the input of MetaLM, read from left to right.

A session is an ordered list of spans. A :class:`Causal` span is read by the decoder as its own tokens; a
:class:`Docked` span is read by a bidirectional encoder, whose outputs pass a connector and take one decoder position
each (section 2 of the paper). Pretraining, finetuning, scoring and generation all build sessions and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Causal:
    """Text or token ids that the decoder reads as its own tokens.

    Args:
        content: Text, or decoder token ids.
        trained: Whether the loss (or the score) counts these tokens.
        end: Append the document-end token; it is trained if the span is.
    """

    content: str | tuple[int, ...]
    trained: bool = False
    end: bool = False


@dataclass(frozen=True)
class Docked:
    """Content that a named encoder reads; never trained.

    Args:
        encoder: Name of the encoder in the model (``text``, ``vision``, ...).
        content: Text, an image (path, PIL image or :class:`~metalm_cli.sessions.ImageSource`), or a dict of both
            (``image``, ``text``) for a fused encoder.
    """

    encoder: str
    content: Any


Span = Causal | Docked


@dataclass(frozen=True)
class Session:
    """An ordered list of spans.

    Example:
        >>> session = Session([Docked("text", "It rained all day."), Causal("wet", trained=True, end=True)])
        >>> [type(span).__name__ for span in session]
        ['Docked', 'Causal']
    """

    spans: tuple[Span, ...]
    name: str = ""

    def __init__(self, spans: Iterable[Span], name: str = "") -> None:
        object.__setattr__(self, "spans", tuple(spans))
        object.__setattr__(self, "name", name)
        for span in self.spans:
            if not isinstance(span, Causal | Docked):
                raise TypeError(f"a session holds Causal and Docked spans, got {type(span).__name__}")

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)
