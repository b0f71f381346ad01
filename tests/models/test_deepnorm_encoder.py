"""The bidirectional DeepNorm stack against its equations, its relative bias, packed, saved."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers.models.t5.modeling_t5 import T5Attention

from metalm_cli.errors import MetalmError
from metalm_cli.models.deepnorm.encoder import (
    MetaLMEncoderConfig,
    MetaLMEncoderForMaskedLM,
    MetaLMEncoderForPreTraining,
    MetaLMEncoderModel,
    bucket_thresholds,
    relative_buckets,
)

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
}
HEADS = [MetaLMEncoderForMaskedLM, MetaLMEncoderForPreTraining]


def make(model_class=MetaLMEncoderModel, attention: str = "sdpa", **changes):
    torch.manual_seed(0)
    model = model_class(MetaLMEncoderConfig(**{**SHAPE, "attn_implementation": attention, **changes})).eval()
    with torch.no_grad():  # biases, norms and the relative bias large enough to matter
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "relative_bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(5))


def bucket_by_hand(relative: int, buckets: int, max_distance: int) -> int:
    """T5's bucket of key minus query: direction, then exact distances, then logarithmic ones."""
    offset = buckets // 2 if relative > 0 else 0
    distance, half = abs(relative), buckets // 2
    exact = half // 2
    if distance < exact:
        return offset + distance
    grown = math.log(distance / exact) / math.log(max_distance / exact) * (half - exact)
    return offset + min(exact + math.floor(grown + 1e-9), half - 1)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 64), (8, 20), (64, 1000)])
def test_buckets_are_those_of_t5(buckets, max_distance) -> None:
    table = relative_buckets(max_distance, buckets)
    relative = torch.arange(-max_distance, max_distance + 1)
    assert table.tolist() == [bucket_by_hand(int(r), buckets, max_distance) for r in relative]
    theirs = T5Attention._relative_position_bucket(relative, True, buckets, max_distance)
    exact = buckets // 4
    on_the_edge = torch.tensor([abs(int(r)) in bucket_thresholds(exact, max_distance) for r in relative])
    # At the edge of a bucket float32 logarithms may be one too low; integers are exact.
    assert torch.equal(table[~on_the_edge], theirs[~on_the_edge])
    assert ((table - theirs)[on_the_edge]).abs().max() <= 1


def test_default_buckets_are_those_of_t5_everywhere() -> None:
    relative = torch.arange(-700, 701)
    theirs = T5Attention._relative_position_bucket(relative, True, 32, 128)
    assert torch.equal(relative_buckets(128, 32)[relative.clamp(-128, 128) + 128], theirs)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.sum() / len(x)
    return centred / torch.sqrt((centred**2).sum() / len(x) + 1e-5) * weight + bias


def by_hand(model: MetaLMEncoderModel, tokens: list[int]) -> torch.Tensor:
    """Outputs [s, d] position by position and head by head, in float64."""
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    layers, heads, size = 3, 4, 8
    alpha = (2 * layers) ** 0.25

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return w[f"{name}.weight"] @ value + w[f"{name}.bias"]

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return layer_norm(value, w[f"{name}.weight"], w[f"{name}.bias"])

    words, places = w["embeddings.word_embeddings.weight"], w["embeddings.position_embeddings.weight"]
    x = [norm("embeddings.norm", words[token] + places[p]) for p, token in enumerate(tokens)]
    if "embeddings.projection.weight" in w:
        x = [linear("embeddings.projection", vector) for vector in x]
    for n in range(layers):
        prefix = f"layers.{n}"
        q, k, v = ([linear(f"{prefix}.self_attn.{part}_proj", vector) for vector in x] for part in "qkv")
        attended = []
        for p in range(len(tokens)):
            head_outputs = []
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                scores = []
                for j in range(len(tokens)):
                    bias = w["relative_bias.table.weight"][bucket_by_hand(j - p, 32, 128), head]
                    scores.append(math.exp(float(q[p][cut] @ k[j][cut]) / math.sqrt(size) + float(bias)))
                head_outputs.append(sum(score / sum(scores) * v[j][cut] for j, score in enumerate(scores)))
            attended.append(linear(f"{prefix}.self_attn.out_proj", torch.cat(head_outputs)))
        x = [norm(f"{prefix}.self_attn_norm", alpha * old + new) for old, new in zip(x, attended, strict=True)]
        for p, vector in enumerate(x):
            inner = linear(f"{prefix}.fc1", vector)
            gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            x[p] = norm(f"{prefix}.fc_norm", alpha * vector + linear(f"{prefix}.fc2", gelu))
    return torch.stack(x)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("embedding_size", [None, 48])
def test_outputs_follow_the_equations(attention, embedding_size) -> None:
    model, tokens = make(attention=attention, embedding_size=embedding_size), ids(1, 21)
    with torch.no_grad():
        outputs = model(tokens).last_hidden_state[0]
    assert torch.allclose(outputs.double(), by_hand(model, tokens[0].tolist()), atol=1e-5)


def packed(lengths: list[int], value: float = torch.finfo(torch.float32).min) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [1, s] that restart, and an additive block mask [1, 1, s, s]."""
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])
    mask = torch.zeros(len(segment), len(segment))
    return positions.unsqueeze(0), mask.masked_fill(segment[:, None] != segment[None, :], value)[None, None]


def gradients(model, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("value", [torch.finfo(torch.float32).min, -math.inf])
def test_packed_is_unpacked(attention, model_class, value) -> None:
    model, lengths = make(model_class, attention), [40, 3, 150, 11]
    tokens = ids(1, sum(lengths))
    positions, mask = packed(lengths, value)
    batched = model(tokens, attention_mask=mask, position_ids=positions).logits
    separate = torch.cat([model(piece).logits for piece in tokens.split(lengths, dim=1)], dim=1)
    assert torch.allclose(batched, separate, atol=1e-5)
    expected = gradients(model, separate)
    for name, gradient in gradients(model, batched).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5 * expected[name].abs().max().clamp(min=1)), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_boolean_mask_and_padding(attention) -> None:
    model, tokens = make(attention=attention), ids(1, 9)
    positions, mask = packed([4, 5])
    expected = model(tokens, attention_mask=mask, position_ids=positions).last_hidden_state
    boolean = model(tokens, attention_mask=mask == 0, position_ids=positions).last_hidden_state
    assert torch.allclose(boolean, expected, atol=1e-6)
    padded = model(tokens, attention_mask=torch.tensor([[1] * 4 + [0] * 5])).last_hidden_state
    assert torch.allclose(padded[:, :4], model(tokens[:, :4]).last_hidden_state, atol=1e-5)
    with pytest.raises(MetalmError, match="two or four"):
        model(tokens, attention_mask=torch.ones(1, 9, 9))


def test_only_differences_of_positions_enter_the_bias() -> None:
    bias = make().relative_bias
    assert torch.equal(bias(torch.tensor([[3, 4, 9]])), bias(torch.tensor([[0, 1, 6]])))
    assert not torch.equal(bias(torch.tensor([[0, 1, 2]])), bias(torch.tensor([[2, 1, 0]])))


def test_tokens_in_another_order_with_their_positions_are_the_same_text() -> None:
    model, tokens = make(), ids(1, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    shuffled = model(tokens[:, order], position_ids=order.unsqueeze(0)).last_hidden_state
    assert torch.allclose(shuffled, model(tokens).last_hidden_state[:, order], atol=1e-5)


def test_vectors_in_place_of_ids_and_too_long_inputs() -> None:
    model, tokens = make(), ids(2, 8)
    vectors = model.get_input_embeddings()(tokens)
    assert torch.equal(model(inputs_embeds=vectors).last_hidden_state, model(tokens).last_hidden_state)
    with pytest.raises(MetalmError, match="exactly one"):
        model(tokens, inputs_embeds=vectors)
    with pytest.raises(MetalmError, match="longer"):
        model(ids(1, 161))


def test_losses_of_the_heads() -> None:
    tokens, labels = ids(2, 6), ids(2, 6)
    labels[:, ::2] = -100
    out = make(MetaLMEncoderForMaskedLM)(tokens, labels=labels)
    chances = out.logits.log_softmax(-1)
    terms = [-chances[b, p, labels[b, p]].item() for b in range(2) for p in (1, 3, 5)]
    assert out.loss.item() == pytest.approx(sum(terms) / 6, abs=1e-5)

    detector, mask = make(MetaLMEncoderForPreTraining), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    replaced = torch.tensor([[0, 1, 0, -100, 1, 0], [1, 0, 0, 1, 1, 1]])
    out = detector(tokens, attention_mask=mask, labels=replaced)
    assert out.logits.shape == (2, 6)
    terms = [
        math.log1p(math.exp(-z if label else z))
        for row in range(2)
        for z, label, mask_value in zip(
            out.logits[row].tolist(), replaced[row].tolist(), mask[row].tolist(), strict=True
        )
        if mask_value and label != -100
    ]
    assert len(terms) == 9
    assert out.loss.item() == pytest.approx(sum(terms) / 9, abs=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    model, tokens = make(), ids(1, 30)
    assert [model.config.dropout, model.config.attention_dropout] == [0.1, 0.1]
    assert torch.equal(model(tokens).last_hidden_state, model(tokens).last_hidden_state)
    model.train()
    assert not torch.equal(model(tokens).last_hidden_state, model(tokens).last_hidden_state)
    still = make(dropout=0.0, attention_dropout=0.0).train()
    assert torch.equal(still(tokens).last_hidden_state, still(tokens).last_hidden_state)
    kept_fractions = torch.stack([(model.embeddings.dropout(torch.ones(10_000)) > 0).float().mean() for _ in range(3)])
    assert kept_fractions.mean().item() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("model_class", HEADS)
def test_bf16_is_finite_and_close(model_class) -> None:
    tokens, model = ids(2, 150), make(model_class)
    mask = torch.ones(2, 150, dtype=torch.long)
    mask[1, 100:] = 0
    labels = tokens if model_class is MetaLMEncoderForMaskedLM else tokens % 2
    expected = model(tokens, attention_mask=mask).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(tokens, attention_mask=mask, labels=labels)
    mixed.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    half = make(model_class).to(torch.bfloat16)(tokens, attention_mask=mask).logits
    for logits in (mixed.logits, half):
        assert torch.isfinite(logits).all()
        assert (logits.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model, tokens = make(MetaLMEncoderForPreTraining, dropout=0.0, attention_dropout=0.0).train(), ids(2, 8)
    expected = gradients(model, model(tokens).logits)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    for name, gradient in gradients(model, model(tokens).logits).items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


def test_hidden_states_and_attentions_are_returned() -> None:
    out = make(attention="eager")(ids(2, 6), output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 4
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert [weights.shape for weights in out.attentions] == [(2, 4, 6, 6)] * 3


def test_compiles_without_a_break() -> None:
    model, tokens = make(), ids(1, 9)
    positions, mask = packed([4, 5])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    out = compiled(tokens, attention_mask=mask, position_ids=positions).last_hidden_state
    expected = model(tokens, attention_mask=mask, position_ids=positions).last_hidden_state
    assert torch.allclose(out, expected, atol=1e-6)


def test_a_small_generator_can_share_the_embeddings() -> None:
    detector = make(MetaLMEncoderForPreTraining)
    generator = make(MetaLMEncoderForMaskedLM, hidden_size=8, num_attention_heads=1, embedding_size=32)
    generator.set_input_embeddings(detector.get_input_embeddings())
    generator.tie_weights()
    assert generator.lm_head.weight is detector.get_input_embeddings().weight
    assert generator(ids(2, 6)).logits.shape == (2, 6, 61)


def test_saved_and_loaded_in_a_fresh_process(tmp_path) -> None:
    tokens, expected = ids(2, 150), {}
    for model_class in (MetaLMEncoderModel, *HEADS):
        model = make(model_class)
        model.save_pretrained(tmp_path / model_class.__name__)
        expected[model_class.__name__] = model(tokens)[0].detach().contiguous()
    save_file({"ids": tokens, **expected}, tmp_path / "expected.safetensors")
    code = f"""
from pathlib import Path
import torch
from safetensors.torch import load_file
from metalm_cli.models.deepnorm import encoder as deepnorm_encoder
expected = load_file({str(tmp_path / "expected.safetensors")!r})
ids = expected.pop("ids")
assert len(expected) == 3
for name, outputs in expected.items():
    model = getattr(deepnorm_encoder, name).from_pretrained(Path({str(tmp_path)!r}) / name)
    assert torch.equal(model(ids)[0], outputs), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
