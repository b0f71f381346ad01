"""Tokenising of sessions: spans are tokenised separately and concatenated as ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.decoder_tokenizer import DecoderTokenizer
from metalm_cli.sessions.docks import DockOrigin, Docks, EncodedDock
from metalm_cli.sessions.images import UnreadableImageError, content_kind
from metalm_cli.sessions.processors import DockInput, Processor
from metalm_cli.sessions.spans import Causal, Docked, Session

DOCKED_ID = -1
"""Placeholder id of docked positions in :attr:`TokenisedSession.ids`."""


@dataclass(frozen=True)
class TokenisedSession:
    """Session as decoder positions.

    Args:
        ids: Token ids, :data:`DOCKED_ID` at docked positions. ``[n]`` int64.
        trained: Positions whose token is predicted and counted. ``[n]`` bool.
        docks: First position and input of each dock, in order.
        name: Name of the session in error messages.
        trained_spans: First and last position (exclusive) of each trained span, where spans are known.

    Example, a dock of three positions and a trained answer with its end token ``2``::

        ids      -1 -1 -1  17  9  2
        trained   0  0  0   1  1  1
        docks    ((0, <3 positions>),)
    """

    ids: np.ndarray
    trained: np.ndarray
    docks: tuple[tuple[int, DockInput], ...] = ()
    name: str = ""
    trained_spans: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


class SessionTokeniser:
    """Tokeniser of sessions for one model.

    Args:
        tokenizer: The decoder's tokenizer.
        processors: Processors by encoder name. Without encoders, a text dock is converted to untrained causal text, so
            that a decoder alone reads the same sessions.
        dock_origin: Returns what the docks of an encoder depend on; None: encoded docks are refused.
        tokenise_docks: Tokenise docked texts for the decoder as well, so that a teacher can read them.
    """

    def __init__(
        self,
        tokenizer: DecoderTokenizer,
        processors: Mapping[str, Processor],
        dock_origin: Callable[[str], DockOrigin] | None = None,
        *,
        tokenise_docks: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.dock_origin = dock_origin
        self.processors = dict(processors)
        self.tokenise_docks = tokenise_docks

    @property
    def max_positions(self) -> int | None:
        """Maximum positions of a session, whatever the length of a row; None: no such limit."""
        return None

    def __call__(
        self, session: Session, *, require_targets: bool = False, is_continuation: bool = False
    ) -> TokenisedSession:
        """Tokenise a session.

        Args:
            session: The session.
            require_targets: Raise an error if no token is trained.
            is_continuation: The spans follow others: no start token is added, and text is a continuation.

        Raises:
            MetalmError: A dock is empty or too long or names an unknown encoder; the session is empty; or no token is
                trained.
        """
        name = session.name or "session"
        spans = self._docks_as_text(session, name)
        ids: list[int] = []
        trained: list[bool] = []
        docks: list[tuple[int, DockInput]] = []
        trained_spans: list[tuple[int, int]] = []
        first = next((span for span in spans if isinstance(span, Docked) or span.content or span.end), None)
        if first is None:
            raise MetalmError(f"{name} is empty", remedy="add at least one span with content")
        causal = isinstance(first, Causal)
        if not is_continuation and self.tokenizer.needs_start_token(causal, causal and first.trained):  # type: ignore[union-attr]
            ids.append(self.tokenizer.start_id)
            trained.append(False)
        for span in spans:
            if isinstance(span, Docked):
                dock = self._prepare_dock(span, name)
                if self.tokenise_docks and isinstance(span.content, str):
                    text_ids = self._encode_causal(Causal(span.content), is_continuation)
                    dock = replace(dock, text_ids=np.array(text_ids, dtype=np.int64))
                docks.append((len(ids), dock))
                ids.extend([DOCKED_ID] * dock.positions)
                trained.extend([False] * dock.positions)
            else:
                span_ids = self._encode_causal(span, is_continuation)
                if span.trained and span_ids:
                    trained_spans.append((len(ids), len(ids) + len(span_ids)))
                ids.extend(span_ids)
                trained.extend([span.trained] * len(span_ids))
            is_continuation = is_continuation or isinstance(span, Docked) or bool(span.content)
        trained_mask = np.array(trained, dtype=bool)
        first_predicted = 0 if self.tokenizer.reads_pairs else 1  # nothing predicts the first position of a decoder
        if require_targets and not trained_mask[first_predicted:].any():
            raise MetalmError(
                f"{name} has no trained token",
                why="a session without trained tokens is neither learned nor scored",
                remedy="set trained=True on the answer, and check that it is not empty",
            )
        return TokenisedSession(np.array(ids, dtype=np.int64), trained_mask, tuple(docks), name, tuple(trained_spans))

    def _docks_as_text(self, session: Session, name: str) -> list[Causal | Docked]:
        if self.processors:
            return list(session)
        spans: list[Causal | Docked] = []
        for number, span in enumerate(session, start=1):
            if isinstance(span, Docked):
                if not isinstance(span.content, str):
                    model = "an encoder–decoder" if self.tokenizer.reads_pairs else "a model without encoders"
                    raise MetalmError(
                        f"{name} docks {content_kind(span.content)} content into {model}",
                        where=f"span {number} of {len(session)}: Docked({span.encoder!r}, …)",
                        why="it can only read text in place of a dock",
                        remedy="use a MetaLM that has the encoder " + repr(span.encoder),
                    )
                span = Causal(span.content)
            spans.append(span)
        return self.tokenizer.join_texts(spans)

    def _encode_causal(self, span: Causal, is_continuation: bool) -> list[int]:
        if not isinstance(span.content, str):
            ids = list(span.content)
        elif span.trained and self.tokenizer.reads_pairs:
            ids = self.tokenizer.encode_target(span.content)
        elif is_continuation:
            ids = self.tokenizer.encode_continuation(span.content)
        else:
            ids = self.tokenizer.encode_start(span.content)
        return [*ids, self.tokenizer.document_end_id] if span.end else ids

    def _prepare_dock(self, span: Docked, name: str) -> DockInput:
        processor = self.processors.get(span.encoder)
        if processor is None:
            raise MetalmError(
                f"{name} docks into an encoder {span.encoder!r} that the model does not have",
                why=f"its encoders: {', '.join(self.processors)}",
                remedy="dock into one of these encoders",
            )
        try:
            if isinstance(span.content, Docks):
                raise MetalmError("a dock holds all docks of a list", remedy="dock one of them: docks[0]")
            if isinstance(span.content, EncodedDock):
                if self.dock_origin is None:
                    raise MetalmError("encoded docks are read by loaded models only", remedy="dock the content")
                return span.content.dock_input(self.dock_origin(span.encoder))
            return processor.prepare(span.content)
        except UnreadableImageError as error:
            error.what = f"{name}: {error.what}"
            raise
        except MetalmError as error:
            raise MetalmError(f"{name}: {error.what}", where=error.where, why=error.why, remedy=error.remedy) from error
