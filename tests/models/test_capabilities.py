"""Measuring of capabilities: correct, without side effects and without compiling."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.capabilities import (
    DecoderTraits,
    measure_bidirectionality,
    measure_cache_reuse,
    measure_decoder,
    measure_encoder_packing,
    measure_left_padding,
    measure_masked_head,
)
from model_families import batch_of, make_decoder, make_encoder, make_masked_lm, make_metalm, model_recipe, sessions


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "gemma2", "metalm-decoder", "bloom"])
def test_traits_of_families(kind) -> None:
    traits = measure_decoder(make_decoder(kind))
    assert traits == DecoderTraits(causal=True, has_known_head=True, supports_packing=kind != "bloom")
    assert bool(traits.notes()) == (kind == "bloom")


def test_an_encoder_with_a_causal_head_is_not_causal() -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_encoder("bert").config).eval()
    assert not measure_decoder(model).causal
    assert not measure_decoder(model).supports_packing


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_measuring_leaves_a_decoder_unchanged(attention, training) -> None:
    decoder = make_decoder("llama", attn_implementation=attention).train(training)
    original = {name: value.clone() for name, value in decoder.state_dict().items()}
    state = torch.get_rng_state()
    measure_decoder(decoder)
    assert decoder.config._attn_implementation == attention
    assert decoder.training is training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, original[name]) for name, value in decoder.state_dict().items())
    assert all(parameter.grad is None for parameter in decoder.parameters())


@pytest.mark.parametrize(
    ("measure", "make"),
    [
        (measure_decoder, make_decoder),
        (measure_left_padding, make_decoder),
        (measure_cache_reuse, make_decoder),
        (measure_bidirectionality, make_encoder),
        (measure_encoder_packing, make_masked_lm),
        (measure_masked_head, make_masked_lm),
    ],
    ids=lambda function: function.__name__,
)
def test_measuring_restores_the_mode_of_every_module_and_the_random_state(measure, make) -> None:
    model = make("gpt2" if make is make_decoder else "bert").train()
    for module in list(model.modules())[::3]:
        module.training = False
    modes = [module.training for module in model.modules()]
    seen_modes = []

    def draw_random_number(module, *_args) -> None:
        seen_modes.append((module.training, torch.is_grad_enabled()))
        torch.rand(1)

    model.get_input_embeddings().register_forward_hook(draw_random_number)
    state = torch.get_rng_state()
    assert measure(model)
    assert set(seen_modes) == {(False, False)}
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("error", [AttributeError, IndexError, RuntimeError, TypeError, ValueError])
def test_a_decoder_that_rejects_embeddings_lacks_what_needs_them(error, monkeypatch) -> None:
    decoder = make_decoder("gpt2")
    forward = decoder.transformer.forward

    def from_ids_only(*args, inputs_embeds=None, **kwargs):
        if inputs_embeds is not None:
            raise error("no embeddings")
        return forward(*args, **kwargs)

    monkeypatch.setattr(decoder.transformer, "forward", from_ids_only)
    assert measure_decoder(decoder) == DecoderTraits(causal=True, has_known_head=True, supports_packing=False)
    assert not measure_left_padding(decoder)
    assert not measure_cache_reuse(decoder)


# -- flex attention ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_flex(monkeypatch) -> None:
    """Fails where ``flex_attention`` would run or be compiled."""
    from torch.nn.attention import flex_attention
    from transformers.integrations import flex_attention as integration

    def fails(*_args, **_kwargs):
        pytest.fail("flex_attention was compiled or run")

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(flex_attention, "create_block_mask", fails)
    for module, name in ((flex_attention, "flex_attention"), (integration, "flex_attention")):
        monkeypatch.setattr(module, name, fails)


@pytest.mark.parametrize("kind", ["llama", "opt", "qwen2"])
def test_flex_attention_is_measured_with_sdpa(kind, no_flex) -> None:
    decoder = make_decoder(kind, attn_implementation="flex_attention")
    assert decoder.config._attn_implementation == "flex_attention"
    assert measure_decoder(decoder) == DecoderTraits(causal=True, has_known_head=True, supports_packing=True)
    assert decoder.config._attn_implementation == "flex_attention"


def test_a_recipe_with_flex_attention_is_assembled_without_compiling(no_flex, tokenizers) -> None:
    recipe = model_recipe(tokenizers, "llama", decoder_options={"attention": "flex_attention"})
    assembly = build_metalm(recipe, seed=0, sample=lambda count: iter(()))
    assert assembly.model.traits.supports_packing
    assert assembly.notes == []
    assert assembly.model.decoder.config._attn_implementation == "flex_attention"


def test_measuring_flex_attention_imports_no_compiler() -> None:
    program = """
import sys
from transformers import AutoModelForCausalLM, LlamaConfig
sizes = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), attn_implementation="flex_attention").eval()
from metalm_cli.models.capabilities import measure_decoder
before = set(sys.modules)
assert measure_decoder(model).supports_packing
new = {name for name in set(sys.modules) - before if name.startswith("torch._inductor")}
assert not new, sorted(new)[:5]
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr[-2000:]


def test_a_failing_measurement_restores_attention_and_mode(monkeypatch) -> None:
    decoder = make_decoder("llama", attn_implementation="flex_attention").train()

    def fails(*_args, **_kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(decoder, "forward", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        measure_decoder(decoder)
    assert decoder.config._attn_implementation == "flex_attention"
    assert decoder.training


def test_measuring_detects_a_leak() -> None:
    """A decoder that reads its neighbour's last token must not be packed; one that reads ahead is not causal."""

    class Leaks(torch.nn.Module):
        def __init__(self, inner, shift: int) -> None:
            super().__init__()
            self.inner, self.shift = inner, shift

        def forward(self, hidden, *args, **kwargs):
            out = self.inner(hidden, *args, **kwargs)
            return out + 0.5 * hidden.roll(self.shift, 1) * (torch.arange(hidden.shape[1]) > 0)[:, None]

    packed = batch_of([sessions()])
    assert not packed.decoder.plain
    expected = {1: DecoderTraits(True, True, False), -1: DecoderTraits(False, True, False)}
    for shift, traits in expected.items():
        decoder = make_decoder("gpt2")
        decoder.transformer.h[0].mlp = Leaks(decoder.transformer.h[0].mlp, shift)
        assert measure_decoder(decoder) == traits
        assert make_metalm(decoder).traits == traits
