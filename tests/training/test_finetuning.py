"""Finetuning through the real command: a step does not depend on packing, micro-batches and processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_runs as micro
from task_fixtures import TASK_SECTIONS, write_task

MODEL = micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")
RECIPE = "command: finetune\n" + MODEL + TASK_SECTIONS.replace("sample_continuations: 1", "sample_continuations: 0")
VARIANTS: dict[str, tuple[list[str], int, dict[str, str]]] = {
    "pad": (["data.row_packing=pad"], 1, {}),
    "pack": (["data.row_packing=pack"], 1, {}),
    "whole": (["data.row_packing=pad", "train.micro_batch_size=8"], 1, {}),
    "bounded": (["data.row_packing=pack", "data.encoder_tokens=96"], 1, {}),
    "micro": (["data.row_packing=pad", "train.micro_batch_size=3"], 1, {}),
    "workers": (["data.row_packing=pad", "data.workers=2"], 1, {}),
    "two": (["data.row_packing=pack", "train.micro_batch_size=1"], 2, {}),
    "fsdp": (
        ["data.row_packing=pack", "train.micro_batch_size=1"],
        2,
        micro.FSDP,
    ),
}
Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of different lengths and clusters, and a recipe that trains on them."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder, "parity", 24, cluster="nli")
    write_task(folder, "other", 12, cluster="misc", words=1)
    write_task(folder, "long", 16, cluster="misc", words=30)
    return micro.write_recipe(folder, RECIPE.replace("FOLDER", str(folder)))


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")

    def run(variant: str, average: str = "token", teacher: str = "") -> Path:
        out = folder / f"{variant}-{average}-{teacher}"
        if not out.exists():
            arguments, world, environment = VARIANTS[variant]
            line = ["finetune", recipe, *arguments, f"train.loss_average={average}", "--out", out]
            line += [f"train.distill={{teacher: {teacher}}}"] if teacher else []
            codes, printed = micro.run_processes(
                line, folder, world, environment, lambda rank: micro.watch_steps(Path(f"{out}.{rank}"))
            )
            assert codes == [0] * world, "\n".join(printed)
        return out

    return run


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_same_weights(first_run: Path, second_run: Path) -> None:
    first_losses, second_losses = micro.losses(first_run), micro.losses(second_run)
    assert first_losses == pytest.approx(second_losses, abs=2e-5)
    first_weights, second_weights = weights(first_run), weights(second_run)
    assert max(float((first_weights[name] - second_weights[name]).abs().max()) for name in first_weights) < 2e-5


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "pad"])
def test_a_step_is_the_same_however_its_sessions_are_laid_out(runs: Runs, variant: str) -> None:
    assert_same_weights(runs(variant), runs("pad"))


@pytest.mark.parametrize("variant", ["pack", "fsdp"])
def test_a_step_with_a_teacher_is_the_same_however_its_sessions_are_laid_out(runs: Runs, variant: str) -> None:
    taught, other = runs("pad", "example", teacher="current"), runs(variant, "example", teacher="current")
    assert_same_weights(taught, other)
    kl, other_kl = ([record["kl"] for record in micro.records(run, "")] for run in (taught, other))
    assert min(kl) > 0
    assert kl == pytest.approx(other_kl, abs=2e-5)
    assert micro.difference(weights(taught), weights(runs("pad", "example"))) > 1e-4


@pytest.mark.parametrize("average", ["example", "task"])
@pytest.mark.parametrize("variant", ["pack", "micro", "two"])
def test_a_step_is_the_same_for_every_average(runs: Runs, variant: str, average: str) -> None:
    assert_same_weights(runs(variant, average), runs("pad", average))


def test_the_averages_differ(runs: Runs) -> None:
    models = {average: weights(runs("pad", average)) for average in ("token", "example", "task")}
    names = list(models)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert micro.difference(models[name], models[other]) > 1e-4, (name, other)


@pytest.mark.parametrize("variant", ["pack", "two"])
def test_a_step_reads_exactly_its_numbers(runs: Runs, variant: str) -> None:
    out = runs(variant)
    ranks = [micro.watched_steps(Path(f"{out}.{rank}")) for rank in range(VARIANTS[variant][1])]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        numbers = sorted(number for share in shares for batch in share["numbers"] for number in batch)
        assert numbers == list(range(step * 8, step * 8 + 8))


def test_a_packed_step_is_one_pass_on_a_cpu(runs: Runs) -> None:
    passes = {
        variant: [len(step["numbers"]) for step in micro.watched_steps(Path(f"{runs(variant)}.0"))]
        for variant in ("pack", "pad")
    }
    assert set(passes["pack"]) == {1}
    assert max(passes["pad"]) > 1


def test_losses_are_logged_per_task_and_cluster(runs: Runs) -> None:
    out = runs("pad")
    logged_tasks = set().union(*(record["task_loss"] for record in micro.records(out)))
    assert logged_tasks == {"parity", "other", "long"}
    (validation,) = micro.records(out, "validation")
    tasks, clusters = validation["task_loss"], validation["cluster_loss"]
    assert clusters["nli"] == pytest.approx(tasks["parity"])
    assert clusters["misc"] == pytest.approx((tasks["other"] + tasks["long"]) / 2)
    assert validation["loss"] == pytest.approx((clusters["nli"] + clusters["misc"]) / 2)


def test_lineage_lists_the_training_tasks(runs: Runs) -> None:
    lineage = json.loads((runs("pad") / "model" / "lineage.json").read_text())
    assert lineage["command"] == "finetune"
    assert lineage["tasks"] == ["parity", "other", "long"]
    assert lineage["clusters"] == ["misc", "nli"]
    assert {source["name"] for source in lineage["data"]} == {"parity", "other", "long"}


@pytest.mark.parametrize(
    "overrides", [[], ["data.workers=2"], ["data.row_packing=pack"], ["data.workers=1", "train.distill={}"]]
)
def test_resumed_equals_uninterrupted(recipe: Path, overrides: list[str], tmp_path: Path) -> None:
    uninterrupted, source_run = tmp_path / "whole", tmp_path / "parts"
    line = ["finetune", recipe, *overrides, "train.steps=6", "train.checkpoint_every=2", "train.keep_checkpoints=9"]
    assert micro.metalm(*line, "--out", uninterrupted) == 0
    assert micro.metalm(*line, "--out", source_run) == 0
    interrupted = micro.interrupted_copy(source_run, tmp_path / "cut", 2)
    assert micro.metalm("finetune", "--resume", "--out", interrupted) == 0
    assert micro.records(interrupted, "") == micro.records(uninterrupted, "")
    resumed_weights, expected_weights = weights(interrupted), weights(uninterrupted)
    assert all(torch.equal(resumed_weights[name], expected_weights[name]) for name in resumed_weights)


def test_a_run_stops_when_nothing_gets_better_and_keeps_the_best(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["train.steps=40", "train.learning_rate=0.3", "train.validate_every=1", "train.patience=3"]
    assert micro.metalm("finetune", recipe, *line, "train.final=best", "--out", out) == 0
    records = micro.records(out, "validation")
    best = min(records, key=lambda record: record["loss"])
    assert records[-1]["step"] == best["step"] + 3 < 40
    saved = weights(out)
    best_checkpoint = micro.checkpoint(out, best["step"])["model"]
    last_checkpoint = micro.checkpoint(out, records[-1]["step"])["model"]
    name = "connectors.text.0.weight"
    assert torch.equal(saved[name], best_checkpoint[f"model.{name}"])
    assert not torch.equal(saved[name], last_checkpoint[f"model.{name}"])


def test_a_twin_without_encoders_reads_the_same_characters(recipe: Path, tmp_path: Path) -> None:
    docked, twin = tmp_path / "docked", tmp_path / "twin"
    assert micro.metalm("finetune", recipe, "--out", docked) == 0
    reader = docked / "model" / "processors" / "text"
    assert reader.is_dir()
    line = [
        "model.encoders=null",
        f"model.decoder.tokenizer={docked / 'tokenizers' / 'decoder'}",
        f"data.match_input_lengths_of=[{{tokenizer: {reader}, length: 96}}]",
    ]
    assert micro.metalm("finetune", recipe, *line, "--out", twin) == 0
    docked_record, twin_record = micro.records(docked)[-1], micro.records(twin)[-1]
    assert docked_record["cut_examples"] == twin_record["cut_examples"] > 0
    assert docked_record["trained_tokens"] == twin_record["trained_tokens"]
    assert twin_record["docked_positions"] == 0


def test_a_dry_run_changes_nothing(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert micro.metalm("finetune", recipe, "--dry-run") == 0
    output = capsys.readouterr().out
    assert "parity" in output
    assert "drawn" in output
    assert list(tmp_path.iterdir()) == []
