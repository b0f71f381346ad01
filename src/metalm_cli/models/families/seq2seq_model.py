"""Encoder–decoder models: the loss of pairs, and what is measured of a model.

Letters: b rows of a batch, s and t positions of the longest source and target, h width, v vocabulary, m targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalm_cli.models.attention import dense_mask
from metalm_cli.models.capabilities import agree, check_outputs, measuring, token_ids
from metalm_cli.models.decoders import plain_generation
from metalm_cli.models.loss import Head, linear_cross_entropy
from metalm_cli.models.metalm import MetaLMConfig
from metalm_cli.sessions import ENCODER, ROOT, Batch, PackedTokens, PairFormat, TokenisedSession


@dataclass(frozen=True)
class Seq2SeqTraits:
    """Measured properties of an encoder–decoder.

    Args:
        causal: No position of the decoder attends to a later one.
        has_known_head: :meth:`Seq2SeqModel.head` gives its logits; otherwise its own forward pass computes them all.
        supports_padding: A source has the same outputs with and without padding behind it.
        supports_packing: Pairs that share a row, with masks that separate them, have the outputs of pairs apart.
    """

    causal: bool
    has_known_head: bool
    supports_padding: bool
    supports_packing: bool
    length_switch: int | None = None

    def packs_rows_of(self, length: int) -> bool:
        """Return whether packed rows of a length are exact."""
        return self.supports_packing

    def notes(self) -> list[str]:
        """Return notes for the user."""
        notes = []
        if not self.has_known_head:
            notes.append("the model's output head is unknown: full logits are computed, which takes more memory")
        if not self.supports_packing:
            notes.append("packing is not exact for this encoder–decoder: one source and target per row, padded")
        return notes


class Seq2SeqModel(nn.Module):
    """An encoder–decoder of transformers, with the interface of :class:`~metalm_cli.models.metalm.MetaLM`.

    Args:
        seq2seq: The model.
        tokens: Token rules.
        training: ``{"train", "learning_rate"}`` of the model as last trained.

    Attributes:
        family: Name of the model family.
        seq2seq: The model of transformers.
        encoders: Empty: it docks nothing.
        adapted: Whether it has LoRA adapters.
    """

    family = "encoder-decoder"
    adapted = False

    def __init__(
        self, seq2seq: Any, tokens: dict[str, str] | None = None, training: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.seq2seq = seq2seq
        self.encoders, self.connectors = nn.ModuleDict(), nn.ModuleDict()
        self.encoder_ios: dict[str, Any] = {}
        self.config = MetaLMConfig(decoder_config=seq2seq.config.to_dict(), tokens=tokens, training=training)
        self._traits: Seq2SeqTraits | None = None

    @property
    def text_model(self) -> Any:
        """The model of transformers that generates texts."""
        return self.seq2seq

    @property
    def traits(self) -> Seq2SeqTraits:
        """Measured properties (measured once)."""
        if self._traits is None:
            self._traits = measure_seq2seq(self)
        return self._traits

    @property
    def max_positions(self) -> int | None:
        """Maximum number of positions of a source or a target; None if both are computed for any length (T5)."""
        return getattr(self.seq2seq.config, "max_position_embeddings", None)

    @property
    def start_id(self) -> int | None:
        """The decoder's start token."""
        for config in (self.seq2seq.config, self.seq2seq.generation_config):
            token = getattr(config, "decoder_start_token_id", None)
            if token is not None:
                return token
        return None

    def get_input_embeddings(self) -> nn.Module:
        return self.seq2seq.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.seq2seq.get_output_embeddings()

    # -- forward passes -----------------------------------------------------------------------------------------------

    def encode(self, source: PackedTokens) -> Tensor:
        """Compute the encoder's outputs, ``[b, s, h]``."""
        if source.plain:
            mask: Tensor | None = (source.segment_ids != ROOT).long()
        else:
            mask = dense_mask(source, self._dtype, causal=False)
        return self.seq2seq.get_encoder()(input_ids=source.input_ids, attention_mask=mask).last_hidden_state

    def decode(self, target: PackedTokens, source: PackedTokens, encoded: Tensor) -> Tensor:
        """Compute the decoder's outputs, ``[b, t, h]``, or the logits of an unknown head, ``[b, t, v]``.

        Args:
            target: Rows of the decoder.
            source: Rows of the encoder: for each row of the decoder one, with the same segments.
            encoded: Their outputs, from :meth:`encode`. ``[b, s, h]``
        """
        if target.plain:
            mask, cross_mask = None, (source.segment_ids != ROOT).long()
        else:
            mask, cross_mask = dense_mask(target, self._dtype), cross_attention_mask(target, source, self._dtype)
        if not self.traits.has_known_head:
            return self.seq2seq(
                encoder_outputs=(encoded,),
                attention_mask=cross_mask,
                decoder_input_ids=target.input_ids,
                decoder_attention_mask=mask,
                use_cache=False,
            ).logits
        return self.decoder_states(target.input_ids, mask, encoded, cross_mask)

    def decoder_states(
        self, input_ids: Tensor, mask: Tensor | None, encoded: Tensor, cross_mask: Tensor | None
    ) -> Tensor:
        """Compute the last hidden states of the decoder stack, ``[b, t, h]``."""
        return self.seq2seq.get_decoder()(
            input_ids=input_ids,
            attention_mask=mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=cross_mask,
            use_cache=False,
        ).last_hidden_state

    def head(self) -> Head:
        """Return the output head, with T5's scale of the decoder's outputs and BART's bias."""
        model = self.seq2seq
        layer, config = model.get_output_embeddings(), model.config
        bias = getattr(model, "final_logits_bias", None)
        bias = getattr(layer, "bias", None) if bias is None else bias.flatten()
        scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        return Head(layer.weight, bias, scale, getattr(config, "final_logit_softcapping", None))

    def losses(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy of the batch's targets, as :meth:`MetaLM.losses`."""
        source, target = batch.streams[ENCODER], batch.decoder
        outputs = self.decode(target, source, self.encode(source)).flatten(0, 1)[target.predict_at]
        if self.traits.has_known_head:
            return linear_cross_entropy(outputs, self.head(), target.targets, weights)
        target_losses = nn.functional.cross_entropy(outputs.float(), target.targets, reduction="none")
        return (target_losses if weights is None else target_losses * weights).sum(), target_losses.detach()

    @torch.no_grad()
    def generate(self, source: PackedTokens, target_prefix: tuple[int, ...], **kwargs: Any) -> Tensor:
        """Generate targets with the model's own ``generate``.

        Args:
            source: One source in each row.
            target_prefix: What the decoder reads before a target.
            kwargs: Options of ``generate``.

        Returns:
            The new tokens only. ``[b, n]``
        """
        input_ids = source.input_ids
        prefix = torch.tensor([target_prefix], device=input_ids.device).expand(len(input_ids), -1)
        with plain_generation(self.seq2seq):
            ids = self.seq2seq.generate(
                input_ids=input_ids,
                attention_mask=(source.segment_ids != ROOT).long(),
                decoder_input_ids=prefix,
                decoder_start_token_id=target_prefix[0],
                **kwargs,
            )
        return ids[:, len(target_prefix) :]

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **_kwargs: Any) -> None:
        # The newer name first: in transformers 5.23 the older one warns.
        newer = getattr(self.seq2seq, "activation_checkpointing_enable", None)
        (newer or self.seq2seq.gradient_checkpointing_enable)(gradient_checkpointing_kwargs or {"use_reentrant": False})

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.seq2seq.parameters()).dtype


def cross_attention_mask(target: PackedTokens, source: PackedTokens, dtype: torch.dtype) -> Tensor:
    """Build the additive mask ``[b, 1, t, s]`` with which a target attends to its own source.

    Padding of the target attends to all positions, so that no row is empty.
    """
    queries, keys = target.segment_ids[:, :, None], source.segment_ids[:, None, :]
    visible = (queries == keys) | (queries == ROOT)
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_seq2seq(model: Seq2SeqModel) -> Seq2SeqTraits:
    """Measure an encoder–decoder on a few tokens.

    Raises:
        MetalmError: Its outputs are not finite.
    """
    with measuring(model.seq2seq):
        return _traits(model)


def _traits(model: Seq2SeqModel) -> Seq2SeqTraits:
    seq2seq = model.seq2seq
    first, second = token_ids(seq2seq, 11).split([6, 5], dim=1)
    pairs = [(first, second[:, :3]), (second, torch.cat([second[:, :1], first[:, :3]], 1))]
    expected = [seq2seq(input_ids=source, decoder_input_ids=target, use_cache=False).logits for source, target in pairs]
    for logits in expected:
        check_outputs(seq2seq, logits)
    shorter = seq2seq(input_ids=first, decoder_input_ids=second[:, :2], use_cache=False).logits
    causal = agree(lambda: (shorter, expected[0][:, :2]))

    def from_head(source: Tensor, target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        encoded = seq2seq.get_encoder()(input_ids=source).last_hidden_state
        return model.head().logits(model.decoder_states(target, None, encoded, None)), logits

    known_head = all(
        agree(partial(from_head, source, target, logits))
        for (source, target), logits in zip(pairs, expected, strict=True)
    )

    def together(packs: bool) -> tuple[Tensor, Tensor]:
        batch = _batch_of(pairs, packs)
        source, target = batch.streams[ENCODER], batch.decoder
        outputs = model.decode(target, source, model.encode(source)).flatten(0, 1)[target.predict_at]
        logits = model.head().logits(outputs) if known_head else outputs
        return logits, torch.cat([part[0] for part in expected])

    model._traits = Seq2SeqTraits(causal, known_head, False, False)
    supports_padding = agree(lambda: together(packs=False))
    supports_packing = known_head and agree(lambda: together(packs=True))
    return Seq2SeqTraits(causal, known_head, supports_padding, supports_packing)


def _batch_of(pairs: list[tuple[Tensor, Tensor]], packs: bool) -> Batch:
    """Return a batch of sources and decoder inputs, each position of which predicts something."""
    start = int(pairs[0][1][0, 0])
    rows = PairFormat((), (), (start,), end_id=0, packs=packs)
    sessions = []
    for source, target in pairs:
        ids = torch.cat([source[0], target[0, 1:], target[0, :1]]).cpu().numpy()
        sessions.append(TokenisedSession(ids, np.arange(len(ids)) >= source.shape[1]))
    return rows.collate([rows.row(sessions)], {}).to(pairs[0][0].device)
