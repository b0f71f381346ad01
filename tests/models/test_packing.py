"""Packed rows give the losses and gradients of unpacked rows, for every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from metalm_cli.models import attention
from metalm_cli.models import loss as loss_module
from metalm_cli.models.attention import (
    SHORT_SEGMENT,
    computes_segments_apart,
    decoder_mask,
    fp32_if_short,
    segmented_attention,
)
from metalm_cli.models.capabilities import measure_decoder, use_segmented_attention
from metalm_cli.models.decoders import full_logits, head_of, hidden_states
from metalm_cli.sessions import ROOT, Row, TokenisedSession, build_row, collate
from model_families import (
    DECODERS,
    PACKED,
    VOCABULARY,
    IdProcessor,
    LargestTensor,
    assert_same,
    batch_of,
    gradients,
    loss_and_gradients,
    make_decoder,
    make_encoder,
    make_metalm,
    random_session,
    sessions,
    unpacked_losses,
)


def model_of(kind: str, **changes):
    return make_metalm(make_decoder(kind, **changes), {"text": make_encoder("bert")})


@pytest.mark.parametrize("kind", PACKED)
def test_packed_equals_unpacked(kind) -> None:
    model = model_of(kind)
    tokenised = sessions()
    assert model.traits.supports_packing
    assert model.traits.has_known_head
    unpacked, expected = unpacked_losses(model, tokenised)
    packed, packed_gradients = loss_and_gradients(model, batch_of([tokenised[:1], tokenised[1:]], length=60))
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert_same(packed_gradients, expected)
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not {name for name in missing if not name.startswith("encoders.text.pooler")}


SEGMENTED_KINDS = set(PACKED) - {"gemma2", "gpt_neo", "gptj", "xglm"}
"""Families of which the segments of a row can be computed apart; the others have no SDPA."""


@pytest.mark.parametrize("kind", PACKED)
def test_segments_computed_apart_equal_unpacked(kind) -> None:
    model = model_of(kind)
    tokenised = sessions()
    before = model.decoder.config._attn_implementation
    assert use_segmented_attention(model.decoder) == (kind in SEGMENTED_KINDS)
    if kind not in SEGMENTED_KINDS:
        assert model.decoder.config._attn_implementation == before
        return
    unpacked, expected = unpacked_losses(model, tokenised)
    rows = batch_of([tokenised[:1], tokenised[1:]], length=60)
    mask = decoder_mask(rows.decoder, model.decoder.config, torch.float32)
    has_short_window = kind == "mistral"
    assert mask.shape == (2, 1, 60 if has_short_window else 1, 60)
    assert computes_segments_apart(model.decoder.config, 60) != has_short_window
    packed, packed_gradients = loss_and_gradients(model, rows)
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert_same(packed_gradients, expected)


@pytest.mark.parametrize("mixed", [False, True])
def test_short_segments_of_16_bits_are_computed_in_fp32(mixed: bool) -> None:
    torch.manual_seed(0)
    lengths = (5, SHORT_SEGMENT + 1)
    dtype = torch.float32 if mixed else torch.bfloat16
    query, key, value = (torch.randn(1, 2, sum(lengths), 8, dtype=dtype, requires_grad=True) for _ in range(3))
    segments = torch.arange(2).repeat_interleave(torch.tensor(lengths))[None, None, None]
    module = torch.nn.Identity()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output, _ = segmented_attention(module, query, key, value, segments)
        with torch.no_grad():
            without_gradient, _ = segmented_attention(module, query, key, value, segments)
    assert output.dtype == without_gradient.dtype == torch.bfloat16
    short = slice(0, lengths[0])
    in_fp32 = scaled_dot_product_attention(*(x[:, :, short].float() for x in (query, key, value)), is_causal=True)
    assert torch.equal(output[:, short], in_fp32.transpose(1, 2).bfloat16())
    assert torch.equal(output[:, lengths[0] :], without_gradient[:, lengths[0] :])
    torch.testing.assert_close(output[:, short], without_gradient[:, short], atol=0.02, rtol=0.02)
    gradient = torch.autograd.grad(output[:, short].float().sum(), value)[0]
    expected = torch.autograd.grad(in_fp32.sum(), value)[0]
    torch.testing.assert_close(gradient, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("masked", ["no", "bool", "additive"])
def test_short_texts_of_16_bits_are_computed_in_fp32_with_their_mask(masked: str, monkeypatch) -> None:
    dtypes = []

    def attend(module, query, *inputs, **options):
        dtypes.append(query.dtype)
        return sdpa_attention_forward(module, query, *inputs, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", attend)
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 9, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    visible = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    visible[1, ..., 5:] = False
    additive = torch.zeros(2, 1, 9, 9, dtype=torch.bfloat16).masked_fill(~visible, torch.finfo(torch.bfloat16).min)
    mask = {"no": None, "bool": visible, "additive": additive}[masked]
    output, weights = fp32_if_short(torch.nn.Identity(), query, key, value, mask, is_causal=False)
    expected = scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=None if masked == "no" else visible
    )
    assert weights is None
    assert torch.equal(output, expected.transpose(1, 2).bfloat16())
    with torch.no_grad():
        in_16_bits, _ = fp32_if_short(torch.nn.Identity(), query, key, value, mask, is_causal=False)
    assert dtypes == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(output, in_16_bits, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", PACKED)
def test_neighbours_do_not_affect_each_other(kind) -> None:
    model = model_of(kind)
    tokenised = sessions()
    ids = tokenised[1].ids.copy()
    ids[ids >= 0] = (ids[ids >= 0] + 1) % VOCABULARY
    changed = [tokenised[0], TokenisedSession(ids, tokenised[1].trained, tokenised[2].docks[:2]), tokenised[2]]
    with torch.no_grad():
        original_batch, changed_batch = batch_of([tokenised], length=80), batch_of([changed], length=80)
        _, expected = model.losses(original_batch)
        _, actual = model.losses(changed_batch)
    middle = original_batch.decoder.target_segments == 1
    assert torch.equal(expected[~middle], actual[~middle])
    assert (expected[middle] - actual[middle]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", PACKED)
def test_children_of_one_parent_equal_whole_sessions(kind) -> None:
    model = model_of(kind)
    rng = np.random.default_rng(4)
    parent, other = random_session(rng, 15, docks=1), random_session(rng, 9)
    children = [random_session(rng, 8), random_session(rng, 12, docks=1)]
    grandchild = random_session(rng, 7)
    row = build_row([parent, other, *children, grandchild], [ROOT, ROOT, 0, 0, 3])
    model_batch = collate([row], {"text": IdProcessor()}, length=60)
    assert model_batch.decoder.depth == 2
    with torch.no_grad():
        _, each = model.losses(model_batch)
        chains = [[parent], [other], [parent, children[0]], [parent, children[1]], [parent, children[1], grandchild]]
        for segment, chain in enumerate(chains):
            session = join_sessions(chain)
            _, unpacked = model.losses(batch_of([[session]]))
            target_count = int(session.trained[len(session) - len(chain[-1]) :].sum()) - (
                session.trained[0] and len(chain) == 1
            )
            actual = each[model_batch.decoder.target_segments == segment]
            torch.testing.assert_close(actual, unpacked[len(unpacked) - target_count :], atol=1e-5, rtol=1e-5)


def join_sessions(chain: list[TokenisedSession]) -> TokenisedSession:
    offsets = np.cumsum([0, *map(len, chain)])
    docks = [
        (int(start + offset), dock)
        for session, offset in zip(chain, offsets, strict=False)
        for start, dock in session.docks
    ]
    ids, trained = (np.concatenate([getattr(session, field) for session in chain]) for field in ("ids", "trained"))
    return TokenisedSession(ids, trained, tuple(docks))


@pytest.mark.parametrize("kind", list(DECODERS))
def test_losses_are_those_of_the_families_own_logits(kind) -> None:
    """Plain text without docks, one session at a time, through the family's own forward pass."""
    decoder = make_decoder(kind)
    model = make_metalm(decoder)
    for session in sessions(docks=0):
        row = build_row([session])
        with torch.no_grad():
            logits = decoder(input_ids=torch.from_numpy(session.ids)[None]).logits[0]
            expected = cross_entropy(logits[row.predict_at], torch.from_numpy(row.targets), reduction="none")
            _, each = model.losses(batch_of([[session]], length=40))
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(DECODERS))
def test_every_head_is_found(kind) -> None:
    decoder = make_decoder(kind)
    assert measure_decoder(decoder).has_known_head
    tokens = batch_of([sessions(docks=0)[:1]]).decoder
    with torch.no_grad():
        embeds = decoder.get_input_embeddings()(tokens.input_ids)
        logits = head_of(decoder).logits(hidden_states(decoder, embeds, tokens))
        expected = decoder(input_ids=tokens.input_ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(full_logits(decoder, embeds, tokens), expected, atol=1e-5, rtol=1e-5)


def test_a_family_that_cannot_be_packed_trains_one_session_a_row() -> None:
    model = model_of("bloom")
    assert not model.traits.supports_packing
    assert any("one session per row" in note for note in model.traits.notes())
    tokenised = sessions()
    unpacked, expected = unpacked_losses(model, tokenised)
    packed, packed_gradients = loss_and_gradients(model, batch_of([[session] for session in tokenised], length=40))
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert_same(packed_gradients, expected)


def decoder_with_unknown_head():
    """GPT-2 with an unusual function after its head."""
    from transformers import GPT2LMHeadModel

    class Odd(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits.sin() * 3
            return outputs

    decoder = make_decoder("gpt2")
    decoder.__class__ = Odd
    return decoder


def test_an_unknown_head_falls_back_to_full_logits() -> None:
    decoder = decoder_with_unknown_head()
    model = make_metalm(decoder, {"text": make_encoder("bert")})
    assert model.traits.causal
    assert model.traits.supports_packing
    assert not model.traits.has_known_head
    assert any("full logits" in note for note in model.traits.notes())
    tokenised = sessions()
    unpacked, expected = unpacked_losses(model, tokenised)
    packed, packed_gradients = loss_and_gradients(model, batch_of([tokenised], length=80))
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert_same(packed_gradients, expected)
    plain = sessions(docks=0)[0]
    row = build_row([plain])
    with torch.no_grad():
        logits = decoder(input_ids=torch.from_numpy(plain.ids)[None]).logits[0, row.predict_at]
        _, losses = model.losses(batch_of([[plain]]))
    torch.testing.assert_close(losses, cross_entropy(logits, torch.from_numpy(row.targets), reduction="none"))


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_weights_of_targets_weigh_losses_and_gradients(kind) -> None:
    model = model_of(kind)
    batch = batch_of([sessions()], length=80)
    weights = torch.rand(len(batch.decoder.targets), generator=torch.Generator().manual_seed(0))
    total, each = model.losses(batch, weights)
    torch.testing.assert_close(total, (each * weights).sum())
    total.backward()
    weighted_gradients = gradients(model)
    model.zero_grad()
    picked = model.losses(batch, torch.zeros_like(weights).index_fill_(0, torch.tensor([3]), 1.0))[0]
    torch.testing.assert_close(picked, each[3])
    head = model.get_output_embeddings().weight
    assert weighted_gradients["decoder." + next(n for n, p in model.decoder.named_parameters() if p is head)].any()


def test_the_forward_signature_gives_the_same_loss() -> None:
    model = model_of("llama")
    session = sessions()[0]
    batch = batch_of([[session]])
    tokens = batch.decoder
    labels = torch.full_like(tokens.input_ids, -100).flatten()
    labels[tokens.predict_at + 1] = tokens.targets
    with torch.no_grad():
        outputs = model(input_ids=tokens.input_ids, docks=batch.docks, labels=labels.view_as(tokens.input_ids))
        total, each = model.losses(batch)
    torch.testing.assert_close(outputs.loss * len(each), total)
    assert outputs.logits.shape == (1, len(session), VOCABULARY)


def test_a_training_step_holds_no_logits_of_all_positions(monkeypatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 20_000)
    model = make_metalm(make_decoder("llama", vocab_size=3000))
    assert model.traits.has_known_head
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3000, 200)
    batch = batch_of([[TokenisedSession(ids, np.ones(200, dtype=bool))]])
    with LargestTensor() as largest:
        model.losses(batch)[0].backward()
    assert largest.elements <= 3000 * 32 < 200 * 3000, "no tensor may be larger than the embedding matrix"


def test_equal_docks_are_encoded_once() -> None:
    model = model_of("gpt2")
    session = sessions()[0]
    batch = batch_of([[session, session], [session]])
    assert batch.docks["text"].inputs["input_ids"].shape[0] == 2
    packed, packed_gradients = loss_and_gradients(model, batch)
    unpacked, expected = unpacked_losses(model, [session, session, session])
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert_same(packed_gradients, expected)


def test_rows_do_not_affect_each_other() -> None:
    model = model_of("mistral")
    rows: list[Row] = [build_row([session]) for session in sessions()]
    assert [len(row) for row in rows] == [23, 17, 31]
    with torch.no_grad():
        _, batched = model.losses(batch_of([[session] for session in sessions()]))
        separate = [model.losses(batch_of([[session]]))[1] for session in sessions()]
    torch.testing.assert_close(batched, torch.cat(separate), atol=1e-5, rtol=1e-5)
