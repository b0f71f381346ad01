"""Decoders: hidden states, logits, output head and caches of any causal language model.

There is no list of supported families: :func:`~metalm_cli.models.capabilities.measure_decoder` measures which of these
functions are exact for a decoder.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metalm_cli.models.attention import decoder_mask
from metalm_cli.models.loss import Head
from metalm_cli.sessions import PackedTokens


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


def expand_cache(cache: Any, size: int) -> Any:
    """Expand a cache of one row to several rows; the tensors of the original do not change."""
    from transformers import DynamicCache

    expanded = DynamicCache()
    for index, layer in enumerate(cache.layers):
        expanded.update(layer.keys.expand(size, -1, -1, -1), layer.values.expand(size, -1, -1, -1), index)
    return expanded


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
