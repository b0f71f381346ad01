"""From a recipe's ``model`` to a model: scales, dropout, token rules, and bad input."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from metalm_cli.config.schema.model import Model
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.connectors import Connector, root_mean_square
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
    picture,
)


def assembled(model: Model, seed: int = 0, sample=lambda count: iter(())):
    return build_metalm(model, seed=seed, sample=sample)


# -- connectors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connector", [{"kind": "linear"}, {"kind": "mlp", "layers": 3}])
@pytest.mark.parametrize(("decoder", "encoder"), [("gpt2", "bert"), ("gemma2", "roberta"), ("opt", "t5")])
def test_a_fresh_connector_gives_vectors_of_the_scale_of_embeddings(decoder, encoder, connector, tokenizers) -> None:
    assembly = assembled(model_recipe(tokenizers, decoder, encoder, connector=connector))
    model = assembly.model.eval()
    batch = batch_with(assembly, TEXTS)
    with torch.no_grad():
        docked = root_mean_square(model.dock_vectors("text", batch.docks["text"]))
        tokens = root_mean_square(model.decoder.get_input_embeddings()(torch.arange(VOCABULARY)))
    assert docked == pytest.approx(tokens, rel=0.35)
    assert model.connectors["text"][0].in_features == 32
    assert model.connectors["text"][-1].out_features == (20 if decoder == "opt" else 32)


def test_a_vision_connector_is_scaled_too(tokenizers) -> None:
    assembly = assembled(model_recipe(tokenizers, "llama", "vit", name="vision"))
    batch = batch_with(assembly, [picture(0), picture(1)], "vision")
    with torch.no_grad():
        docked = root_mean_square(assembly.model.dock_vectors("vision", batch.docks["vision"]))
        tokens = root_mean_square(assembly.model.decoder.get_input_embeddings()(torch.arange(VOCABULARY)))
    assert docked == pytest.approx(tokens, rel=0.35)


@pytest.mark.parametrize(("kind", "layers", "linear"), [("linear", 5, 1), ("mlp", 2, 2), ("mlp", 4, 4)])
def test_connectors_have_their_layers_and_rescale_exactly(kind, layers, linear) -> None:
    torch.manual_seed(0)
    connector = Connector(kind, 6, 10, layers)
    kinds = [type(one) for one in connector]
    assert kinds == [nn.Linear, *[nn.GELU, nn.Linear] * (linear - 1)]
    outputs = torch.randn(50, 6)
    connector.rescale(outputs, 0.02)
    assert root_mean_square(connector(outputs)) == pytest.approx(0.02, rel=1e-4)
    connector.rescale(torch.zeros(3, 6), 5.0)  # says nothing about the scale
    assert root_mean_square(connector(outputs)) == pytest.approx(0.02, rel=1e-4)


def test_an_encoder_may_have_a_connector_of_its_own(tokenizers) -> None:
    model = model_recipe(tokenizers, connector={"kind": "linear"}).model_dump()
    text = model["encoders"]["text"]
    model["encoders"] = {"text": text, "notes": {**text, "connector": {"kind": "mlp", "layers": 2, "trains": "last_1"}}}
    found = assembled(Model.model_validate(model))
    assert [len(found.model.connectors[name]) for name in ("text", "notes")] == [1, 3]
    assert found.policy["connectors.notes"].train == "last_1"
    assert list(found.parts()) == ["decoder", "encoders.text", "connectors.text", "encoders.notes", "connectors.notes"]


def test_the_seed_decides_the_weights(tokenizers) -> None:
    recipe = model_recipe(tokenizers)
    one, same, other = (assembled(recipe, seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["connectors.text.0.weight"], other["connectors.text.0.weight"])


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
        assembly = assembled(model_recipe(tokenizers, kind, None, decoder_options={"dropout": 0.37}))
        part = assembly.model.decoder
    else:
        name = "vision" if kind in VISION else "text"
        part = assembled(model_recipe(tokenizers, "gpt2", kind, name=name, dropout=0.37)).model.encoders[name]
    found = [one.p for one in part.modules() if isinstance(one, nn.Dropout) or type(one).__name__.endswith("Dropout")]
    assert set(found) <= {0.37}
    own = (getattr(one, name, None) for one in part.modules() for name in ("dropout", "attention_dropout"))
    attention = {one for one in own if isinstance(one, float)}
    assert attention <= {0.37}
    assert found or attention


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_vocabulary_and_special_tokens_come_from_the_tokenizer(tokenizers) -> None:
    assembly = assembled(model_recipe(tokenizers, "llama", "bert"))
    decoder, encoder = assembly.model.decoder.config, assembly.model.encoders["text"].config
    assert (decoder.vocab_size, decoder.bos_token_id, decoder.eos_token_id) == (VOCABULARY, 0, 1)
    assert (encoder.vocab_size, encoder.pad_token_id) == (VOCABULARY, 0)
    reader = assembly.processors["text"].tokenizer
    assert (encoder.cls_token_id, encoder.sep_token_id) == (reader.cls_token_id, reader.sep_token_id)
    assert (encoder.bos_token_id, encoder.eos_token_id) == (reader.cls_token_id, reader.sep_token_id)
    given = model_recipe(tokenizers, "llama", None).model_dump()
    given["decoder"]["config"]["vocab_size"] = 512
    assert assembled(Model.model_validate(given)).model.decoder.config.vocab_size == 512


def test_an_encoder_may_share_the_decoders_tokenizer(tokenizers) -> None:
    model = model_recipe(tokenizers, "gpt2", "bert").model_dump()
    model["encoders"]["text"]["tokenizer"] = "same"
    assembly = assembled(Model.model_validate(model))
    text = "A fox can hide."
    ids = assembly.processors["text"].prepare(text).arrays["input_ids"].tolist()
    assert ids == assembly.tokenizer.tokenizer(text).input_ids


def test_tokenizers_are_trained_on_the_sample(tokenizers, texts) -> None:
    model = model_recipe(tokenizers, "gpt2", "bert").model_dump()
    model["decoder"]["tokenizer"] = {"new": {"vocab_size": 330, "documents": 12}}
    model["encoders"]["text"]["tokenizer"] = {"new": {"vocab_size": 310, "documents": 7}}
    asked: list[int] = []

    def sample(count: int):
        asked.append(count)
        return iter(texts[:count])

    assembly = assembled(Model.model_validate(model), sample=sample)
    assert asked == [12, 7]
    assert len(assembly.tokenizer.tokenizer) == assembly.model.decoder.config.vocab_size == 330
    assert assembly.model.encoders["text"].config.vocab_size == 310
    reader = assembly.tokenizer.tokenizer
    assert reader.decode(reader(texts[0]).input_ids) == texts[0]
    newline = reader("a\n\nb").input_ids
    assert newline.count(reader("\n").input_ids[0]) == 2, "a newline is a token of its own"
    dock = assembly.processors["text"].prepare(texts[0][:80])
    assert len(dock.docked) == len(dock.arrays["input_ids"]) - 2


def test_no_documents_to_train_a_tokenizer_on(tokenizers) -> None:
    model = model_recipe(tokenizers, "gpt2", None).model_dump()
    model["decoder"]["tokenizer"] = {"new": {"vocab_size": 330}}
    with pytest.raises(MetalmError, match="no documents") as caught:
        assembled(Model.model_validate(model))
    assert "data.sources" in caught.value.remedy


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(model: Model, match: str, where: str) -> MetalmError:
    with pytest.raises(MetalmError, match=match) as caught:
        assembled(model)
    assert where in caught.value.where
    assert caught.value.remedy
    assert caught.value.exit_code == Exit.USAGE
    return caught.value


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "t5", "modernbert"])
def test_an_encoder_given_as_decoder(kind, tokenizers) -> None:
    config = {"model_type": kind, **ENCODERS[kind]}
    model = Model.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    refused(model, "causal", "model.decoder")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "metalm-decoder", "bloom"])
def test_a_decoder_given_as_encoder(kind, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    model["encoders"]["text"]["config"] = {"model_type": kind, **DECODERS[kind]}
    refused(Model.model_validate(model), "not a bidirectional encoder|no encoder", "model.encoders.text")


def test_a_vision_model_given_as_decoder_or_a_language_model_as_vision_encoder(tokenizers) -> None:
    config = {"model_type": "vit", **VISION["vit"]}
    model = Model.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    refused(model, "not a causal language model", "model.decoder")


@pytest.mark.parametrize("part", ["decoder", "encoders.text"])
def test_a_vocabulary_that_does_not_fit(part, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    (model["decoder"] if part == "decoder" else model["encoders"]["text"])["config"]["vocab_size"] = VOCABULARY - 1
    problem = refused(
        Model.model_validate(model), f"{VOCABULARY} tokens, its embeddings 399 rows", f"model.{part}.tokenizer"
    )
    assert "tokenizer" in problem.remedy


@pytest.mark.parametrize("part", ["decoder", "encoders.text"])
def test_a_config_without_a_tokenizer(part, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    (model["decoder"] if part == "decoder" else model["encoders"]["text"])["tokenizer"] = None
    problem = refused(Model.model_validate(model), "needs a tokenizer", f"model.{part}.tokenizer")
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
    model = Model.model_validate({"decoder": {"config": config, "tokenizer": str(tokenizers["gpt2"])}})
    refused(model, "", "decoder")


@pytest.mark.parametrize(
    "config",
    [{"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}, {"model_type": "bert", "hidden_size": 1.5}],
)
def test_a_config_that_makes_no_encoder(config, tokenizers) -> None:
    model = model_recipe(tokenizers).model_dump()
    model["encoders"]["text"]["config"] = config
    refused(Model.model_validate(model), "cannot be made from this config", "model.encoders.text.config")


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


def with_decoder(folder, **options) -> Model:
    return Model.model_validate({"decoder": {"checkpoint": str(folder), **options}})


def test_a_checkpoint_is_loaded_as_it_is(checkpoint, tokenizers) -> None:
    model = Model.model_validate(
        {
            "decoder": {"checkpoint": str(checkpoint("gpt2")), "dropout": 0.25},
            "encoders": {"text": {"checkpoint": str(checkpoint("electra")), "trains": "last_1", "max_length": 32}},
        }
    )
    assembly = assembled(model)
    for part, made in (
        (assembly.model.decoder, make_decoder("gpt2")),
        (assembly.model.encoders["text"], make_encoder("electra")),
    ):
        for name, value in made.state_dict().items():
            assert torch.equal(part.state_dict()[name], value), name
    assert assembly.model.decoder.transformer.drop.p == 0.25
    assert assembly.processors["text"].max_length == 32


def test_a_finished_metalm_given_as_decoder(tokenizers, tmp_path) -> None:
    made = assembled(model_recipe(tokenizers))
    save_model(tmp_path / "model", made.model, made.decoder_tokenizer, made.processors)
    error = refused(with_decoder(tmp_path / "model"), "a finished MetaLM cannot be the decoder", "model.decoder")
    assert str(tmp_path / "model") in error.where
    assert "model.checkpoint" in error.remedy
    # The remedy helps.
    assert list(assembled(Model.model_validate({"checkpoint": str(tmp_path / "model")})).processors) == ["text"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_a_checkpoint_folder_without_tokenizer(kind, checkpoint, tokenizers) -> None:
    folder = checkpoint(kind, tokenizer=False)
    if kind == "bert":
        model = model_recipe(tokenizers).model_dump()
        model["encoders"]["text"] = {"checkpoint": str(folder)}
        refused(Model.model_validate(model), "no tokenizer", str(folder))
    else:
        problem = refused(with_decoder(folder), "no tokenizer", str(folder))
        assert "tokenizer.json" in problem.remedy
        assert assembled(with_decoder(folder, tokenizer=str(tokenizers["gpt2"]))).tokenizer is not None


def test_a_checkpoint_of_pickles_is_refused(checkpoint) -> None:
    folder = checkpoint("gpt2")
    weights = folder / "model.safetensors"
    torch.save(make_decoder("gpt2").state_dict(), folder / "pytorch_model.bin")
    weights.unlink()
    problem = refused(with_decoder(folder), "cannot be loaded", "model.decoder.checkpoint")
    assert "safetensors" in problem.remedy


def test_a_broken_tokenizer_file_is_named(checkpoint) -> None:
    folder = checkpoint("gpt2")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    refused(with_decoder(folder), "no tokenizer", str(folder))


def test_damaged_weights_are_refused(checkpoint) -> None:
    folder = checkpoint("gpt2")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    refused(with_decoder(folder), "cannot be loaded", str(folder))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_weights_that_are_missing_are_not_made_up(kind, checkpoint, tokenizers) -> None:
    from safetensors.torch import load_file, save_file

    folder = checkpoint(kind)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".1." not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    if kind == "gpt2":
        problem = refused(with_decoder(folder), "lacks", "model.decoder.checkpoint")
    else:
        model = model_recipe(tokenizers).model_dump()
        model["encoders"]["text"] = {"checkpoint": str(folder)}
        problem = refused(Model.model_validate(model), "lacks", "model.encoders.text.checkpoint")
    assert "1" in problem.why


def test_weights_of_another_shape_are_refused(checkpoint) -> None:
    folder = checkpoint("gpt2")
    make_decoder("gpt2", n_embd=16).config.save_pretrained(folder)
    refused(with_decoder(folder), "cannot be loaded", str(folder))


def test_a_folder_without_config(tmp_path, tokenizers) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(tokenizers["gpt2"], folder)
    refused(with_decoder(folder), "no model that transformers knows", str(folder))
    (folder / "config.json").write_text("{broken")
    assert "config" in refused(with_decoder(folder), "can be loaded|transformers knows", str(folder)).why


@pytest.mark.parametrize("value", ["wide", -4])
def test_a_checkpoint_whose_config_is_broken(value, checkpoint) -> None:
    folder = checkpoint("gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": value}))
    assert refused(with_decoder(folder), "", str(folder)).why


def test_a_folder_that_is_not_there(tmp_path) -> None:
    refused(with_decoder(tmp_path / "absent"), "no model folder", "absent")
