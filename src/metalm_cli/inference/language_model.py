"""The session-level interface of a model: score sessions, continue them, converse.

Naive and exact: one session a row, no sharing. Equal scores whatever the batch size or order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_io import load_model
from metalm_cli.models.metalm import MetaLM
from metalm_cli.sessions import (
    Batch,
    Causal,
    DecoderTokenizer,
    Processor,
    Session,
    SessionTokeniser,
    Span,
    TokenisedSession,
    build_row,
    collate,
)


class LanguageModel:
    """A finished model and what belongs to it, in evaluation mode.

    Args:
        model: The model.
        tokenizer: The decoder's.
        processors: The encoders'.

    Attributes:
        model: The ``PreTrainedModel``, with tensor-level ``forward`` and ``generate``.
        tokenizer: The decoder's Hugging Face tokenizer.
        processors: What prepares each encoder's inputs, by name.
    """

    def __init__(self, model: MetaLM, tokenizer: DecoderTokenizer, processors: dict[str, Processor]) -> None:
        self.model = model
        self.decoder_tokenizer = tokenizer
        self.tokenizer = tokenizer.tokenizer
        self.processors = processors
        self.tokenise = SessionTokeniser(tokenizer, processors)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: Any) -> LanguageModel:
        """Move the model."""
        self.model.to(device)
        return self

    def collate(self, sessions: Sequence[TokenisedSession]) -> Batch:
        for session in sessions:
            self.positions_left(session, 0)
        rows = [build_row([session]) for session in sessions]
        return collate(rows, self.processors, pad_id=self.decoder_tokenizer.pad_id).to(self.device)

    @torch.no_grad()
    def log_likelihood(self, sessions: Iterable[Session], batch_size: int = 16) -> Tensor:
        """Log-probability of each session's trained tokens, in nats, summed.

        Args:
            sessions: Sessions with at least one trained token each.
            batch_size: Sessions of a forward pass.

        Returns:
            ``[n]`` float64, in the order given.

        Raises:
            MetalmError: A session cannot be tokenised, or nothing in it is trained or can be predicted.
        """
        sessions = _session_list(sessions)
        named_sessions = [
            session if session.name else Session(session, f"session {index}") for index, session in enumerate(sessions)
        ]
        tokenised = [self.tokenise(session, require_targets=True) for session in named_sessions]
        for session in tokenised:
            if session.trained[0]:
                raise MetalmError(
                    f"nothing predicts the first trained token of {session.name}",
                    why="it is the first of its session, and the model's rules put no start token before it",
                    remedy="put an untrained span before it",
                )
        scores = torch.zeros(len(tokenised), dtype=torch.float64)
        order = sorted(range(len(tokenised)), key=lambda index: -len(tokenised[index]))
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = self.collate([tokenised[index] for index in indices])
            _, losses = self.model.losses(batch)
            sums = torch.zeros(len(indices), dtype=torch.float64).index_add_(
                0, batch.decoder.target_segments.cpu(), -losses.double().cpu()
            )
            scores[indices] = sums
        return scores

    def generate(self, sessions: Iterable[Session], max_new_tokens: int = 64, **options: Any) -> list[str]:
        """Continue each session.

        Args:
            sessions: What to continue.
            max_new_tokens: Most tokens of a continuation; the decoder's positions may end it earlier.
            options: For transformers' ``generate`` (``num_beams``, ``do_sample``, ``length_penalty``, ...); default
                greedy.

        Returns:
            The texts, up to the document-end token.

        Raises:
            MetalmError: A session cannot be tokenised, or fills all positions of the decoder.
        """
        options.setdefault("do_sample", False)
        options.setdefault("eos_token_id", self.decoder_tokenizer.document_end_id)
        options.setdefault("pad_token_id", self.decoder_tokenizer.pad_id)
        texts = []
        for session in _session_list(sessions):
            tokenised = self.tokenise(session)
            new_tokens = min(max_new_tokens, self.positions_left(tokenised))
            batch = self.collate([tokenised])
            ids = self.model.generate(batch.decoder.input_ids, docks=batch.docks, max_new_tokens=new_tokens, **options)
            texts.append(self.decode(ids[0].tolist()))
        return texts

    def positions_left(self, session: TokenisedSession, required: int = 1) -> int:
        """Positions that the decoder has left after a session.

        Raises:
            MetalmError: There are fewer than ``need``.
        """
        limit = self.model.max_positions
        if limit is None:
            return sys.maxsize
        if len(session) + required > limit:
            raise MetalmError(
                f"{session.name or 'a session'} takes {len(session)} positions, the decoder has {limit}",
                why="one more is needed to go on" if required else "",
                remedy="shorten it, or use a model with more positions",
            )
        return limit - len(session)

    def decode(self, ids: list[int]) -> str:
        end = self.decoder_tokenizer.document_end_id
        return self.decoder_tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)

    def start(self, session: Session) -> Conversation:
        """Read a session and keep its cache, to go on from."""
        conversation = Conversation(self)
        conversation.append(self.tokenise(session))
        return conversation


def _session_list(sessions: Iterable[Session]) -> list[Session]:
    """The sessions as a list.

    Raises:
        MetalmError: One session instead of several, or something else.
    """
    session_list = [sessions] if isinstance(sessions, Session | str) else list(sessions)
    if isinstance(sessions, Session | str) or not all(isinstance(session, Session) for session in session_list):
        first_wrong = next((session for session in session_list if not isinstance(session, Session)), session_list[0])
        raise MetalmError(
            f"expected a list of sessions, got {type(first_wrong).__name__}",
            remedy='write [metalm.Session([metalm.Causal("some text")])]',
        )
    return session_list


class Conversation:
    """A session that goes on: what has been read stays in the decoder's cache.

    Attributes:
        length: Decoder positions read.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        from transformers import DynamicCache

        self.language_model = language_model
        self.cache: Any = DynamicCache(config=language_model.model.decoder.config)
        self.length = 0
        self.logits: Tensor | None = None

    @torch.no_grad()
    def append(self, session: TokenisedSession) -> None:
        """Read more positions.

        Raises:
            MetalmError: They are more than the decoder has left.
        """
        self._positions_left(len(session))
        model = self.language_model.model
        batch = self.language_model.collate([session])
        embeds = model.embed(batch.decoder.input_ids, batch.docks)
        positions = torch.arange(self.length, self.length + len(session), device=embeds.device)[None]
        outputs = model.decoder(
            inputs_embeds=embeds, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        self.cache = outputs.past_key_values
        self.length += len(session)
        self.logits = outputs.logits[0, -1]

    def _positions_left(self, required: int) -> int:
        """Positions that the decoder has left.

        Raises:
            MetalmError: There are fewer than ``need``.
        """
        limit = self.language_model.model.max_positions
        if limit is None:
            return sys.maxsize
        if self.length + required > limit:
            raise MetalmError(
                f"a conversation of {self.length + required} positions: the decoder has {limit}",
                remedy="begin a new one, or use a model with more positions",
            )
        return limit - self.length

    def extend(self, spans: Iterable[Span]) -> Conversation:
        """Read more spans; text goes on from what stands before it.

        Raises:
            MetalmError: A span cannot be tokenised.
        """
        self.append(self.language_model.tokenise(Session(spans), is_continuation=True))
        return self

    def reply(self, max_new_tokens: int = 64) -> str:
        """Say the likeliest next tokens, one after another, and keep them as part of the session.

        Args:
            max_new_tokens: Most tokens to say; the decoder's positions may end it earlier.

        Raises:
            MetalmError: The decoder has no position left.
        """
        reply_ids: list[int] = []
        end = self.language_model.decoder_tokenizer.document_end_id
        new_tokens = min(max_new_tokens, self._positions_left(1))
        while len(reply_ids) < new_tokens:
            assert self.logits is not None, "a conversation begins with a session"
            token = int(self.logits.argmax())
            if token == end:
                break
            reply_ids.append(token)
            self.extend([Causal((token,))])
        return self.language_model.decoder_tokenizer.decode(reply_ids)


def load(
    source: str | Path, *, base: str | Path | None = None, offline: bool = False, trust_remote_code: bool = False
) -> LanguageModel:
    """Load a finished model.

    Args:
        source: A run folder, its ``model/`` or ``adapter/``, any Hugging Face folder of a causal language model, or a
            hub id.
        base: Where the base of an adapter lies; default where its run found it. Its weights must be the same.
        offline: Open no connection.
        trust_remote_code: Run Python code that the model brings along; it can do anything you can.

    Returns:
        Its session-level interface; a plain causal language model loads as a MetaLM without encoders.

    Raises:
        MetalmError: Nothing is there that can be loaded.
    """
    return LanguageModel(*load_model(source, base=base, offline=offline, remote_code=trust_remote_code))
