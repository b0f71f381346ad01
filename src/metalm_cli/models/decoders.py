"""Decoders: hidden states, logits and output head of any causal language model.

There is no list of supported families: :func:`measure_decoder` runs the decoder on a few tokens and measures whether it
is causal, whether :func:`head_of` reproduces its logits, and whether packed rows with a block mask give the logits of
unpacked rows. The fallbacks are full logits, and one session per row.
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
"""Largest relative difference that :func:`measure_decoder` treats as equal."""


@dataclass(frozen=True)
class DecoderTraits:
    """Measured properties of a decoder.

    Args:
        causal: No position attends to a later one.
        has_known_head: :func:`head_of` gives its logits; otherwise its own forward pass computes full logits.
        supports_packing: Packed rows with a block mask give the logits of unpacked rows.
    """

    causal: bool
    has_known_head: bool
    supports_packing: bool

    def notes(self) -> list[str]:
        """Return notes for the user."""
        notes = []
        if not self.has_known_head:
            notes.append("the decoder's output head is unknown: full logits are computed, which takes more memory")
        if not self.supports_packing:
            notes.append("packing is not exact for this decoder: one session per row")
        return notes


def head_of(decoder: Any) -> Head:
    """Return the output head of a causal language model, with the scale and soft cap of its family."""
    layer = decoder.get_output_embeddings()
    config = decoder.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        scale /= float(divisor)
    return Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def hidden_states(decoder: Any, embeds: Tensor, tokens: PackedTokens, cache: Any = None) -> Tensor:
    """Compute the last hidden states of packed rows, ``[b, s, h]``.

    Args:
        decoder: A causal language model.
        embeds: Input vectors; positions are added by the decoder. ``[b, s, d]``
        tokens: Packed rows; their positions continue from the cache.
        cache: Keys and values of the prefix of every root, for ``b`` rows; those of the rows are appended.
    """
    outputs = decoder.base_model(**_decoder_inputs(decoder, embeds, tokens, cache))
    return outputs.last_hidden_state


def full_logits(decoder: Any, embeds: Tensor, tokens: PackedTokens, cache: Any = None) -> Tensor:
    """Compute all logits by the decoder's own forward pass, ``[b, s, v]``; arguments as :func:`hidden_states`."""
    return decoder(**_decoder_inputs(decoder, embeds, tokens, cache)).logits


def _decoder_inputs(decoder: Any, embeds: Tensor, tokens: PackedTokens, cache: Any = None) -> dict[str, Any]:
    inputs: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": cache is not None}
    if cache is not None:
        inputs["past_key_values"] = cache
        inputs["attention_mask"] = decoder_mask(tokens, decoder.config, embeds.dtype, cache.get_seq_length())
        inputs["position_ids"] = tokens.position_ids
    elif not tokens.plain:
        # Plain rows have the default positions, from 0; explicit positions would only be searched for packing.
        inputs["attention_mask"] = decoder_mask(tokens, decoder.config, embeds.dtype)
        inputs["position_ids"] = tokens.position_ids
    return inputs


@torch.no_grad()
def measure_decoder(decoder: Any) -> DecoderTraits:
    """Measure a decoder on a few tokens, in evaluation mode, without gradients and without random numbers."""
    training, attention = decoder.training, decoder.config._attn_implementation
    decoder.eval()
    if attention == "flex_attention":
        # SDPA has the same masks; flex attention would first be compiled, for minutes on a CPU.
        decoder.set_attn_implementation("sdpa")
    try:
        device = next(decoder.parameters()).device
        vocabulary = decoder.get_input_embeddings().num_embeddings
        ids = (torch.arange(11, device=device) * 7 + 3) % vocabulary
        first, second = ids[None, :6], ids[None, 6:]
        logits = decoder(input_ids=first, use_cache=False).logits
        causal = _nearly_equal(decoder(input_ids=first[:, :4], use_cache=False).logits, logits[:, :4])
        return DecoderTraits(
            causal, _measure_head(decoder, first, logits), causal and _measure_packing(decoder, first, second, logits)
        )
    finally:
        decoder.train(training)
        if attention == "flex_attention":
            decoder.set_attn_implementation(attention)


def _nearly_equal(actual: Tensor, expected: Tensor) -> bool:
    scale = max(1.0, float(expected.abs().max()))
    return bool((actual - expected).abs().max() <= TOLERANCE * scale)


def _measure_head(decoder: Any, ids: Tensor, logits: Tensor) -> bool:
    try:
        hidden = decoder.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return _nearly_equal(head_of(decoder).logits(hidden), logits)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _measure_packing(decoder: Any, first: Tensor, second: Tensor, logits: Tensor) -> bool:
    unpacked = decoder(input_ids=second, use_cache=False).logits
    n, m = first.shape[1], second.shape[1]
    device = first.device
    empty = torch.zeros(0, dtype=torch.long, device=device)
    tokens = PackedTokens(
        input_ids=torch.cat([first, second], 1),
        position_ids=torch.cat([torch.arange(n, device=device), torch.arange(m, device=device)])[None],
        segment_ids=torch.tensor([[0] * n + [1] * m], device=device),
        parent_segments=torch.tensor([[-1, -1]], device=device),
        predict_at=empty,
        targets=empty,
        target_segments=empty,
        uniforms=None,
        plain=False,
    )
    try:
        packed = full_logits(decoder, decoder.get_input_embeddings()(tokens.input_ids), tokens)
    except (TypeError, ValueError, RuntimeError, IndexError):  # a family may reject masks, positions or embeddings
        return False
    return _nearly_equal(packed[:, :n], logits) and _nearly_equal(packed[:, n:], unpacked)
