"""DeepNorm's numbers, its initial variances, sinusoids, registration."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
)

from metalm_cli.errors import MetalmError
from metalm_cli.models.deepnorm.decoder import MetaLMDecoderConfig, MetaLMDecoderForCausalLM, MetaLMDecoderModel
from metalm_cli.models.deepnorm.encoder import (
    MetaLMEncoderConfig,
    MetaLMEncoderForMaskedLM,
    MetaLMEncoderForPreTraining,
    MetaLMEncoderModel,
)
from metalm_cli.models.deepnorm.layers import deepnorm_alpha, deepnorm_beta, sinusoidal_positions
from metalm_cli.models.deepnorm.register import register

DECODER = {"vocab_size": 500, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
ENCODER = {**DECODER, "max_position_embeddings": 64}


def test_alpha_and_beta_of_24_layers() -> None:
    # 48 ** 0.25 and 192 ** -0.25
    assert deepnorm_alpha(24) == pytest.approx(2.632148, abs=1e-6)
    assert deepnorm_beta(24) == pytest.approx(0.268642, abs=1e-6)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (MetaLMDecoderForCausalLM, MetaLMDecoderConfig(**DECODER)),
        (MetaLMEncoderForMaskedLM, MetaLMEncoderConfig(**ENCODER)),
        (MetaLMEncoderForPreTraining, MetaLMEncoderConfig(**ENCODER)),
    ],
)
def test_initial_variances(model_class, config) -> None:
    torch.manual_seed(0)
    model = model_class(config)
    beta = 24**-0.25
    seen = set()
    for name, weight in model.named_parameters():
        kind = name.rsplit(".", 2)[-2]
        if ("embeddings" in name and kind != "norm") or kind in ("embed_tokens", "table"):
            expected = 256**-0.5 if kind == "embed_tokens" else 0.02
        elif kind.endswith("norm"):
            assert torch.all(weight == (1 if name.endswith("weight") else 0)), name
            continue
        elif name.endswith("bias"):
            assert torch.all(weight == 0), name
            continue
        else:
            gain = beta if kind in ("v_proj", "out_proj", "fc1", "fc2") else 1.0
            expected = gain * math.sqrt(2 / sum(weight.shape))
        seen.add(kind)
        error = 5 * expected / math.sqrt(2 * weight.numel())
        assert weight.std().item() == pytest.approx(expected, abs=error), name
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel()), name
    assert {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"} <= seen


def test_embeddings_start_at_unit_scale_and_can_be_left_unscaled() -> None:
    torch.manual_seed(0)
    ids = torch.arange(500).unsqueeze(0)
    scaled = MetaLMDecoderModel(MetaLMDecoderConfig(**DECODER))
    assert scaled.get_input_embeddings()(ids).std().item() == pytest.approx(1.0, abs=0.02)
    plain = MetaLMDecoderModel(MetaLMDecoderConfig(**DECODER, scale_embedding=False))
    assert plain.get_input_embeddings()(ids).std().item() == pytest.approx(1 / 16, abs=0.002)


def test_one_seed_gives_one_model() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(MetaLMEncoderForPreTraining(MetaLMEncoderConfig(**ENCODER)).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_sinusoids_follow_their_equation() -> None:
    positions, width = [0, 1, 5, 511, 4095], 12
    table = sinusoidal_positions(torch.tensor([positions]), width)[0]
    for row, position in zip(table, positions, strict=True):
        for i in range(width // 2):
            angle = position / 10_000 ** (2 * i / width)
            assert row[2 * i].item() == pytest.approx(math.sin(angle), abs=1e-3)
            assert row[2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-3)
    assert table.dtype == torch.float32


def test_parameter_counts_of_the_paper() -> None:
    with torch.device("meta"):
        decoder = MetaLMDecoderForCausalLM(MetaLMDecoderConfig())
        encoder = MetaLMEncoderModel(MetaLMEncoderConfig())
    vocabulary, width, ffn = 61_952, 2048, 8192
    layer = 4 * (width * width + width) + (2 * width * ffn + ffn + width) + 4 * width
    assert decoder.num_parameters() == vocabulary * width + 24 * layer == 1_335_476_224
    vocabulary, width, ffn = 61_952, 1024, 4096
    layer = 4 * (width * width + width) + (2 * width * ffn + ffn + width) + 4 * width
    inputs = (vocabulary + 512) * width + 2 * width + 32 * 16
    assert encoder.num_parameters() == inputs + 24 * layer == 366_275_072


def test_auto_classes_know_both_stacks(tmp_path) -> None:
    register()
    register()
    for auto, config, model_class in [
        (AutoModel, MetaLMDecoderConfig(**DECODER), MetaLMDecoderModel),
        (AutoModelForCausalLM, MetaLMDecoderConfig(**DECODER), MetaLMDecoderForCausalLM),
        (AutoModel, MetaLMEncoderConfig(**ENCODER), MetaLMEncoderModel),
        (AutoModelForMaskedLM, MetaLMEncoderConfig(**ENCODER), MetaLMEncoderForMaskedLM),
        (AutoModelForPreTraining, MetaLMEncoderConfig(**ENCODER), MetaLMEncoderForPreTraining),
    ]:
        model = auto.from_config(config)
        assert type(model) is model_class
        folder = tmp_path / model_class.__name__
        model.save_pretrained(folder)
        assert AutoConfig.from_pretrained(folder).to_dict()["model_type"] == config.model_type
        again = auto.from_pretrained(folder)
        assert type(again) is model_class
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_pretrained_head_is_dropped_by_the_bare_model(tmp_path) -> None:
    register()
    detector = MetaLMEncoderForPreTraining(MetaLMEncoderConfig(**ENCODER))
    detector.save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, detector.encoder.state_dict()[name]), name


@pytest.mark.parametrize(
    ("config_class", "changes", "word"),
    [
        (MetaLMDecoderConfig, {"hidden_size": 30, "num_attention_heads": 4}, "num_attention_heads"),
        (MetaLMDecoderConfig, {"hidden_size": 15, "num_attention_heads": 3}, "even"),
        (MetaLMDecoderConfig, {"hidden_act": "gelo"}, "hidden_act"),
        (MetaLMEncoderConfig, {"num_hidden_layers": 0}, "num_hidden_layers"),
        (MetaLMEncoderConfig, {"relative_attention_num_buckets": 6}, "buckets"),
        (MetaLMEncoderConfig, {"relative_attention_max_distance": 8}, "buckets"),
    ],
)
def test_impossible_shapes_are_refused(config_class, changes, word) -> None:
    with pytest.raises(MetalmError, match=word):
        config_class(**changes)
