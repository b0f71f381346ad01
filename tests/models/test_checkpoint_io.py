"""Saving and loading: every registered class is equal in a fresh process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.config.schema.objectives import ReplacedTokenDetection
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_encoder, build_metalm, load_assembly
from metalm_cli.models.checkpoint_io import load_model, save_model
from metalm_cli.models.encoders import load_tokenizer
from metalm_cli.models.trainable import TrainPolicy
from metalm_cli.objectives.replaced_token_detection import ReplacedTokenObjective
from metalm_cli.sessions import Causal, Docked, Session, SessionTokeniser, TokenRules, build_row, collate
from model_families import Documents, batch_with, make_decoder, make_encoder, make_metalm, model_recipe, noise_image

RULES = {"start": "always", "document": "a", "paragraph": "newline", "target_delimiter": " => "}

FRESH = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import metalm_cli.models
from metalm_cli.models.checkpoint_io import load_model
from metalm_cli.sessions import Causal, Docked, Session, SessionTokeniser, build_row, collate
from PIL import Image
from safetensors.torch import save_file

found = {}
for folder in map(Path, sys.argv[2:]):
    model, tokenizer, processors = load_model(folder, offline=True)
    assert not model.training
    contents = {"text": "A fox can hide well.", "vision": Image.linear_gradient("L").convert("RGB")}
    docks = (Docked(name, contents[name]) for name in processors)
    spans = [Causal("So:"), *docks, Causal(" yes", trained=True, end=True)]
    session = SessionTokeniser(tokenizer, processors)(Session(spans))
    batch = collate([build_row([session])], processors)
    with torch.no_grad():
        found[folder.name] = model(input_ids=batch.decoder.input_ids, docks=batch.docks).logits
        found[folder.name + ".losses"] = model.losses(batch)[1]
save_file(found, sys.argv[1])
"""


def run_fresh(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def reference_outputs(model, tokenizer, processors) -> dict[str, torch.Tensor]:
    """Compute the outputs of FRESH in this process."""
    contents = {"text": "A fox can hide well.", "vision": Image.linear_gradient("L").convert("RGB")}
    docks = (Docked(name, contents[name]) for name in processors)
    session = SessionTokeniser(tokenizer, processors)(
        Session([Causal("So:"), *docks, Causal(" yes", trained=True, end=True)])
    )
    batch = collate([build_row([session])], processors)
    with torch.no_grad():
        logits = model.eval()(input_ids=batch.decoder.input_ids, docks=batch.docks).logits
        return {"logits": logits, "losses": model.losses(batch)[1]}


def assemble(model: ModelConfig) -> Assembly:
    return build_metalm(model, seed=0, sample=lambda count: iter(()))


def save(assembly: Assembly, folder: Path) -> Path:
    save_model(folder, assembly.model, assembly.decoder_tokenizer, assembly.processors)
    return folder


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_kind_of_model_is_the_same_in_a_fresh_process(tokenizers, tmp_path) -> None:
    mlp = {"kind": "mlp", "layers": 3}
    both_encoders = model_recipe(
        tokenizers, "llama", "roberta", connector=mlp, keep_special=True, max_length=40
    ).model_dump()
    both_encoders["encoders"]["vision"] = model_recipe(tokenizers, "llama", "deit", name="vision").model_dump()[
        "encoders"
    ]["vision"]
    recipes = {
        "docked": ModelConfig.model_validate(both_encoders),
        "paper": model_recipe(tokenizers, "metalm-decoder", "metalm-encoder"),
        "t5-opt": model_recipe(tokenizers, "opt", "t5"),
        "gpt2-twin": model_recipe(tokenizers, "gpt2", None, tokens=RULES),
        "paper-twin": model_recipe(tokenizers, "metalm-decoder", None),
    }
    assemblies = {name: assemble(recipe) for name, recipe in recipes.items()}
    folders = [save(assembly, tmp_path / name) for name, assembly in assemblies.items()]
    run_fresh(FRESH, tmp_path / "found.safetensors", *folders)
    outputs = load_file(tmp_path / "found.safetensors")
    for name, assembly in assemblies.items():
        expected = reference_outputs(assembly.model, assembly.tokenizer, assembly.processors)
        torch.testing.assert_close(outputs[name], expected["logits"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(outputs[f"{name}.losses"], expected["losses"], atol=1e-6, rtol=1e-5)
    kinds = {folder.name: json.loads((folder / "config.json").read_text())["model_type"] for folder in folders}
    assert kinds == {
        "docked": "metalm",
        "paper": "metalm",
        "t5-opt": "metalm",
        "gpt2-twin": "gpt2",
        "paper-twin": "metalm-decoder",
    }
    for folder in folders:
        for name in files_of(folder):
            assert name.endswith((".safetensors", ".json", ".jinja", ".txt")), f"{folder.name}: {name}"
    assert "processors/vision/preprocessor_config.json" in files_of(tmp_path / "docked")
    assert "processors/text/tokenizer.json" in files_of(tmp_path / "docked")


def test_a_twin_is_an_ordinary_checkpoint_of_its_family(tokenizers, tmp_path) -> None:
    """The folder is read by transformers alone, without imports from this package."""
    assembly = assemble(model_recipe(tokenizers, "gpt2", None))
    folder = save(assembly, tmp_path / "twin")
    program = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = AutoTokenizer.from_pretrained(sys.argv[1])("A fox can hide.", return_tensors="pt").input_ids
assert not any(name.startswith("metalm") for name in sys.modules)
print(type(model).__name__, float(model(input_ids=ids, labels=ids).loss.detach()))
"""
    name, loss = run_fresh(program, folder).split()
    ids = assembly.decoder_tokenizer.tokenizer("A fox can hide.", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = assembly.model.eval()(input_ids=ids, labels=ids).loss
    assert name == "GPT2LMHeadModel"
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def data_of(length: int) -> DataConfig:
    return DataConfig.model_validate({"sources": [{"name": "w", "world": {}}], "sequence_length": length})


AUTO = """
import sys
from pathlib import Path
import metalm_cli.models, torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

whole, out, *encoders = map(Path, sys.argv[1:])
assert type(AutoConfig.from_pretrained(whole)).__name__ == "MetaLMConfig"
model, info = AutoModelForCausalLM.from_pretrained(whole, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
assert type(model).__name__ == "MetaLM" and list(model.encoders) == ["text"]
found = {}
for folder in encoders:
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and model.config.model_type == folder.name, info
    with torch.no_grad():
        found[folder.name] = model.eval()(input_ids=torch.arange(5, 20)[None]).last_hidden_state
save_file(found, out)
"""


def trained_detector(tokenizers, texts: list[str], kind: str) -> Assembly:
    """An encoder after one step of replaced token detection."""
    recipe = ModelConfig.model_validate({"encoders": model_recipe(tokenizers, "gpt2", kind).model_dump()["encoders"]})
    assembly = build_encoder(recipe, "rtd", seed=0, sample=lambda count: iter(()))
    objective = ReplacedTokenObjective(ReplacedTokenDetection(name="rtd"), assembly)
    batch = objective.collate([RowSlot(0, 1, Documents(texts), objective.writer(data_of(64), 0)).next_row()])
    terms = objective.step_module()(batch)
    sum(term.sum for term in terms.values()).backward()
    with torch.no_grad():
        for parameter in assembly.model.parameters():
            parameter -= 0.1 * parameter.grad
    return assembly


def test_the_auto_classes_know_what_is_saved(tokenizers, texts, tmp_path) -> None:
    model_folder = save(assemble(model_recipe(tokenizers)), tmp_path / "model")
    detectors = {kind: trained_detector(tokenizers, texts, kind) for kind in ("electra", "metalm-encoder")}
    for kind, assembly in detectors.items():
        assembly.model.save_pretrained(tmp_path / kind)
        assembly.processors["text"].save_pretrained(tmp_path / kind)
    run_fresh(AUTO, model_folder, tmp_path / "out.safetensors", *(tmp_path / kind for kind in detectors))
    outputs = load_file(tmp_path / "out.safetensors")
    for kind, assembly in detectors.items():
        with torch.no_grad():
            expected = assembly.model.eval().base_model(input_ids=torch.arange(5, 20)[None]).last_hidden_state
        torch.testing.assert_close(outputs[kind], expected)
        docked = model_recipe(tokenizers).model_dump()
        docked["encoders"]["text"] = {"checkpoint": str(tmp_path / kind)}
        encoder = assemble(ModelConfig.model_validate(docked)).model.encoders["text"]
        for name, value in assembly.model.base_model.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], value), name


# -- inheritance ------------------------------------------------------------------------------------------------------


def test_token_rules_are_saved_and_inherited(tokenizers, tmp_path) -> None:
    rules = RULES
    for name, encoder in (("docked", "bert"), ("twin", None)):
        folder = save(assemble(model_recipe(tokenizers, "gpt2", encoder, tokens=rules)), tmp_path / name)
        _, tokenizer, _ = load_model(folder)
        assert tokenizer.rules == TokenRules(**rules)
    onward = ModelConfig.model_validate(
        {
            "decoder": {"checkpoint": str(tmp_path / "twin")},
            "encoders": model_recipe(tokenizers).model_dump()["encoders"],
        }
    )
    assembly = assemble(onward)
    assert assembly.decoder_tokenizer.rules == TokenRules(**rules), "the checkpoint's, not the recipe's"
    assert assembly.model.config.tokens == rules
    continued = assemble(ModelConfig.model_validate({"checkpoint": str(tmp_path / "docked")}))
    assert continued.decoder_tokenizer.rules == TokenRules(**rules)


@pytest.mark.parametrize("encoder", ["bert", None])
def test_a_continued_run_inherits_the_training_policy(encoder, tokenizers, tmp_path) -> None:
    recipe = model_recipe(
        tokenizers,
        "gpt2",
        encoder,
        decoder_options={"trains": "last_1", "learning_rate": 1e-3},
        connector={"learning_rate": 2e-3},
        **({"trains": "none"} if encoder else {}),
    )
    assembly = assemble(recipe)
    folder = save(assembly, tmp_path / "model")
    loaded = assemble(ModelConfig.model_validate({"checkpoint": str(folder)}))
    assert loaded.policy == assembly.policy
    assert loaded.policy["decoder"] == TrainPolicy("last_1", 1e-3)
    trains = [
        {name for name, parameter in a.model.named_parameters() if parameter.requires_grad} for a in (assembly, loaded)
    ]
    assert trains[0] == trains[1]
    assert load_assembly(folder).policy == assembly.policy


@pytest.mark.parametrize("keep_special", [False, True])
def test_docking_is_saved(keep_special, tokenizers, tmp_path) -> None:
    recipe = model_recipe(tokenizers, keep_special=keep_special, max_length=33)
    folder = save(assemble(recipe), tmp_path / "model")
    _, _, processors = load_model(folder)
    assert processors["text"].keep_special is keep_special
    assert processors["text"].max_length == 33


def test_a_model_saved_twice_is_the_same(tokenizers, tmp_path) -> None:
    first = save(assemble(model_recipe(tokenizers, "llama", "t5")), tmp_path / "one")
    model, tokenizer, processors = load_model(first)
    save_model(tmp_path / "two", model, tokenizer, processors)
    assert files_of(first) == files_of(tmp_path / "two")
    for name in files_of(first):
        assert (first / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_run_folder_stands_for_its_model(tokenizers, tmp_path) -> None:
    save(assemble(model_recipe(tokenizers)), tmp_path / "run" / "model")
    model, _, processors = load_model(tmp_path / "run")
    assert list(processors) == ["text"]
    assert model.traits.supports_packing


def test_an_image_session_survives_saving(tokenizers, tmp_path) -> None:
    assembly = assemble(model_recipe(tokenizers, "gpt2", "vit", name="vision"))
    folder = save(assembly, tmp_path / "model")
    loaded = load_assembly(folder)
    with torch.no_grad():
        expected, actual = (
            a.model.eval().losses(batch_with(a, [noise_image(0), noise_image(1)], "vision"))[1]
            for a in (assembly, loaded)
        )
    torch.testing.assert_close(expected, actual)
    assert loaded.processors["vision"].output_positions.tolist() == [1, 2, 3, 4]


# -- bad input --------------------------------------------------------------------------------------------------------


def loading_error(folder: Path, match: str) -> MetalmError:
    with pytest.raises(MetalmError, match=match) as caught:
        load_model(folder)
    assert str(folder) in caught.value.where
    assert caught.value.remedy
    return caught.value


def test_a_damaged_model_is_refused(tokenizers, tmp_path) -> None:
    folder = save(assemble(model_recipe(tokenizers)), tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    loading_error(folder, "the model cannot be loaded")
    weights.write_bytes(whole)
    remaining = {name: value for name, value in load_file(weights).items() if not name.startswith("connectors")}
    save_file(remaining, weights, metadata={"format": "pt"})
    assert "connectors.text.0" in loading_error(folder, "lacks 2 of its model's weights").why
    weights.unlink()
    torch.save(remaining, folder / "pytorch_model.bin")
    loading_error(folder, "the model cannot be loaded")


def test_an_encoder_is_not_a_language_model(tokenizers, tmp_path) -> None:
    folder = tmp_path / "encoder"
    make_encoder("distilbert").save_pretrained(folder)
    load_tokenizer(tokenizers["bert"]).save_pretrained(folder)
    loading_error(folder, "the model cannot be loaded")


def test_a_model_without_its_tokenizer_is_refused(tmp_path) -> None:
    folder = tmp_path / "model"
    make_decoder("gpt2").save_pretrained(folder)
    loading_error(folder, "no tokenizer")


def test_a_model_without_its_encoders_tokenizer_is_refused(tokenizers, tmp_path) -> None:
    folder = save(assemble(model_recipe(tokenizers)), tmp_path / "model")
    shutil.rmtree(folder / "processors" / "text")
    loading_error(folder, "no tokenizer")


def test_a_plain_checkpoint_loads_as_a_metalm_without_encoders(tokenizers, tmp_path) -> None:
    decoder = make_decoder("llama")
    decoder.save_pretrained(tmp_path / "plain")
    load_tokenizer(tokenizers["llama"]).save_pretrained(tmp_path / "plain")
    model, tokenizer, processors = load_model(tmp_path / "plain")
    assert processors == {}
    assert tokenizer.rules == TokenRules()
    assert tokenizer.adds_start_token
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, make_metalm(decoder)(input_ids=ids).logits)


def test_a_real_vision_encoder_docks_into_a_real_decoder(checkpoints, tmp_path) -> None:
    """Forward, backward, generate, save, load in a fresh process."""
    recipe = {
        "decoder": {"checkpoint": str(checkpoints("stories260k-llama"))},
        "encoders": {"vision": {"checkpoint": str(checkpoints("deit-tiny-patch16-224")), "trains": "last_1"}},
    }
    assembly = assemble(ModelConfig.model_validate(recipe))
    assert len(assembly.processors["vision"].output_positions) == 196
    batch = batch_with(assembly, [noise_image(0), noise_image(1)], "vision")
    assembly.model.train().losses(batch)[0].backward()
    trained = {name for name, parameter in assembly.model.encoders.named_parameters() if parameter.grad is not None}
    assert trained
    assert all(".11." in name for name in trained)
    prompt = SessionTokeniser(assembly.tokenizer, assembly.processors)(
        Session([Docked("vision", noise_image(0)), Causal(" a")])
    )
    prompt_batch = collate([build_row([prompt])], assembly.processors)
    ids = assembly.model.eval().generate(prompt_batch.decoder.input_ids, prompt_batch.docks, max_new_tokens=4)
    assert ids.shape[0] == 1
    folder = save(assembly, tmp_path / "real")
    run_fresh(FRESH, tmp_path / "found.safetensors", folder)
    outputs = load_file(tmp_path / "found.safetensors")
    expected = reference_outputs(assembly.model, assembly.tokenizer, assembly.processors)
    torch.testing.assert_close(outputs["real"], expected["logits"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs["real.losses"], expected["losses"], atol=1e-5, rtol=1e-5)
