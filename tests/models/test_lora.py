"""Low-rank adapters: nothing moves at the start, nothing but them trains, and they come back on their base alone."""

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

from metalm_cli.config.schema.model import TaskModel
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_metalm
from metalm_cli.models.checkpoint_io import load_model, save_model
from metalm_cli.models.lora.adapter_files import ADAPTER, adapter_in, read_adapter, save_adapter
from metalm_cli.models.lora.inject import merge, targets_of, weights_hash
from metalm_cli.models.trainable import LORA_PARAMETER_MARK, parameter_groups, summaries
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
            made = build_metalm(model_recipe(tokenizers, decoder, encoder), seed=0, sample=lambda count: iter(()))
            save_model(folder, made.model, made.decoder_tokenizer, made.processors)
        return folder

    return save


def adapted(folder: Path, seed: int = 0, trains: dict[str, str] | None = None, **lora: Any) -> Assembly:
    recipe = TaskModel.model_validate({"checkpoint": str(folder), "lora": {"rank": 3, **lora}, "trains": trains or {}})
    return build_metalm(recipe, seed=seed, sample=lambda count: iter(()))


def moved(assembly: Assembly) -> Assembly:
    """The model after training, as far as anybody can see: everything that trains is somewhere else."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for one in assembly.model.parameters():
            if one.requires_grad:
                one += torch.randn(one.shape, generator=generator) * 0.05
    return assembly


def saved(assembly: Assembly, folder: Path) -> Path:
    assert assembly.adaptation is not None
    folder.mkdir()
    save_adapter(folder, assembly.parts(), assembly.adaptation)
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
    return collate([build_row([tokenise(Session([Causal(one, trained=True, end=True)]))]) for one in TEXTS], {})


def files_of(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


# -- at the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_at_the_start_losses_are_exactly_the_bases(base: Any, decoder: str, encoder: str | None) -> None:
    folder = base(decoder, encoder)
    plain = Assembly(*load_model(folder))
    found = adapted(folder)
    assert torch.equal(losses(found), losses(plain))
    assert not torch.allclose(losses(moved(found)), losses(plain), atol=1e-4), "adapters do something"


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_adapters_and_connectors_train_and_nothing_else(base: Any, decoder: str, encoder: str | None) -> None:
    found = adapted(base(decoder, encoder))
    train = {name for name, one in found.model.named_parameters() if one.requires_grad}
    assert train == {
        name
        for name, _ in found.model.named_parameters()
        if LORA_PARAMETER_MARK in name or name.startswith("connectors.")
    }
    # B is 0, so A has no gradient but 0: one step, and both have.
    for _ in range(2):
        found.model.zero_grad()
        found.model.train().losses(_batch(found, TEXTS if encoder else []))[0].backward()
        with torch.no_grad():
            for name, one in found.model.named_parameters():
                if "lora_B" in name:
                    one -= 0.1 * one.grad
    moves = {name for name, one in found.model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert moves == train
    assert all(one.grad is None for name, one in found.model.named_parameters() if name not in train)
    groups = parameter_groups(found.parts(), found.policy, 1e-3, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(train)
    counted = {one.name: (one.trained, one.train) for one in summaries(found.parts(), found.policy, 1e-3)}
    expected = sum(one.numel() for name, one in found.model.decoder.named_parameters() if LORA_PARAMETER_MARK in name)
    assert counted["decoder"] == (expected, "lora")


def test_rank_decides_how_much_trains(base: Any) -> None:
    """GPT-2, width 32: in each of 2 layers c_attn 32+96, attn.c_proj 32+32, c_fc 32+128, mlp.c_proj 128+32."""
    found = adapted(base("gpt2", None), rank=3)
    trained = sum(one.numel() for one in found.model.parameters() if one.requires_grad)
    assert trained == 3 * 2 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))


def test_the_seed_decides_a_and_leaves_other_random_numbers_alone(base: Any) -> None:
    folder = base("llama", None)
    one, same, other = (
        adapted(folder, seed).model.decoder.model.layers[0].mlp.up_proj.lora_A.default.weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "opt"])
def test_packed_equals_unpacked(base: Any, decoder: str) -> None:
    found = moved(adapted(base(decoder, "bert")))
    assert found.model.traits.packs
    assert found.model.traits.own_head
    together = losses(found)
    # Two contents fill two rows of one session each.
    alone = torch.cat([found.model.losses(batch_with(found, [text, TEXTS[0]]))[1] for text in TEXTS])
    alone = alone.view(3, 2, -1)[:, 0].flatten()
    torch.testing.assert_close(together, alone.detach(), atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_gives_the_same_gradients(base: Any) -> None:
    def gradients(checkpointed: bool) -> dict[str, torch.Tensor]:
        found = moved(adapted(base("llama", "bert")))
        if checkpointed:
            found.model.gradient_checkpointing_enable()
        found.model.train().losses(batch_with(found, TEXTS))[0].backward()
        return {name: one.grad for name, one in found.model.named_parameters() if one.grad is not None}

    one, other = gradients(False), gradients(True)
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


# -- what is adapted --------------------------------------------------------------------------------------------------


def test_targets_by_name_and_in_the_last_layers(base: Any) -> None:
    decoder = load_model(base("llama", None))[0].decoder
    assert targets_of("decoder", decoder, ["q_proj", "mlp.up_proj"]) == [
        f"model.layers.{at}.{name}" for at in range(2) for name in ("self_attn.q_proj", "mlp.up_proj")
    ]
    every, last = (
        targets_of("decoder", decoder, ["all-linear"]),
        targets_of("decoder", decoder, ["all-linear"], "last_1"),
    )
    assert (len(every), len(last)) == (14, 7)
    assert all(name.startswith("model.layers.1.") for name in last)
    assert "lm_head" not in every


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "c_attn"])
def test_what_is_no_linear_layer_inside_is_refused(base: Any, name: str) -> None:
    """The head is computed by its weights alone, a chunk at a time: an adapter on it would be passed by."""
    with pytest.raises(MetalmError, match=f"no linear layer '{name}'") as caught:
        adapted(base("llama", None), targets=[name])
    assert "q_proj" in caught.value.why


def test_adapters_in_the_last_layers_only(base: Any) -> None:
    found = adapted(base("gpt2", "bert"), trains={"decoder": "last_1", "encoders": "all"})
    inside = [name for name, _ in found.model.decoder.named_parameters() if LORA_PARAMETER_MARK in name]
    assert inside
    assert all(".h.1." in name for name in inside)
    with pytest.raises(MetalmError, match="has 2 layers, adapters are asked for in 3"):
        adapted(base("gpt2", "bert"), trains={"decoder": "last_3", "encoders": "all"})


@pytest.mark.parametrize("part", ["decoder", "encoders"])
def test_a_part_that_is_not_adapted_is_frozen_whole_and_drops_nothing_out(base: Any, part: str) -> None:
    found = adapted(base("gpt2", "bert"), parts=[part])
    model = found.model.train()
    other = model.encoders["text"] if part == "decoder" else model.decoder
    assert not any(one.requires_grad for one in other.parameters())
    assert not any(one.training for one in other.modules())
    assert all(one.requires_grad for one in model.connectors.parameters())
    assert (model.decoder if part == "decoder" else model.encoders["text"]).training


def test_no_encoder_to_adapt(base: Any) -> None:
    with pytest.raises(MetalmError, match="no encoder to adapt"):
        adapted(base("gpt2", None), parts=["encoders"])


# -- saved and loaded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_what_is_saved_is_what_trained(base: Any, tmp_path: Path, decoder: str, encoder: str | None) -> None:
    folder = base(decoder, encoder)
    before = weights_hash(folder)
    found = moved(adapted(folder))
    place = saved(found, tmp_path / "adapter")
    expected = ["decoder/adapter_config.json", "decoder/adapter_model.safetensors", ADAPTER]
    if encoder:
        text = ["encoders/text/adapter_config.json", "encoders/text/adapter_model.safetensors"]
        expected += ["connectors.safetensors", *text]
    assert files_of(place) == sorted(expected)
    again = Assembly(*load_model(place))
    assert torch.equal(losses(again), losses(found))
    assert not any(one.requires_grad for one in again.model.parameters())
    assert weights_hash(folder) == before


def test_equal_in_a_fresh_process(base: Any, tmp_path: Path) -> None:
    from metalm_cli.inference import load
    from metalm_cli.sessions import Causal, Docked, Session

    def score(place: Path) -> float:
        found = load(place)
        docks = [Docked("text", "A fox can hide well.")] if found.processors else []
        spans = [Causal("So:"), *docks, Causal(" yes", trained=True, end=True)]
        return found.log_likelihood([Session(spans)]).item()

    places = [saved(moved(adapted(base(*kind))), tmp_path / f"{kind[0]}-{kind[1]}-adapter") for kind in KINDS]
    done = subprocess.run([sys.executable, "-c", FRESH, *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [float(one) for one in done.stdout.split()] == [score(place) for place in places]


@pytest.mark.parametrize("decoder", ["gpt2", "llama"])
def test_peft_reads_its_own_files(base: Any, tmp_path: Path, decoder: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = base(decoder, None)
    found = moved(adapted(folder))
    place = saved(found, tmp_path / "adapter") / "decoder"
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), place).eval()
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=ids).logits, found.model.eval().decoder(input_ids=ids).logits)


@pytest.mark.parametrize(("decoder", "encoder"), KINDS)
def test_merged_equals_adapted(base: Any, tmp_path: Path, decoder: str, encoder: str | None) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    found = moved(adapted(base(decoder, encoder)))
    expected = losses(found)
    assert merge(found.model)
    assert not any(isinstance(one, BaseTunerLayer) for one in found.model.modules())
    torch.testing.assert_close(losses(found), expected, atol=1e-5, rtol=1e-5)
    save_model(tmp_path / "merged", found.model, found.decoder_tokenizer, found.processors)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert again.config.model_type == ("metalm" if encoder else decoder)
    assert torch.equal(losses(Assembly(*load_model(tmp_path / "merged"))), losses(found))
    assert not merge(found.model), "a second time there is nothing"


def test_two_saves_are_the_same_bytes(base: Any, tmp_path: Path) -> None:
    found = adapted(base())
    one, other = saved(found, tmp_path / "one"), saved(found, tmp_path / "other")
    for name in files_of(one):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    fields = json.loads((one / "decoder" / "adapter_config.json").read_text())
    assert fields["target_modules"] == sorted(fields["target_modules"])


# -- the base ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(base: Any, tmp_path: Path) -> Path:
    """An adapter on a base beside it."""
    return saved(moved(adapted(base())), tmp_path / "adapter")


def refused(match: str, folder: Path, **options: Any) -> MetalmError:
    with pytest.raises(MetalmError, match=match) as caught:
        load_model(folder, **options)
    assert caught.value.remedy
    return caught.value


def test_a_base_with_other_weights(base: Any, place: Path) -> None:
    file = base() / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    error = refused("other weights than when it was trained", place)
    assert error.where == str(base())


def test_a_base_that_is_gone_and_one_that_is_named(base: Any, place: Path, tmp_path: Path) -> None:
    expected = losses(Assembly(*load_model(place)))
    elsewhere = tmp_path / "else" / "where"
    shutil.copytree(base(), elsewhere)
    shutil.rmtree(base())
    error = refused("the base of this adapter is not there", place)
    assert "base=" in error.remedy
    assert str(base()) in error.why
    assert torch.equal(losses(Assembly(*load_model(place, base=elsewhere))), expected)
    refused("the base of this adapter is not there", place, base=tmp_path / "nowhere")


def test_a_base_that_moved_along(base: Any, place: Path, tmp_path: Path) -> None:
    expected = losses(Assembly(*load_model(place)))
    (tmp_path / "new").mkdir()
    for one in (base(), place):
        shutil.move(one, tmp_path / "new" / one.name)
    assert torch.equal(losses(Assembly(*load_model(tmp_path / "new" / "adapter"))), expected)


def test_an_older_base_at_the_old_place_does_not_hide_the_right_one(base: Any, place: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for one in (base(), place):
        shutil.copytree(one, tmp_path / "new" / one.name)
    (base() / "model.safetensors").write_bytes(b"something else")
    load_model(tmp_path / "new" / "adapter")


def test_a_base_for_a_model_that_is_none(base: Any) -> None:
    refused("a base is given for a model that is no adapter", base(), base=base())


def test_a_run_folder_with_an_adapter(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.move(place, run / "adapter")
    assert adapter_in(run) == run / "adapter"
    fields = json.loads((run / "adapter" / ADAPTER).read_text())
    assert set(fields) == {"format", "base", "parts", "connectors"}
    load_model(run)


# -- going on ---------------------------------------------------------------------------------------------------------


def test_adapters_on_adapters_are_refused(place: Path) -> None:
    with pytest.raises(MetalmError, match="the base is an adapter itself") as caught:
        adapted(place)
    assert "--merge" in caught.value.remedy


def test_going_on_from_an_adapter_trains_the_merged_model(base: Any, place: Path) -> None:
    expected = losses(Assembly(*load_model(place)))
    recipe = TaskModel.model_validate({"checkpoint": str(place), "trains": {"decoder": "all"}})
    found = build_metalm(recipe, seed=0, sample=lambda count: iter(()))
    assert any("merged" in note for note in found.notes)
    torch.testing.assert_close(losses(found), expected, atol=1e-5, rtol=1e-5)
    assert all(one.requires_grad for one in found.model.decoder.parameters())
    names = {name for name, _ in load_model(base())[0].named_parameters()}
    assert {name for name, _ in found.model.named_parameters()} == names


# -- damage -----------------------------------------------------------------------------------------------------------


def damage(kind: str, place: Path) -> None:
    file = place / ADAPTER
    fields = json.loads(file.read_text())
    weights = place / "decoder" / "adapter_model.safetensors"
    config = place / "decoder" / "adapter_config.json"
    if kind == "text":
        file.write_text("{")
    elif kind == "format":
        file.write_text(json.dumps({**fields, "format": 2}))
    elif kind == "part":
        file.write_text(json.dumps({**fields, "parts": ["../decoder"]}))
    elif kind == "another":
        shutil.copytree(place / "encoders" / "text", place / "encoders" / "other")
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
    elif kind == "connector":
        save_file({"text.layers.9.weight": torch.zeros(1)}, place / "connectors.safetensors")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "Expecting"),
        ("format", "format 2"),
        ("part", "no part of a model"),
        ("another", "its base has no encoders.other"),
        ("gone", "adapter_model.safetensors is missing"),
        ("cut", ""),
        ("less", "do not fit the base"),
        ("field", "sets megatron_core"),
        ("connector", "Missing key"),
    ],
)
def test_a_damaged_adapter(place: Path, kind: str, says: str) -> None:
    damage(kind, place)
    error = refused("an adapter cannot be loaded", place)
    assert says in f"{error.why}" or kind == "connector"
    assert error.where == str(place)


def test_what_it_says_of_itself_is_read(place: Path, base: Any) -> None:
    found = read_adapter(place)
    assert found.parts == ("decoder", "encoders.text")
    assert found.connectors == ("text",)
    assert found.sha256 == weights_hash(base())
    assert not Path(found.relative or "").is_absolute()
    assert isinstance(load_model(place)[0], nn.Module)
