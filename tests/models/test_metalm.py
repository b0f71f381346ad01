"""MetaLM: generation, gradient checkpointing, autocast, and transformers' signature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metalm_cli.models import MetaLM
from metalm_cli.models.trainable import transformer_layers
from metalm_cli.sessions import Batch, DockInput, DockTable, TokenisedSession, build_row, collate
from model_families import (
    DECODERS,
    PACKED,
    IdProcessor,
    assert_same,
    batch_of,
    loss_and_gradients,
    make_decoder,
    make_encoder,
    make_metalm,
    sessions,
)


def model_of(kind: str = "gpt2", encoder: str = "bert") -> MetaLM:
    return make_metalm(make_decoder(kind), {"text": make_encoder(encoder)})


def prompt() -> Batch:
    """One session whose docks are all in its first half."""
    return batch_of([sessions()[:1]])


def by_recomputation(model: MetaLM, batch: Batch, steps: int) -> list[int]:
    """Decode greedily with a full forward pass per token, without cache or mask."""
    embeds = model.embed(batch.decoder.input_ids, batch.docks)
    tokens: list[int] = []
    for _ in range(steps):
        logits = model.decoder(inputs_embeds=embeds, use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([tokens[-1:]]))], 1)
    return tokens


@pytest.mark.parametrize("kind", list(DECODERS))
def test_greedy_generation_is_the_argmax_of_full_recomputation(kind) -> None:
    model, batch = model_of(kind), prompt()
    with torch.no_grad():
        expected = by_recomputation(model, batch, 8)
    ids = model.generate(batch.decoder.input_ids, batch.docks, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert ids.tolist() == [expected]


def test_padding_on_the_left_changes_nothing() -> None:
    model = model_of("llama")
    short, long = sessions()[1], sessions()[0]
    size = len(long)
    batch = batch_of([[long]])
    short_batch = batch_of([[short]])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    expected = [
        model.generate(row_batch.decoder.input_ids, row_batch.docks, **options)[0].tolist()
        for row_batch in (batch, short_batch)
    ]
    pad = size - len(short)
    ids = torch.cat([batch.decoder.input_ids, torch.nn.functional.pad(short_batch.decoder.input_ids, (pad, 0))])
    mask = torch.ones_like(ids)
    mask[1, :pad] = 0
    tables = batch.docks["text"], short_batch.docks["text"]
    contents, outputs = len(tables[0].inputs["input_ids"]), len(tables[0].rows)
    dock_table = DockTable(
        {name: torch.cat([table.inputs[name] for table in tables]) for name in tables[0].inputs},
        torch.cat([tables[0].rows, tables[1].rows + contents]),
        torch.cat([tables[0].columns, tables[1].columns]),
        torch.cat([tables[0].positions, tables[1].positions + size + pad]),
        torch.cat([tables[0].content_index, tables[1].content_index + outputs]),
    )
    generated = model.generate(ids, {"text": dock_table}, attention_mask=mask, **options)
    assert generated.tolist() == expected


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "gemma2", "metalm-decoder"])
def test_beam_search_finds_nothing_less_likely_than_greedy(kind) -> None:
    model, batch = model_of(kind), prompt()
    steps = 4

    def likelihood(tokens: torch.Tensor) -> float:
        embeds = model.embed(batch.decoder.input_ids, batch.docks)
        vectors = torch.cat([embeds, model.get_input_embeddings()(tokens[None])], 1)
        logits = model.decoder(inputs_embeds=vectors, use_cache=False).logits[0, embeds.shape[1] - 1 : -1]
        return float(logits.log_softmax(-1).gather(1, tokens[:, None]).sum())

    with torch.no_grad():
        options = {"max_new_tokens": steps, "do_sample": False, "eos_token_id": None}
        greedy = model.generate(batch.decoder.input_ids, batch.docks, **options)
        beams = model.generate(batch.decoder.input_ids, batch.docks, num_beams=4, num_return_sequences=4, **options)
        assert beams.shape == (4, steps)
        assert len(set(map(tuple, beams.tolist()))) == 4
        likelihoods = [likelihood(beam) for beam in beams]
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert likelihoods[0] >= likelihood(greedy[0]) - 1e-4


def test_generation_keeps_the_docks_apart() -> None:
    """Each row continues its own dock."""
    model = model_of("gpt2")
    first, second = sessions(1)[:1], sessions(2)[:1]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    separate = [
        model.generate(b.decoder.input_ids, b.docks, **options)[0] for b in (batch_of([first]), batch_of([second]))
    ]
    batch = batch_of([first, second])
    assert torch.equal(model.generate(batch.decoder.input_ids, batch.docks, **options), torch.stack(separate))


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [*((kind, "bert") for kind in PACKED), ("gpt2", "t5"), ("llama", "metalm-encoder"), ("opt", "modernbert")],
)
@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(kind, encoder) -> None:
    model = model_of(kind, encoder).train()
    batch = batch_of([sessions()], length=80)
    losses, expected = loss_and_gradients(model, batch)
    model.gradient_checkpointing_enable()
    runs: list[str] = []
    for name, part in (("decoder", model.decoder), ("encoder", model.encoders["text"])):
        inner = next(module for module in transformer_layers(part)[0].modules() if not any(module.children()))
        inner.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    recomputed_losses, recomputed = loss_and_gradients(model, batch)
    assert sorted(runs) == ["decoder"] * 2 + ["encoder"] * 2, "a layer was not run again in the backward pass"
    torch.testing.assert_close(recomputed_losses, losses)
    assert_same(recomputed, expected)


@pytest.mark.parametrize("kind", PACKED)
def test_autocast_to_bf16_stays_close_when_packed(kind) -> None:
    model = model_of(kind)
    batch = batch_of([sessions()], length=80)
    losses, expected = loss_and_gradients(model, batch)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        total, autocast_losses = model.losses(batch)
    total.backward()
    assert (autocast_losses - losses).abs().mean() < 0.05 * losses.abs().mean()
    assert autocast_losses.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert (parameter.grad is None) == (name not in expected)


def test_a_model_without_encoders_is_its_decoder() -> None:
    decoder = make_decoder("llama")
    model = make_metalm(decoder)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, decoder(input_ids=ids).logits)
        embeds = decoder.get_input_embeddings()(ids)
        assert torch.equal(model(inputs_embeds=embeds).logits, decoder(input_ids=ids).logits)
        mask = torch.ones_like(ids)
        outputs = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=True)
    assert outputs.loss is not None
    assert outputs.past_key_values is not None
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model()


def test_the_decoder_is_measured_once_and_left_as_it_was() -> None:
    model = model_of("gpt2").train()
    state = torch.get_rng_state()
    calls: list[int] = []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    assert model.traits.supports_packing
    measured = len(calls)
    assert measured > 0
    assert model.traits.supports_packing
    assert len(calls) == measured
    assert model.training
    assert model.decoder.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("encoder", ["bert", "electra", "t5"])
def test_two_encoders_dock_side_by_side(encoder) -> None:
    texts = {name: make_encoder(name) for name in {"roberta", encoder}}
    model = make_metalm(make_decoder("gpt2"), texts)
    ids = np.array([3, 7, 9, 11, 4])
    spans = []
    for start, name in zip((0, 4), texts, strict=True):
        spans.append((start, DockInput(name, {"input_ids": ids}, np.arange(1, 4), name.encode(), {})))
    session = TokenisedSession(
        np.array([-1, -1, -1, 8, -1, -1, -1, 5, 6]), np.array([False] * 7 + [True] * 2), tuple(spans)
    )
    batch = collate([build_row([session])], dict.fromkeys(texts, IdProcessor()))  # type: ignore[arg-type]
    with torch.no_grad():
        embeds = model.embed(batch.decoder.input_ids, batch.docks)[0]
        for start, name in zip((0, 4), texts, strict=True):
            outputs = model.encoders[name](input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0, 1:4]
            torch.testing.assert_close(embeds[start : start + 3], model.connectors[name](outputs), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(embeds[[3, 7, 8]], model.get_input_embeddings()(torch.tensor([8, 5, 6])))
