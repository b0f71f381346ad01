"""From sessions to decoder positions: spans tokenised apart and joined as ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.decoder_tokenizer import DecoderTokenizer
from metalm_cli.sessions.processors import DockInput, Processor
from metalm_cli.sessions.spans import Causal, Docked, Session

DOCKED = -1
"""Stands in :attr:`TokenisedSession.ids` where a dock's position is."""


@dataclass(frozen=True)
class TokenisedSession:
    """A session as decoder positions.

    Args:
        ids: Token ids, :data:`DOCKED` at docked positions. ``[n]`` int64.
        trained: Positions whose token is predicted and counted. ``[n]`` bool.
        docks: First position and input of each dock, in order.
        name: What errors call it.

    Example, a dock of three positions and a trained answer with its end token ``2``::

        ids      -1 -1 -1  17  9  2
        trained   0  0  0   1  1  1
        docks    ((0, <3 positions>),)
    """

    ids: np.ndarray
    trained: np.ndarray
    docks: tuple[tuple[int, DockInput], ...] = ()
    name: str = ""

    def __len__(self) -> int:
        return len(self.ids)


class SessionTokeniser:
    """Turns sessions into positions for one model.

    Args:
        tokenizer: The decoder's.
        processors: The encoders', by name. A text dock of an encoder that the model does not have is *lowered* to
            untrained causal text if the model has no encoders at all, so that a decoder alone runs the same sessions.
    """

    def __init__(self, tokenizer: DecoderTokenizer, processors: Mapping[str, Processor]) -> None:
        self.tokenizer = tokenizer
        self.processors = dict(processors)

    def __call__(
        self, session: Session, *, require_targets: bool = False, is_continuation: bool = False
    ) -> TokenisedSession:
        """Tokenise a session.

        Args:
            session: The session.
            require_targets: Refuse a session in which nothing is trained.
            begun: The spans go on from others: no start token, and text is a continuation.

        Raises:
            MetalmError: A dock is empty or too long or names no encoder; nothing is there; nothing is trained.
        """
        name = session.name or "session"
        spans = self._docks_as_text(session, name)
        ids: list[int] = []
        trained: list[bool] = []
        docks: list[tuple[int, DockInput]] = []
        first = next((span for span in spans if isinstance(span, Docked) or span.content or span.end), None)
        if first is None:
            raise MetalmError(f"{name} holds nothing", remedy="give it at least one span with content")
        causal = isinstance(first, Causal)
        if not is_continuation and self.tokenizer.starts_with(causal, causal and first.trained):  # type: ignore[union-attr]
            ids.append(self.tokenizer.start_id)
            trained.append(False)
        for span in spans:
            if isinstance(span, Docked):
                dock = self._dock(span, name)
                docks.append((len(ids), dock))
                ids.extend([DOCKED] * dock.positions)
                trained.extend([False] * dock.positions)
            else:
                new = self._causal(span, is_continuation)
                ids.extend(new)
                trained.extend([span.trained] * len(new))
            is_continuation = is_continuation or isinstance(span, Docked) or bool(span.content)
        marks = np.array(trained, dtype=bool)
        if require_targets and not marks[1:].any():  # nothing predicts the first position
            raise MetalmError(
                f"{name} has no trained token",
                why="nothing in it would be learned or scored",
                remedy="mark the answer with trained=True, and see that it is not empty",
            )
        return TokenisedSession(np.array(ids, dtype=np.int64), marks, tuple(docks), name)

    def _docks_as_text(self, session: Session, name: str) -> list[Causal | Docked]:
        if self.processors:
            return list(session)
        spans: list[Causal | Docked] = []
        for span in session:
            if isinstance(span, Docked):
                if not isinstance(span.content, str):
                    raise MetalmError(
                        f"{name} docks {type(span.content).__name__} content into a model without encoders",
                        why="only text can be read by the decoder instead",
                        remedy="use a model that has the encoder " + repr(span.encoder),
                    )
                span = Causal(span.content)
            spans.append(span)
        return spans

    def _causal(self, span: Causal, begun: bool) -> list[int]:
        if not isinstance(span.content, str):
            ids = list(span.content)
        elif begun:
            ids = self.tokenizer.continuation(span.content)
        else:
            ids = self.tokenizer.first(span.content)
        return [*ids, self.tokenizer.document_id] if span.end else ids

    def _dock(self, span: Docked, name: str) -> DockInput:
        processor = self.processors.get(span.encoder)
        if processor is None:
            raise MetalmError(
                f"{name} docks into an encoder {span.encoder!r} that the model does not have",
                why=f"its encoders: {', '.join(self.processors)}",
                remedy="name one of them",
            )
        try:
            return processor.prepare(span.content)
        except MetalmError as error:
            raise MetalmError(f"{name}: {error.what}", where=error.where, why=error.why, remedy=error.remedy) from error
