"""Assembly of a recipe's ``model``: scales, dropout, token rules, and bad input."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from torch import nn

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.connectors import make_connector, root_mean_square
from metalm_cli.models.encoders import load_tokenizer
from metalm_cli.models.part_loader import set_dropout
from model_families import (
    DECODERS,
    ENCODERS,
    TEXTS,
    VISION,
    VOCABULARY,
    batch_with,
    config_of,
    make_decoder,
    make_encoder,
    model_recipe,
    noise_image,
)


def assemble(model: ModelConfig, seed: int = 0, sample=lambda count: iter(())):
    return build_metalm(model, seed=seed, sample=sample)


# -- connectors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connector", [{"kind": "linear"}, {"kind": "mlp", "layers": 3}])
@pytest.mark.parametrize(("decoder", "encoder"), [("gpt2", "bert"), ("gemma2", "roberta"), ("opt", "t5")])
def test_a_fresh_connector_gives_vectors_of_the_scale_of_embeddings(decoder, encoder, connector, tokenizers) -> None:
    assembly = assemble(model_recipe(tokenizers, decoder, encoder, connector=connector))
    model = assembly.model.eval()
    batch = batch_with(assembly, TEXTS)
    with torch.no_grad():
        docked = root_mean_square(model.dock_vectors("text", batch.docks["text"]))
        tokens = root_mean_square(model.decoder.get_input_embeddings()(torch.arange(VOCABULARY)))
    assert docked == pytest.approx(tokens, rel=0.35)
    assert model.connectors["text"][0].in_features == 32
    assert model.connectors["text"][-1].out_features == (20 if decoder == "opt" else 32)


def test_a_vision_connector_is_scaled_too(tokenizers) -> None:
    assembly = assemble(model_recipe(tokenizers, "llama", "vit", name="vision"))
    batch = batch_with(assembly, [noise_image(0), noise_image(1)], "vision")
    with torch.no_grad():
        docked = root_mean_square(assembly.model.dock_vectors("vision", batch.docks["vision"]))
        tokens = root_mean_square(assembly.model.decoder.get_input_embeddings()(torch.arange(VOCABULARY)))
    assert docked == pytest.approx(tokens, rel=0.35)


@pytest.mark.parametrize(("kind", "layers", "linear"), [("linear", 5, 1), ("mlp", 2, 2), ("mlp", 4, 4)])
def test_connectors_have_their_layers_and_rescale_exactly(kind, layers, linear) -> None:
    torch.manual_seed(0)
    connector: Any = make_connector({"kind": kind, "layers": layers}, 6, 10)
    kinds = [type(layer) for layer in connector]
    assert kinds == [nn.Linear, *[nn.GELU, nn.Linear] * (linear - 1)]
    outputs = torch.randn(50, 6)
    connector.rescale(outputs, 0.02)
    assert root_mean_square(connector(outputs)) == pytest.approx(0.02, rel=1e-4)
    connector.rescale(torch.zeros(3, 6), 5.0)  # zero outputs do not change the scale
    assert root_mean_square(connector(outputs)) == pytest.approx(0.02, rel=1e-4)


def test_an_encoder_may_have_a_connector_of_its_own(tokenizers) -> None:
    model = model_recipe(tokenizers, connector={"kind": "linear"}).model_dump()
    text = model["encoders"]["text"]
    model["encoders"] = {"text": text, "notes": {**text, "connector": {"kind": "mlp", "layers": 2, "trains": "last_1"}}}
    assembly = assemble(ModelConfig.model_validate(model))
    assert [len(assembly.model.connectors[name]) for name in ("text", "notes")] == [1, 3]
    assert assembly.policy["connectors.notes"].train == "last_1"
    assert list(assembly.parts()) == [
        "decoder",
        "encoders.text",
        "connectors.text",
        "encoders.notes",
        "connectors.notes",
    ]


def test_the_seed_decides_the_weights(tokenizers) -> None:
    recipe = model_recipe(tokenizers)
    weights, same_seed, other_seed = (assemble(recipe, seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(weights[name], same_seed[name]) for name in weights)
    assert not torch.equal(weights["connectors.text.0.weight"], other_seed["connectors.text.0.weight"])


# -- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS, *VISION])
def test_dropout_sets_every_rate(kind, tokenizers) -> None:
    config = config_of(kind)
    set_dropout(config, 0.37)
    rates = {name: value for name, value in config.to_dict().items() if "drop" in name and value is not None}
    rates.pop("layerdrop", None)
    rates.pop("use_stable_dropout", None)
    assert rates
    assert set(rates.values()) == {0.37}, rates
    if kind in DECODERS:
        assembly = assemble(model_recipe(tokenizers, kind, None, decoder_options={"dropout": 0.37}))
        part = assembly.model.decoder
    else:
        name = "vision" if kind in VISION else "text"
        part = assemble(model_recipe(tokenizers, "gpt2", kind, name=name, dropout=0.37)).model.encoders[name]
    dropout_rates = [
        module.p
        for module in part.modules()
        if isinstance(module, nn.Dropout) or type(module).__name__.endswith("Dropout")
    ]
    assert set(dropout_rates) <= {0.37}
    attribute_values = (
        getattr(module, name, None) for module in part.modules() for name in ("dropout", "attention_dropout")
    )
    attention = {rate for rate in attribute_values if isinstance(rate, float)}
    assert attention <= {0.37}
    assert dropout_rates or attention


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_vocabulary_and_special_tokens_come_from_the_tokenizer(tokenizers) -> None:
    assembly = assemble(model_recipe(tokenizers, "llama", "bert"))
    decoder, encoder = assembly.model.decoder.config, assembly.model.encoders["text"].config
    assert (decoder.vocab_size, decoder.bos_token_id, decoder.eos_token_id) == (VOCABULARY, 0, 1)
    assert (encoder.vocab_size, encoder.pad_token_id) == (VOCABULARY, 0)
    reader = assembly.processors["text"].tokenizer
    assert (encoder.cls_token_id, encoder.sep_token_id) == (reader.cls_token_id, reader.sep_token_id)
    assert (encoder.bos_token_id, encoder.eos_token_id) == (reader.cls_token_id, reader.sep_token_id)
    recipe = model_recipe(tokenizers, "llama", None).model_dump()
    recipe["decoder"]["config"]["vocab_size"] = 512
    assert assemble(ModelConfig.model_validate(recipe)).model.decoder.config.vocab_size == 512


def test_an_encoder_may_share_the_decoders_tokenizer(tokenizers) -> None:
    model = model_recipe(tokenizers, "gpt2", "bert").model_dump()
    model["encoders"]["text"]["tokenizer"] = "same"
    assembly = assemble(ModelConfig.model_validate(model))
    text = "A fox can hide."
    ids = assembly.processors["text"].prepare(text).arrays["input_ids"].tolist()
    assert ids == assembly.tokenizer.tokenizer(text).input_ids


def test_tokenizers_are_trained_on_the_sample(tokenizers, texts) -> None:
    model = model_recipe(tokenizers, "gpt2", "bert").model_dump()
    model["decoder"]["tokenizer"] = {"new": {"vocab_size": 330, "documents": 12}}
    model["encoders"]["text"]["tokenizer"] = {"new": {"vocab_size": 310, "documents": 7}}
    counts: list[int] = []

    def sample(count: int):
        counts.append(count)
        return iter(texts[:count])

    assembly = assemble(ModelConfig.model_validate(model), sample=sample)
    assert counts == [12, 7]
    assert len(assembly.tokenizer.tokenizer) == assembly.model.decoder.config.vocab_size == 330
    assert assembly.model.encoders["text"].config.vocab_size == 310
    reader = assembly.tokenizer.tokenizer
    assert reader.decode(reader(texts[0]).input_ids) == texts[0]
    newline = reader("a\n\nb").input_ids
    assert newline.count(reader("\n").input_ids[0]) == 2, "a newline is a token of its own"
    dock = assembly.processors["text"].prepare(texts[0][:80])
    assert len(dock.output_positions) == len(dock.arrays["input_ids"]) - 2


def test_no_documents_to_train_a_tokenizer_on(tokenizers) -> None:
    model = model_recipe(tokenizers, "gpt2", None).model_dump()
    model["decoder"]["tokenizer"] = {"new": {"vocab_size": 330}}
    with pytest.raises(MetalmError, match="no documents") as caught:
        assemble(ModelConfig.model_validate(model))
    assert "data.sources" in caught.value.remedy


# -- bad input --------------------------------------------------------------------------------------------------------


def assembly_error(model: ModelConfig, match: str, where: str) -> MetalmError:
    with pytest.raises(MetalmError, match=match) as caught:
        assemble(model)
    assert where in caught.value.where
    assert caught.value.remedy
    assert caught.value.exit_code == Exit.USAGE
    return caught.value


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "modernbert"])
def test_an_encoder_given_as_decoder(kind, tokenizers) -> None:
    config = {"model_type": kind, **ENCODERS[kind]}
    model = ModelConfig.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    assembly_error(model, "causal", "model.decoder")


def test_an_encoder_decoder_given_as_decoder(tokenizers) -> None:
    config = {"model_type": "t5", **ENCODERS["t5"]}
    model = ModelConfig.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    error = assembly_error(model, "a t5 model is an encoder–decoder, not a decoder", "model.decoder")
    assert "model.seq2seq.checkpoint" in error.remedy


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_another_model_given_as_encoder_decoder(kind, tokenizers) -> None:
    config = {"model_type": kind, **(DECODERS | ENCODERS)[kind]}
    model = ModelConfig.model_validate({"seq2seq": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    error = assembly_error(model, f"a {kind} model is not an encoder–decoder", "model.seq2seq")
    assert "model.decoder" in error.remedy


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "metalm-decoder", "bloom"])
def test_a_decoder_given_as_encoder(kind, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    model["encoders"]["text"]["config"] = {"model_type": kind, **DECODERS[kind]}
    assembly_error(ModelConfig.model_validate(model), "not a bidirectional encoder|no encoder", "model.encoders.text")


def test_a_vision_model_given_as_decoder_or_a_language_model_as_vision_encoder(tokenizers) -> None:
    config = {"model_type": "vit", **VISION["vit"]}
    model = ModelConfig.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    assembly_error(model, "not a causal language model", "model.decoder")


@pytest.mark.parametrize("part", ["decoder", "encoders.text"])
def test_a_vocabulary_that_does_not_fit(part, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    (model["decoder"] if part == "decoder" else model["encoders"]["text"])["config"]["vocab_size"] = VOCABULARY - 1
    problem = assembly_error(
        ModelConfig.model_validate(model), f"{VOCABULARY} tokens, its embeddings 399 rows", f"model.{part}.tokenizer"
    )
    assert "tokenizer" in problem.remedy


@pytest.mark.parametrize("part", ["decoder", "encoders.text"])
def test_a_config_without_a_tokenizer(part, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    (model["decoder"] if part == "decoder" else model["encoders"]["text"])["tokenizer"] = None
    problem = assembly_error(ModelConfig.model_validate(model), "needs a tokenizer", f"model.{part}.tokenizer")
    assert "train" in problem.remedy


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no-such-model"},
        {"hidden_size": 32},
        {"model_type": "llama", "hidden_size": "wide"},
        {"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4, "num_hidden_layers": 1},
        {"model_type": "gpt2", "activation_function": "no-such-function", "n_embd": 8, "n_layer": 1, "n_head": 2},
        {"model_type": "llama", "hidden_size": -4, "num_hidden_layers": 1},
    ],
    ids=["unknown", "no type", "text for a number", "heads do not divide", "activation", "negative"],
)
def test_a_config_that_makes_no_model(config, tokenizers) -> None:
    model = ModelConfig.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    assembly_error(model, "", "decoder")


@pytest.mark.parametrize(
    "config",
    [{"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}, {"model_type": "bert", "hidden_size": 1.5}],
)
def test_a_config_that_makes_no_encoder(config, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    model["encoders"]["text"]["config"] = config
    assembly_error(ModelConfig.model_validate(model), "cannot be built from the config", "model.encoders.text.config")


@pytest.fixture
def checkpoint(tokenizers, tmp_path):
    """A folder of a tiny checkpoint with its tokenizer."""

    def save(kind: str, tokenizer: bool = True):
        folder = tmp_path / kind
        (make_decoder(kind) if kind in DECODERS else make_encoder(kind)).save_pretrained(folder)
        if tokenizer:
            load_tokenizer(tokenizers["gpt2" if kind in DECODERS else "bert"]).save_pretrained(folder)
        return folder

    return save


def with_decoder(folder, **options) -> ModelConfig:
    return ModelConfig.model_validate({"decoder": {"checkpoint": str(folder), **options}})


def test_a_checkpoint_is_loaded_as_it_is(checkpoint, tokenizers) -> None:
    model = ModelConfig.model_validate(
        {
            "decoder": {"checkpoint": str(checkpoint("gpt2")), "dropout": 0.25},
            "encoders": {"text": {"checkpoint": str(checkpoint("electra")), "trains": "last_1", "max_length": 32}},
        }
    )
    assembly = assemble(model)
    for part, expected in (
        (assembly.model.decoder, make_decoder("gpt2")),
        (assembly.model.encoders["text"], make_encoder("electra")),
    ):
        for name, value in expected.state_dict().items():
            assert torch.equal(part.state_dict()[name], value), name
    assert assembly.model.decoder.transformer.drop.p == 0.25
    assert assembly.processors["text"].max_length == 32


def test_a_finished_metalm_given_as_decoder(tokenizers, tmp_path) -> None:
    assembly = assemble(model_recipe(tokenizers))
    save_model(tmp_path / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    error = assembly_error(with_decoder(tmp_path / "model"), "a finished MetaLM cannot be the decoder", "model.decoder")
    assert str(tmp_path / "model") in error.where
    assert "model.checkpoint" in error.remedy
    # The remedy helps.
    assert list(assemble(ModelConfig.model_validate({"checkpoint": str(tmp_path / "model")})).processors) == ["text"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_a_checkpoint_folder_without_tokenizer(kind, checkpoint, tokenizers) -> None:
    folder = checkpoint(kind, tokenizer=False)
    if kind == "bert":
        model = model_recipe(tokenizers).model_dump()
        model["encoders"]["text"] = {"checkpoint": str(folder)}
        assembly_error(ModelConfig.model_validate(model), "no tokenizer", str(folder))
    else:
        problem = assembly_error(with_decoder(folder), "no tokenizer", str(folder))
        assert "tokenizer.json" in problem.remedy
        assert assemble(with_decoder(folder, tokenizer=str(tokenizers["gpt2"]))).tokenizer is not None


def test_a_checkpoint_of_pickles_is_refused(checkpoint) -> None:
    folder = checkpoint("gpt2")
    weights = folder / "model.safetensors"
    torch.save(make_decoder("gpt2").state_dict(), folder / "pytorch_model.bin")
    weights.unlink()
    problem = assembly_error(with_decoder(folder), "cannot be loaded", "model.decoder.checkpoint")
    assert "safetensors" in problem.remedy


def test_a_broken_tokenizer_file_is_named(checkpoint) -> None:
    folder = checkpoint("gpt2")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    assembly_error(with_decoder(folder), "no tokenizer", str(folder))


def test_damaged_weights_are_refused(checkpoint) -> None:
    folder = checkpoint("gpt2")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assembly_error(with_decoder(folder), "cannot be loaded", str(folder))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_missing_weights_are_refused(kind, checkpoint, tokenizers) -> None:
    from safetensors.torch import load_file, save_file

    folder = checkpoint(kind)
    weights = load_file(folder / "model.safetensors")
    remaining = {name: value for name, value in weights.items() if ".1." not in name}
    assert 0 < len(remaining) < len(weights)
    save_file(remaining, folder / "model.safetensors", metadata={"format": "pt"})
    if kind == "gpt2":
        problem = assembly_error(with_decoder(folder), "lacks", "model.decoder.checkpoint")
    else:
        model = model_recipe(tokenizers).model_dump()
        model["encoders"]["text"] = {"checkpoint": str(folder)}
        problem = assembly_error(ModelConfig.model_validate(model), "lacks", "model.encoders.text.checkpoint")
    assert "1" in problem.why


def test_weights_of_another_shape_are_refused(checkpoint) -> None:
    folder = checkpoint("gpt2")
    make_decoder("gpt2", n_embd=16).config.save_pretrained(folder)
    assembly_error(with_decoder(folder), "cannot be loaded", str(folder))


def test_a_folder_without_config(tmp_path, tokenizers) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(tokenizers["gpt2"], folder)
    assembly_error(with_decoder(folder), "no model that transformers knows", str(folder))
    (folder / "config.json").write_text("{broken")
    assert "config" in assembly_error(with_decoder(folder), "can be loaded|transformers knows", str(folder)).why


@pytest.mark.parametrize("value", ["wide", -4])
def test_a_checkpoint_whose_config_is_broken(value, checkpoint) -> None:
    folder = checkpoint("gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": value}))
    assert assembly_error(with_decoder(folder), "", str(folder)).why


def test_a_missing_folder(tmp_path) -> None:
    assembly_error(with_decoder(tmp_path / "absent"), "no model folder", "absent")


def test_recipes_and_families_name_the_same_objectives() -> None:
    from metalm_cli.config.rules.evaluation_rules import ENCODER_OBJECTIVES
    from metalm_cli.config.rules.seq2seq_rules import SEQ2SEQ_OBJECTIVES
    from metalm_cli.models.families import ENCODER_DECODER, ENCODER_ONLY, load_family

    assert load_family(ENCODER_ONLY).objectives == ENCODER_OBJECTIVES
    assert load_family(ENCODER_DECODER).objectives == SEQ2SEQ_OBJECTIVES
