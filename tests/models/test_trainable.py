"""Trainable parameters: exact parameter sets, modes, learning rates and decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.config.schema.training import PretrainedLearningRate
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_encoder, build_metalm
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.trainable import (
    LORA,
    TrainPolicy,
    check_every_encoder_is_used,
    high_rate_notes,
    parameter_groups,
    set_trained_parameters,
    summarise_parts,
    transformer_layers,
    with_pretrained_rates,
)
from model_families import (
    DECODERS,
    ENCODERS,
    VISION,
    batch_of,
    gradients,
    make_decoder,
    make_encoder,
    model_recipe,
    sessions,
)


def assembled(tokenizers, *, decoder="all", encoder="all", connector="all", shape=None, **options) -> Assembly:
    model = model_recipe(
        tokenizers,
        decoder_options={"trains": decoder},
        connector={"trains": connector, **(shape or {})},
        trains=encoder,
        **options,
    )
    return build_metalm(model, seed=0, sample=lambda count: iter(()))


def trained_names(assembly: Assembly, part: str) -> set[str]:
    return {name for name, parameter in assembly.parts()[part].named_parameters() if parameter.requires_grad}


def parameter_names(assembly: Assembly, part: str, marks: tuple[str, ...] = ("",)) -> set[str]:
    return {name for name, _ in assembly.parts()[part].named_parameters() if any(mark in name for mark in marks)}


def test_exactly_the_last_layers_train(tokenizers) -> None:
    assembly = assembled(
        tokenizers, decoder="last_1", encoder="last_1", connector="last_2", shape={"kind": "mlp", "layers": 3}
    )
    assert trained_names(assembly, "decoder") == parameter_names(assembly, "decoder", ("transformer.h.1.",)) != set()
    assert (
        trained_names(assembly, "encoders.text")
        == parameter_names(assembly, "encoders.text", ("encoder.layer.1.",))
        != set()
    )
    assert trained_names(assembly, "connectors.text") == {"2.weight", "2.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize("frozen", ["decoder", "encoders.text", "connectors.text"])
def test_all_and_none(frozen, tokenizers) -> None:
    choice = {"decoder": "decoder", "encoders.text": "encoder", "connectors.text": "connector"}[frozen]
    assembly = assembled(tokenizers, **{choice: "none"})
    for part in assembly.parts():
        assert trained_names(assembly, part) == (set() if part == frozen else parameter_names(assembly, part))


@pytest.mark.parametrize("frozen", ["decoder", "encoders.text", "connectors.text"])
def test_frozen_parts_stay_in_evaluation_mode_and_get_no_gradient(frozen, tokenizers) -> None:
    choice = {"decoder": "decoder", "encoders.text": "encoder", "connectors.text": "connector"}[frozen]
    assembly = assembled(tokenizers, **{choice: "none"})
    root = nn.Sequential(assembly.model).train()
    for name, part in assembly.parts().items():
        assert part.training == (name != frozen)
        assert all(module.training == (name != frozen) for module in part.modules())
    assembly.model.losses(batch_of([sessions()]))[0].backward()
    prefix = {"encoders.text": "encoders.text.", "connectors.text": "connectors.text."}.get(frozen, "decoder.")
    found_gradients = gradients(root[0])
    assert found_gradients
    assert not any(name.startswith(prefix) for name in found_gradients)
    assert {name for name, parameter in assembly.model.named_parameters() if parameter.requires_grad} == set(
        found_gradients
    )


def test_a_frozen_encoder_is_run_without_a_graph(tokenizers, monkeypatch) -> None:
    assembly = assembled(tokenizers, encoder="none")
    grad_enabled: list[bool] = []
    encoder = assembly.model.encoders["text"]
    encoder.register_forward_hook(lambda module, args, output: grad_enabled.append(torch.is_grad_enabled()))
    assembly.model.losses(batch_of([sessions()]))[0].backward()
    assert grad_enabled == [False]
    assert assembly.model.connectors["text"][0].weight.grad is not None


def test_a_partly_frozen_part_is_in_training_mode(tokenizers) -> None:
    assembly = assembled(tokenizers, encoder="last_1", dropout=0.5)
    assembly.model.train()
    assert assembly.model.encoders["text"].training
    batch = batch_of([sessions()])
    assert not torch.equal(assembly.model.losses(batch)[1], assembly.model.losses(batch)[1]), "dropout is on"
    assembly.model.eval()
    assert torch.equal(assembly.model.losses(batch)[1], assembly.model.losses(batch)[1])


@pytest.mark.parametrize(
    ("choice", "where", "remedy"),
    [
        ({"decoder": "last_3"}, "model.decoder.trains: last_3", "last_2"),
        ({"encoder": "last_9"}, "model.encoders.text.trains: last_9", "last_2"),
        ({"connector": "last_2"}, "model.connectors.text.trains: last_2", "last_1"),
    ],
)
def test_more_layers_than_there_are(choice, where, remedy, tokenizers) -> None:
    with pytest.raises(MetalmError, match="layers") as caught:
        assembled(tokenizers, **choice)
    assert caught.value.where == where
    assert remedy in caught.value.remedy


def test_nothing_trains(tokenizers) -> None:
    with pytest.raises(MetalmError, match="no parameter trains") as caught:
        assembled(tokenizers, decoder="none", encoder="none", connector="none")
    assert caught.value.where == "model"
    assert "last_N" in caught.value.remedy


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS, *VISION])
def test_layers_are_found_in_every_family(kind) -> None:
    model = make_decoder(kind) if kind in DECODERS else make_encoder(kind)
    layers = transformer_layers(model)
    assert len(layers) == 2
    assert len({type(layer) for layer in layers}) == 1
    assert sum(p.numel() for layer in layers for p in layer.parameters()) > 0.4 * (
        sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
        if kind not in VISION
        else 0
    )
    set_trained_parameters("x", model, "last_1")
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in layers[1].parameters()}


# -- optimiser groups -------------------------------------------------------------------------------------------------


def test_learning_rates_and_decay_by_part(tokenizers) -> None:
    model = model_recipe(
        tokenizers,
        decoder_options={"learning_rate": 1e-3},
        connector={"learning_rate": 2e-3},
        trains="last_1",
    )
    assembly = build_metalm(model, seed=0, sample=lambda count: iter(()))
    groups = parameter_groups(assembly.parts(), assembly.policy, 5e-4, 0.1)
    settings = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert settings == {
        "decoder.decay": (1e-3, 0.1),
        "decoder.plain": (1e-3, 0.0),
        "encoders.text.decay": (5e-4, 0.1),
        "encoders.text.plain": (5e-4, 0.0),
        "connectors.text.decay": (2e-3, 0.1),
        "connectors.text.plain": (2e-3, 0.0),
    }
    parameter_ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(parameter_ids) == len(set(parameter_ids))
    assert set(parameter_ids) == {id(parameter) for parameter in assembly.model.parameters() if parameter.requires_grad}


RATES = {"decoder": 1e-3, "encoders.text": 2e-3, "connectors.text": 3e-3}
ALL_TRAIN = {"decoder": "all", "encoders": "all", "connectors": "all"}


def with_rates(**model) -> ModelConfig:
    """Build a recipe's ``model`` with a rate of each part, next to its other keys."""
    parts = {key: model.pop(key, {}) for key in ("decoder", "text", "connector")}
    parts = {
        key: {**part, "learning_rate": RATES[name]} for (key, part), name in zip(parts.items(), RATES, strict=True)
    }
    encoders = {"text": parts.pop("text")}
    return ModelConfig.model_validate({**model, **parts, "encoders": encoders})


def group_rates(assembly: Assembly) -> dict[str, float]:
    """Return the rate of each part's optimiser groups, which is also that of the plan."""
    groups = parameter_groups(assembly.parts(), assembly.policy, 5e-4, 0.1)
    rates = {group["name"].rpartition(".")[0]: group["lr"] for group in groups}
    planned = {part.name: part.learning_rate for part in summarise_parts(assembly.parts(), assembly.policy, 5e-4)}
    assert rates == {name: planned[name] for name in rates}
    return rates


@pytest.fixture
def trained_model(tokenizers, tmp_path):
    """A model folder of a run with a rate of its own for each part, of which the encoder was frozen."""
    parts = model_recipe(
        tokenizers, decoder_options={"learning_rate": 9e-3}, connector={"learning_rate": 9e-3}, trains="none"
    )
    assembly = build_metalm(parts, seed=0, sample=lambda count: iter(()))
    save_model(tmp_path / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    return str(tmp_path / "model")


@pytest.mark.parametrize("trains", [{}, ALL_TRAIN, {"encoders": "last_1", "connectors": "all"}], ids=str)
def test_rates_of_new_parts_hold_whatever_trains(trains, tokenizers) -> None:
    parts = model_recipe(tokenizers).model_dump()
    model = with_rates(decoder=parts["decoder"], text=parts["encoders"]["text"], trains=trains)
    assert group_rates(build_metalm(model, seed=0, sample=lambda count: iter(()))) == RATES


@pytest.mark.parametrize("trains", [{"encoders": "all"}, ALL_TRAIN, {"encoders": "last_1"}], ids=str)
def test_rates_of_the_parts_of_a_checkpoint_hold_whatever_trains(trains, trained_model) -> None:
    model = with_rates(checkpoint=trained_model, trains=trains)
    assert group_rates(build_metalm(model, seed=0, sample=lambda count: iter(()))) == RATES


@pytest.mark.parametrize("trains", [{}, ALL_TRAIN], ids=str)
@pytest.mark.parametrize("adapted", [["decoder"], ["encoders"], ["decoder", "encoders"]], ids=str)
def test_rates_hold_for_adapters_connectors_and_whole_parts_beside_them(adapted, trains, trained_model) -> None:
    model = with_rates(checkpoint=trained_model, trains=trains, lora={"parts": adapted, "rank": 2})
    unadapted = [name for name in ("decoder", "encoders.text") if name.partition(".")[0] not in adapted]
    if unadapted and not trains:
        with pytest.raises(MetalmError, match="has no adapters and is frozen") as caught:
            build_metalm(model, seed=0, sample=lambda count: iter(()))
        assert caught.value.where == f"model.{unadapted[0]}.learning_rate"
        return
    assert group_rates(build_metalm(model, seed=0, sample=lambda count: iter(()))) == RATES


def test_a_rate_saved_in_a_checkpoint_is_inherited_whatever_trains(trained_model) -> None:
    model = ModelConfig.model_validate({"checkpoint": trained_model, "trains": {"decoder": "all"}})
    assembly = build_metalm(model, seed=0, sample=lambda count: iter(()))
    assert group_rates(assembly) == {"decoder": 9e-3, "connectors.text": 9e-3}
    model = ModelConfig.model_validate({"checkpoint": trained_model, "encoders": {"text": {"trains": "last_1"}}})
    assembly = build_metalm(model, seed=0, sample=lambda count: iter(()))
    assert group_rates(assembly) == {"decoder": 9e-3, "encoders.text": 5e-4, "connectors.text": 9e-3}
    assert trained_names(assembly, "encoders.text") == parameter_names(assembly, "encoders.text", ("layer.1.",))


@pytest.mark.parametrize("adapted", [["decoder"], ["encoders"], ["decoder", "encoders"]], ids=str)
@pytest.mark.parametrize("trains", [{}, {"connectors": "all"}], ids=str)
def test_beside_adapters_a_connector_keeps_the_rate_it_was_trained_with(adapted, trains, trained_model) -> None:
    """Adapters are new and have the run's rate."""
    model = {"checkpoint": trained_model, "lora": {"parts": adapted, "rank": 2}, "trains": trains}
    expected = {name: 5e-4 for name in RATES if name.partition(".")[0] in adapted}
    assembly = build_metalm(ModelConfig.model_validate(model), seed=0, sample=lambda count: iter(()))
    assert group_rates(assembly) == {**expected, "connectors.text": 9e-3}
    assert trained_names(assembly, "connectors.text") == parameter_names(assembly, "connectors.text")


def test_a_frozen_connector_of_a_checkpoint_trains_beside_adapters_unless_the_recipe_freezes_it(
    tokenizers, tmp_path
) -> None:
    assembly = assembled(tokenizers, connector="none")
    save_model(tmp_path / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    model = {"checkpoint": str(tmp_path / "model"), "lora": {"rank": 2}}
    for trains, expected in (({}, "all"), ({"connectors": "none"}, "none")):
        config = ModelConfig.model_validate({**model, "trains": trains})
        assembly = build_metalm(config, seed=0, sample=lambda count: iter(()))
        assert assembly.policy["connectors.text"].train == expected


# -- default rates of pretrained weights ------------------------------------------------------------------------------

DEFAULTS = PretrainedLearningRate(decoder=2e-5, encoders=1e-4, seq2seq=None)
PRETRAINED = {"decoder": "gpt2", "encoders.text": "bert"}


@pytest.mark.parametrize(
    ("run_rate", "set_rates", "expected"),
    [
        (1e-3, {}, {"decoder": 2e-5, "encoders.text": 1e-4, "connectors.text": None}),
        (5e-5, {}, {"decoder": 2e-5, "encoders.text": None, "connectors.text": None}),
        (1e-5, {}, {"decoder": None, "encoders.text": None, "connectors.text": None}),
        (1e-3, {"encoders.text": 5e-3}, {"decoder": 2e-5, "encoders.text": 5e-3, "connectors.text": None}),
        (1e-5, {"decoder": 2e-4}, {"decoder": 2e-4, "encoders.text": None, "connectors.text": None}),
    ],
)
def test_a_default_of_pretrained_weights_is_below_the_runs_rate_and_gives_way_to_a_set_rate(
    run_rate, set_rates, expected
) -> None:
    policy = {name: TrainPolicy(learning_rate=set_rates.get(name)) for name in RATES}
    rated = with_pretrained_rates(policy, PRETRAINED, DEFAULTS, run_rate)
    assert {name: part.learning_rate for name, part in rated.items()} == expected
    for name, part in rated.items():
        is_default = expected[name] is not None and name not in set_rates
        assert part.rate_origin.startswith("default for pretrained weights") == is_default
        assert part.record() == {"train": "all", "learning_rate": set_rates.get(name)}, "defaults are not recorded"


def test_null_and_parts_from_scratch_have_the_runs_rate() -> None:
    policy = {"seq2seq": TrainPolicy(), "decoder": TrainPolicy()}
    assert with_pretrained_rates(policy, {"seq2seq": "t5"}, DEFAULTS, 1e-3) == policy


def test_adapters_of_a_pretrained_part_are_new() -> None:
    policy = {"decoder": TrainPolicy(LORA), "encoders.text": TrainPolicy("last_2")}
    assert with_pretrained_rates(policy, PRETRAINED, DEFAULTS, 1e-3) == {
        "decoder": TrainPolicy(LORA),
        "encoders.text": TrainPolicy("last_2", 1e-4),
    }
    assert list(high_rate_notes(policy, {"decoder": "gpt2"}, 1.0)) == []


@pytest.mark.parametrize(
    ("rate", "train", "is_noted"),
    [(1e-3, "all", True), (9.9e-4, "all", False), (3e-2, "last_1", True), (3e-2, "none", False), (None, "all", True)],
)
def test_a_rate_far_above_the_default_of_pretrained_weights_is_noted(rate, train, is_noted) -> None:
    policy = {"encoders.text": TrainPolicy(train, rate), "connectors.text": TrainPolicy(learning_rate=1.0)}
    notes = list(high_rate_notes(policy, {"encoders.text": "bert"}, 2e-3))
    assert len(notes) == is_noted
    for note in notes:
        ratio = {1e-3: "10", 3e-2: "300", None: "20"}[rate]
        assert note.startswith(f"warning: encoders.text trains at {rate or 2e-3:g}, {ratio} times")
        assert "model.encoders.text.learning_rate=0.0001" in note


def test_an_encoder_of_a_checkpoint_without_it_is_an_error(trained_model) -> None:
    model = ModelConfig.model_validate({"checkpoint": trained_model, "encoders": {"vision": {"trains": "all"}}})
    with pytest.raises(MetalmError, match="no encoder 'vision'") as caught:
        build_metalm(model, seed=0, sample=lambda count: iter(()))
    assert caught.value.where == "model.encoders.vision"
    assert "text" in caught.value.why


def test_what_trains_of_an_encoder_alone(tokenizers) -> None:
    model = model_recipe(tokenizers, learning_rate=2e-3)
    model = ModelConfig.model_validate({"encoders": model.model_dump()["encoders"], "trains": {"encoders": "last_1"}})
    assembly = build_encoder(model, "mlm", seed=0, sample=lambda count: iter(()))
    assert assembly.policy == {"encoders.text": TrainPolicy("last_1", 2e-3)}
    assert trained_names(assembly, "encoders.text") == parameter_names(assembly, "encoders.text", ("encoder.layer.1.",))


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS, *VISION])
def test_biases_norms_and_embeddings_do_not_decay(kind) -> None:
    model = make_decoder(kind) if kind in DECODERS else make_encoder(kind)
    groups = {
        group["name"]: {id(parameter) for parameter in group["params"]}
        for group in parameter_groups({"x": model}, {"x": TrainPolicy()}, 1e-3, 0.1)
    }
    for name, parameter in model.named_parameters():
        table = any(mark in name for mark in ("embed", "wte", "wpe", "shared", "relative_attention_bias", "_token"))
        table = (table and "project" not in name and "LayerNorm" not in name) or parameter.dim() < 2
        if kind == "metalm-encoder" and "relative" in name:
            table = True
        assert (id(parameter) in groups["x.plain"]) == table, name
        assert (id(parameter) in groups["x.decay"]) != table, name


def test_an_untied_head_decays() -> None:
    model = make_decoder("llama", tie_word_embeddings=False)
    (decayed,) = (g for g in parameter_groups({"x": model}, {"x": TrainPolicy()}, 1e-3, 0.1) if g["name"] == "x.decay")
    ids = {id(parameter) for parameter in decayed["params"]}
    assert id(model.lm_head.weight) in ids
    assert id(model.get_input_embeddings().weight) not in ids


def test_a_parameter_shared_by_parts_is_in_one_group() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    policy = {"a": TrainPolicy(), "b": TrainPolicy(learning_rate=0.5)}
    groups = parameter_groups({"a": first, "b": second}, policy, 1e-3, 0.1)
    assert {group["name"]: len(group["params"]) for group in groups} == {"a.decay": 1, "a.plain": 1, "b.plain": 1}


def test_summaries_count(tokenizers) -> None:
    assembly = assembled(tokenizers, encoder="none", connector="all")
    by_name = {summary.name: summary for summary in summarise_parts(assembly.parts(), assembly.policy, 5e-4)}
    assert list(by_name) == ["decoder", "encoders.text", "connectors.text"]
    connector = by_name["connectors.text"]
    assert (connector.total, connector.trained, connector.kind) == (32 * 32 + 32, 32 * 32 + 32, "Connector")
    assert (by_name["encoders.text"].trained, by_name["encoders.text"].train) == (0, "none")
    assert by_name["decoder"].total == sum(parameter.numel() for parameter in assembly.model.decoder.parameters())


def test_an_encoder_that_nothing_docks_into_is_refused_unless_it_is_frozen() -> None:
    names = ("decoder", "encoders.text", "connectors.text", "encoders.notes", "connectors.notes")
    parts = {name: nn.Linear(1, 1) for name in names}
    check_every_encoder_is_used(parts, {"text", "notes"})
    check_every_encoder_is_used(parts, set())
    parts["encoders.notes"].requires_grad_(False)
    with pytest.raises(MetalmError, match="nothing docks into the encoder notes") as caught:
        check_every_encoder_is_used(parts, {"text"})
    assert "model.encoders.notes.trains=none model.encoders.notes.connector.trains=none" in caught.value.remedy
    parts["connectors.notes"].requires_grad_(False)
    check_every_encoder_is_used(parts, {"text"})
