"""Runs in which some parts train whole beside adapters of others: their rates, resuming, export and continuing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny_runs as micro
from task_fixtures import write_task

TASKS = """
command: finetune
data: {tasks: [FOLDER/parity.yaml], templates: {collection: FOLDER/words}, sequence_length: 64,
  validation: {examples: 2}}
train: {steps: 4, batch_size: 2, learning_rate: 3e-3, warmup_steps: 0, schedule: constant, precision: fp32,
  log_every: 1, validate_every: 0, checkpoint_every: 2, keep_checkpoints: 9, sample_continuations: 0}
"""
WHOLE_ENCODER = ["model.lora={rank: 2, parts: [decoder], learning_rate: 2e-3}", "model.trains.encoders=all"]
WHOLE_ENCODER += ["model.learning_rates.encoders=4e-3", "model.connector.learning_rate=1e-3"]
WHOLE_DECODER = ["model.lora={rank: 2, parts: [encoders]}", "model.trains.decoder=last_1"]
RATES = {
    "encoder": {"decoder": 2e-3, "encoders.text": 4e-3, "connectors.text": 1e-3},
    "decoder": {"decoder": 3e-3, "encoders.text": 3e-3, "connectors.text": 3e-3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a base and the runs ``encoder`` and ``decoder``, named by the part that trains whole."""
    root = tmp_path_factory.mktemp("mixed")
    write_task(root, "parity", 16, cluster="nli")
    pretrain = micro.write_recipe(root, name="base.yaml")
    steps = ["train.steps=1", "train.warmup_steps=0"]
    assert micro.metalm("pretrain", pretrain, *steps, "--out", root / "base") == 0
    micro.write_recipe(root, TASKS.replace("FOLDER", str(root)))
    for name, arguments in (("encoder", WHOLE_ENCODER), ("decoder", WHOLE_DECODER)):
        assert finetune(root, root / name, "--model", root / "base", *arguments) == 0
    return root


def finetune(root: Path, out: Path, *arguments: object) -> int:
    return micro.metalm("finetune", root / "micro.yaml", *arguments, "--out", out)


def logits(source: Path) -> torch.Tensor:
    import metalm_cli as metalm

    model = metalm.load(source, offline=True)
    spans = [metalm.Causal("So:"), metalm.Docked("text", "Clerks sell stamps."), metalm.Causal(" yes", trained=True)]
    batch = model.collate([model.tokenise(metalm.Session(spans))])
    with torch.no_grad():
        return model.model(input_ids=batch.decoder.input_ids, docks=batch.docks).logits


@pytest.mark.parametrize("whole", ["encoder", "decoder"])
def test_every_part_trains_at_its_rate_and_the_base_stays(folder: Path, whole: str) -> None:
    records = micro.records(folder / whole)
    assert [record["learning_rates"] for record in records] == [RATES[whole]] * 4
    assert {record["lr"] for record in records} == {{"encoder": 4e-3, "decoder": 3e-3}[whole]}, "a rate that acts"
    saved = micro.checkpoint(folder / whole, 4)["model"]
    base = load_file(folder / "base" / "model" / "model.safetensors")
    plain = {name.removeprefix("model."): tensor for name, tensor in saved.items()}
    part = "encoders." if whole == "encoder" else "decoder.transformer.h.1."
    assert any(name.startswith(part) for name in plain)
    assert all(name.startswith(("connectors.", part)) or ".lora_" in name for name in plain), "no frozen weights"
    moved = [name for name in plain if name in base and not torch.equal(plain[name], base[name])]
    assert {name for name in base if name.startswith(part)} & set(moved)


@pytest.mark.parametrize("whole", ["encoder", "decoder"])
def test_resumed_equals_uninterrupted(folder: Path, tmp_path: Path, whole: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(folder / whole, out)
    shutil.rmtree(out / "adapter")
    for step in (3, 4):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    assert micro.metalm("finetune", "--out", out, "--resume") == 0
    first, second = micro.checkpoint(folder / whole, 4), micro.checkpoint(out, 4)
    for group in ("model", "optimizer"):
        assert micro.difference(first[group], second[group]) == 0.0
    assert micro.records(folder / whole, "") == micro.records(out, "")
    assert torch.equal(logits(out), logits(folder / whole))


@pytest.mark.parametrize("whole", ["encoder", "decoder"])
def test_exported_merged_and_continued(folder: Path, tmp_path: Path, whole: str) -> None:
    expected = logits(folder / whole)
    assert (expected - logits(folder / "base")).abs().max() > 1e-4
    assert micro.metalm("export", folder / whole, "--out", tmp_path / "copy") == 0
    assert torch.equal(logits(tmp_path / "copy"), expected)
    assert micro.metalm("export", folder / whole, "--merge", "--out", tmp_path / "merged") == 0
    torch.testing.assert_close(logits(tmp_path / "merged"), expected, atol=1e-5, rtol=1e-5)
    assert finetune(folder, tmp_path / "on", "--model", folder / whole, "train.learning_rate=1e-9") == 0
    torch.testing.assert_close(logits(tmp_path / "on"), expected, atol=1e-4, rtol=1e-4)


def test_adapters_of_a_model_that_the_run_assembles_are_merged(folder: Path, tmp_path: Path) -> None:
    recipe, out = folder / "base.yaml", tmp_path / "run"
    adapters = ["model.lora={rank: 2, parts: [decoder]}", "train.warmup_steps=0", "train.steps=4"]
    adapters += ["train.checkpoint_every=2"]
    assert micro.metalm("pretrain", recipe, *adapters, "--out", out) == 0
    assert not (out / "adapter").exists()
    names = load_file(out / "model" / "model.safetensors")
    assert not [name for name in names if "lora" in name]
    assert "merged into the weights" in (out / "model" / "README.md").read_text()
    resumed = micro.interrupted_copy(out, tmp_path / "resumed", 2)
    assert micro.metalm("pretrain", "--resume", "--out", resumed) == 0
    assert micro.difference(load_file(resumed / "model" / "model.safetensors"), names) == 0.0
    assert torch.equal(logits(resumed), logits(out))
