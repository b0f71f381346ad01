"""Checkpoint folders that are damaged or hostile: one error, which names the file, in bounded time."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import metalm_cli as metalm
from metalm_cli.config.schema.model import DecoderConfig, EncoderConfig
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import load_assembly
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.encoders import TextEncoderIO
from metalm_cli.models.part_loader import PartLoader
from model_families import make_encoder
from tiny_language_models import tiny_language_model
from tiny_models import tokenizer_of

CAUSAL = metalm.Session([metalm.Causal("Once upon a time")])
CAUSAL_TARGET = metalm.Session([metalm.Causal("Once upon"), metalm.Causal(" a time", trained=True)])


@pytest.fixture(scope="module")
def good_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a plain decoder, a docked model and an encoder that can be loaded."""
    root = tmp_path_factory.mktemp("good")
    plain = tiny_language_model("llama")
    plain.model.decoder.save_pretrained(root / "plain")
    plain.tokenizer.save_pretrained(root / "plain")
    docked = tiny_language_model("gpt2", "text")
    docked.model.config.docking = {"text": {**docked.model.config.docking["text"], "max_length": 60}}
    save_model(root / "docked", docked.model, docked.decoder_tokenizer, docked.processors)
    tokenizer_of("wordpiece").save_pretrained(root / "encoder")
    make_encoder("bert", vocab_size=len(tokenizer_of("wordpiece"))).save_pretrained(root / "encoder")
    return {name: root / name for name in ("plain", "docked", "encoder")}


@pytest.fixture
def folder(good_folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Function that copies a good folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good_folders[name], tmp_path / name))

    return copy


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Change fields of a JSON file; a dotted name is a field of an inner object."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, value in changes.items():
        *outer, last = name.split(".")
        section = content
        for key in outer:
            section = section.setdefault(key, {})
        section[last] = value
    path.write_text(json.dumps(content))


def refused(load: Callable[[], object], *words: str) -> MetalmError:
    with pytest.raises(MetalmError) as caught:
        load()
    assert caught.value.exit_code == Exit.USAGE
    assert caught.value.remedy
    assert caught.value.where
    for word in words:
        assert word in str(caught.value)
    return caught.value


def test_the_folders_are_good(good_folders: dict[str, Path]) -> None:
    session = metalm.Session([metalm.Causal("The girl"), metalm.Causal(" ran", trained=True)])
    assert metalm.load(good_folders["plain"]).log_likelihood([session])[0] < 0
    assert set(load_assembly(good_folders["docked"]).processors) == {"text"}


# -- configs ----------------------------------------------------------------------------------------------------------

PLAIN_CHANGES: list[dict[str, Any]] = [
    {"num_attention_heads": 0},
    {"num_attention_heads": "four"},
    {"num_key_value_heads": 0},
    {"hidden_size": -1},
    {"hidden_size": 10**12},
    {"vocab_size": 10**15},
    {"max_position_embeddings": "x"},
    {"torch_dtype": "evil", "dtype": None},
    {"dtype": [1]},
    {"rope_theta": "x", "rope_parameters": None},
    {"rope_parameters": 5},
    {"rope_parameters": {"rope_type": "evil"}},
    {"rope_scaling": {"rope_type": "longrope"}},
    {"hidden_act": "evil"},
    {"rms_norm_eps": "x"},
    {"pad_token_id": 10**9},
    {"model_type": 5},
    {"model_type": "evil"},
    {"architectures": 5, "model_type": None},
    {"quantization_config": {"quant_method": "gptq"}},
    {"quantization_config": {"quant_method": "mxfp4"}},
    {"quantization_config": 5},
    {"metalm": 5},
    {"metalm": []},
    {"metalm": {"tokens": {"evil": 1}}},
    {"metalm": {"tokens": {"start": 5}}},
    {"metalm": {"tokens": {"target_delimiter": []}}},
    {"metalm": {"tokens": 5}},
    {"auto_map": 5},
    {"num_hidden_layers": 1_000_000},
    {"num_hidden_layers": "x"},
    {"num_labels": 10**10},
    {"id2label": 5},
    {"transformers_weights": "../outside.safetensors"},
    {"configuration_files": ["config.4.0.0.json"]},
    {"eos_token_id": "x"},
    {"eos_token_id": {"a": 1}},
]


@pytest.mark.parametrize("changes", PLAIN_CHANGES, ids=json.dumps)
def test_a_config_with_a_wrong_field(folder: Callable[[str], Path], changes: dict[str, Any]) -> None:
    path = folder("plain")
    edit(path / "config.json", changes)
    (path / "generation_config.json").unlink()
    error = refused(lambda: metalm.load(path, offline=True))
    assert str(path) in error.where


@pytest.mark.parametrize(
    "changes",
    [
        {"docking": 5},
        {"docking": {"text": 5}},
        {"docking": {}},
        {"docking.text.max_length": "x"},
        {"docking.text.max_length": -3},
        {"encoder_configs": []},
        {"encoder_configs": {"text": 5}},
        {"encoder_configs.text.model_type": "evil"},
        {"encoder_configs.text.num_hidden_layers": 1_000_000},
        {"tokens": 5},
        {"tokens": {"evil": 1}},
        {"tokens": {"paragraph": 5}},
        {"connectors": "x"},
        {"connectors": {"text": None}},
        {"connectors.text.layers": 10**9, "connectors.text.kind": "mlp"},
        {"connectors.text.layers": "x", "connectors.text.kind": "mlp"},
        {"decoder_config": None},
        {"decoder_config": {"model_type": "bert"}},
        {"decoder_config.n_layer": 10**6},
        {"decoder_config.quantization_config": {"quant_method": "gptq"}},
        {"training": 5},
        {"training": {"decoder": 5}},
        {"training": {"decoder": {"evil": 1}}},
    ],
    ids=json.dumps,
)
def test_a_docked_config_with_a_wrong_field(folder: Callable[[str], Path], changes: dict[str, Any]) -> None:
    path = folder("docked")
    edit(path / "config.json", changes)
    error = refused(lambda: load_assembly(path, offline=True))
    assert str(path) in error.where


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", ["null", "[]", "5", '"x"', "{", "", "[" * 100_000])
def test_a_json_file_that_is_no_object(folder: Callable[[str], Path], name: str, text: str) -> None:
    path = folder("plain")
    (path / name).write_text(text)
    refused(lambda: metalm.load(path, offline=True), str(path / name))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["null", "[]", "{"])
def test_a_damaged_tokenizer(folder: Callable[[str], Path], name: str, text: str) -> None:
    path = folder("plain")
    (path / name).write_text(text)
    refused(lambda: metalm.load(path, offline=True), str(path))


@pytest.mark.parametrize("changes", [{"num_attention_heads": 0}, {"dtype": "evil"}, {"metalm": 5}, {"auto_map": 5}])
def test_a_wrong_field_of_a_recipes_decoder(folder: Callable[[str], Path], changes: dict[str, Any]) -> None:
    path = folder("plain")
    edit(path / "config.json", changes)
    loader = PartLoader(lambda count: iter(()), offline=True)
    refused(lambda: loader.decoder(DecoderConfig(checkpoint=str(path))), str(path))


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "inner/part.safetensors", "..", "a.bin", 5]
)
def test_a_shard_index_names_only_files_of_its_folder(folder: Callable[[str], Path], name: Any) -> None:
    path = folder("plain")
    tensors = load_file(path / "model.safetensors")
    outside = path.parent / "outside.safetensors"
    (path / "inner").mkdir()
    for file in (outside, path / "inner" / "part.safetensors"):
        save_file(tensors, file, metadata={"format": "pt"})
    (path / "model.safetensors").unlink()
    name = str(outside) if name == "/outside.safetensors" else name
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, name)}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: metalm.load(path, offline=True), "model.safetensors.index.json")


def test_a_sharded_checkpoint_loads(folder: Callable[[str], Path]) -> None:
    path = folder("plain")
    tensors = load_file(path / "model.safetensors")
    names = {key: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, key in enumerate(tensors)}
    for name in set(names.values()):
        save_file({key: tensors[key] for key in tensors if names[key] == name}, path / name, metadata={"format": "pt"})
    (path / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert metalm.load(path, offline=True).log_likelihood([CAUSAL_TARGET]).isfinite().all()


def test_an_adapter_beside_the_weights_is_refused(folder: Callable[[str], Path]) -> None:
    path = folder("plain")
    (path / "adapter_config.json").write_text("{}")
    refused(lambda: metalm.load(path, offline=True), "adapter_config.json")


# -- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize(
    "value", ["kernels-community/flash-attn", "any/name@main:f", {"": "any/name"}, "flash_attention_2"]
)
@pytest.mark.parametrize("name", ["plain", "docked"])
def test_a_config_cannot_choose_attention_code(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, key: str, value: Any, name: str
) -> None:
    from transformers.integrations import hub_kernels

    monkeypatch.setattr(hub_kernels, "get_kernel", lambda *_args, **_options: pytest.fail("a kernel was fetched"))
    path = folder(name)
    prefixes = ("", "decoder_config.", "encoder_configs.text.") if name == "docked" else ("",)
    edit(path / "config.json", {prefix + key: value for prefix in prefixes})
    experts = key.replace("attn", "experts")
    edit(path / "config.json", {prefix + experts: "any/name" for prefix in prefixes} | {"use_kernels": True})
    model = metalm.load(path, offline=True).model
    for part in (model.decoder, *model.encoders.values()):
        assert part.config._attn_implementation in ("sdpa", "eager")


def test_a_folder_is_loaded_without_connections(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a config asks for, transformers finds it in the folder or not at all."""
    from huggingface_hub import is_offline_mode
    from transformers import AutoConfig, AutoModelForCausalLM

    states = []
    for auto in (AutoConfig, AutoModelForCausalLM):

        def load(*args: Any, original: Any = auto.from_pretrained, **options: Any) -> Any:
            states.append(is_offline_mode())
            return original(*args, **options)

        monkeypatch.setattr(auto, "from_pretrained", load)
    path = folder("plain")
    metalm.load(path)
    PartLoader(lambda count: iter(())).decoder(DecoderConfig(checkpoint=str(path)))
    assert len(states) >= 4
    assert all(states)
    assert not is_offline_mode()


def test_hub_kernels_are_off() -> None:
    """Families with state-space layers fetch kernels from the hub by themselves where ``kernels`` is installed."""
    assert os.environ["USE_HUB_KERNELS"] == "NO"
    assert "kernels" not in sys.modules


@pytest.mark.parametrize(
    "fields",
    [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"dola_layers": "high"},
        {"custom_generate": "any/name"},
        {"suppress_tokens": list(range(1, 500))},
        {"min_new_tokens": 50},
        {"forced_eos_token_id": 5},
        {"eos_token_id": 10**9, "pad_token_id": 10**9, "bos_token_id": 10**9},
    ],
    ids=json.dumps,
)
def test_generation_settings_of_a_checkpoint_change_nothing(
    folder: Callable[[str], Path], good_folders: dict[str, Path], fields: dict[str, Any]
) -> None:
    path = folder("plain")
    edit(path / "generation_config.json", fields)
    expected = metalm.load(good_folders["plain"]).generate([CAUSAL], 6)
    assert metalm.load(path, offline=True).generate([CAUSAL], 6) == expected


# -- weights ----------------------------------------------------------------------------------------------------------


def damage_weights(path: Path, part: str, value: float) -> str:
    """Set a value of the first tensor whose name contains a text, and return its name."""
    tensors = load_file(path / "model.safetensors")
    name = next(key for key in tensors if part in key)
    tensors[name].view(-1)[3] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["q_proj", "norm", "embed_tokens"])
def test_weights_that_are_not_finite_are_refused(folder: Callable[[str], Path], part: str, value: float) -> None:
    path = folder("plain")
    name = damage_weights(path, part, value)
    error = refused(lambda: metalm.load(path, offline=True), "not finite", name)
    assert error.where == str(path)
    loader = PartLoader(lambda count: iter(()), offline=True)
    refused(lambda: loader.decoder(DecoderConfig(checkpoint=str(path))), "not finite", name)


@pytest.mark.parametrize("part", ["connectors", "encoders.text.encoder"])
def test_weights_of_a_docked_part_that_are_not_finite(folder: Callable[[str], Path], part: str) -> None:
    path = folder("docked")
    name = damage_weights(path, part, float("nan"))
    refused(lambda: metalm.load(path, offline=True), "not finite", name)


def test_an_encoder_whose_weights_are_not_finite(folder: Callable[[str], Path]) -> None:
    path = folder("encoder")
    name = damage_weights(path, "query.weight", float("nan"))
    loader = PartLoader(lambda count: iter(()), offline=True)
    refused(lambda: loader.encoder("text", EncoderConfig(checkpoint=str(path)), None), "not finite", name)


def test_large_weights_are_finite_although_their_sum_is_not() -> None:
    from metalm_cli.models.checkpoint_checks.finite_weights import check_finite

    check_finite([("large", torch.full((4,), 3e38)), ("counts", torch.tensor([1, 2]))], "here")


def test_finite_weights_with_outputs_that_are_not(folder: Callable[[str], Path]) -> None:
    """The message must not claim that the model is not causal."""
    path = folder("plain")
    tensors = load_file(path / "model.safetensors")
    for name in ("model.norm.weight", "lm_head.weight"):
        tensors[name] *= 1e30
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    error = refused(lambda: metalm.load(path, offline=True), "outputs", "not finite")
    assert "later tokens" not in str(error)


# -- padding ----------------------------------------------------------------------------------------------------------


def test_a_pad_token_beyond_the_embeddings(good_folders: dict[str, Path], folder: Callable[[str], Path]) -> None:
    path = folder("plain")
    loaded = metalm.load(path)
    tokenizer = loaded.tokenizer
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    rows = loaded.model.get_input_embeddings().num_embeddings
    assert tokenizer.pad_token_id == rows
    tokenizer.save_pretrained(path)
    sessions = [CAUSAL_TARGET, metalm.Session([metalm.Causal("So"), metalm.Causal(" it goes on and on", trained=True)])]
    padded = metalm.load(path)
    assert padded.decoder_tokenizer.pad_id < rows
    expected = metalm.load(good_folders["plain"]).log_likelihood(sessions)
    torch.testing.assert_close(padded.log_likelihood(sessions, batch_size=2), expected)


def test_other_tokens_beyond_the_embeddings_are_refused(folder: Callable[[str], Path]) -> None:
    path = folder("plain")
    tokenizer = metalm.load(path).tokenizer
    tokenizer.add_tokens(["reachable"])
    tokenizer.save_pretrained(path)
    refused(lambda: metalm.load(path), "'reachable'", "embeddings")


@pytest.mark.parametrize("kind", ["eos_token", "bos_token", "unk_token"])
def test_a_control_token_that_is_used_beyond_the_embeddings(folder: Callable[[str], Path], kind: str) -> None:
    path = folder("plain")
    tokenizer = metalm.load(path).tokenizer
    tokenizer.add_special_tokens({kind: "<beyond>"})
    tokenizer.save_pretrained(path)
    refused(lambda: metalm.load(path), "'<beyond>'", "embeddings")


def test_a_control_token_that_is_never_read_may_lack_an_embedding(folder: Callable[[str], Path]) -> None:
    path = folder("plain")
    tokenizer = metalm.load(path).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(path)
    loaded = metalm.load(path)
    session = metalm.Session([metalm.Causal("An <image>"), metalm.Causal(" of it", trained=True)])
    assert loaded.log_likelihood([session])[0] < 0


def test_an_encoders_pad_token_beyond_the_embeddings(good_folders: dict[str, Path]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    encoder = make_encoder("bert", vocab_size=len(tokenizer))
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    processor = TextEncoderIO().processor("text", tokenizer, encoder, {})
    assert processor.pad_id < len(tokenizer) - 1
    tokenizer.add_tokens(["reachable"])
    refused(lambda: TextEncoderIO().processor("text", tokenizer, encoder, {}), "'reachable'")
