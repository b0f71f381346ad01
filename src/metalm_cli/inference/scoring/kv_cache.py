"""Key-value caches of shared prefixes, computed once and expanded to every row of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalm_cli.models.decoders import hidden_states
from metalm_cli.sessions import PackedTokens, TokenisedSession, build_row, collate

TOLERANCE = 1e-4
"""Largest relative difference between hidden states that count as equal."""


def to_device(stream: PackedTokens, device: Any, positions: Tensor) -> PackedTokens:
    """Move the rows of a decoder to a device, with other positions."""
    return replace(
        stream,
        input_ids=stream.input_ids.to(device, non_blocking=True),
        position_ids=positions.to(device, non_blocking=True),
        segment_ids=stream.segment_ids.to(device, non_blocking=True),
        parent_segments=stream.parent_segments.to(device, non_blocking=True),
    )


def expand_cache(cache: Any, size: int) -> Any:
    """Expand a cache of one row to several rows; the tensors of the original do not change."""
    from transformers import DynamicCache

    expanded = DynamicCache()
    for index, layer in enumerate(cache.layers):
        expanded.update(layer.keys.expand(size, -1, -1, -1), layer.values.expand(size, -1, -1, -1), index)
    return expanded


@torch.no_grad()
def measure_cache_reuse(decoder: Any) -> bool:
    """Measure whether rows after a cached prefix have the same hidden states as whole rows.

    Args:
        decoder: A causal language model in evaluation mode.
    """
    from transformers import DynamicCache

    embedding = decoder.get_input_embeddings()
    ids = (torch.arange(9, device=embedding.weight.device) * 7 + 3) % embedding.num_embeddings
    session = TokenisedSession(ids.cpu().numpy(), np.zeros(9, dtype=bool))
    stream = collate([build_row([session])], {}).decoder
    suffix = replace(stream, **{name: getattr(stream, name)[:, 5:] for name in ("position_ids", "segment_ids")})
    try:
        expected = decoder.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
        cache = DynamicCache()
        decoder.base_model(inputs_embeds=embedding(ids[None, :5]), past_key_values=cache, use_cache=True)
        suffix = to_device(suffix, ids.device, suffix.position_ids)
        actual = hidden_states(
            decoder, embedding(ids[None, 5:].expand(2, -1)), _two_rows(suffix), expand_cache(cache, 2)
        )
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError):
        return False
    scale = max(1.0, float(expected.abs().max()))
    return bool((actual - expected[:, 5:]).abs().max() <= TOLERANCE * scale)


def _two_rows(stream: PackedTokens) -> PackedTokens:
    return replace(
        stream,
        position_ids=stream.position_ids.expand(2, -1),
        segment_ids=stream.segment_ids.expand(2, -1),
        parent_segments=stream.parent_segments.expand(2, -1),
    )
