"""Loaded encoder–decoders: score sessions, continue them, converse."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models.families.seq2seq_model import Seq2SeqModel
from metalm_cli.sessions import (
    ENCODER,
    Batch,
    Causal,
    PairTokenizer,
    Processor,
    Session,
    Span,
    TokenisedSession,
)
from metalm_cli.sessions.pairs import target_spans


class PairLanguageModel(LanguageModel):
    """Finished encoder–decoder: each trained span is predicted from all text before it.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        processors: Not read: it docks nothing.
        source: Where the model comes from.
    """

    def __init__(
        self, model: Seq2SeqModel, tokenizer: PairTokenizer, processors: dict[str, Processor], source: str = ""
    ) -> None:
        super().__init__(model, tokenizer, {}, source)
        self.format = tokenizer.format

    def parts(self) -> dict[str, nn.Module]:
        """Return the encoder–decoder by its key path."""
        return {"seq2seq": self.model.seq2seq}

    def collate(self, sessions: Sequence[TokenisedSession]) -> Batch:
        """Join the pairs of sessions into a batch, one pair in each row."""
        for session in sessions:
            self.positions_left(session, 0)
        rows = self.format.without_packing()
        batch = rows.collate([rows.row([session]) for session in sessions], {}, pad_id=self.decoder_tokenizer.pad_id)
        return batch.to(self.device)

    def check_predicted(self, session: TokenisedSession) -> None:
        """Accept every session: the decoder's start token predicts the first token of a target."""

    def sessions_of_targets(self, batch: Batch, sessions: Sequence[TokenisedSession]) -> Tensor:
        targets = [sum(end - begin for begin, end in target_spans(session)) for session in sessions]
        return torch.from_numpy(np.repeat(np.arange(len(sessions)), targets))

    def positions_left(self, session: TokenisedSession, required: int = 1) -> int:
        """Return the number of tokens that the decoder can generate; the session is read by the encoder.

        Raises:
            MetalmError: The encoder or the decoder has too few positions.
        """
        limit = self.model.max_positions
        if limit is None:
            return sys.maxsize
        spans = target_spans(session)
        source = len(self.format.source(session.ids[: spans[-1][0]] if spans else session.ids))
        prefix = len(self.format.target_prefix)
        target = prefix + max((end - begin - 1 for begin, end in spans), default=required)
        for part, length in (("encoder", source), ("decoder", target)):
            if length > limit:
                raise MetalmError(
                    f"{session.name or 'a session'} takes {length} positions, the {part} has {limit}",
                    remedy="shorten the session, or use a model with more positions",
                )
        return limit - prefix

    def continue_one(self, session: TokenisedSession, max_new_tokens: int, options: dict[str, Any]) -> Tensor:
        return self.new_tokens([session], max_new_tokens, options)

    def batches_unequal_lengths(self) -> bool:
        """Return True: that padding does not change outputs is measured when a model is loaded."""
        return True

    def new_tokens(self, sessions: Sequence[TokenisedSession], max_new_tokens: int, options: dict[str, Any]) -> Tensor:
        batch = self.collate(sessions)
        prefix_length = len(self.format.target_prefix)
        for name, wrap, kind in (
            ("logits_processor", _ProcessorAfterPrefix, LogitsProcessorList),
            ("stopping_criteria", _CriterionAfterPrefix, StoppingCriteriaList),
        ):
            if name in options:
                options = {**options, name: kind([wrap(member, prefix_length) for member in options[name]])}
        return self.model.generate(
            batch.streams[ENCODER], self.format.target_prefix, max_new_tokens=max_new_tokens, **options
        )

    def start(self, session: Session) -> PairConversation:  # type: ignore[override]
        """Start a conversation with a session."""
        return PairConversation(self, list(session))


class _ProcessorAfterPrefix(LogitsProcessor):
    """Logits processor that sees the new tokens only."""

    def __init__(self, processor: Any, prefix_length: int) -> None:
        self.processor, self.prefix_length = processor, prefix_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.processor(input_ids[:, self.prefix_length :], scores)


class _CriterionAfterPrefix(StoppingCriteria):
    """Stopping criterion that sees the new tokens only."""

    def __init__(self, criterion: Any, prefix_length: int) -> None:
        self.criterion, self.prefix_length = criterion, prefix_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return self.criterion(input_ids[:, self.prefix_length :], scores, **kwargs)


class PairConversation:
    """Session that is extended turn by turn; each reply reads all text before it.

    Attributes:
        spans: The session so far.
    """

    def __init__(self, language_model: PairLanguageModel, spans: list[Span]) -> None:
        self.language_model = language_model
        self.spans = spans
        language_model.positions_left(language_model.tokenise(Session(spans)))

    def __repr__(self) -> str:
        return f"Conversation of {self.length} tokens with {self.language_model.source or 'a model'}"

    @property
    def length(self) -> int:
        """Tokens of the session so far."""
        return len(self.language_model.tokenise(Session(self.spans)))

    def extend(self, spans: Iterable[Span]) -> PairConversation:
        """Read more spans.

        Raises:
            MetalmError: A span cannot be tokenised, or the encoder has too few positions.
        """
        added = [*self.spans, *spans]
        self.language_model.positions_left(self.language_model.tokenise(Session(added)))
        self.spans = added
        return self

    def reply(self, max_new_tokens: int = 64) -> str:
        """Generate a reply by greedy decoding, and keep it as part of the session.

        Args:
            max_new_tokens: Maximum number of new tokens; the decoder's positions may end the reply earlier.
        """
        session = Session(self.spans)
        (text,) = self.language_model.generate([session], max_new_tokens=max_new_tokens)
        self.spans = [*self.spans, Causal(text)]
        return text
