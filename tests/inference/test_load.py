"""``metalm.load``: valid and invalid sources, and remote code, which runs only with permission."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metalm_cli as metalm
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.checkpoint_io import save_model
from model_families import make_decoder, make_encoder
from tiny_language_models import DOCKED_SPANS, TEXT_SPANS, named_sessions, tiny_language_model
from tiny_models import tokenizer_of

ALL_SPANS = {**TEXT_SPANS, **DOCKED_SPANS}


def saved(folder: Path, *encoders: str, family: str = "gpt2") -> Path:
    language_model = tiny_language_model(family, *encoders)
    config = language_model.model.config
    config.docking = {
        name: {**options, "max_length": 60 if name == "text" else None} for name, options in config.docking.items()
    }
    save_model(folder, language_model.model, language_model.decoder_tokenizer, language_model.processors)
    return folder


@pytest.fixture(scope="module")
def docked(tmp_path_factory) -> Path:
    """Model folder with two encoders."""
    return saved(tmp_path_factory.mktemp("docked") / "run" / "model", "text", "vision")


@pytest.fixture
def plain(tmp_path) -> Path:
    """Folder of a plain causal language model, saved by transformers."""
    folder = tmp_path / "plain"
    language_model = tiny_language_model("llama")
    language_model.model.decoder.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)
    return folder


def test_a_loaded_model_scores_like_the_saved_one(docked) -> None:
    loaded = metalm.load(docked)
    assert isinstance(loaded, metalm.LanguageModel)
    assert isinstance(loaded.model, metalm.MetaLM)
    assert not any(module.training for module in loaded.model.modules())
    assert list(loaded.processors) == list(loaded.model.encoders) == list(loaded.model.connectors) == ["text", "vision"]
    expected = tiny_language_model("gpt2", "text", "vision").log_likelihood(named_sessions(ALL_SPANS))
    torch.testing.assert_close(loaded.log_likelihood(named_sessions(ALL_SPANS)), expected, atol=1e-5, rtol=1e-6)


def test_a_run_folder_a_tilde_and_a_relative_path(docked, monkeypatch) -> None:
    run = docked.parent
    session = named_sessions(ALL_SPANS)[:1]
    expected = metalm.load(docked).log_likelihood(session)
    monkeypatch.setenv("HOME", str(run.parent))
    monkeypatch.chdir(run.parent)
    for name in (run, str(run), "~/run", Path("~/run/model"), "run", "run/model", "./run/"):
        assert torch.equal(metalm.load(name, offline=True).log_likelihood(session), expected)


def test_a_plain_causal_model_has_no_encoders(plain) -> None:
    loaded = metalm.load(plain)
    assert isinstance(loaded.model, metalm.MetaLM)
    assert type(loaded.model.decoder).__name__ == "LlamaForCausalLM"
    assert (dict(loaded.processors), list(loaded.model.encoders)) == ({}, [])
    text = named_sessions(TEXT_SPANS)
    torch.testing.assert_close(loaded.log_likelihood(text), tiny_language_model("llama").log_likelihood(text))


def test_a_checkpoint_by_name(plain, monkeypatch) -> None:
    monkeypatch.setenv("METALM_CHECKPOINTS", str(plain.parent))
    assert metalm.load("owner/plain", offline=True).model.config.decoder_config["model_type"] == "llama"


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(source: object, match: str) -> MetalmError:
    with pytest.raises(MetalmError, match=match) as caught:
        metalm.load(source, offline=True)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert caught.value.exit_code == Exit.USAGE
    return caught.value


@pytest.mark.parametrize("name", ["runs/nothing", "nothing"])
def test_a_missing_folder_was_taken_for_a_hub_id(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(name, f"{name} is not on this machine")
    assert f"no folder {tmp_path / name}, so the name was taken for a hub id" in error.why


@pytest.mark.parametrize("name", ["runs/nothing/model", "./nothing", "~/runs/nothing"])
def test_a_missing_folder_that_is_not_a_hub_id(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    error = refused(name, "no model folder")
    assert error.where == str(tmp_path / name.removeprefix("./").removeprefix("~/"))
    assert "taken for" not in error.why


def test_a_run_that_is_not_finished(tmp_path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    error = refused(tmp_path / "run", "the model cannot be loaded")
    assert "finished model/" in error.remedy


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_masked_language_model_is_not_causal(kind, tmp_path) -> None:
    from transformers import AutoModelForMaskedLM

    config = make_encoder(kind, vocab_size=420).config
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer_of("byte").save_pretrained(tmp_path)
    error = refused(tmp_path, "not a causal language model")
    assert "model.encoders" in error.remedy
    assert error.where == str(tmp_path)


@pytest.mark.parametrize("name", ["../../out", "a/b", "/out", "a b", "."])
def test_encoder_names_that_leave_the_folder_are_rejected(name, docked, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "run" / "model"
    shutil.copytree(docked, folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("encoder_configs", "connectors", "docking"):
        config[key] = {name if old == "text" else old: value for old, value in config[key].items()}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    renamed = {key.replace("encoders.text.", f"encoders.{name}.", 1): value for key, value in weights.items()}
    renamed = {key.replace("connectors.text.", f"connectors.{name}.", 1): value for key, value in renamed.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    error = refused(folder, "name of an encoder|the model cannot be loaded")
    assert str(folder) in error.where


# -- remote code ------------------------------------------------------------------------------------------------------

CODE = """
open({marker!r}, "a").write("ran\\n")
from transformers import GPT2Config, GPT2LMHeadModel
class OwnConfig(GPT2Config):
    model_type = "own-kind"
class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""
LOAD = """
import sys
import metalm_cli as metalm
from metalm_cli.errors import MetalmError
for source in sys.argv[2:]:
    try:
        loaded = metalm.load(source, offline=True, trust_remote_code=sys.argv[1] == "trust")
        print("loaded", type(loaded.model.decoder).__name__)
    except MetalmError as error:
        assert error.remedy and error.where
        print("rejected", error.what)
"""


def with_code(folder: Path, marker: Path, part: str) -> Path:
    """Write a GPT-2 with Python code: for a model type of its own, for its tokenizer, or for a docked decoder."""
    if part == "decoder":
        saved(folder, "text")
    else:
        make_decoder("gpt2", vocab_size=420).save_pretrained(folder)
        tokenizer_of("byte").save_pretrained(folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    config = json.loads((folder / name).read_text())
    models = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    if part == "model":
        config |= {"model_type": "own-kind", "auto_map": models}
    elif part == "tokenizer":
        config |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    else:
        config["decoder_config"] = {
            "model_type": "vit",
            "auto_map": {"AutoModelForCausalLM": f"{folder}--own.OwnModel"},
        }
    (folder / name).write_text(json.dumps(config))
    return folder


def load_fresh(home: Path, trust: str, answer: str | None, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Load in a process whose standard input answers each prompt with yes, or is closed."""
    standard_input = {"stdin": subprocess.DEVNULL} if answer is None else {"input": answer * 20}
    return subprocess.run(
        [sys.executable, "-c", LOAD, trust, *map(str, folders)],
        env={**os.environ, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **standard_input,
    )


@pytest.mark.parametrize("answer", [None, "y\n"])
def test_remote_code_neither_prompts_nor_runs(answer, tmp_path) -> None:
    marker = tmp_path / "marker"
    folders = [with_code(tmp_path / part, marker, part) for part in ("model", "tokenizer", "decoder")]
    done = load_fresh(tmp_path / "home", "never", answer, *folders)
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout
    assert lines[0] == "rejected the model cannot be loaded"
    assert lines[2] == "rejected the model cannot be loaded"
    assert "Do you wish" not in done.stdout + done.stderr


def test_remote_code_runs_with_permission(tmp_path) -> None:
    folder = with_code(tmp_path / "model", tmp_path / "marker", "model")
    done = load_fresh(tmp_path / "home", "trust", None, folder)
    assert done.stdout.splitlines() == ["loaded OwnModel"], done.stderr
    assert (tmp_path / "marker").exists()


# -- exports ----------------------------------------------------------------------------------------------------------

EXPORTS = """
import os, sys
from importlib import import_module
import metalm_cli as metalm
heavy = {"torch", "transformers", "numpy", "pydantic"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(metalm.__all__) <= set(dir(metalm)) | set(metalm._EXPORTS)
import torch, transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForPreTraining, AutoTokenizer
from transformers.modeling_outputs import CausalLMOutputWithPast
import huggingface_hub, pydantic, torch._dynamo
assert not any(name.startswith("metalm_cli.") for name in sys.modules)
for name in [*metalm.__all__, "auto"]:
    child = os.fork()
    if child == 0:
        import_module("metalm_cli.auto") if name == "auto" else getattr(metalm, name)
        known = name == "__version__" or [AutoConfig.for_model(k).model_type for k in ("metalm", "metalm-decoder")]
        os._exit(0 if known else 1)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def test_exports_are_lazy_and_touching_any_registers_the_auto_classes() -> None:
    done = subprocess.run([sys.executable, "-c", EXPORTS], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_export_can_be_imported() -> None:
    assert {"load", "Session", "Docked", "Causal", "LanguageModel"} <= set(metalm.__all__)
    for name in metalm.__all__:
        assert getattr(metalm, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        metalm.nothing  # noqa: B018
