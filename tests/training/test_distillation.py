"""Runs with a teacher through the real command: the plan, the records, adapters, and what cannot be taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tiny_runs as micro
from task_fixtures import TASK_SECTIONS, write_task

MODEL = micro.MODEL.replace("embeddings: 64", "embeddings: 96")
MIXED = (
    "objective={name: mixed, continuation: {name: prefix, prefix_length: [4, 8]}, "
    "reconstruction: {span_length: [4, 8]}, reconstruction_share: 0.5}"
)
QUICK = ["train.steps=3", "data.validation.documents=1", "train.dock_worth_sessions=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining recipe, a finetuning recipe on short and long texts, and a base model."""
    folder = tmp_path_factory.mktemp("teacher")
    micro.write_recipe(folder)
    write_task(folder, "parity", 24, cluster="nli", words=0)
    write_task(folder, "long", 16, words=40)
    tasks = TASK_SECTIONS.replace("FOLDER/other.yaml, ", "").replace("FOLDER", str(folder))
    tasks = tasks.replace("sequence_length: 128", "sequence_length: 64").replace("continuations: 1", "continuations: 0")
    text = f"command: finetune\n{MODEL}  connector: {{kind: stack, factor: 4}}\n{tasks}"
    micro.write_recipe(folder, text, "tasks.yaml")
    assert micro.metalm("finetune", folder / "tasks.yaml", "train.steps=2", "--out", folder / "base") == 0
    return folder


def finetune(folder: Path, name: str, *overrides: str) -> int:
    line = ["finetune", folder / "tasks.yaml", "model={checkpoint: " + str(folder / "base") + "}", *overrides]
    return micro.metalm(*line, "--out", folder / name)


def test_losses_are_recorded_apart_and_a_teacher_without_weight_changes_nothing(folder: Path, tmp_path: Path) -> None:
    runs = {"none": [], "tiny": ["train.distill={weight: 1.0e-9}"], "full": ["train.distill={}"]}
    for name, overrides in runs.items():
        line = ["pretrain", folder / "micro.yaml", MIXED, *QUICK, *overrides, "--out", tmp_path / name]
        assert micro.metalm(*line) == 0
    none, tiny, full = (micro.records(tmp_path / name, "") for name in runs)
    kinds = {"continuation_loss", "reconstruction_loss"}
    assert kinds | {"bits_per_byte"} <= set().union(*none)
    assert "kl" not in set().union(*none)
    for record, other, taught in zip(none, tiny, full, strict=True):
        assert other["loss"] == pytest.approx(record["loss"], abs=1e-6)
        assert set(taught) - set(record) <= {"kl", "distilled_tokens", "untaught_sessions"}
    assert "kl" in tiny[-1], "validation measures the divergence"
    assert full[-1]["loss"] != pytest.approx(none[-1]["loss"], abs=1e-6)


def test_resumed_equals_uninterrupted(folder: Path, tmp_path: Path) -> None:
    line = ["pretrain", folder / "micro.yaml", MIXED, *QUICK, "train.distill={}", "train.steps=5"]
    line += ["train.checkpoint_every=2", "train.keep_checkpoints=9", "data.sequence_length=48"]
    whole = tmp_path / "whole"
    assert micro.metalm(*line, "--out", whole) == 0
    resumed = micro.interrupted_copy(whole, tmp_path / "resumed", 2)
    assert micro.metalm("pretrain", "--resume", "--out", resumed) == 0
    micro.assert_same_run(whole, resumed, 5)


def test_the_plan_names_the_teacher_and_what_it_cannot_read(folder: Path, capsys: Any) -> None:
    arguments = ["train.distill={weight: 3.0}", "--dry-run"]
    assert micro.metalm("pretrain", folder / "micro.yaml", MIXED, *arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "mixed (continuation prefix: prefix_length 4-8, reconstruction: span_length 4-8, mark" in printed
    assert "teacher: the decoder reads the docks as text in a further forward pass without gradient" in printed
    assert "they weigh 3" in printed
    assert micro.metalm("finetune", folder / "tasks.yaml", *arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "sampled sessions have none: as text they are longer than the 64 positions that the decoder reads" in printed


def test_sessions_without_a_teacher_are_counted_in_the_records(folder: Path) -> None:
    assert finetune(folder, "counted", "train.distill={}") == 0
    last = micro.records(folder / "counted")[-1]
    assert last["untaught_sessions"] > 0
    assert last["distilled_tokens"] > 0


@pytest.mark.parametrize("adapted", ["decoder", "encoders"])
def test_the_teacher_of_an_adapted_decoder(folder: Path, adapted: str, capsys: Any) -> None:
    lora = f"model.lora={{rank: 2, parts: [{adapted}]}}"
    if adapted == "encoders":
        assert finetune(folder, "refused", lora, "train.distill={teacher: base}") == 2
        assert "train.distill.teacher" in capsys.readouterr().err
        return
    adapters = {}
    for teacher in ("current", "base"):
        lines = [lora, "model.trains.encoders=none", f"train.distill={{teacher: {teacher}}}"]
        assert finetune(folder, f"adapter-{teacher}", *lines) == 0
        adapters[teacher] = load_file(
            folder / f"adapter-{teacher}" / "adapter" / "decoder" / "adapter_model.safetensors"
        )
    first, second = (micro.records(folder / f"adapter-{teacher}")[0]["kl"] for teacher in adapters)
    assert first == pytest.approx(second, abs=1e-6), "new adapters change nothing"
    assert micro.difference(adapters["current"], adapters["base"]) > 1e-5
    assert all(weight.abs().max() > 0 for weight in adapters["base"].values()), "the adapters train"


def test_a_run_in_which_nothing_has_a_teacher_is_an_error(folder: Path, capsys: Any) -> None:
    arguments = [f"data.tasks=[{folder}/long.yaml]", "train.distill={}", "--out", folder / "nothing"]
    assert micro.metalm("finetune", folder / "tasks.yaml", *arguments) == 2
    error = capsys.readouterr().err
    assert "nothing can be distilled" in error
    assert "train.distill" in error
    assert "longer than the decoder reads (64 positions)" in " ".join(error.split())
    assert not (folder / "nothing").exists()


def test_the_recipe_that_aligns_trains_the_connector_alone(tmp_path: Path) -> None:
    tokenizer = "tokenizer: {new: {vocab_size: 400, documents: 100}}"
    sizes = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 48"
    line = [
        f"model.decoder={{config: {{model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2}}, {tokenizer}}}",
        f"model.encoders.text={{config: {{model_type: bert, {sizes}}}, {tokenizer}}}",
        "data.sources.0.world.documents=300",
        *("train.steps=2", "train.warmup_steps=1", "train.log_every=1", "train.batch_size=2"),
        *("train.sample_continuations=0", "data.validation.documents=1"),
    ]
    assert micro.metalm("pretrain", "align", *line, "--out", tmp_path / "run") == 0
    first, _, validation = micro.records(tmp_path / "run", "")
    assert {"loss", "continuation_loss", "kl"} <= first.keys()
    assert {"loss", "continuation_loss", "reconstruction_loss", "kl", "dock_worth"} <= validation.keys()
    trained = micro.checkpoint(tmp_path / "run", 2)["optimizer"]
    assert trained
    assert all("connectors.text" in name for name in trained)
