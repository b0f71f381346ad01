"""LoRA adapters: outputs at the start, trained parameters, and loading on their base only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_metalm
from metalm_cli.models.checkpoint_io import load_model, save_model
from metalm_cli.models.lora.adapter_files import ADAPTER_FILE, adapter_in, read_adapter, save_adapter
from metalm_cli.models.lora.inject import linear_targets, merge, safetensors_hash
from metalm_cli.models.trainable import LORA_PARAMETER_MARK, parameter_groups, summarise_parts
from metalm_cli.sessions import build_row, collate
from model_families import TEXTS, batch_with, model_recipe

KINDS = [("gpt2", "bert"), ("llama", "roberta"), ("opt", "t5"), ("metalm-decoder", "metalm-encoder"), ("gpt2", None)]
FRESH = """
import sys
import torch
torch.set_num_threads(1)
import metalm_cli as metalm
for folder in sys.argv[1:]:
    found = metalm.load(folder, offline=True)
    docks = [metalm.Docked("text", "A fox can hide well.")] if found.processors else []
    spans = [metalm.Causal("So:"), *docks, metalm.Causal(" yes", trained=True, end=True)]
    print(repr(found.log_likelihood([metalm.Session(spans)]).item()))
"""


@pytest.fixture
def base(tokenizers: dict[str, Path], tmp_path: Path) -> Any:
    """``base(decoder, encoder)``: the folder of a finished model."""

    def save(decoder: str = "gpt2", encoder: str | None = "bert") -> Path:
        folder = tmp_path / f"{decoder}-{encoder}"
        if not folder.exists():
            assembly = build_metalm(model_recipe(tokenizers, decoder, encoder), seed=0, sample=lambda count: iter(()))
            save_model(folder, assembly.model, assembly.decoder_tokenizer, assembly.processors)
        return folder

    return save


def assemble_adapted(folder: Path, seed: int = 0, trains: dict[str, str] | None = None, **lora: Any) -> Assembly:
    recipe = ModelConfig.model_validate(
        {"checkpoint": str(folder), "lora": {"rank": 3, **lora}, "trains": trains or {}}
    )
    return build_metalm(recipe, seed=seed, sample=lambda count: iter(()))


def perturb(assembly: Assembly) -> Assembly:
    """Simulate training: add noise to all trainable parameters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in assembly.model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.05
    return assembly


def save_trained(assembly: Assembly, folder: Path) -> Path:
    assert assembly.lora_targets is not None
    folder.mkdir()
    save_adapter(folder, assembly.parts(), assembly.lora_targets)
    return folder


def losses(assembly: Assembly) -> torch.Tensor:
    contents = TEXTS if assembly.processors else []
    with torch.no_grad():
        return assembly.model.eval().losses(_batch(assembly, contents))[1]


def _batch(assembly: Assembly, contents: Any) -> Any:
    if contents:
        return batch_with(assembly, contents)
    from metalm_cli.sessions import Causal, Session, SessionTokeniser

    tokenise = SessionTokeniser(assembly.decoder_tokenizer, {})
    return collate([build_row([tokenise(Session([Causal(text, trained=True, end=True)]))]) for text in TEXTS], {})


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- at the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_at_the_start_losses_are_exactly_the_bases(base: Any, decoder: str, encoder: str | None) -> None:
    folder = base(decoder, encoder)
    plain = Assembly(*load_model(folder))
    assembly = assemble_adapted(folder)
    assert torch.equal(losses(assembly), losses(plain))
    assert not torch.allclose(losses(perturb(assembly)), losses(plain), atol=1e-4), "adapters change the losses"


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_adapters_and_connectors_train_and_nothing_else(base: Any, decoder: str, encoder: str | None) -> None:
    assembly = assemble_adapted(base(decoder, encoder))
    train = {name for name, parameter in assembly.model.named_parameters() if parameter.requires_grad}
    assert train == {
        name
        for name, _ in assembly.model.named_parameters()
        if LORA_PARAMETER_MARK in name or name.startswith("connectors.")
    }
    # B is 0, so the gradient of A is 0; after one step both gradients are not 0.
    for _ in range(2):
        assembly.model.zero_grad()
        assembly.model.train().losses(_batch(assembly, TEXTS if encoder else []))[0].backward()
        with torch.no_grad():
            for name, parameter in assembly.model.named_parameters():
                if "lora_B" in name:
                    parameter -= 0.1 * parameter.grad
    moves = {
        name
        for name, parameter in assembly.model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert moves == train
    assert all(parameter.grad is None for name, parameter in assembly.model.named_parameters() if name not in train)
    groups = parameter_groups(assembly.parts(), assembly.policy, 1e-3, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(train)
    trained_counts = {
        summary.name: (summary.trained, summary.train)
        for summary in summarise_parts(assembly.parts(), assembly.policy, 1e-3)
    }
    expected = sum(
        parameter.numel()
        for name, parameter in assembly.model.decoder.named_parameters()
        if LORA_PARAMETER_MARK in name
    )
    assert trained_counts["decoder"] == (expected, "lora")


def test_rank_decides_how_much_trains(base: Any) -> None:
    """GPT-2, width 32: in each of 2 layers c_attn 32+96, attn.c_proj 32+32, c_fc 32+128, mlp.c_proj 128+32."""
    assembly = assemble_adapted(base("gpt2", None), rank=3)
    trained = sum(parameter.numel() for parameter in assembly.model.parameters() if parameter.requires_grad)
    assert trained == 3 * 2 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))


def test_the_seed_decides_a_and_leaves_other_random_numbers_alone(base: Any) -> None:
    folder = base("llama", None)
    first, same, other = (
        assemble_adapted(folder, seed).model.decoder.model.layers[0].mlp.up_proj.lora_A.default.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "opt"])
def test_packed_equals_unpacked(base: Any, decoder: str) -> None:
    assembly = perturb(assemble_adapted(base(decoder, "bert")))
    assert assembly.model.traits.supports_packing
    assert assembly.model.traits.has_known_head
    batched = losses(assembly)
    # Two contents give two rows of one session each.
    separate = torch.cat([assembly.model.losses(batch_with(assembly, [text, TEXTS[0]]))[1] for text in TEXTS])
    separate = separate.view(3, 2, -1)[:, 0].flatten()
    torch.testing.assert_close(batched, separate.detach(), atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_gives_the_same_gradients(base: Any) -> None:
    def gradients(checkpointed: bool) -> dict[str, torch.Tensor]:
        assembly = perturb(assemble_adapted(base("llama", "bert")))
        if checkpointed:
            assembly.model.gradient_checkpointing_enable()
        assembly.model.train().losses(batch_with(assembly, TEXTS))[0].backward()
        return {
            name: parameter.grad for name, parameter in assembly.model.named_parameters() if parameter.grad is not None
        }

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    assert max(float((plain[name] - recomputed[name]).abs().max()) for name in plain) < 1e-6


# -- targets ----------------------------------------------------------------------------------------------------------


def test_targets_by_name_and_in_the_last_layers(base: Any) -> None:
    decoder = load_model(base("llama", None))[0].decoder
    assert linear_targets("decoder", decoder, ["q_proj", "mlp.up_proj"]) == [
        f"model.layers.{layer}.{name}" for layer in range(2) for name in ("self_attn.q_proj", "mlp.up_proj")
    ]
    all_targets, last_targets = (
        linear_targets("decoder", decoder, ["all-linear"]),
        linear_targets("decoder", decoder, ["all-linear"], "last_1"),
    )
    assert (len(all_targets), len(last_targets)) == (14, 7)
    assert all(name.startswith("model.layers.1.") for name in last_targets)
    assert "lm_head" not in all_targets


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "c_attn"])
def test_targets_that_are_not_inner_linear_layers_are_refused(base: Any, name: str) -> None:
    """The loss uses the head's weights directly, in chunks, and would skip an adapter on the head."""
    with pytest.raises(MetalmError, match=f"no linear layer '{name}'") as caught:
        assemble_adapted(base("llama", None), targets=[name])
    assert "q_proj" in caught.value.why


def test_adapters_in_the_last_layers_only(base: Any) -> None:
    assembly = assemble_adapted(base("gpt2", "bert"), trains={"decoder": "last_1", "encoders": "all"})
    lora_names = [name for name, _ in assembly.model.decoder.named_parameters() if LORA_PARAMETER_MARK in name]
    assert lora_names
    assert all(".h.1." in name for name in lora_names)
    with pytest.raises(MetalmError, match=r"has 2 layers, but model.trains sets adapters for 3"):
        assemble_adapted(base("gpt2", "bert"), trains={"decoder": "last_3", "encoders": "all"})


@pytest.mark.parametrize("part", ["decoder", "encoders"])
def test_a_part_that_is_not_adapted_is_frozen_whole_and_drops_nothing_out(base: Any, part: str) -> None:
    assembly = assemble_adapted(base("gpt2", "bert"), parts=[part])
    model = assembly.model.train()
    other = model.encoders["text"] if part == "decoder" else model.decoder
    assert not any(parameter.requires_grad for parameter in other.parameters())
    assert not any(module.training for module in other.modules())
    assert all(parameter.requires_grad for parameter in model.connectors.parameters())
    assert (model.decoder if part == "decoder" else model.encoders["text"]).training


def test_no_encoder_to_adapt(base: Any) -> None:
    with pytest.raises(MetalmError, match="no encoder to adapt"):
        assemble_adapted(base("gpt2", None), parts=["encoders"])


# -- saved and loaded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_exactly_the_trained_parameters_are_saved(base: Any, tmp_path: Path, decoder: str, encoder: str | None) -> None:
    folder = base(decoder, encoder)
    before = safetensors_hash(folder)
    assembly = perturb(assemble_adapted(folder))
    adapter_folder = save_trained(assembly, tmp_path / "adapter")
    expected = ["decoder/adapter_config.json", "decoder/adapter_model.safetensors", ADAPTER_FILE]
    if encoder:
        text = ["encoders/text/adapter_config.json", "encoders/text/adapter_model.safetensors"]
        expected += ["connectors.safetensors", *text]
    assert files_of(adapter_folder) == sorted(expected)
    loaded = Assembly(*load_model(adapter_folder))
    assert torch.equal(losses(loaded), losses(assembly))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert safetensors_hash(folder) == before


MIXED = [
    ({"parts": ["decoder"]}, {"encoders": "all"}, "encoders.text"),
    ({"parts": ["decoder"]}, {"encoders": "last_1", "connectors": "none"}, "encoders.text"),
    ({"parts": ["encoders"]}, {"decoder": "all"}, "decoder"),
    ({"parts": ["encoders.text"]}, {"decoder": "last_1"}, "decoder"),
]
"""Adapters, what trains beside them, and the part that trains without adapters."""


@pytest.mark.parametrize("kind", [("gpt2", "bert"), ("opt", "t5")])
@pytest.mark.parametrize(("lora", "trains", "whole"), MIXED)
def test_a_part_trains_whole_beside_adapters_and_is_saved_loaded_and_merged(
    base: Any, tmp_path: Path, kind: tuple[str, str], lora: Any, trains: Any, whole: str
) -> None:
    from transformers import AutoModelForCausalLM

    folder = base(*kind)
    before = safetensors_hash(folder)
    assembly = assemble_adapted(folder, trains=trains, **lora)
    assert torch.equal(losses(assembly), losses(Assembly(*load_model(folder)))), "adapters change nothing at the start"
    trained = {name for name, parameter in assembly.parts()[whole].named_parameters() if parameter.requires_grad}
    assert trained
    assert not any(LORA_PARAMETER_MARK in name for name in trained)
    expected = losses(perturb(assembly))
    adapter_folder = save_trained(assembly, tmp_path / "adapter")
    assert read_adapter(adapter_folder).whole == (whole,)
    loaded = Assembly(*load_model(adapter_folder))
    assert torch.equal(losses(loaded), expected)
    assert merge(loaded.model)
    save_model(tmp_path / "merged", loaded.model, loaded.decoder_tokenizer, loaded.processors)
    torch.testing.assert_close(losses(Assembly(*load_model(tmp_path / "merged"))), expected, atol=1e-5, rtol=1e-5)
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert safetensors_hash(folder) == before


def test_damage_of_a_part_that_trained_whole(base: Any, tmp_path: Path) -> None:
    assembly = perturb(assemble_adapted(base(), parts=["decoder"], trains={"encoders": "all"}))
    adapter_folder = save_trained(assembly, tmp_path / "adapter")
    file = adapter_folder / "encoders" / "text" / "model.safetensors"
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    loading_error("an adapter cannot be loaded", adapter_folder)
    file.unlink()
    assert "encoders/text/model.safetensors is missing" in loading_error("cannot be loaded", adapter_folder).why


@pytest.mark.slow
def test_equal_in_a_fresh_process(base: Any, tmp_path: Path) -> None:
    from metalm_cli.inference import load
    from metalm_cli.sessions import Causal, Docked, Session

    def score(adapter_folder: Path) -> float:
        model = load(adapter_folder)
        docks = [Docked("text", "A fox can hide well.")] if model.processors else []
        spans = [Causal("So:"), *docks, Causal(" yes", trained=True, end=True)]
        return model.log_likelihood([Session(spans)]).item()

    adapter_folders = [
        save_trained(perturb(assemble_adapted(base(*kind))), tmp_path / f"{kind[0]}-{kind[1]}-adapter")
        for kind in KINDS
    ]
    process = subprocess.run(
        [sys.executable, "-c", FRESH, *adapter_folders], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert [float(value) for value in process.stdout.split()] == [
        score(adapter_folder) for adapter_folder in adapter_folders
    ]


@pytest.mark.parametrize("decoder", ["gpt2", "llama"])
def test_peft_reads_its_own_files(base: Any, tmp_path: Path, decoder: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = base(decoder, None)
    assembly = perturb(assemble_adapted(folder))
    adapter_folder = save_trained(assembly, tmp_path / "adapter") / "decoder"
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter_folder).eval()
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=ids).logits, assembly.model.eval().decoder(input_ids=ids).logits)


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_merged_equals_adapted(base: Any, tmp_path: Path, decoder: str, encoder: str | None) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    assembly = perturb(assemble_adapted(base(decoder, encoder)))
    expected = losses(assembly)
    assert merge(assembly.model)
    assert not any(isinstance(module, BaseTunerLayer) for module in assembly.model.modules())
    torch.testing.assert_close(losses(assembly), expected, atol=1e-5, rtol=1e-5)
    save_model(tmp_path / "merged", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert merged.config.model_type == ("metalm" if encoder else decoder)
    assert torch.equal(losses(Assembly(*load_model(tmp_path / "merged"))), losses(assembly))
    assert not merge(assembly.model), "a second merge finds no adapters"


def test_two_saves_are_the_same_bytes(base: Any, tmp_path: Path) -> None:
    assembly = assemble_adapted(base())
    first, second = save_trained(assembly, tmp_path / "one"), save_trained(assembly, tmp_path / "other")
    for name in files_of(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    fields = json.loads((first / "decoder" / "adapter_config.json").read_text())
    assert fields["target_modules"] == sorted(fields["target_modules"])


# -- the base ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter_folder(base: Any, tmp_path: Path) -> Path:
    """Folder of an adapter, next to its base."""
    return save_trained(perturb(assemble_adapted(base())), tmp_path / "adapter")


def loading_error(match: str, folder: Path, **options: Any) -> MetalmError:
    with pytest.raises(MetalmError, match=match) as caught:
        load_model(folder, **options)
    assert caught.value.remedy
    return caught.value


def test_a_base_with_other_weights(base: Any, adapter_folder: Path) -> None:
    file = base() / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    error = loading_error("other weights than in training", adapter_folder)
    assert error.where == str(base())


def test_a_missing_base_and_an_explicit_one(base: Any, adapter_folder: Path, tmp_path: Path) -> None:
    expected = losses(Assembly(*load_model(adapter_folder)))
    elsewhere = tmp_path / "else" / "where"
    shutil.copytree(base(), elsewhere)
    shutil.rmtree(base())
    error = loading_error("the base of the adapter is missing", adapter_folder)
    assert "base=" in error.remedy
    assert str(base()) in error.why
    assert torch.equal(losses(Assembly(*load_model(adapter_folder, base=elsewhere))), expected)
    loading_error("the base of the adapter is missing", adapter_folder, base=tmp_path / "nowhere")


def test_a_base_that_moved_along(base: Any, adapter_folder: Path, tmp_path: Path) -> None:
    expected = losses(Assembly(*load_model(adapter_folder)))
    (tmp_path / "new").mkdir()
    for folder in (base(), adapter_folder):
        shutil.move(folder, tmp_path / "new" / folder.name)
    assert torch.equal(losses(Assembly(*load_model(tmp_path / "new" / "adapter"))), expected)


def test_an_older_base_at_the_old_place_does_not_hide_the_right_one(
    base: Any, adapter_folder: Path, tmp_path: Path
) -> None:
    expected = losses(Assembly(*load_model(adapter_folder)))
    (tmp_path / "new").mkdir()
    for folder in (base(), adapter_folder):
        shutil.copytree(folder, tmp_path / "new" / folder.name)
    (base() / "model.safetensors").write_bytes(b"something else")
    assert torch.equal(losses(Assembly(*load_model(tmp_path / "new" / "adapter"))), expected)


def test_a_base_for_a_full_model_is_refused(base: Any) -> None:
    loading_error("a base is set for a model that is not an adapter", base(), base=base())


def test_a_run_folder_with_an_adapter(adapter_folder: Path, tmp_path: Path) -> None:
    expected = losses(Assembly(*load_model(adapter_folder)))
    run = tmp_path / "run"
    run.mkdir()
    shutil.move(adapter_folder, run / "adapter")
    assert adapter_in(run) == run / "adapter"
    fields = json.loads((run / "adapter" / ADAPTER_FILE).read_text())
    assert set(fields) == {"format", "base", "parts", "connectors"}
    assert torch.equal(losses(Assembly(*load_model(run))), expected)


# -- training on ------------------------------------------------------------------------------------------------------


def test_adapters_on_adapters_are_refused(adapter_folder: Path) -> None:
    with pytest.raises(MetalmError, match="the base is an adapter itself") as caught:
        assemble_adapted(adapter_folder)
    assert "--merge" in caught.value.remedy


def test_training_on_from_an_adapter_trains_the_merged_model(base: Any, adapter_folder: Path) -> None:
    expected = losses(Assembly(*load_model(adapter_folder)))
    recipe = ModelConfig.model_validate({"checkpoint": str(adapter_folder), "trains": {"decoder": "all"}})
    assembly = build_metalm(recipe, seed=0, sample=lambda count: iter(()))
    assert any("merged" in note for note in assembly.notes)
    torch.testing.assert_close(losses(assembly), expected, atol=1e-5, rtol=1e-5)
    assert all(parameter.requires_grad for parameter in assembly.model.decoder.parameters())
    names = {name for name, _ in load_model(base())[0].named_parameters()}
    assert {name for name, _ in assembly.model.named_parameters()} == names


# -- damage -----------------------------------------------------------------------------------------------------------


def damage(kind: str, adapter_folder: Path) -> None:
    file = adapter_folder / ADAPTER_FILE
    fields = json.loads(file.read_text())
    weights = adapter_folder / "decoder" / "adapter_model.safetensors"
    config = adapter_folder / "decoder" / "adapter_config.json"
    if kind == "text":
        file.write_text("{")
    elif kind == "format":
        file.write_text(json.dumps({**fields, "format": 3}))
    elif kind == "part":
        file.write_text(json.dumps({**fields, "parts": ["../decoder"]}))
    elif kind == "another":
        shutil.copytree(adapter_folder / "encoders" / "text", adapter_folder / "encoders" / "other")
        file.write_text(json.dumps({**fields, "parts": ["encoders.other"]}))
    elif kind == "gone":
        weights.unlink()
    elif kind == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif kind == "less":
        tensors = load_file(weights)
        tensors.pop(next(iter(tensors)))
        save_file(tensors, weights)
    elif kind == "field":
        config.write_text(json.dumps({**json.loads(config.read_text()), "megatron_core": "some.module"}))
    elif kind == "rank":
        config.write_text(json.dumps({**json.loads(config.read_text()), "r": 10**9}))
    elif kind == "connector":
        save_file({"text.layers.9.weight": torch.zeros(1)}, adapter_folder / "connectors.safetensors")


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("text", "Expecting"),
        ("format", "format 3"),
        ("part", "not a part of a model"),
        ("another", "the base has no encoders.other"),
        ("gone", "adapter_model.safetensors is missing"),
        ("cut", ""),
        ("less", "do not fit the base"),
        ("field", "sets megatron_core"),
        ("rank", "sets rank 1000000000"),
        ("connector", "Missing key"),
    ],
)
def test_a_damaged_adapter(adapter_folder: Path, kind: str, cause: str) -> None:
    damage(kind, adapter_folder)
    error = loading_error("an adapter cannot be loaded", adapter_folder)
    assert cause in f"{error.why}" or kind == "connector"
    assert error.where == str(adapter_folder)


@pytest.mark.parametrize("name", ["decoder/adapter_model.safetensors", "connectors.safetensors"])
def test_an_adapter_whose_weights_are_not_finite(adapter_folder: Path, name: str) -> None:
    tensors = load_file(adapter_folder / name)
    key = next(iter(tensors))
    tensors[key].view(-1)[0] = torch.nan
    save_file(tensors, adapter_folder / name)
    error = loading_error("weights are not finite", adapter_folder)
    assert key in error.why
    assert error.where == str(adapter_folder / name)


def test_the_description_of_an_adapter_is_read(adapter_folder: Path, base: Any) -> None:
    adapter = read_adapter(adapter_folder)
    assert adapter.parts == ("decoder", "encoders.text")
    assert adapter.connectors == ("text",)
    assert adapter.sha256 == safetensors_hash(base())
    assert not Path(adapter.relative or "").is_absolute()
    assert isinstance(load_model(adapter_folder)[0], nn.Module)
