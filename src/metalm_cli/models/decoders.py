"""Decoder adapters: a causal language model's embeddings, hidden states and head, matched to its own logits.

Nothing is taken on trust from a list of families: :func:`measure_decoder` runs the decoder once on a few tokens and
measures whether it is causal, whether the head found here gives its own logits, and whether packed rows with a block
mask give the logits of unpacked ones. What fails falls back to full logits, or to one session a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalm_cli.models.attention import decoder_mask
from metalm_cli.models.loss import Head
from metalm_cli.sessions import PackedTokens

TOLERANCE = 1e-4
"""Largest relative difference that :func:`measure_decoder` takes for equal."""


@dataclass(frozen=True)
class DecoderTraits:
    """What a decoder was measured to do.

    Args:
        causal: No position sees a later one.
        own_head: :func:`head_of` gives its logits; otherwise its own forward pass is used, with full logits.
        packs: Packed rows with a block mask give the logits of unpacked rows.
    """

    causal: bool
    own_head: bool
    packs: bool

    def notes(self) -> list[str]:
        """What a user should know, in sentences."""
        notes = []
        if not self.own_head:
            notes.append("this decoder's head is not known: full logits are computed, which takes more memory")
        if not self.packs:
            notes.append("this decoder cannot be packed exactly: one session a row")
        return notes


def head_of(decoder: Any) -> Head:
    """The output head of a causal language model, with its family's scale and soft cap."""
    layer = decoder.get_output_embeddings()
    config = decoder.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        scale /= float(divisor)
    return Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def hidden_states(decoder: Any, embeds: Tensor, stream: PackedTokens, cache: Any = None) -> Tensor:
    """Last hidden states of packed rows: ``[b, s, h]``.

    Args:
        decoder: A causal language model.
        embeds: Input vectors; positions are added by the decoder. ``[b, s, d]``
        stream: The rows; their positions count on from the cache.
        cache: Keys and values of what every root begins with, ``b`` times; it grows by the rows.
    """
    outputs = decoder.base_model(**_inputs(decoder, embeds, stream, cache))
    return outputs.last_hidden_state


def full_logits(decoder: Any, embeds: Tensor, stream: PackedTokens, cache: Any = None) -> Tensor:
    """Logits of every position by the decoder's own forward pass: ``[b, s, v]``; arguments as :func:`hidden_states`."""
    return decoder(**_inputs(decoder, embeds, stream, cache)).logits


def _inputs(decoder: Any, embeds: Tensor, stream: PackedTokens, cache: Any = None) -> dict[str, Any]:
    inputs: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": cache is not None}
    if cache is not None:
        inputs["past_key_values"] = cache
        inputs["attention_mask"] = decoder_mask(stream, decoder.config, embeds.dtype, cache.get_seq_length())
        inputs["position_ids"] = stream.position_ids
    elif not stream.plain:
        # Plain rows count from 0, which every family does by itself; stating it would only be searched for packing.
        inputs["attention_mask"] = decoder_mask(stream, decoder.config, embeds.dtype)
        inputs["position_ids"] = stream.position_ids
    return inputs


@torch.no_grad()
def measure_decoder(decoder: Any) -> DecoderTraits:
    """Measure a decoder on a few tokens. Changes nothing: evaluation mode, no gradients, no random numbers."""
    training, attention = decoder.training, decoder.config._attn_implementation
    decoder.eval()
    if attention == "flex_attention":
        # The same masks by another kernel, which would first be compiled, on the CPU for minutes.
        decoder.set_attn_implementation("sdpa")
    try:
        device = next(decoder.parameters()).device
        vocabulary = decoder.get_input_embeddings().num_embeddings
        ids = (torch.arange(11, device=device) * 7 + 3) % vocabulary
        first, second = ids[None, :6], ids[None, 6:]
        whole = decoder(input_ids=first, use_cache=False).logits
        causal = _equal(decoder(input_ids=first[:, :4], use_cache=False).logits, whole[:, :4])
        return DecoderTraits(causal, _own_head(decoder, first, whole), causal and _packs(decoder, first, second, whole))
    finally:
        decoder.train(training)
        if attention == "flex_attention":
            decoder.set_attn_implementation(attention)


def _equal(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, float(other.abs().max()))
    return bool((one - other).abs().max() <= TOLERANCE * scale)


def _own_head(decoder: Any, ids: Tensor, logits: Tensor) -> bool:
    try:
        hidden = decoder.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return _equal(head_of(decoder).logits(hidden), logits)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _packs(decoder: Any, first: Tensor, second: Tensor, logits: Tensor) -> bool:
    apart = decoder(input_ids=second, use_cache=False).logits
    n, m = first.shape[1], second.shape[1]
    device = first.device
    none = torch.zeros(0, dtype=torch.long, device=device)
    stream = PackedTokens(
        input_ids=torch.cat([first, second], 1),
        position_ids=torch.cat([torch.arange(n, device=device), torch.arange(m, device=device)])[None],
        segment_ids=torch.tensor([[0] * n + [1] * m], device=device),
        parent_segments=torch.tensor([[-1, -1]], device=device),
        predict_at=none,
        targets=none,
        target_segments=none,
        uniforms=None,
        plain=False,
    )
    try:
        packed = full_logits(decoder, decoder.get_input_embeddings()(stream.input_ids), stream)
    except (TypeError, ValueError, RuntimeError, IndexError):  # a family may refuse masks, positions or embeddings
        return False
    return _equal(packed[:, :n], logits) and _equal(packed[:, n:], apart)
