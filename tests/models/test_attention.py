"""Attention masks against their definition."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.models.attention import decoder_mask, dense_mask, flex_mask, flex_predicate, visibility_mask
from metalm_cli.sessions import ROOT, PackedTokens, Row, TokenisedSession, build_row, can_attend, collate


@st.composite
def forests(draw) -> list[Row]:
    """Rows of segments, each with an earlier parent or none."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
        parents = [draw(st.integers(ROOT, index - 1)) for index in range(len(sizes))]
        sessions = [TokenisedSession(np.arange(size), np.ones(size, dtype=bool)) for size in sizes]
        rows.append(build_row(sessions, parents))
    return rows


def expected(tokens: PackedTokens, row: int, causal: bool, window: int | None) -> np.ndarray:
    segments, positions = tokens.segment_ids[row].numpy(), tokens.position_ids[row].numpy()
    visible = can_attend(segments, positions, tokens.parent_segments[row].numpy(), causal)
    if window is not None:
        visible &= np.abs(positions[:, None] - positions[None, :]) < window
    return visible


@settings(max_examples=60, deadline=None)
@given(forests(), st.booleans(), st.none() | st.integers(1, 6), st.integers(0, 3))
def test_masks_follow_the_definition(rows, causal, window, padding) -> None:
    if not causal:  # encoders have no forests
        rows = [Row(**{**vars(row), "parents": np.full_like(row.parents, ROOT)}) for row in rows]
    tokens = collate(rows, {}, length=max(map(len, rows)) + padding).decoder
    visible = visibility_mask(tokens, causal=causal, window=window)
    mask = dense_mask(tokens, torch.float32, causal=causal, window=window)
    for row in range(len(rows)):
        np.testing.assert_array_equal(visible[row].numpy(), expected(tokens, row, causal, window))
    assert mask.shape == (visible.shape[0], 1, *visible.shape[1:])
    assert set(mask.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}
    assert torch.equal(mask[:, 0] == 0, visible)
    assert visible.diagonal(dim1=1, dim2=2).all(), "a fully masked row has no softmax"


@settings(max_examples=40, deadline=None)
@given(forests(), st.none() | st.integers(1, 6))
def test_flex_masks_equal_dense_masks(rows, window) -> None:
    tokens = collate(rows, {}, length=max(map(len, rows)) + 2).decoder
    b, s = tokens.segment_ids.shape
    row, query, key = torch.meshgrid(torch.arange(b), torch.arange(s), torch.arange(s), indexing="ij")
    predicate = flex_predicate(tokens, window)
    assert torch.equal(predicate(row, torch.zeros_like(row), query, key), visibility_mask(tokens, window=window))


def two_sessions() -> PackedTokens:
    sessions = [TokenisedSession(np.arange(size), np.ones(size, dtype=bool)) for size in (3, 4)]
    return collate([build_row(sessions)], {}).decoder


def test_a_hand_written_mask() -> None:
    visible = visibility_mask(two_sessions(), window=2)[0].int().tolist()
    assert visible == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_the_mask_takes_the_dtype() -> None:
    mask = dense_mask(two_sessions(), torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert mask.min() == torch.finfo(torch.bfloat16).min


def test_plain_rows_need_no_mask() -> None:
    session = TokenisedSession(np.arange(3), np.ones(3, dtype=bool))
    tokens = collate([build_row([session])], {}, length=5).decoder
    assert decoder_mask(tokens, SimpleNamespace(), torch.float32) is None


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({}, {None: None}),
        ({"sliding_window": 2}, {None: 2}),
        ({"sliding_window": 2, "use_sliding_window": False}, {None: None}),
        ({"sliding_window": 2, "layer_types": ["full_attention"]}, {None: None}),
        (
            {"sliding_window": 2, "layer_types": ["full_attention", "sliding_attention"]},
            {"full_attention": None, "sliding_attention": 2},
        ),
        ({"sliding_window": 2, "layer_types": ["sliding_attention"]}, {"full_attention": None, "sliding_attention": 2}),
    ],
)
def test_local_layers_get_their_window(config, kinds) -> None:
    tokens = two_sessions()
    mask = decoder_mask(tokens, SimpleNamespace(**config), torch.float32)
    masks = mask if isinstance(mask, dict) else {None: mask}
    assert masks.keys() == kinds.keys()
    for kind, window in kinds.items():
        assert torch.equal(masks[kind], dense_mask(tokens, torch.float32, window=window))


def test_layers_of_an_unknown_type_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="linear_attention"):
        decoder_mask(two_sessions(), SimpleNamespace(layer_types=["linear_attention"]), torch.float32)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_masks_are_made_where_the_config_asks() -> None:
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    tokens = two_sessions()
    mask = decoder_mask(tokens, SimpleNamespace(_attn_implementation="flex_attention"), torch.float32)
    assert isinstance(mask, BlockMask)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 7, 16)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, dense_mask(tokens, torch.float32, window=2))
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=flex_mask(tokens, 2)), expected)
