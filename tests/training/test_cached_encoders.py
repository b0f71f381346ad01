"""Cached outputs of frozen encoders in training: the same run, bit for bit, and a choice by measurement."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tiny_runs as micro
from metalm_cli.models.encoder_cache import cached_encoder
from metalm_cli.models.encoder_cache.cached_encoder import CachedEncoder
from metalm_cli.training.compute import encoder_caches
from metalm_cli.training.compute.encoder_caches import CHOICES_FILE, Measurement, RepeatedDocks
from task_fixtures import TASK_SECTIONS, write_task

MODEL = micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")
DROPOUT = MODEL.rpartition("dropout: 0.0")
RECIPE = "command: finetune\n" + "dropout: 0.5\n".join(DROPOUT[::2]) + TASK_SECTIONS
FROZEN = [
    "model.encoders.text.trains=none",
    "data.templates.template_sampling=first",
    "train.steps=8",
    "train.checkpoint_every=4",
    "train.keep_checkpoints=9",
]
VARIANTS = {
    "off": ["train.cache_encoders=off"],
    "alone": ["train.cache_encoders=on", "train.encoder_cache_gb=0"],
    "on": ["train.cache_encoders=on"],
    "small": ["train.cache_encoders=on", "train.encoder_cache_gb=0.0001"],
}
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs the recipe with an own cache, and returns the run folder."""
    write_task(tmp_path, "parity", 24, cluster="nli")
    write_task(tmp_path, "other", 12, cluster="misc", words=1)
    write_task(tmp_path, "long", 16, cluster="misc", words=30)
    recipe = micro.write_recipe(tmp_path, RECIPE.replace("FOLDER", str(tmp_path)))
    for module in (cached_encoder, encoder_caches):
        monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")

    def run(name: str, *settings: str) -> Path:
        line = ["finetune", recipe, *FROZEN, *settings, "--out", tmp_path / name]
        assert micro.metalm(*line) == 0
        return tmp_path / name

    return run


def printed_counts(text: str) -> tuple[int, int]:
    """Numbers of contents read from the cache and encoded, as the last run printed them."""
    line = next(line for line in reversed(text.splitlines()) if "contents read from the cache" in line)
    words = line.replace(",", "").split()
    return int(words[words.index("contents") - 1]), int(words[words.index("encoded") - 1])


def test_a_run_is_the_same_whatever_the_cache_contains(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train("alone", *VARIANTS["alone"])
    reads, total = printed_counts(capsys.readouterr().err)
    assert reads == 0
    cold = train("cold", *VARIANTS["on"])
    reads, encoded = printed_counts(capsys.readouterr().err)
    assert reads + encoded == total
    assert reads > 0
    warm = train("warm", *VARIANTS["on"])
    assert printed_counts(capsys.readouterr().err) == (total, 0)
    shutil.rmtree(tmp_path / "cache")
    small = train("small", *VARIANTS["small"])
    assert 0 <= printed_counts(capsys.readouterr().err)[0] < reads, "a cache that is too small forgets"
    for run in (cold, warm, small):
        micro.assert_same_run(alone, run, 8, same_settings=False)
    off = train("off", *VARIANTS["off"])
    assert micro.losses(off) == pytest.approx(micro.losses(alone), rel=1e-5)


def test_a_run_in_bf16_is_the_same_with_workers(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    alone = train("alone", *VARIANTS["alone"], "train.precision=bf16")
    _, total = printed_counts(capsys.readouterr().err)
    for name in ("cold", "warm"):
        run = train(name, *VARIANTS["on"], "train.precision=bf16", "data.workers=2")
        micro.assert_same_run(alone, run, 8, same_settings=False)
    assert printed_counts(capsys.readouterr().err) == (total, 0)


def test_resumed_equals_uninterrupted(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train("first", *VARIANTS["on"])
    second = tmp_path / "second"
    shutil.copytree(first, second)
    shutil.rmtree(second / "model")
    shutil.rmtree(second / "checkpoints" / "step-00000008")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(encoder_caches, "_choose", lambda *_: pytest.fail("the choice is that of the start"))
    assert micro.metalm("finetune", "--resume", "--out", second, "train.encoder_cache_gb=1") == 0
    micro.assert_same_run(first, second, 8, same_settings=False)


def test_two_processes_share_a_cache(train: Train, tmp_path: Path) -> None:
    for name in ("cold", "warm"):
        line = ["finetune", tmp_path / "micro.yaml", *FROZEN, *VARIANTS["on"], "--out", tmp_path / name]
        codes, printed = micro.run_processes(line, tmp_path)
        assert codes == [0, 0], "\n".join(printed)
    assert printed_counts("\n".join(printed))[1] == 0
    micro.assert_same_run(tmp_path / "cold", tmp_path / "warm", 8)
    single = train("single", *VARIANTS["on"])
    assert micro.losses(tmp_path / "cold") == pytest.approx(micro.losses(single), abs=2e-5)


def test_the_encoder_runs_once_for_each_content_without_dropout(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []
    encode = CachedEncoder.encode

    def watched(self: CachedEncoder, content: Any) -> torch.Tensor:
        dropouts = [module for module in self.encoder.modules() if isinstance(module, nn.Dropout)]
        assert any(module.p == 0.5 for module in dropouts)
        assert not any(module.training for module in dropouts)
        encoded.append(content.key)
        return encode(self, content)

    monkeypatch.setattr(CachedEncoder, "encode", watched)
    monkeypatch.setattr(encoder_caches, "_measure", lambda *_: None)
    train("on", *VARIANTS["on"])
    assert len(encoded) == len(set(encoded)) > 0


# -- the choice -------------------------------------------------------------------------------------------------------


def measured(encode: float, alone: float, write: float, read: float, cached: float = 0.0) -> Measurement:
    return Measurement(encode, alone, write, read, 400_000.0, cached, 16)


def test_the_gain_is_the_time_without_the_cache_over_that_with_it() -> None:
    assert measured(10, 12, 1, 0.5).gain(1) == pytest.approx(10 / 13)
    assert measured(10, 12, 1, 0.5).gain(4) == pytest.approx(40 / (13 + 3 * 0.5))
    assert measured(10, 12, 1, 0.5, cached=1.0).gain(1) == pytest.approx(20)
    assert measured(10, 12, 1, 0.5, cached=0.5).gain(2) == pytest.approx(20 / (6.5 + 1.5 * 0.5))


@pytest.mark.parametrize(
    ("measurement", "reads", "gigabytes", "is_cached", "why"),
    [
        (measured(45, 50, 1, 0.5), 3.0, 10.0, True, "about 2.6 times as fast (16 docks measured, each read about 3 t"),
        (measured(45, 50, 1, 0.5), 0.5, 10.0, False, "this would save little time"),
        (measured(45, 50, 1, 0.5, cached=1.0), 0.5, 10.0, True, "about 90 times as fast"),
        (measured(0.9, 1, 0.1, 0.01), 50.0, 10.0, False, "the encoder is fast"),
        (measured(5, 6, 3, 4), 5.0, 10.0, False, "this would save little time"),
        (measured(45, 50, 1, 0.5), 3.0, 0.4, False, "they take about 0.4 GB, train.encoder_cache_gb has room for 0.35"),
        (measured(45, 50, float("inf"), 0.5), 3.0, 10.0, False, "encoder_outputs cannot be written"),
    ],
)
def test_the_choice_follows_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
    measurement: Measurement,
    reads: float,
    gigabytes: float,
    is_cached: bool,
    why: str,
) -> None:
    from model_families import dock

    docks = RepeatedDocks([dock(5, 6, 7)], 1000, reads)
    monkeypatch.setattr(encoder_caches, "_measure", lambda *_: measurement)
    run: Any = SimpleNamespace(recipe=SimpleNamespace(train=SimpleNamespace(cache_encoders="auto")))
    run.recipe.train.encoder_cache_gb = gigabytes
    choice = encoder_caches._choose(run, "text", docks)
    assert choice is not None
    assert choice.is_cached == is_cached
    assert why in str(choice)
    assert f"{measurement.encode_ms:.3g} ms to encode a dock, {measurement.read_ms:.3g} ms to read one" in str(choice)


def test_auto_measures_and_records_the_choice(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_caches, "MIN_ENCODE_MS", 0.0)
    monkeypatch.setattr(encoder_caches, "MIN_GAIN", 0.0)
    out = train("auto")
    choice = json.loads((out / CHOICES_FILE).read_text(encoding="utf-8"))["text"]
    assert choice["is_cached"]
    assert choice["measured"]["docks"] == encoder_caches.SAMPLE
    assert all(choice["measured"][name] > 0 for name in ("encode_ms", "alone_ms", "write_ms", "read_ms", "bytes"))
    left = [path.name for path in (tmp_path / "cache").rglob(".measured*")]
    assert not left, "nothing of the measurement is left in the cache"


def test_a_tiny_encoder_is_not_cached(train: Train, tmp_path: Path) -> None:
    out = train("auto")
    assert not json.loads((out / CHOICES_FILE).read_text(encoding="utf-8"))["text"]["is_cached"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["model.encoders.text.trains=all"], "every encoder trains: text"),
        (["model.encoders.text.trains=last_1"], "every encoder trains: text"),
        (["model.encoders=null"], "the model docks into no encoder"),
    ],
)
def test_nothing_to_cache_is_an_error(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], why: str
) -> None:
    line = ["finetune", tmp_path / "micro.yaml", "train.cache_encoders=on", *settings, "--out", tmp_path / "none"]
    assert micro.metalm(*line) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "no outputs of encoders can be cached" in message
    assert f"train.cache_encoders: on why: {why}" in message
    assert not (tmp_path / "none").exists()
