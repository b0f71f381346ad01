"""Attention masks, built from segments.

A batch contains segments; each attention backend has its own form of mask. Letters: b rows, s positions, g segments.

- *plain*: every row is one root segment. Ordinary causal attention is exact and no mask is built.
- *segmented*: the index of each position's segment, ``[b, 1, 1, s]``; each segment is computed apart (CPUs).
- *dense*: an additive ``[b, 1, s, s]`` mask, which every tested family passes on unchanged.
- *flex*: a block mask for ``flex_attention``, which skips fully masked blocks (GPUs).

An explicit mask replaces a family's local window, so the window is part of the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from metalm_cli.sessions import PackedTokens

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

SEGMENTED = "metalm_segmented"
"""Attention implementation of transformers by :func:`segmented_attention`, for models that pass masks on unchanged."""

FP32_IF_SHORT = "metalm_fp32_if_short"
"""Attention implementation of transformers by :func:`fp32_if_short`: SDPA with any mask."""

SHORT_SEGMENT = 256
"""Positions up to which a CPU's backward pass of 16-bit attention takes longer than that of fp32 attention.

torch 2.13: 0.84 ms against 0.20 ms for 33 positions of 9 heads of width 64, 5.7 against 2.0 for 160, 11.6 against 17.7
for 512 (one core with AMX).
"""

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


def segmented_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute causal attention for each segment of packed rows apart, without a mask.

    The time does not grow with the square of the row's length. With any other mask it is SDPA. Short segments are
    computed by :func:`fp32_if_short`. Letters: h heads, d head width.

    Args:
        module: The attention module.
        query: ``[b, h, s, d]``; keys and values likewise, perhaps with fewer heads.
        key: Keys.
        value: Values.
        attention_mask: The index of each position's segment, ``[b, 1, 1, s]`` int64; or an additive mask, or None.
        options: Further arguments of transformers' SDPA.

    Returns:
        ``[b, s, h, d]``, and no attention weights.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    options = {**options, "is_causal": True}
    rows = []
    # Splitting has a cheaper backward pass than indexing, which fills a gradient of all rows for each row.
    for segment_ids, *row in zip(
        attention_mask[:, 0, 0], *(tensor.split(1) for tensor in (query, key, value)), strict=True
    ):
        lengths = segment_ids.unique_consecutive(return_counts=True)[1].tolist()
        queries, keys, values = (tensor.split(lengths, dim=2) for tensor in row)
        segments = zip(queries, keys, values, strict=True)
        rows.append(torch.cat([fp32_if_short(module, *segment, None, **options)[0] for segment in segments], 1))
    return torch.cat(rows), None


def fp32_if_short(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute SDPA; on a CPU in fp32, if its 16-bit backward pass would take longer (:data:`SHORT_SEGMENT`).

    Args:
        module: The attention module.
        query: ``[b, h, s, d]``; keys and values likewise, perhaps with fewer heads.
        key: Keys.
        value: Values.
        attention_mask: Any mask of SDPA.
        options: Further arguments of transformers' SDPA.

    Returns:
        ``[b, s, h, d]`` in the dtype of SDPA's outputs, and no attention weights.
    """
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    has_gradient = query.requires_grad and torch.is_grad_enabled()
    if device != "cpu" or dtype.itemsize != 2 or not has_gradient or key.shape[2] > SHORT_SEGMENT:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(device, enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return output.to(dtype), None


def computes_segments_apart(config: Any, length: int) -> bool:
    """Return whether a decoder computes sessions up to a length apart, so that the length of a row costs nothing."""
    window = getattr(config, "sliding_window", None)
    return getattr(config, "_attn_implementation", None) == SEGMENTED and (window is None or length <= window)


def register_attention() -> None:
    """Register the attention implementations of this module with transformers; other masks are those of SDPA."""
    for name, attend in ((SEGMENTED, segmented_attention), (FP32_IF_SHORT, fp32_if_short)):
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, sdpa_mask)


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
    implementation = None if cached_length else getattr(config, "_attn_implementation", None)

    def build(layer_window: int | None) -> AttentionMask:
        if implementation == "flex_attention":
            return flex_mask(tokens, layer_window)
        is_local = layer_window is not None and bool(tokens.position_ids.max() >= layer_window)
        if implementation == SEGMENTED and not is_local and not tokens.depth:
            return tokens.segment_ids[:, None, None]
        return dense_mask(tokens, dtype, window=layer_window, cached_length=cached_length)

    if "sliding_attention" in layer_types:
        return {"full_attention": build(None), "sliding_attention": build(window)}
    if not layer_types and window is not None and getattr(config, "use_sliding_window", True):
        return build(window)
    return build(None)
