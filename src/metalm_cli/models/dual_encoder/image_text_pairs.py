"""Sessions of a dual encoder: each is one image and one text, which take a position each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import (
    Causal,
    DecoderTokenizer,
    Docked,
    DockInput,
    Processor,
    Session,
    SessionTokeniser,
    TextProcessor,
    TokenisedSession,
    TokenRules,
)
from metalm_cli.sessions.compression import Compression
from metalm_cli.sessions.session_tokenizer import DOCKED_ID

ONE_VECTOR = Compression("queries", {"length": 1})
"""Number of positions of a content: its outputs are pooled into one vector."""
IMAGE, TEXT = 0, 1
"""Positions of a session."""


class ImageTextTokenizer(DecoderTokenizer):
    """Tokenizer of the text encoder, by which sessions are measured; nothing continues their texts.

    Args:
        tokenizer: A fast Hugging Face tokenizer; it needs no end token.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, TokenRules())

    def _find_document_end_id(self, end_ids: Iterable[int]) -> int:
        tokenizer = self.tokenizer
        ids = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, 0)
        return next(token_id for token_id in ids if token_id is not None)


class ImageTextTokeniser(SessionTokeniser):
    """Tokeniser of sessions as pairs of an image and a text.

    The image is what the session docks into the image encoder. The text is the answer, or, in a session without one,
    what it docks into the text encoder. Other spans, such as the words of a prompt, are not read.

    Args:
        tokenizer: The text encoder's tokenizer.
        processors: Processors of the image encoder and of the text encoder, by name.
    """

    def __init__(self, tokenizer: ImageTextTokenizer, processors: Mapping[str, Processor]) -> None:
        super().__init__(tokenizer, processors)
        self.text_encoder = next(name for name, each in processors.items() if isinstance(each, TextProcessor))
        self.image_encoder = next(name for name in processors if name != self.text_encoder)

    @property
    def max_positions(self) -> int | None:
        """Maximum tokens of a text."""
        processor = self.processors[self.text_encoder]
        assert isinstance(processor, TextProcessor)
        return processor.max_length

    def __call__(
        self, session: Session, *, require_targets: bool = False, is_continuation: bool = False
    ) -> TokenisedSession:
        """Tokenise a session into two positions: the image, then the text, which is marked as trained.

        Args:
            session: The session.
            require_targets: Without effect: every session has a text.
            is_continuation: Without effect.

        Raises:
            MetalmError: The session has not one image, or no text, or the text is longer than its encoder reads.
        """
        name = session.name or "session"
        image = self.image_of(session)
        answer = "".join(span.content for span in session if _is_answer(span))  # type: ignore[misc]
        texts = [Docked(self.text_encoder, answer.strip())] if answer.strip() else self._docked_texts(session)
        if len(texts) != 1:
            raise MetalmError(
                f"{name} has {len(texts)} texts, expected one",
                why="a dual encoder compares an image with a text: the answer, or what is docked into "
                f"{self.text_encoder!r}",
                remedy="use a task with answers, or a template that docks one text",
            )
        docks = ((IMAGE, image), (TEXT, self._prepare_dock(texts[0], name)))
        ids = np.full(len(docks), DOCKED_ID, dtype=np.int64)
        return TokenisedSession(ids, np.array([False, True]), docks, name, ((TEXT, TEXT + 1),))

    def image_of(self, session: Session) -> DockInput:
        """Return the input of the image encoder.

        Raises:
            MetalmError: The session has not one image, or it cannot be read.
        """
        name = session.name or "session"
        images = [span for span in session if isinstance(span, Docked) and span.encoder == self.image_encoder]
        if len(images) != 1:
            raise MetalmError(
                f"{name} has {len(images)} images, expected one",
                why="a dual encoder compares an image with a text",
                remedy=f"use a task with one image, docked into {self.image_encoder!r}, and a template that shows it",
            )
        return self._prepare_dock(images[0], name)

    def _docked_texts(self, session: Session) -> list[Docked]:
        return [span for span in session if isinstance(span, Docked) and span.encoder == self.text_encoder]


def _is_answer(span: Causal | Docked) -> bool:
    return isinstance(span, Causal) and span.trained and isinstance(span.content, str)


def session_tokeniser_of(
    tokenizer: DecoderTokenizer,
    processors: Mapping[str, Processor],
    dock_origin: Callable[[str], Any] | None = None,
    *,
    tokenise_docks: bool = False,
) -> SessionTokeniser:
    """Return the tokeniser of the sessions of a model; arguments as :class:`SessionTokeniser`."""
    if isinstance(tokenizer, ImageTextTokenizer):
        return ImageTextTokeniser(tokenizer, processors)
    return SessionTokeniser(tokenizer, processors, dock_origin, tokenise_docks=tokenise_docks)
