"""The causal DeepNorm stack against its equations, packed, cached, saved."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from metalm_cli.errors import MetalmError
from metalm_cli.models.deepnorm.decoder import MetaLMDecoderConfig, MetaLMDecoderForCausalLM, MetaLMDecoderModel

SHAPE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def make(attention: str = "sdpa", **changes) -> MetaLMDecoderForCausalLM:
    torch.manual_seed(0)
    config = MetaLMDecoderConfig(**{**SHAPE, "attn_implementation": attention, **changes})
    model = MetaLMDecoderForCausalLM(config).eval()
    with torch.no_grad():  # biases and norms away from 0 and 1, so that each one matters
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(5))


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.sum() / len(x)
    return centred / torch.sqrt((centred**2).sum() / len(x) + 1e-5) * weight + bias


def by_hand(model: MetaLMDecoderForCausalLM, tokens: list[int]) -> torch.Tensor:
    """Logits [s, v] position by position and head by head, in float64."""
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    width, layers, heads = 32, 3, 4
    alpha, size = (2 * layers) ** 0.25, width // heads
    x = []
    for p, token in enumerate(tokens):
        wave = [(math.sin if j % 2 == 0 else math.cos)(p / 10_000 ** (2 * (j // 2) / width)) for j in range(width)]
        x.append(w["model.embed_tokens.weight"][token] * math.sqrt(width) + torch.tensor(wave).double())
    for n in range(layers):

        def linear(name: str, value: torch.Tensor, n: int = n) -> torch.Tensor:
            return w[f"model.layers.{n}.{name}.weight"] @ value + w[f"model.layers.{n}.{name}.bias"]

        def norm(name: str, value: torch.Tensor, n: int = n) -> torch.Tensor:
            key = f"model.layers.{n}.{name}"
            return layer_norm(value, w[f"{key}.weight"], w[f"{key}.bias"])

        q, k, v = ([linear(f"self_attn.{part}_proj", vector) for vector in x] for part in "qkv")
        attended = []
        for p in range(len(tokens)):
            joined = []
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                scores = [math.exp(float(q[p][cut] @ k[j][cut]) / math.sqrt(size)) for j in range(p + 1)]
                joined.append(sum(score / sum(scores) * v[j][cut] for j, score in enumerate(scores)))
            attended.append(linear("self_attn.out_proj", torch.cat(joined)))
        x = [norm("self_attn_norm", alpha * old + new) for old, new in zip(x, attended, strict=True)]
        for p, vector in enumerate(x):
            inner = linear("fc1", vector)
            gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            x[p] = norm("fc_norm", alpha * vector + linear("fc2", gelu))
    return torch.stack([w["model.embed_tokens.weight"] @ vector for vector in x])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_follow_the_equations(attention) -> None:
    model, tokens = make(attention), ids(1, 9)
    with torch.no_grad():
        logits = model(tokens).logits[0]
    assert torch.allclose(logits.double(), by_hand(model, tokens[0].tolist()), atol=1e-5)


def packed(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [1, s] that restart, and an additive causal block mask [1, 1, s, s]."""
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])
    order = torch.arange(len(segment))
    seen = (segment[:, None] == segment[None, :]) & (order[:, None] >= order[None, :])
    mask = torch.zeros(len(segment), len(segment)).masked_fill(~seen, torch.finfo(torch.float32).min)
    return positions.unsqueeze(0), mask[None, None]


def gradients(model: MetaLMDecoderForCausalLM, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [True, False])
def test_packed_is_unpacked(attention, masked) -> None:
    """With a block mask; and with positions alone, even though the cache is on by default."""
    model, lengths = make(attention), [7, 3, 11]
    tokens = ids(1, sum(lengths))
    positions, mask = packed(lengths)
    batched = model(tokens, attention_mask=mask if masked else None, position_ids=positions).logits
    separate = torch.cat([model(piece).logits for piece in tokens.split(lengths, dim=1)], dim=1)
    assert torch.allclose(batched, separate, atol=1e-5)
    expected = gradients(model, separate)
    for name, gradient in gradients(model, batched).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5 * expected[name].abs().max().clamp(min=1)), name


def test_a_boolean_mask_is_understood() -> None:
    positions, mask = packed([4, 5])
    tokens = ids(1, 9)
    for attention in ("eager", "sdpa"):
        model = make(attention)
        expected = model(tokens, attention_mask=mask, position_ids=positions).logits
        assert torch.allclose(
            model(tokens, attention_mask=mask == 0, position_ids=positions).logits, expected, atol=1e-6
        )


def test_a_flex_block_mask_is_passed_through(monkeypatch) -> None:
    def not_compiled(query, key, value, training=False, **kwargs):  # compiling takes 15 s on a CPU
        return flex_attention(query, key, value, **kwargs)

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", not_compiled)
    lengths = [70, 30, 60]
    segment = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))

    def visible(b, h, q, k):
        return (segment[q] == segment[k]) & (q >= k)

    mask = create_block_mask(visible, 1, None, 160, 160, device="cpu")
    positions, dense = packed(lengths)
    tokens, model = ids(1, 160), make("flex_attention", hidden_size=64)
    with torch.no_grad():
        flex = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
        model.set_attn_implementation("sdpa")
        expected = model(tokens, attention_mask=dense, position_ids=positions).logits
    assert torch.allclose(flex, expected, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side) -> None:
    model, tokens = make(), ids(1, 6)
    padding = ids(1, 4)
    ones, zeros = torch.ones(1, 6, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)
    order = (lambda a, b: [b, a]) if side == "left" else (lambda a, b: [a, b])
    logits = model(torch.cat(order(tokens, padding), 1), attention_mask=torch.cat(order(ones, zeros), 1)).logits
    text_logits = logits[:, 4:] if side == "left" else logits[:, :6]
    assert torch.allclose(text_logits, model(tokens).logits, atol=1e-5)


def test_vectors_in_place_of_ids() -> None:
    model, tokens = make(), ids(2, 8)
    vectors = model.get_input_embeddings()(tokens)
    assert torch.equal(model(inputs_embeds=vectors).logits, model(tokens).logits)
    with pytest.raises(MetalmError, match="exactly one"):
        model(tokens, inputs_embeds=vectors)
    with pytest.raises(MetalmError, match="exactly one"):
        model()


def test_cached_steps_equal_one_pass() -> None:
    model, tokens = make(), ids(2, 10)
    expected, cache, pieces = model(tokens).logits, None, []
    for piece in tokens.split([4, 1, 3, 1, 1], dim=1):
        out = model(piece, past_key_values=cache)
        cache = out.past_key_values
        pieces.append(out.logits)
    assert torch.allclose(torch.cat(pieces, 1), expected, atol=1e-5)


def test_generation_with_and_without_cache_and_by_beams() -> None:
    model, tokens = make(pad_token_id=0, eos_token_id=60), ids(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ask = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    with_cache = model.generate(tokens, **ask)
    assert torch.equal(with_cache, model.generate(tokens, use_cache=False, **ask))
    alone = model.generate(tokens[:1, 2:], attention_mask=mask[:1, 2:], max_new_tokens=12, do_sample=False)
    assert torch.equal(with_cache[0, 5 : 5 + alone.shape[1] - 3], alone[0, 3:])
    vectors = model.get_input_embeddings()(tokens)
    assert torch.equal(model.generate(inputs_embeds=vectors, **ask), with_cache[:, 5:])
    beams = model.generate(tokens, num_beams=3, length_penalty=0.6, **ask)
    assert torch.equal(beams, model.generate(tokens, num_beams=3, length_penalty=0.6, use_cache=False, **ask))
    static = model.generate(tokens, cache_implementation="static", disable_compile=True, **ask)
    assert torch.equal(static, with_cache)


def test_loss_is_that_of_the_next_token() -> None:
    model, tokens = make(), ids(2, 8)
    labels = tokens.clone()
    labels[0, :5] = -100
    out = model(tokens, labels=labels)
    chances = out.logits.log_softmax(-1)
    terms = [-chances[b, p, tokens[b, p + 1]] for b in range(2) for p in range(7) if labels[b, p + 1] != -100]
    assert out.loss.item() == pytest.approx(sum(terms).item() / len(terms), abs=1e-5)
    assert torch.allclose(model(tokens, logits_to_keep=2).logits, out.logits[:, -2:], atol=1e-6)
    assert torch.allclose(model(tokens, logits_to_keep=torch.tensor([1, 4])).logits, out.logits[:, [1, 4]], atol=1e-6)


def _checkpoint(model: MetaLMDecoderForCausalLM) -> None:
    """Transformers renames the method."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model, tokens = make().train(), ids(2, 8)
    expected = gradients(model, model(tokens).logits)
    _checkpoint(model)
    for name, gradient in gradients(model, model(tokens).logits).items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


def test_dropout_is_off_unless_configured() -> None:
    tokens = ids(1, 8)
    quiet = make().train()
    assert torch.equal(quiet(tokens).logits, quiet(tokens).logits)
    for key in ("dropout", "attention_dropout"):
        noisy = make(**{key: 0.1}).train()
        assert not torch.equal(noisy(tokens).logits, noisy(tokens).logits)
        noisy.eval()
        assert torch.equal(noisy(tokens).logits, noisy(tokens).logits)


def test_bf16_is_finite_and_close() -> None:
    tokens, exact = ids(2, 300), make(max_position_embeddings=4096)
    expected = exact(tokens).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = exact(tokens, labels=tokens)
    mixed.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in exact.parameters())
    half = make(max_position_embeddings=4096).to(torch.bfloat16)(tokens).logits
    for logits in (mixed.logits, half):
        assert torch.isfinite(logits).all()
        assert (logits.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_hidden_states_and_attentions_are_returned() -> None:
    model, tokens = make("eager"), ids(2, 6)
    out = model(tokens, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 4
    assert torch.allclose(model.lm_head(out.hidden_states[-1]), out.logits, atol=1e-6)
    assert [weights.shape for weights in out.attentions] == [(2, 4, 6, 6)] * 3
    assert torch.allclose(out.attentions[0].sum(-1), torch.ones(2, 4, 6))


def test_compiles_without_a_break() -> None:
    model, tokens = make(), ids(2, 6)
    positions, mask = packed([4, 2])
    compiled = torch.compile(model.model, backend="eager", fullgraph=True)
    out = compiled(tokens, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    expected = model.model(tokens, attention_mask=mask, position_ids=positions).last_hidden_state
    assert torch.allclose(out, expected, atol=1e-6)


def test_tied_unless_configured(tmp_path) -> None:
    model = make()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.resize_token_embeddings(70)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().scale == 32**0.5
    untied = make(tie_word_embeddings=False)
    untied.save_pretrained(tmp_path)
    again = MetaLMDecoderForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is not again.get_input_embeddings().weight
    assert torch.equal(again(ids(1, 5)).logits, untied(ids(1, 5)).logits)


def test_saved_and_loaded_in_a_fresh_process(tmp_path) -> None:
    model, tokens = make(), ids(2, 40)
    model.save_pretrained(tmp_path)
    save_file({"ids": tokens, "logits": model(tokens).logits}, tmp_path / "expected.safetensors")
    code = f"""
from safetensors.torch import load_file
import torch
from transformers import AutoModelForCausalLM
from metalm_cli.models.deepnorm.register import register
register()
expected = load_file({str(tmp_path / "expected.safetensors")!r})
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
assert model.lm_head.weight is model.get_input_embeddings().weight
assert torch.equal(model(expected["ids"]).logits, expected["logits"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_cache_can_be_left_out() -> None:
    model = MetaLMDecoderModel(MetaLMDecoderConfig(**SHAPE))
    assert model(ids(1, 4)).past_key_values.get_seq_length() == 4
    assert model(ids(1, 4), use_cache=False).past_key_values is None
