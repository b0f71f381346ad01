"""Resident memory over the steps of a CPU run whose passes vary in size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from metalm_cli.training import trainer

WIDER = ["model.encoders.text.config.hidden_size=256", "model.encoders.text.config.intermediate_size=1024"]
SILENT = ["train.validate_every=0", "train.checkpoint_every=0", "train.sample_continuations=0"]


def test_memory_is_limited_after_each_pass_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step measures; its end is after the optimiser has allocated its state."""
    events: list[str] = []

    class Limit:
        def after_pass(self) -> None:
            events.append("pass")

        def after_step(self) -> None:
            events.append("step" if trainers[-1].optimizer.state else "step without moments")

    trainers: list[Any] = []
    start = trainer.Trainer.run
    monkeypatch.setattr(trainer.Trainer, "run", lambda self, *values: (trainers.append(self), start(self, *values))[-1])
    monkeypatch.setattr(trainer, "HeapLimit", Limit)
    recipe = micro.write_recipe(tmp_path)
    arguments = ["train.steps=3", "train.batch_size=4", "train.micro_batch_size=2", "--out", tmp_path / "run"]
    assert micro.metalm("pretrain", recipe, *arguments) == 0
    assert events == ["pass", "pass", "step"] * 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is for glibc's allocator")
def test_memory_stays_within_five_percent_of_the_first_step(tmp_path: Path) -> None:
    """Rows of all tasks of the miniature world vary in length and in what they dock."""
    base, run = tmp_path / "base", tmp_path / "run"
    command("pretrain", "small", *WIDER, "train.steps=1", "train.warmup_steps=0", *SILENT, "--out", str(base))
    settings = ["train.steps=100", "train.log_every=1", *SILENT]
    command("finetune", "world", f"model.checkpoint={base}", *settings, "--out", str(run))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    memory = [record["memory_bytes"] for record in map(json.loads, lines) if record["split"] == "train"]
    assert len(memory) == 100
    assert max(memory) <= 1.05 * memory[0]


def command(*arguments: str) -> None:
    """Run a command in a process of its own, with the allocator's default settings."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    program = [sys.executable, "-m", "metalm_cli.cli", *arguments, "--offline"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
