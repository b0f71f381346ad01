"""Decoders: hidden states, logits, output head and caches of any causal language model.

There is no list of supported families: :func:`~metalm_cli.models.capabilities.measure_decoder` measures which of these
functions are exact for a decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metalm_cli.models.attention import decoder_mask
from metalm_cli.models.loss import Head
from metalm_cli.sessions import ROOT, PackedTokens


def head_of(decoder: Any) -> Head:
    """Return the output head of a causal language model, with the scale and soft cap of its family."""
    layer = decoder.get_output_embeddings()
    config = decoder.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        scale /= float(divisor)
    return Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def hidden_states(
    decoder: Any, embeds: Tensor, tokens: PackedTokens, cache: Any = None, *, length_switch: int | None = None
) -> Tensor:
    """Compute the last hidden states of packed rows, ``[b, s, h]``.

    Args:
        decoder: A causal language model.
        embeds: Input vectors; positions are added by the decoder. ``[b, s, d]``
        tokens: Packed rows; their positions continue from the cache.
        cache: Keys and values of the prefix of every root, for ``b`` rows; those of the rows are appended.
        length_switch: Length up to which the decoder computes sessions in one way, and longer ones in another
            (:func:`~metalm_cli.models.capabilities.measure_length_switch`): rows of the two kinds take separate passes.
            All sessions of a row, and with a cache of all rows, are of one kind.
    """

    def compute(embeds: Tensor, tokens: PackedTokens) -> Tensor:
        return decoder.base_model(**_decoder_inputs(decoder, embeds, tokens, cache)).last_hidden_state

    return _by_length(compute, embeds, tokens, None if cache is not None else length_switch)


def full_logits(
    decoder: Any, embeds: Tensor, tokens: PackedTokens, cache: Any = None, *, length_switch: int | None = None
) -> Tensor:
    """Compute all logits by the decoder's own forward pass, ``[b, s, v]``; arguments as :func:`hidden_states`."""

    def compute(embeds: Tensor, tokens: PackedTokens) -> Tensor:
        return decoder(**_decoder_inputs(decoder, embeds, tokens, cache)).logits

    return _by_length(compute, embeds, tokens, None if cache is not None else length_switch)


def _by_length(
    compute: Callable[[Tensor, PackedTokens], Tensor], embeds: Tensor, tokens: PackedTokens, length_switch: int | None
) -> Tensor:
    """Compute rows with sessions up to ``length_switch`` apart from the others, ``[b, s, h]``; 0 in padding."""
    if length_switch is None:
        return compute(embeds, tokens)
    occupied = tokens.segment_ids != ROOT
    is_long = (tokens.position_ids.masked_fill(~occupied, 0).amax(1) >= length_switch).tolist()
    outputs: list[Tensor] = []
    order: list[int] = []
    for kind in (False, True):
        rows = [row for row, row_is_long in enumerate(is_long) if row_is_long == kind]
        if rows:
            width = int(occupied[rows].sum(1).max())
            part = compute(embeds[rows, :width], _select_rows(tokens, rows, width, None if kind else length_switch))
            outputs.append(nn.functional.pad(part, (0, 0, 0, embeds.shape[1] - width)))
            order += rows
    if len(outputs) == 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        # Sharded parameters are gathered by all processes together, so each computes both kinds.
        spare = compute(embeds[:1, :1], _select_rows(tokens, [0], 1, length_switch))
        outputs[0] = outputs[0] + 0 * spare.sum()
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(outputs)[inverse]


def _select_rows(tokens: PackedTokens, rows: list[int], width: int, max_length: int | None) -> PackedTokens:
    """Return the inputs of some rows, without the padding behind ``width``, and positions below ``max_length``."""
    position_ids = tokens.position_ids[rows, :width]
    return replace(
        tokens,
        input_ids=tokens.input_ids[rows, :width],
        position_ids=position_ids if max_length is None else position_ids.clamp(max=max_length - 1),
        segment_ids=tokens.segment_ids[rows, :width],
        parent_segments=tokens.parent_segments[rows],
    )


@contextmanager
def plain_generation(decoder: Any) -> Iterator[None]:
    """Context manager in which ``generate`` has only the options of its call.

    A checkpoint's ``generation_config.json`` can constrain the text, or choose a decoding method whose code
    transformers fetches from the hub.
    """
    from transformers import GenerationConfig

    saved = decoder.generation_config
    decoder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        decoder.generation_config = saved


@contextmanager
def teacher_mode(decoder: Any, *, adapted: bool = True) -> Iterator[None]:
    """Context manager in which a decoder teaches: in evaluation mode, with its adapters or without them.

    Args:
        decoder: A causal language model.
        adapted: With its LoRA adapters, if it has some.
    """
    modes = [(module, module.training) for module in decoder.modules()] if decoder.training else []
    adapters = [] if adapted else [module for module in decoder.modules() if hasattr(module, "_disable_adapters")]
    enabled = [not module._disable_adapters for module in adapters]
    try:
        for module, _ in modes:
            module.training = False
        for module in adapters:
            # peft's enable_adapters would also freeze the adapters.
            module._disable_adapters = True
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, is_enabled in zip(adapters, enabled, strict=True):
            module._disable_adapters = not is_enabled


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
        inputs["attention_mask"] = decoder_mask(tokens, decoder.config, _mask_dtype(embeds), cache.get_seq_length())
        inputs["position_ids"] = tokens.position_ids
    elif not tokens.plain:
        # Plain rows have the default positions, from 0; explicit positions would only be searched for packing.
        inputs["attention_mask"] = decoder_mask(tokens, decoder.config, _mask_dtype(embeds))
        inputs["position_ids"] = tokens.position_ids
    return inputs


def _mask_dtype(embeds: Tensor) -> torch.dtype:
    """Return the dtype of the attention scores: that of autocast, which would cast the mask again in each layer."""
    device = embeds.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeds.dtype
