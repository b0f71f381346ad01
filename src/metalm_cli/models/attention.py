"""Attention masks from segments.

A batch carries segments; each backend makes of them what it needs. Letters: b rows, s positions, g segments.

- *plain*: every row is one root segment. Ordinary causal attention is exact and no mask is built.
- *dense*: an additive ``[b, 1, s, s]`` mask, which every tested family passes through untouched.
- *flex*: a block mask for ``flex_attention``, which skips the blocks that no position sees (GPUs).

An explicit mask bypasses a family's local window, so the window is part of the mask that is built here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metalm_cli.sessions import PackedTokens

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Mask = Any
"""None, a tensor, a block mask, or a dict of them by layer type."""


def sees(stream: PackedTokens, *, causal: bool = True, window: int | None = None, before: int = 0) -> Tensor:
    """Which position sees which.

    Args:
        stream: Rows with segments.
        causal: Only what is not later, in the position's own segment and its chain of parents. Otherwise (encoders)
            everything in the same segment.
        window: Local attention: only positions less than this far away.
        before: Positions 0 to ``before - 1`` of every root that stand in a cache: all see them.

    Returns:
        ``[b, s, before + s]`` bool; row: who looks, column: what is seen. Padding sees padding: no row is empty.
    """
    segments, positions = stream.segment_ids, stream.position_ids
    chain, keys = segments, segments[:, None, :]
    seen = segments[:, :, None] == keys
    for _ in range(stream.depth):
        chain = torch.where(chain >= 0, stream.parent_segments.gather(1, chain.clamp(min=0)), chain)
        seen = seen | ((chain[:, :, None] == keys) & (chain[:, :, None] >= 0))
    distance = positions[:, :, None] - positions[:, None, :]
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance.abs() < window)
    if before:
        cached = torch.arange(before, device=positions.device).expand(*positions.shape, before)
        near = cached >= 0 if window is None else positions[:, :, None] - cached < window
        seen = torch.cat([near, seen], 2)
    return seen


def dense_mask(
    stream: PackedTokens, dtype: torch.dtype, *, causal: bool = True, window: int | None = None, before: int = 0
) -> Tensor:
    """The additive mask ``[b, 1, s, before + s]``: 0 where a position is seen, else the lowest number of ``dtype``.

    A boolean mask is not an alternative: several families add whatever they are given.
    """
    seen = sees(stream, causal=causal, window=window, before=before)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def flex_predicate(
    stream: PackedTokens, window: int | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The same rule for ``flex_attention``: whether query ``q`` of row ``b`` sees key ``k``."""
    segments, positions, parents, depth = stream.segment_ids, stream.position_ids, stream.parent_segments, stream.depth

    def predicate(b: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        chain, key = segments[b, q], segments[b, k]
        seen = chain == key
        for _ in range(depth):
            chain = torch.where(chain >= 0, parents[b, chain.clamp(min=0)], chain)
            seen = seen | ((chain == key) & (chain >= 0))
        distance = positions[b, q] - positions[b, k]
        seen = seen & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    return predicate


def flex_mask(stream: PackedTokens, window: int | None = None) -> BlockMask:
    """A block mask of the rows for ``flex_attention``."""
    from torch.nn.attention.flex_attention import create_block_mask

    b, s = stream.segment_ids.shape
    return create_block_mask(flex_predicate(stream, window), b, None, s, s, device=stream.segment_ids.device)


def decoder_mask(stream: PackedTokens, config: Any, dtype: torch.dtype, before: int = 0) -> Mask:
    """The attention mask to hand a decoder for packed rows.

    Args:
        stream: The decoder's rows.
        config: The decoder's config; its layer types and windows decide how many masks are needed.
        dtype: Of the decoder's activations.
        before: Cached positions that every root begins with; the mask is dense then.

    Returns:
        None for plain rows, one mask, or a dict by layer type for families that mix full and local layers.
    """
    if stream.plain and not before:
        return None
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"no packed attention for layers of type {sorted(kinds)}")
    flex = getattr(config, "_attn_implementation", None) == "flex_attention" and not before

    def build(local: int | None) -> Mask:
        return flex_mask(stream, local) if flex else dense_mask(stream, dtype, window=local, before=before)

    if "sliding_attention" in kinds:
        return {"full_attention": build(None), "sliding_attention": build(window)}
    if not kinds and window is not None and getattr(config, "use_sliding_window", True):
        return build(window)
    return build(None)
