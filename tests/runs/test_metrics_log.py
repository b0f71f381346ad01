"""metrics.jsonl: one line per record, exact truncation on resume, readable while it is written."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs import metrics_log
from metalm_cli.runs.metrics_log import MetricsLog


def steps(path: Path) -> list[int]:
    return [record["step"] for record in metrics_log.read_metrics(path)[0]]


def test_records_come_back_and_are_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"step": 1, "split": "train", "loss": 2.5, "tokens": 10, "note": "ü\n"})
        assert path.read_text(encoding="utf-8").count("\n") == 1
        log.write({"step": np.int64(2), "loss": np.float32(0.5), "path": tmp_path})
        records, problems = metrics_log.read_metrics(path)
    assert records[0] == {"step": 1, "split": "train", "loss": 2.5, "tokens": 10, "note": "ü\n"}
    assert records[1] == {"step": 2, "loss": 0.5, "path": str(tmp_path)}
    assert problems == []


def test_values_that_are_not_finite_become_null_and_are_named(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.write({"step": 1, "loss": nan, "lr": 0.1, "losses": {"rte": np.float32(-inf), "cb": 1.0}, "norms": [inf]})
    text = (tmp_path / "m.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "step": 1,
        "loss": None,
        "lr": 0.1,
        "losses": {"rte": None, "cb": 1.0},
        "norms": [None],
        "nonfinite": ["loss", "losses.rte", "norms.0"],
    }


def test_cutting_back_leaves_what_an_uninterrupted_run_would_have(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        log.write({"note": "no step"})
        for step in range(10, 60, 10):
            log.write({"step": step, "split": "train"})
            log.write({"step": step, "split": "validation"})
    uninterrupted = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"step": 60, "spl')
    with MetricsLog(path) as log:
        assert path.read_bytes() == uninterrupted
        assert log.remove_steps_after(30) == 4
        assert [record.get("step") for record in metrics_log.read_metrics(path)[0]] == [None, 10, 10, 20, 20, 30, 30]
        assert log.remove_steps_after(30) == 0
        for step in (40, 50):
            log.write({"step": step, "split": "train"})
            log.write({"step": step, "split": "validation"})
    assert path.read_bytes() == uninterrupted
    assert os.listdir(tmp_path) == ["m.jsonl"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"step": 1}\n{"step": 2}', b'{"step": 1}\n{"step": 2}\n'),
        (b'{"step": 1}\n{"ste', b'{"step": 1}\n'),
        (b'{"ste', b""),
        (b'{"step": 1}', b'{"step": 1}\n'),
        (b'{"step": 1}\n\x00\x00\x00', b'{"step": 1}\n'),
        (b"", b""),
    ],
)
def test_opening_mends_a_torn_end(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(before)
    MetricsLog(path).close()
    assert path.read_bytes() == after


def test_reading_names_damaged_lines_but_not_a_torn_last_one(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\n\n[1]\n\xff\xfe\n{"step": 2}\n{"step": 3')
    records, problems = metrics_log.read_metrics(path)
    assert [record["step"] for record in records] == [1, 2]
    assert problems == [f"{path}:{number}: not a JSON object" for number in (2, 3, 4, 5)]
    assert metrics_log.read_metrics(tmp_path / "none") == ([], [])


class FullDisk:
    """File that accepts ten bytes and then reports a full disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.room = path, 10

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written, self.room = data[: self.room], 0
        with open(self.path, "ab") as file:
            return file.write(written)

    def close(self) -> None:
        pass


def test_a_full_disk_tears_only_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1})
    log._file = FullDisk(path)
    with pytest.raises(MetalmError, match="no space left") as caught:
        log.write({"step": 2, "loss": 1.0})
    assert caught.value.exit_code == Exit.FAILED
    assert steps(path) == [1]
    with MetricsLog(path) as log:
        log.write({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_metrics_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="cannot write the metrics"):
        MetricsLog(tmp_path)


@pytest.mark.parametrize(
    ("name", "install"), [("tensorboard", "metalm[trackers]"), ("wandb", "wandb"), ("trackio", "trackio")]
)
def test_a_missing_tracker_is_named_with_its_package(monkeypatch, name: str, install: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MetalmError, match=name) as caught:
        metrics_log.check_trackers([name])
    assert install in caught.value.remedy
    assert caught.value.exit_code == Exit.USAGE
    metrics_log.check_trackers([])


def test_trackers_without_connections(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object())
    monkeypatch.setenv("WANDB_MODE", "online")
    metrics_log.check_trackers(["wandb", "trackio", "tensorboard"])
    assert os.environ["WANDB_MODE"] == "online"
    metrics_log.check_trackers(["wandb", "tensorboard"], offline=True)
    assert os.environ["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    metrics_log.check_trackers(["wandb"], offline=True)
    assert os.environ["WANDB_MODE"] == "disabled"
    with pytest.raises(MetalmError, match="trackio") as caught:
        metrics_log.check_trackers(["trackio"], offline=True)
    assert caught.value.exit_code == Exit.USAGE
    assert "tensorboard" in caught.value.remedy


class Recorder:
    def __init__(self) -> None:
        self.logged: list[tuple[dict, int]] = []

    def log(self, values: dict, step: int) -> None:
        self.logged.append((values, step))


def test_trackers_get_the_numbers_of_a_record() -> None:
    tracker = Recorder()
    record = {
        "step": 7,
        "split": "validation",
        "loss": 1.5,
        "tokens": 3,
        "losses": {"rte": 2.0},
        "x": "text",
        "n": None,
    }
    metrics_log.log_to_trackers(tracker, record)
    assert tracker.logged == [({"validation/loss": 1.5, "validation/tokens": 3, "validation/losses.rte": 2.0}, 7)]


def test_tensorboard_through_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra trackers is not installed")
    from accelerate import Accelerator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(cpu=True, log_with=["tensorboard"], project_dir=tmp_path)
    metrics_log.start_trackers(accelerator, ["tensorboard"], "small", {"train": {"steps": 3, "betas": [0.9, 0.98]}})
    for step in (10, 20):
        metrics_log.log_to_trackers(accelerator, {"step": step, "loss": 10.0 / step})
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "small"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 1.0), (20, 0.5)]


def test_metrics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(MetalmError, match="the metrics of the run cannot be read") as caught:
        metrics_log.missing_records_note(tmp_path / "metrics.jsonl", 10, 5)
    assert caught.value.where == str(tmp_path / "metrics.jsonl")
    assert caught.value.remedy
