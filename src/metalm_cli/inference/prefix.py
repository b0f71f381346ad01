"""A prefix that many sessions share: its docks are encoded once, and the decoder reads it once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel, session_list
from metalm_cli.inference.scoring.option_scorer import Scorer
from metalm_cli.inference.scoring.question_rows import ScoringRow, session_digest
from metalm_cli.models.decoders import expand_cache, plain_generation
from metalm_cli.sessions import Session, TokenisedSession, build_row


class Prefix:
    """Beginning of many sessions, such as a passage; what follows it is scored or continued.

    Results are those of the whole sessions. The key-value cache of the prefix is kept where the decoder computes the
    rest on it exactly (:func:`~metalm_cli.models.capabilities.measure_cache_reuse`); else whole sessions are read, and
    only the docks are shared.

    Args:
        language_model: The model, not an encoder–decoder.
        session: The prefix.

    Raises:
        MetalmError: The model is an encoder–decoder, or the session cannot be tokenised or is too long.
    """

    def __init__(self, language_model: LanguageModel, session: Session) -> None:
        if language_model.decoder_tokenizer.reads_pairs:
            raise MetalmError(
                "an encoder–decoder shares no prefix",
                why="its encoder reads the whole input of each session",
                remedy="score or continue the whole sessions",
            )
        self.language_model, self.session = language_model, session
        self._scorer = Scorer(language_model)
        self.tokenised = self._encoded(language_model.tokenise(session))
        language_model.positions_left(self.tokenised)
        self._key = session_digest(self.tokenised)

    def __repr__(self) -> str:
        return f"Prefix of {len(self)} positions for {self.language_model.source or 'a model'}"

    def __len__(self) -> int:
        """Return the number of decoder positions."""
        return len(self.tokenised)

    @torch.no_grad()
    def log_likelihood(self, sessions: Iterable[Session]) -> Tensor:
        """Return the summed log-probability of the trained tokens of each session after the prefix, in nats.

        Args:
            sessions: What follows the prefix, with at least one trained token each.

        Returns:
            ``[n]`` float64, in the order of ``sessions``: as
            :meth:`~metalm_cli.inference.language_model.LanguageModel.log_likelihood` of the whole sessions.

        Raises:
            MetalmError: A session cannot be tokenised, has no trained token, or exceeds the positions of the decoder.
        """
        rows = []
        for index, session in enumerate(session_list(sessions)):
            whole = self._whole(session, index, require_targets=True)
            self.language_model.check_predicted(whole)
            self.language_model.positions_left(whole, 0)
            rows.append(self._row(whole, index))
        sums = self._scorer.sums(rows, {self._key: self.tokenised}, len(rows))
        return torch.from_numpy(sums)

    @torch.no_grad()
    def generate(self, sessions: Iterable[Session], max_new_tokens: int = 64, **options: Any) -> list[str]:
        """Continue the prefix with each session.

        Args:
            sessions: What follows the prefix.
            max_new_tokens: Maximum number of new tokens; the decoder's positions may end a text earlier.
            options: Options of transformers' ``generate``; greedy decoding by default.

        Returns:
            As :meth:`~metalm_cli.inference.language_model.LanguageModel.generate` of the whole sessions.

        Raises:
            MetalmError: A session cannot be tokenised, or fills all positions of the decoder.
        """
        model = self.language_model
        options = {**model.default_options(), **options}
        texts = []
        for index, session in enumerate(session_list(sessions)):
            whole = self._whole(session, index)
            new_tokens = min(max_new_tokens, model.positions_left(whole))
            is_single = options.get("num_beams", 1) == 1 and options.get("num_return_sequences", 1) == 1
            if is_single and self._is_shared(whole, len(whole) + new_tokens):
                ids = self._continue(whole, new_tokens, options)
            else:
                ids = model.continue_one(whole, new_tokens, options)
            texts.append(model.decode(ids[0].tolist()))
        return texts

    def _continue(self, whole: TokenisedSession, new_tokens: int, options: dict[str, Any]) -> Tensor:
        """Continue a session on the cache of the prefix: ``[1, n]``."""
        model = self.language_model.model
        batch = self.language_model.collate([whole])
        embeds = model.embed(batch.decoder.input_ids, batch.docks)
        cache = expand_cache(self._scorer.prefix_cache(self._key, self.tokenised), 1)
        with plain_generation(model.decoder):
            ids: Tensor = model.decoder.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
                past_key_values=cache,
                max_new_tokens=new_tokens,
                **options,
            )
        return ids

    def _whole(self, session: Session, index: int, *, require_targets: bool = False) -> TokenisedSession:
        """Tokenise the prefix with a session, with the vectors of all docks."""
        whole = Session([*self.session, *session], session.name or f"session {index}")
        return self._encoded(self.language_model.tokenise(whole, require_targets=require_targets))

    def _encoded(self, session: TokenisedSession) -> TokenisedSession:
        """Replace the contents of docks by their vectors, each of which is computed once."""
        vectors = self._scorer.docks.vectors([dock for _, dock in session.docks])
        docks = [
            (start, replace(dock, compressed=dock.positions, vectors=dock_vectors.float().cpu().numpy()))
            for (start, dock), dock_vectors in zip(session.docks, vectors, strict=True)
        ]
        return replace(session, docks=tuple(docks))

    def _is_shared(self, whole: TokenisedSession, length: int) -> bool:
        """Whether a session is read on the cache of the prefix, up to a number of positions."""
        size = len(self.tokenised)
        begin = replace(
            whole, ids=whole.ids[:size], docks=tuple((start, dock) for start, dock in whole.docks if start < size)
        )
        is_prefix = len(whole) > size and session_digest(begin) == self._key
        return is_prefix and self._scorer.reuses_cache(length)

    def _row(self, whole: TokenisedSession, index: int) -> ScoringRow:
        """Make the row of a session: what follows the prefix, or all of it if its first tokens are scored."""
        trained = np.flatnonzero(whole.trained)
        is_shared = trained[0] > len(self.tokenised) and self._is_shared(whole, len(whole))
        first = len(self.tokenised) if is_shared else 0
        rest = TokenisedSession(
            whole.ids[first:],
            np.zeros(len(whole) - first, dtype=bool),
            tuple((start - first, dock) for start, dock in whole.docks if start >= first),
            whole.name,
        )
        return ScoringRow(
            build_row([rest]),
            trained - first - 1,
            whole.ids[trained],
            np.full(len(trained), index),
            self._key if is_shared else None,
            len(whole),
        )
