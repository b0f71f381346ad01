"""Attention masks, built from segments.

A batch contains segments; each attention backend has its own form of mask. Letters: b rows, s positions, g segments.

- *plain*: every row is one root segment. Ordinary causal attention is exact and no mask is built.
- *dense*: an additive ``[b, 1, s, s]`` mask, which every tested family passes on unchanged.
- *flex*: a block mask for ``flex_attention``, which skips fully masked blocks (GPUs).

An explicit mask replaces a family's local window, so the window is part of the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metalm_cli.sessions import PackedTokens

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

AttentionMask = Any
"""None, a tensor, a block mask, or a dict of them by layer type."""


def visibility_mask(
    tokens: PackedTokens, *, causal: bool = True, window: int | None = None, cached_length: int = 0
) -> Tensor:
    """Return which positions attend to which.

    Args:
        tokens: Packed rows.
        causal: Attend to positions of the same segment and of its chain of parents that are not later. Otherwise
            (encoders) to all positions of the same segment.
        window: Local attention: only positions less than this far away.
        cached_length: Number of cached positions before every root; all positions attend to them.

    Returns:
        ``[b, s, cached_length + s]`` bool; queries in rows, keys in columns. Padding attends to padding, so that no
        row is empty.
    """
    segments, positions = tokens.segment_ids, tokens.position_ids
    chain, keys = segments, segments[:, None, :]
    visible = segments[:, :, None] == keys
    for _ in range(tokens.depth):
        chain = torch.where(chain >= 0, tokens.parent_segments.gather(1, chain.clamp(min=0)), chain)
        visible = visible | ((chain[:, :, None] == keys) & (chain[:, :, None] >= 0))
    distance = positions[:, :, None] - positions[:, None, :]
    if causal:
        visible = visible & (distance >= 0)
    if window is not None:
        visible = visible & (distance.abs() < window)
    if cached_length:
        cached = torch.arange(cached_length, device=positions.device).expand(*positions.shape, cached_length)
        within_window = cached >= 0 if window is None else positions[:, :, None] - cached < window
        visible = torch.cat([within_window, visible], 2)
    return visible


def dense_mask(
    tokens: PackedTokens, dtype: torch.dtype, *, causal: bool = True, window: int | None = None, cached_length: int = 0
) -> Tensor:
    """Build the additive mask ``[b, 1, s, cached_length + s]``: 0 if attended to, else the lowest value of ``dtype``.

    A boolean mask would be wrong: several families add the mask to the scores.
    """
    visible = visibility_mask(tokens, causal=causal, window=window, cached_length=cached_length)
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def flex_predicate(
    tokens: PackedTokens, window: int | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the mask function of ``flex_attention``: whether query ``q`` of row ``b`` attends to key ``k``."""
    segments, positions, parents, depth = tokens.segment_ids, tokens.position_ids, tokens.parent_segments, tokens.depth

    def predicate(b: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        chain, key = segments[b, q], segments[b, k]
        visible = chain == key
        for _ in range(depth):
            chain = torch.where(chain >= 0, parents[b, chain.clamp(min=0)], chain)
            visible = visible | ((chain == key) & (chain >= 0))
        distance = positions[b, q] - positions[b, k]
        visible = visible & (distance >= 0)
        return visible if window is None else visible & (distance < window)

    return predicate


def flex_mask(tokens: PackedTokens, window: int | None = None) -> BlockMask:
    """Build the block mask of packed rows for ``flex_attention``."""
    from torch.nn.attention.flex_attention import create_block_mask

    b, s = tokens.segment_ids.shape
    return create_block_mask(flex_predicate(tokens, window), b, None, s, s, device=tokens.segment_ids.device)


def decoder_mask(tokens: PackedTokens, config: Any, dtype: torch.dtype, cached_length: int = 0) -> AttentionMask:
    """Build a decoder's attention mask of packed rows.

    Args:
        tokens: The decoder's rows.
        config: The decoder's config; its layer types and windows decide how many masks are needed.
        dtype: Dtype of the decoder's activations.
        cached_length: Number of cached positions before every root; if it is not 0, the mask is dense.

    Returns:
        None for plain rows, one mask, or a dict by layer type for families that mix full and local layers.
    """
    if tokens.plain and not cached_length:
        return None
    layer_types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if layer_types - {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"packed attention is not implemented for layers of type {sorted(layer_types)}")
    use_flex = getattr(config, "_attn_implementation", None) == "flex_attention" and not cached_length

    def build(layer_window: int | None) -> AttentionMask:
        return (
            flex_mask(tokens, layer_window)
            if use_flex
            else dense_mask(tokens, dtype, window=layer_window, cached_length=cached_length)
        )

    if "sliding_attention" in layer_types:
        return {"full_attention": build(None), "sliding_attention": build(window)}
    if not layer_types and window is not None and getattr(config, "use_sliding_window", True):
        return build(window)
    return build(None)
