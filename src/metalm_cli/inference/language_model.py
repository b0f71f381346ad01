"""Loaded models: score sessions, continue them, converse.

The reference implementation: one session in each row, without shared prefixes. Scores depend on neither batch size nor
order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteriaList

from metalm_cli.errors import MetalmError
from metalm_cli.inference.text_sessions import answer_delimiter, prompt_list, session_list, text_to_session, why_full
from metalm_cli.inference.text_streaming import TokenStreamer, VisibleText, pieces_of
from metalm_cli.models.capabilities import measure_left_padding
from metalm_cli.models.decoders import plain_generation
from metalm_cli.models.weights_hash import weights_sha256
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
from metalm_cli.sessions.docks import DockOrigin


class LanguageModel:
    """Finished model with its tokenizer and processors, in evaluation mode.

    Args:
        model: The model.
        tokenizer: Tokenizer of the decoder.
        processors: Processors of the encoders.
        source: Path or hub id that the model was loaded from; empty if it was not loaded.

    Attributes:
        model: The ``PreTrainedModel``, with tensor-level ``forward`` and ``generate``.
        tokenizer: Hugging Face tokenizer of the decoder.
        processors: Processor of each encoder's inputs, by encoder name.
    """

    def __init__(
        self, model: Any, tokenizer: DecoderTokenizer, processors: dict[str, Processor], source: str = ""
    ) -> None:
        self.model = model
        self.source = source
        self.decoder_tokenizer = tokenizer
        self.tokenizer = tokenizer.tokenizer
        self.processors = processors
        self.tokenise = SessionTokeniser(tokenizer, processors, self.dock_origin)
        self._dock_origins: dict[tuple[Any, ...], DockOrigin] = {}

    def parts(self) -> dict[str, nn.Module]:
        """Return the decoder, encoders and connectors by key path."""
        named = {"decoder": self.model.decoder}
        named |= {f"encoders.{name}": encoder for name, encoder in self.model.encoders.items()}
        return named | {f"connectors.{name}": connector for name, connector in self.model.connectors.items()}

    def __repr__(self) -> str:
        dtype = next(self.model.parameters()).dtype
        lines = [f"{type(self).__name__} {self.source}".rstrip() + f" ({dtype}, {self.device})"]
        for name, part in self.parts().items():
            parameters = sum(parameter.numel() for parameter in part.parameters())
            lines.append(f"  {name}: {type(part).__name__}, {parameters:,} parameters")
        return "\n".join(lines)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: Any) -> LanguageModel:
        """Move the model to a device or dtype, and return it."""
        self.model.to(device)
        return self

    def collate(self, sessions: Sequence[TokenisedSession]) -> Batch:
        for session in sessions:
            self.positions_left(session, 0)
        rows = [build_row([session]) for session in sessions]
        return collate(rows, self.processors, pad_id=self.decoder_tokenizer.pad_id).to(self.device)

    @torch.no_grad()
    def log_likelihood(self, sessions: Iterable[Session], batch_size: int = 16) -> Tensor:
        """Return the summed log-probability of each session's trained tokens, in nats.

        Args:
            sessions: Sessions with at least one trained token each.
            batch_size: Sessions in a forward pass.

        Returns:
            ``[n]`` float64, in the order of ``sessions``.

        Raises:
            MetalmError: A session cannot be tokenised or has no trained token, or nothing predicts its first one.
        """
        sessions = session_list(sessions)
        named_sessions = [
            session if session.name else Session(session, f"session {index}") for index, session in enumerate(sessions)
        ]
        tokenised = [self.tokenise(session, require_targets=True) for session in named_sessions]
        for session in tokenised:
            self.check_predicted(session)
        scores = torch.zeros(len(tokenised), dtype=torch.float64)
        order = sorted(range(len(tokenised)), key=lambda index: -len(tokenised[index]))
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            members = [tokenised[index] for index in indices]
            batch = self.collate(members)
            _, losses = self.model.losses(batch)
            owners = self.sessions_of_targets(batch, members)
            sums = torch.zeros(len(indices), dtype=torch.float64).index_add_(0, owners, -losses.double().cpu())
            scores[indices] = sums
        return scores

    def check_predicted(self, session: TokenisedSession) -> None:
        """Check that every trained token of a session is predicted.

        Raises:
            MetalmError: Nothing predicts the first token.
        """
        if session.trained[0]:
            raise MetalmError(
                f"nothing predicts the first trained token of {session.name}",
                why="it is the first token of its session, and the model's token rules add no start token",
                remedy="put an untrained span before the first trained span",
            )

    def sessions_of_targets(self, batch: Batch, sessions: Sequence[TokenisedSession]) -> Tensor:
        """Return the index of the session that each target of a batch belongs to, on the CPU: ``[m]``."""
        return batch.decoder.target_segments.cpu()

    def generate(
        self,
        prompts: Iterable[Session | str],
        max_new_tokens: int = 64,
        *,
        stop: str | Sequence[str] = (),
        **options: Any,
    ) -> list[str]:
        """Continue each prompt.

        Args:
            prompts: Sessions, or texts, which are docked as those of ``metalm generate``: the text encoder reads them,
                and a model without encoders reads them as causal text.
            max_new_tokens: Maximum number of new tokens; the decoder's positions may end a text earlier.
            stop: Texts that end an answer and are not part of it.
            options: Options of transformers' ``generate`` (``num_beams``, ``do_sample``, ``length_penalty``, ...);
                greedy decoding by default.

        Returns:
            The texts, up to the first token that ends them; answers to texts without the target delimiter and the
            space around them.

        Raises:
            MetalmError: A prompt cannot be tokenised, or fills all positions of the decoder.
        """
        return [self._start(prompt, max_new_tokens, stop, options)(None) for prompt in prompt_list(prompts)]

    def stream(
        self, prompt: Session | str, max_new_tokens: int = 64, *, stop: str | Sequence[str] = (), **options: Any
    ) -> Iterator[str]:
        """Continue a prompt, and yield the text piece by piece.

        Args:
            prompt: A session or a text, as for :meth:`generate`.
            max_new_tokens: As for :meth:`generate`.
            stop: As for :meth:`generate`.
            options: As for :meth:`generate`; with beam search, the whole text comes at the end.

        Returns:
            Iterator over pieces that later tokens cannot change; joined, they are the text of :meth:`generate`. The
            model generates in a thread, which ends if the iterator is closed.

        Raises:
            MetalmError: As for :meth:`generate`.
        """
        (checked,) = prompt_list([prompt])
        return pieces_of(self._start(checked, max_new_tokens, stop, options))

    def _start(
        self, prompt: Session | str, max_new_tokens: int, stop: str | Sequence[str], options: Mapping[str, Any]
    ) -> Callable[[Callable[[str], None] | None], str]:
        """Tokenise a prompt; return the function that continues it, and passes the pieces of the text to a function."""
        session = text_to_session(self, prompt) if isinstance(prompt, str) else prompt
        tokenised = self.tokenise(session)
        new_tokens = min(max_new_tokens, self.positions_left(tokenised))
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in stops:
            raise MetalmError("a stop string is empty: it would end every answer before it begins")
        visible = VisibleText(stops, answer_delimiter(self, session), strips=isinstance(prompt, str))

        def answer(on_text: Callable[[str], None] | None) -> str:
            streamer = TokenStreamer(self.decoder_tokenizer, visible, on_text or (lambda piece: None))
            criteria = [*options.get("stopping_criteria", ())]
            if (stops or on_text) and options.get("num_beams", 1) == 1:
                criteria.append(streamer)
            decoding = {**self.default_options(), **options, "stopping_criteria": StoppingCriteriaList(criteria)}
            ids = self.continue_one(tokenised, new_tokens, decoding)
            text = visible.of_finished_text(self.decode(ids[0].tolist()))
            streamer.emit(text)
            return text

        return answer

    def default_options(self) -> dict[str, Any]:
        """Options of transformers' ``generate`` for greedy decoding up to a token that ends the text."""
        return {
            "do_sample": False,
            "eos_token_id": sorted(self.decoder_tokenizer.end_ids),
            "pad_token_id": self.decoder_tokenizer.pad_id,
        }

    @torch.no_grad()
    def continue_one(self, session: TokenisedSession, max_new_tokens: int, options: dict[str, Any]) -> Tensor:
        """Continue a session by the model's own ``generate``; arguments as :meth:`new_tokens`. ``[1, n]``"""
        batch = self.collate([session])
        with plain_generation(self.model.decoder):
            return self.model.generate(
                batch.decoder.input_ids, docks=batch.docks, max_new_tokens=max_new_tokens, **options
            )

    def batches_unequal_lengths(self) -> bool:
        """Measure whether sessions of different lengths can be continued in a batch with the texts of each alone."""
        return measure_left_padding(self.model.decoder)

    @torch.no_grad()
    def new_tokens(self, sessions: Sequence[TokenisedSession], max_new_tokens: int, options: dict[str, Any]) -> Tensor:
        """Continue sessions in a batch.

        Args:
            sessions: The sessions.
            max_new_tokens: Maximum number of new tokens.
            options: Options of transformers' ``generate``.

        Returns:
            The new tokens; those after one that ends the text are padding. ``[b, n]``
        """
        batch = self.collate(sessions)
        embeds = self.model.embed(batch.decoder.input_ids, batch.docks)
        width = embeds.shape[1]
        padding = torch.tensor([width - len(session) for session in sessions], device=embeds.device)[:, None]
        positions = torch.arange(width, device=embeds.device)[None] - padding
        left_padded = embeds.gather(1, (positions % width)[:, :, None].expand_as(embeds))
        with plain_generation(self.model.decoder):
            return self.model.decoder.generate(
                inputs_embeds=left_padded,
                attention_mask=(positions >= 0).long(),
                max_new_tokens=max_new_tokens,
                **options,
            )

    def positions_left(self, session: TokenisedSession, required: int = 1) -> int:
        """Return the number of positions that the decoder has left after a session.

        Raises:
            MetalmError: Fewer than ``required`` positions are left.
        """
        limit = self.model.max_positions
        if limit is None:
            return sys.maxsize
        if len(session) + required > limit:
            raise MetalmError(
                f"{session.name or 'a session'} takes {len(session)} positions, the decoder has {limit}",
                why=why_full(session, required),
                remedy="shorten the session, or use a model with more positions or with fewer positions for a dock",
            )
        return limit - len(session)

    def decode(self, ids: list[int]) -> str:
        """Return the text of generated tokens, up to the first one that ends it."""
        end_ids = self.decoder_tokenizer.end_ids
        return self.decoder_tokenizer.decode(list(takewhile(lambda token: token not in end_ids, ids)))

    def dock_origin(self, name: str) -> DockOrigin:
        """Return what the vectors of an encoder's docks depend on.

        Weights are hashed again if torch has noted a change of them, which it does not for one through ``.data``.
        """
        encoder, connector = self.model.encoders[name], self.model.connectors[name]
        weights = (*encoder.parameters(), *connector.parameters())
        state = (name, *((id(weight), weight.data_ptr(), weight._version, weight.dtype) for weight in weights))
        if state not in self._dock_origins:
            docking = self.model.config.docking.get(name, {})
            self._dock_origins = {
                state: DockOrigin(
                    name,
                    self.model.get_input_embeddings().embedding_dim,
                    dict(self.model.config.connectors[name]),
                    str(next(encoder.parameters()).dtype),
                    weights_sha256(encoder),
                    weights_sha256(connector),
                    {"keep_special": False}
                    | {key: docking[key] for key in ("keep_special", "layer") if key in docking},
                )
            }
        return self._dock_origins[state]

    def start(self, session: Session) -> Conversation:
        """Start a conversation with a session."""
        conversation = Conversation(self)
        conversation.append(self.tokenise(session))
        return conversation


class Conversation:
    """Session that is extended turn by turn; the decoder's key-value cache is kept.

    Attributes:
        length: Decoder positions read.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        from transformers import DynamicCache

        self.language_model = language_model
        self.cache: Any = DynamicCache(config=language_model.model.decoder.config)
        self.length = 0
        self.logits: Tensor | None = None

    def __repr__(self) -> str:
        return f"Conversation of {self.length} positions with {self.language_model.source or 'a model'}"

    @torch.no_grad()
    def append(self, session: TokenisedSession) -> None:
        """Read more positions.

        Raises:
            MetalmError: The decoder has too few positions left.
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
        """Return the number of positions that the decoder has left.

        Raises:
            MetalmError: Fewer than ``required`` positions are left.
        """
        limit = self.language_model.model.max_positions
        if limit is None:
            return sys.maxsize
        if self.length + required > limit:
            raise MetalmError(
                f"the conversation takes {self.length + required} positions, the decoder has {limit}",
                remedy="start a new conversation, or use a model with more positions",
            )
        return limit - self.length

    def extend(self, spans: Iterable[Span]) -> Conversation:
        """Read more spans; text continues the text before it.

        Raises:
            MetalmError: A span cannot be tokenised.
        """
        self.append(self.language_model.tokenise(Session(spans), is_continuation=True))
        return self

    def reply(self, max_new_tokens: int = 64) -> str:
        """Generate a reply by greedy decoding, and keep it as part of the session.

        Args:
            max_new_tokens: Maximum number of new tokens; the decoder's positions may end the reply earlier.

        Raises:
            MetalmError: The decoder has no position left.
        """
        reply_ids: list[int] = []
        end_ids = self.language_model.decoder_tokenizer.end_ids
        new_tokens = min(max_new_tokens, self._positions_left(1))
        while len(reply_ids) < new_tokens:
            assert self.logits is not None, "a conversation begins with a session"
            token = int(self.logits.argmax())
            if token in end_ids:
                break
            reply_ids.append(token)
            self.extend([Causal((token,))])
        return self.language_model.decoder_tokenizer.decode(reply_ids)
