"""The default base model: the newest finished pretraining run with encoders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.training.default_base import latest_base_model


def write_run(path: Path, time: int, command: str = "pretrain", model_type: str = "metalm") -> Path:
    model = path / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": model_type}))
    lineage = model / "lineage.json"
    lineage.write_text(json.dumps({"command": command}))
    os.utime(lineage, (time, time))
    return path


def test_the_newest_pretraining_run_with_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetalmError, match="no pretrain run to start from") as caught:
        latest_base_model()
    assert caught.value.why == "no such folder"
    write_run(Path("runs/tuned"), 9000, command="finetune")
    write_run(Path("runs/alone"), 8000, model_type="gpt2")
    write_run(Path("runs/damaged"), 7000)
    Path("runs/damaged/model/config.json").write_text("{")
    with pytest.raises(MetalmError) as caught:
        latest_base_model()
    assert caught.value.why == "none of its runs has finished with a docked model"
    first = write_run(Path("runs/first"), 1000)
    seed = write_run(Path("runs/many/seed-1"), 2000)
    assert latest_base_model() == seed
    os.utime(first / "model/lineage.json", (3000, 3000))
    assert latest_base_model() == first


def test_a_run_elsewhere_that_latest_links_to_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside = write_run(Path("runs/inside"), 1000)
    write_run(tmp_path / "elsewhere", 2000)
    Path("runs/latest").symlink_to(tmp_path / "elsewhere")
    assert latest_base_model() == inside
