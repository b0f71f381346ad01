"""``metalm export``: model folders, merged adapters, uploads to the hub, and failures that leave nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_runs as micro
from hub_uploads import UploadServer
from task_fixtures import write_task

TASKS = """
command: finetune
data:
  tasks: [FOLDER/parity.yaml]
  templates: {collection: FOLDER/words}
  sequence_length: 96
  validation: {examples: 2}
model: {lora: {rank: 2}}
train:
  {steps: 3, batch_size: 4, learning_rate: 3e-2, warmup_steps: 0, precision: fp32, checkpoint_every: 0,
   sample_continuations: 0}
"""
TOKEN = "hf_" + "secretsecretsecret"
RUN = "import sys; from metalm_cli.cli.app import run; sys.exit(run(sys.argv[1:]))"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the bases ``docked`` and ``twin``, and the adapters ``docked-lora`` and ``twin-lora`` on them."""
    folder = tmp_path_factory.mktemp("export")
    write_task(folder, "parity", 16)
    base = micro.write_recipe(folder, micro.RECIPE, "base.yaml")
    tasks = micro.write_recipe(folder, TASKS.replace("FOLDER", str(folder)))
    for name, without in (("docked", []), ("twin", ["model.encoders=null", "objective.name=causal"])):
        size = ["model.decoder.config.n_positions=96"]
        size += [] if without else ["model.encoders.text.config.max_position_embeddings=96"]
        steps = ["train.steps=1", "train.warmup_steps=0"]
        assert micro.metalm("pretrain", base, *without, *size, *steps, "--out", folder / name) == 0
        assert micro.metalm("finetune", tasks, "--model", folder / name, "--out", folder / f"{name}-lora") == 0
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def logits(source: Path, **options: Any) -> torch.Tensor:
    """Logits of a session with a dock, computed in this process."""
    import metalm_cli as metalm

    model = metalm.load(source, offline=True, **options)
    docks = [metalm.Docked("text", "Clerks sell stamps.")] if model.processors else []
    session = model.tokenise(metalm.Session([metalm.Causal("So:"), *docks, metalm.Causal(" yes", trained=True)]))
    batch = model.collate([session])
    with torch.no_grad():
        return model.model(input_ids=batch.decoder.input_ids, docks=batch.docks).logits


# -- merged -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["docked", "twin"])
def test_merged_is_a_model_of_its_own(runs: Path, tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "merged"
    assert micro.metalm("export", runs / f"{kind}-lora", "--merge", "--out", out) == 0
    assert names(out) >= {"config.json", "model.safetensors", "tokenizer.json", "README.md", "lineage.json"}
    assert not [name for name in names(out) if "adapter" in name]
    assert ("processors/text/tokenizer.json" in names(out)) == (kind == "docked")
    adapted, plain = logits(runs / f"{kind}-lora"), logits(runs / kind)
    torch.testing.assert_close(logits(out), adapted, atol=1e-5, rtol=1e-5)
    assert (adapted - plain).abs().max() > 1e-3
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert model.config.model_type == ("metalm" if kind == "docked" else "gpt2")
    assert json.loads((out / "lineage.json").read_text())["command"] == "finetune"
    card = (out / "README.md").read_text()
    assert "merged into the weights" in card
    assert "## Data" in card
    assert "## Recipe" in card
    assert "This is no whole model" not in card
    assert ("AutoModelForCausalLM" in card) == (kind == "twin")
    assert not [path for path in tmp_path.iterdir() if path != out], "other files are left"


def test_a_merged_model_can_be_trained_further(runs: Path, tmp_path: Path) -> None:
    assert micro.metalm("export", runs / "docked-lora", "--merge", "--out", tmp_path / "merged") == 0
    assert micro.metalm("finetune", runs / "micro.yaml", "--model", tmp_path / "merged", "--out", tmp_path / "on") == 0
    lineage = json.loads((tmp_path / "on" / "adapter" / "lineage.json").read_text())
    assert lineage["ancestors"][0]["lineage"]["ancestors"][0]["lineage"]["command"] == "pretrain"


# -- standalone, parts ------------------------------------------------------------------------------------------------


def test_standalone_adds_a_modelling_file_and_says_how_to_load_it(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert micro.metalm("export", runs / "docked", "--standalone", "--out", out) == 0
    assert names(out) == {*names(runs / "docked" / "model"), "modeling_metalm.py", "generation_config.json"}
    assert json.loads((out / "config.json").read_text())["auto_map"]["AutoConfig"] == "modeling_metalm.MetaLMConfig"
    card = (out / "README.md").read_text()
    assert "## Recipe" in card
    program = card.partition("## Use without metalm")[2].partition("```python\n")[2].partition("```")[0]
    assert 'AutoTokenizer.from_pretrained(folder, subfolder="processors/text")' in program
    compile(program, "card", "exec")
    torch.testing.assert_close(logits(out), logits(runs / "docked"))
    merged = tmp_path / "merged"
    assert micro.metalm("export", runs / "docked-lora", "--merge", "--standalone", "--out", merged) == 0
    assert "modeling_metalm.py" in names(merged)
    torch.testing.assert_close(logits(merged), logits(runs / "docked-lora"), atol=1e-5, rtol=1e-5)


def test_a_part_is_a_model_of_its_own(runs: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    out = tmp_path / "encoder"
    assert micro.metalm("export", runs / "docked-lora", "--merge", "--part", "encoders.text", "--out", out) == 0
    assert names(out) >= {"config.json", "model.safetensors", "tokenizer.json", "lineage.json", "README.md"}
    assert "AutoModelForTextEncoding.from_pretrained" in (out / "README.md").read_text()
    _, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    decoder = tmp_path / "decoder"
    assert micro.metalm("export", runs / "docked", "--part", "decoder", "--out", decoder) == 0
    recipe = [runs / "micro.yaml", "train.steps=1", f"model.decoder.checkpoint={decoder}", "model.checkpoint=null"]
    recipe += [f"model.encoders.text.checkpoint={out}", "model.lora=null"]
    assert micro.metalm("finetune", *recipe, "--out", tmp_path / "on") == 0
    ancestors = json.loads((tmp_path / "on" / "model" / "lineage.json").read_text())["ancestors"]
    assert [(each["part"], each["lineage"]["command"]) for each in ancestors] == [
        ("decoder", "pretrain"),
        ("encoders.text", "finetune"),
    ]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("docked", ["--standalone", "--part", "decoder"], "--standalone and --part exclude each other"),
        ("twin", ["--standalone"], "the model needs no modelling file"),
        ("docked-lora", ["--standalone"], "an adapter alone does not load without its base"),
        ("docked-lora", ["--part", "decoder"], "an adapter alone does not load without its base"),
        ("twin-lora", ["--merge", "--standalone"], "the model needs no modelling file"),
        ("docked", ["--part", "connectors.text"], "the model has no part 'connectors.text'"),
    ],
)
def test_exports_that_make_no_sense(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, options: list[str], message: str
) -> None:
    assert micro.metalm("export", runs / source, *options, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "remedy:" in error
    assert not list(tmp_path.iterdir())


# -- copied -----------------------------------------------------------------------------------------------------------


def test_a_model_is_copied_without_what_a_run_leaves(runs: Path, tmp_path: Path) -> None:
    source = tmp_path / "run"
    shutil.copytree(runs / "docked", source)
    for name in ("trainer_state.json", "optimizer.pt", "training_args.bin", "code.py", ".hidden.json", "notes.log"):
        (source / "model" / name).write_text("{}")
    (source / "model" / "checkpoint-5").mkdir()
    (source / "model" / "checkpoint-5" / "config.json").write_text("{}")
    assert micro.metalm("export", source, "--out", tmp_path / "out") == 0
    exported = tmp_path / "out"
    assert names(exported) == names(runs / "docked" / "model")
    for name in names(exported):
        assert (exported / name).read_bytes() == (runs / "docked" / "model" / name).read_bytes()


def test_an_adapter_is_copied_and_finds_its_base_from_there(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "far" / "away"
    assert micro.metalm("export", runs / "docked-lora", "--out", out) == 0
    assert names(out) == names(runs / "docked-lora" / "adapter")
    fields = json.loads((out / "metalm_adapter.json").read_text())["base"]
    assert (out / fields["relative"]).resolve() == (runs / "docked" / "model").resolve()
    assert torch.equal(logits(out), logits(runs / "docked-lora"))


def test_a_moved_base(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "twin-lora" / "adapter", tmp_path / "adapter")
    shutil.copytree(runs / "twin" / "model", tmp_path / "base")
    fields = json.loads((tmp_path / "adapter" / "metalm_adapter.json").read_text())
    fields["base"] |= {"checkpoint": str(tmp_path / "gone"), "relative": "../gone"}
    (tmp_path / "adapter" / "metalm_adapter.json").write_text(json.dumps(fields))
    assert micro.metalm("export", tmp_path / "adapter", "--merge", "--out", tmp_path / "no") == 2
    line = ["export", tmp_path / "adapter", "--base", tmp_path / "base"]
    assert micro.metalm(*line, "--merge", "--out", tmp_path / "merged") == 0
    assert micro.metalm(*line, "--out", tmp_path / "copied") == 0
    for name in ("merged", "copied"):
        torch.testing.assert_close(logits(tmp_path / name), logits(runs / "twin-lora"), atol=1e-5, rtol=1e-5)


def test_the_newest_run_may_be_an_adapter(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("docked", "docked-lora", "twin-lora"):
        shutil.copytree(runs / name, tmp_path / "runs" / name)
    (tmp_path / "cards").mkdir()
    for name in ("parity.yaml", "parity.jsonl"):
        shutil.copy(runs / name, tmp_path / "cards")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    line = ["evaluate", "--cards", "cards", "--task", "parity", "--templates", runs / "words", "--limit", 2]
    assert micro.metalm(*line, "--offline") == 0, capsys.readouterr().err
    assert "runs/docked-lora (the newest run of finetuning)" in capsys.readouterr().err
    results = json.loads(next((tmp_path / "runs" / "docked-lora" / "results").glob("*.json")).read_text())
    assert results["model"]["encoders"] == ["text"]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["docked", "--out", "docked-lora"], "the folder exists already"),
        (["docked", "--merge", "--out", "new"], "nothing to merge"),
        (["docked", "--base", "twin", "--out", "new"], "only an adapter has a base"),
        (["docked-lora", "--merge", "--base", "twin", "--out", "new"], "other weights than in training"),
        (["nowhere", "--out", "new"], "nowhere"),
        (["docked"], "no destination is given"),
        (["docked", "--out", "new", "--private"], "--private does nothing without --push"),
        (["docked", "--out", "new", "--push", "a b"], "not a valid hub repository name"),
        (["docked", "--push", "me/model", "--offline"], "exclude each other"),
    ],
)
def test_wrong_usage(
    runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(path.name for path in runs.iterdir())
    capsys.readouterr()
    assert micro.metalm("export", *arguments) == 2
    output = capsys.readouterr().err
    assert output.count("error:") == 1
    assert message in output
    assert "remedy:" in output
    assert sorted(path.name for path in runs.iterdir()) == before


def test_a_failed_export_leaves_nothing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metalm_cli.training.export.fsync_tree", full)
    assert micro.metalm("export", runs / "docked", "--out", tmp_path / "out") == 1
    assert "no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stopped_export_leaves_nothing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from metalm_cli.training import export

    copy_model = export.copy_model

    def stopped(source: Path, target: Path) -> None:
        copy_model(source, target)
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(export, "copy_model", stopped)
    assert micro.metalm("export", runs / "docked", "--out", tmp_path / "out") == 130
    assert list(tmp_path.iterdir()) == []


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[UploadServer]:
    with UploadServer() as server:
        yield server


def run_on_hub(hub: UploadServer, home: Path, *arguments: object, token: str | None = TOKEN) -> Any:
    """Run a command in a process that uses this hub."""
    more = {} if token is None else {"HF_TOKEN": token}
    environment = hub.environment(home, HF_HUB_DISABLE_XET="1", **more)
    line = [micro.sys.executable, "-c", RUN, *map(str, arguments)]
    return subprocess.run(line, env=environment, cwd=home, text=True, capture_output=True, timeout=120, check=False)


def test_push_and_load_from_there(runs: Path, tmp_path: Path, hub: UploadServer) -> None:
    done = run_on_hub(hub, tmp_path, "export", runs / "docked-lora", "--merge", "--push", "me/merged", "--private")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/me/merged" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert hub.repos["models", "me/merged"].private
    files = hub.files("me/merged")
    assert set(files) >= {"README.md", "model.safetensors", "config.json", "processors/text/tokenizer.json"}
    assert b"merged into the weights" in files["README.md"]
    program = """
import sys, metalm_cli as metalm
from metalm_cli import Causal, Docked, Session
for source in sys.argv[1:]:
    found = metalm.load(source)
    score = found.log_likelihood([Session([Docked("text", "A fox can hide."), Causal("yes", trained=True)])])
    print(f"{score.item():.4f}")
"""
    line = [micro.sys.executable, "-c", program, "me/merged", str(runs / "docked-lora")]
    environment = hub.environment(tmp_path, HF_TOKEN=TOKEN)
    loaded = subprocess.run(line, env=environment, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    there, here = loaded.stdout.split()
    assert there == here
    again = run_on_hub(hub, tmp_path, "export", runs / "docked", "--push", "me/merged")
    assert again.returncode == 1
    assert "me/merged is not empty" in again.stderr
    assert hub.files("me/merged") == files


@pytest.mark.slow
def test_an_adapter_whose_base_is_on_the_hub(runs: Path, tmp_path: Path, hub: UploadServer) -> None:
    model = runs / "docked" / "model"
    hub.add("models", "me/base", {name: (model / name).read_bytes() for name in names(model)})
    adapter = tmp_path / "adapter"
    shutil.copytree(runs / "docked-lora" / "adapter", adapter)
    refused = run_on_hub(hub, tmp_path, "export", adapter, "--push", "me/adapter")
    assert refused.returncode == 2
    assert "the base of this adapter is a local folder" in refused.stderr
    fields = json.loads((adapter / "metalm_adapter.json").read_text())
    fields["base"] |= {"checkpoint": "me/base", "relative": None}
    (adapter / "metalm_adapter.json").write_text(json.dumps(fields))
    done = run_on_hub(hub, tmp_path, "export", adapter, "--push", "me/adapter")
    assert done.returncode == 0, done.stderr
    assert set(hub.files("me/adapter")) == {*names(adapter), ".gitattributes"}
    merged = run_on_hub(hub, tmp_path, "export", "me/adapter", "--merge", "--out", tmp_path / "merged")
    assert merged.returncode == 0, merged.stderr
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(runs / "docked-lora"), atol=1e-5, rtol=1e-5)


def test_push_without_permission(runs: Path, tmp_path: Path, hub: UploadServer) -> None:
    logged_out = run_on_hub(hub, tmp_path, "export", runs / "twin", "--push", "me/model", token=None)
    assert logged_out.returncode == 2
    assert "hf auth login" in logged_out.stderr
    assert hub.requests == []
    hub.failing["/api/repos/create"] = 403
    forbidden = run_on_hub(hub, tmp_path, "export", runs / "twin", "--push", "me/model", "--out", tmp_path / "out")
    assert forbidden.returncode == 1
    assert "no access to me/model" in forbidden.stderr
    assert TOKEN not in forbidden.stdout + forbidden.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file(), "what was exported stays"


def test_a_public_repository_takes_nothing_private(runs: Path, tmp_path: Path, hub: UploadServer) -> None:
    hub.add("models", "me/open", {})
    done = run_on_hub(hub, tmp_path, "export", runs / "twin", "--push", "me/open", "--private")
    assert done.returncode == 1
    assert "exists and is public" in done.stderr
    assert hub.files("me/open") == {}
