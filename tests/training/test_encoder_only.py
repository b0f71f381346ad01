"""Finetuning with a frozen interface (section 3.4 of the paper) and with adapters: frozen parts do not change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_runs as micro
from metalm_cli.training.trainer import Trainer
from task_fixtures import write_task

TASKS = """
command: finetune
data:
  tasks: [FOLDER/parity.yaml, FOLDER/other.yaml]
  templates: {collection: FOLDER/words, template_sampling: index}
  sequence_length: 96
  validation: {examples: 2}
train:
  steps: 6
  batch_size: 4
  micro_batch_size: 2
  learning_rate: 3e-3
  warmup_steps: 1
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 2
  keep_checkpoints: 9
  sample_continuations: 0
"""
LORA = ["model.lora.rank=2", "model.lora.dropout=0.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two tasks, their recipe ``micro.yaml``, and a pretrained base with dropout in every part."""
    root = tmp_path_factory.mktemp("encoder-only")
    write_task(root, "parity", 16, cluster="nli")
    write_task(root, "other", 12, cluster="misc", words=1)
    pretrain = micro.write_recipe(root, micro.RECIPE.replace("dropout: 0.0", "dropout: 0.3"), "base.yaml")
    longer = ["model.decoder.config.n_positions=96", "model.encoders.text.config.max_position_embeddings=96"]
    assert micro.metalm("pretrain", pretrain, *longer, "train.steps=2", "--out", root / "base") == 0
    micro.write_recipe(root, TASKS.replace("FOLDER", str(root)))
    return root


@pytest.fixture(scope="module")
def twin(folder: Path) -> Path:
    """A base without encoders."""
    arguments = ["model.encoders=null", "objective.name=causal", "model.decoder.config.n_positions=96"]
    steps = ["train.steps=1", "train.warmup_steps=0"]
    assert micro.metalm("pretrain", folder / "base.yaml", *arguments, *steps, "--out", folder / "twin") == 0
    return folder / "twin"


def finetune(folder: Path, out: str, *arguments: object) -> int:
    base = [] if "--model" in arguments else ["--model", folder / "base"]
    return micro.metalm("finetune", folder / "micro.yaml", *base, *arguments, "--out", folder / out)


def part_hash(tensors: dict[str, torch.Tensor], name: str) -> str:
    """Sha256 of a part's weights and their names."""
    digest = hashlib.sha256()
    for key in sorted(key for key in tensors if key.startswith(name)):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    assert any(key.startswith(name) for key in tensors)
    return digest.hexdigest()


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Properties of the trained model before each update."""
    updates: list[dict[str, Any]] = []
    update: Callable[..., Any] = Trainer.update

    def updated(self: Any, *arguments: Any) -> Any:
        decoder = self.root.model.decoder
        updates.append(
            {
                "gradients": sorted(key for key, parameter in decoder.named_parameters() if parameter.grad is not None),
                "training": sum(module.training for module in decoder.modules()),
                "encoder": all(module.training for module in self.root.model.encoders.modules()),
                "groups": sorted({group["name"].rpartition(".")[0] for group in self.optimizer.param_groups}),
            }
        )
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "update", updated)
    return updates


# -- the encoder alone ------------------------------------------------------------------------------------------------


def test_the_interface_is_bit_identical_and_the_rest_has_moved(folder: Path, updates: list[dict[str, Any]]) -> None:
    assert finetune(folder, "encoder-only", "--encoder-only") == 0
    before, after = weights(folder / "base"), weights(folder / "encoder-only")
    assert before.keys() == after.keys()
    assert part_hash(after, "decoder.") == part_hash(before, "decoder.")
    assert part_hash(after, "encoders.") != part_hash(before, "encoders.")
    assert part_hash(after, "connectors.") != part_hash(before, "connectors.")
    assert len(updates) == 6
    assert all(update["gradients"] == [] for update in updates), "the decoder gets no gradients"
    assert all(update["training"] == 0 for update in updates), "dropout of the decoder is off"
    assert all(update["encoder"] for update in updates), "dropout of the encoder is on"
    assert all(update["groups"] == ["connectors.text", "encoders.text"] for update in updates)
    config = json.loads((folder / "encoder-only" / "model" / "config.json").read_text())
    assert {name: training["train"] for name, training in config["training"].items()} == {
        "decoder": "none",
        "encoders.text": "all",
        "connectors.text": "all",
    }


def test_without_the_flag_the_interface_moves(folder: Path, updates: list[dict[str, Any]]) -> None:
    assert finetune(folder, "everything", "train.steps=1", "train.checkpoint_every=0") == 0
    assert part_hash(weights(folder / "everything"), "decoder.") != part_hash(weights(folder / "base"), "decoder.")
    assert updates[0]["gradients"]
    assert updates[0]["training"] > 10


def test_the_plan_counts_what_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = weights(folder / "base")
    sizes = {
        name: sum(tensor.numel() for key, tensor in tensors.items() if key.startswith(name))
        for name in ("encoders.", "connectors.", "decoder.")
    }
    capsys.readouterr()
    base = ["--model", folder / "base"]
    assert micro.metalm("finetune", folder / "micro.yaml", *base, "--encoder-only", "--dry-run") == 0
    output = capsys.readouterr().out
    plan = " ".join(output.split())
    trained = sizes["encoders."] + sizes["connectors."]
    assert f"{sum(sizes.values()):,} parameters, {trained:,} train" in plan
    assert f"GPT2LMHeadModel {sizes['decoder.']:,} 0 none -" in plan
    assert f"{sizes['encoders.']:,} {sizes['encoders.']:,} all" in plan


def test_adapters_of_the_decoder_of_a_model_without_encoders(folder: Path, twin: Path) -> None:
    """The recipe of multi-task finetuning trains encoders, which a plain model does not have."""
    parts = ["model.trains.encoders=all", "model.lora.parts=[decoder]", "model.lora.rank=2"]
    assert finetune(folder, "plain-adapter", "--model", twin, *parts, "train.steps=1") == 0
    assert (folder / "plain-adapter" / "adapter" / "decoder" / "adapter_model.safetensors").is_file()


def test_a_model_without_encoders(folder: Path, twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert finetune(folder, "no", "--model", twin, "--encoder-only") == 2
    output = capsys.readouterr().err
    assert output.count("error:") == 1
    assert "no encoder to train" in output
    assert "leave out --encoder-only" in output
    assert not (folder / "no").exists()


# -- adapters through the command -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(folder: Path) -> Path:
    """Uninterrupted run of adapters."""
    assert finetune(folder, "lora", *LORA) == 0
    return folder / "lora"


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_an_adapter_run_leaves_its_base_alone_and_no_weights_of_it(folder: Path, lora: Path) -> None:
    before = {name: (folder / "base" / "model" / name).read_bytes() for name in files(folder / "base" / "model")}
    assert finetune(folder, "again", *LORA, "train.steps=1") == 0
    assert files(folder / "base" / "model") == before
    assert not (lora / "model").exists()
    assert sorted(files(lora / "adapter")) == [
        "README.md",
        "connectors.safetensors",
        "decoder/adapter_config.json",
        "decoder/adapter_model.safetensors",
        "encoders/text/adapter_config.json",
        "encoders/text/adapter_model.safetensors",
        "lineage.json",
        "metalm_adapter.json",
    ]
    saved = micro.checkpoint(lora, 6)["model"]
    assert all(".lora_" in name or ".connectors." in name for name in saved), "checkpoints hold no weights of the base"
    lineage = json.loads((lora / "adapter" / "lineage.json").read_text())
    assert lineage["ancestors"][0]["lineage"]["command"] == "pretrain"
    trained = load_file(lora / "adapter" / "decoder" / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for tensor in trained.values())


def test_the_base_of_adapters_is_bf16_in_a_bf16_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes: list[set[tuple[bool, torch.dtype]]] = []
    update: Callable[..., Any] = Trainer.update

    def updated(self: Any, *arguments: Any) -> Any:
        named = self.root.named_parameters()
        dtypes.append({(".lora_" in name or ".connectors." in name, weight.dtype) for name, weight in named})
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "update", updated)
    assert finetune(folder, "half", *LORA, "train.precision=bf16", "train.steps=2") == 0
    assert dtypes == [{(True, torch.float32), (False, torch.bfloat16)}] * 2
    adapters = load_file(folder / "half" / "adapter" / "decoder" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapters.values()} == {torch.float32}
    assert all(".lora_" in name or ".connectors." in name for name in micro.checkpoint(folder / "half", 2)["model"])


def test_the_first_loss_is_that_of_the_base(folder: Path) -> None:
    # Validation has no dropout, and the step before it has no effect at this learning rate.
    still = ["train.steps=1", "train.checkpoint_every=0", "train.learning_rate=1e-30", "train.validate_every=1"]
    frozen = ["model.trains.decoder=none", "model.trains.encoders=none"]
    narrow = ["model.lora.parts=[encoders]", "model.lora.rank=1", "model.trains.decoder=none"]
    assert finetune(folder, "still", *frozen, *still) == 0
    assert finetune(folder, "adapted", *LORA, *still) == 0
    assert finetune(folder, "narrow", *narrow, *still) == 0
    losses = [micro.records(folder / run, "validation")[-1]["loss"] for run in ("still", "adapted", "narrow")]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("step", [2, 4])
def test_resumed_equals_uninterrupted(lora: Path, tmp_path: Path, step: int) -> None:
    out = tmp_path / "run"
    shutil.copytree(lora, out)
    shutil.rmtree(out / "adapter")
    for checkpoint in (out / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    assert micro.metalm("finetune", "--out", out, "--resume") == 0
    first, second = micro.checkpoint(lora, 6), micro.checkpoint(out, 6)
    for group in ("model", "optimizer"):
        assert micro.difference(first[group], second[group]) == 0.0
    assert micro.records(lora, "") == micro.records(out, "")
    files_before, files_after = files(lora / "adapter"), files(out / "adapter")
    described = ("metalm_adapter.json",)  # holds the relative path of the base
    assert {name: files_before[name] for name in files_before if name not in described} == {
        name: files_after[name] for name in files_after if name not in described
    }


def test_resumed_on_another_base(folder: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(folder / "base", base)
    assert finetune(folder, str(out), "--model", base, *LORA, "train.steps=2") == 0
    shutil.rmtree(out / "adapter")
    file = base / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["decoder.transformer.wte.weight"][0] += 1.0
    save_file(tensors, file, {"format": "pt"})
    capsys.readouterr()
    assert micro.metalm("finetune", "--out", out, "--resume", "train.steps=3") == 2
    assert "the base model's weights have changed since this run started" in capsys.readouterr().err


def test_two_processes_train_the_same_adapters(folder: Path, tmp_path: Path) -> None:
    quiet = ["model.lora.rank=2", "train.steps=3", "train.checkpoint_every=0", "train.micro_batch_size=1"]
    line = ["finetune", folder / "nodrop.yaml", "--model", folder / "still-base", *quiet]
    shutil.copytree(folder / "base" / "model", folder / "still-base")
    config = json.loads((folder / "still-base" / "config.json").read_text())
    for part_config in (config["decoder_config"], config["encoder_configs"]["text"]):
        part_config.update(
            {key: 0.0 for key in part_config if "pdrop" in key or ("dropout" in key and part_config[key] == 0.3)}
        )
    (folder / "still-base" / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / "micro.yaml", folder / "nodrop.yaml")
    assert micro.metalm(*line, "--out", tmp_path / "one") == 0
    codes, printed = micro.run_processes([*line, "--out", tmp_path / "two"], tmp_path, 2)
    assert codes == [0, 0], printed
    assert micro.losses(tmp_path / "one") == pytest.approx(micro.losses(tmp_path / "two"), abs=2e-5)
    for name in ("decoder", "encoders/text"):
        first, second = (
            load_file(tmp_path / run / "adapter" / name / "adapter_model.safetensors") for run in ("one", "two")
        )
        assert micro.difference(first, second) < 2e-5


# -- contradictory options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--encoder-only"], "set model.lora.parts=[encoders], or model.trains.decoder=all"),
        (["model.lora.parts=[encoders.vision]"], "model.lora.parts: encoders.vision"),
        (["model.lora.parts=[connectors]"], "model.lora.parts"),
        (
            ["model.lora.parts=[decoder]", "model.encoders.text.learning_rate=1e-3"],
            "set model.trains.encoders=all to train encoders.text in full beside adapters",
        ),
        (
            ["model.lora.learning_rate=1e-3", "model.decoder.learning_rate=1e-3"],
            "remove model.decoder.learning_rate or model.lora.learning_rate",
        ),
        (["model.lora.targets=[nothing]"], "its linear layers without the output head: c_attn, c_fc, c_proj"),
        (["model.lora.rank=0"], "model.lora.rank"),
    ],
)
def test_contradictory_options(
    folder: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert finetune(folder, "no", "model.lora.rank=2", *arguments) == 2
    output = capsys.readouterr().err
    assert output.count("error:") == 1
    assert says in output
    assert not (folder / "no").exists()
