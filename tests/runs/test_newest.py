"""The newest finished run: the model of commands that name none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.runs.newest import TO_EVALUATE, TO_TRAIN, newest_run, read_run, real_path, run_folders


def write_run(
    path: Path, time: int, command: str = "pretrain", *, adapter: bool = False, encoders: bool = True
) -> Path:
    folder = path / ("adapter" if adapter else "model")
    folder.mkdir(parents=True)
    config = (
        {"connectors": ["text"] if encoders else []} if adapter else {"model_type": "metalm" if encoders else "gpt2"}
    )
    (folder / ("metalm_adapter.json" if adapter else "config.json")).write_text(json.dumps(config))
    lineage = folder / "lineage.json"
    lineage.write_text(json.dumps({"command": command}))
    os.utime(lineage, (time, time))
    return path


def newest(root: Path, preference: tuple[str, ...] = TO_EVALUATE, **options: object) -> Path:
    return newest_run(preference, root=root, remedy="train one", **options).path  # type: ignore[arg-type]


def test_runs_seeds_and_stages_of_studies_count_and_other_folders_do_not(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with pytest.raises(MetalmError, match="no model is named") as caught:
        newest(root)
    assert caught.value.why == "no such folder"
    write_run(root / "alone", 9000, encoders=False)
    write_run(root / "unknown", 9000, command="of a plug-in")
    (write_run(root / "damaged", 9000) / "model" / "config.json").write_text("{")
    write_run(root / "run" / "checkpoints" / "step-1", 9000)
    write_run(root / ".hidden", 9000)
    write_run(root / "a" / "b" / "c" / "d", 9000)
    (root / "file").write_text("")
    with pytest.raises(MetalmError) as caught:
        newest(root)
    assert caught.value.why == "none of its runs has one"
    runs = [
        write_run(root / name, 1000 + number)
        for number, name in enumerate(("plain", "many/seed-1", "demo/metalm", "study/seed-0/metalm"))
    ]
    for run in reversed(runs):
        assert newest(root) == run
        os.utime(run / "model" / "lineage.json", (1, 1))


def test_evaluation_prefers_instruction_tuning_and_training_prefers_pretraining(tmp_path: Path) -> None:
    pretrained = write_run(tmp_path / "a", 1000)
    tuned = write_run(tmp_path / "b", 3000, "finetune")
    instructed = write_run(tmp_path / "c", 2000, "instruct", adapter=True)
    assert newest(tmp_path) == instructed
    assert newest(tmp_path, TO_TRAIN, results=("model",)) == pretrained
    (pretrained / "model" / "lineage.json").unlink()
    assert str(read_run(pretrained)) == f"{pretrained} (the newest run)"
    assert newest(tmp_path, TO_TRAIN, results=("model",)) == tuned
    assert str(newest_run(TO_TRAIN, root=tmp_path, results=("model",), remedy="")) == (
        f"{tuned} (the newest run of finetuning)"
    )


def test_a_run_elsewhere_that_latest_links_to_does_not_count_and_is_named_by_its_own_path(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    inside, outside = write_run(root / "inside", 1000), write_run(tmp_path / "elsewhere", 2000)
    (root / "latest").symlink_to("../elsewhere")
    assert newest(root) == inside
    assert real_path(str(root / "latest")) == str(outside)
    assert real_path(str(inside)) == str(inside)
    assert real_path("gpt2") == "gpt2"
    assert list(run_folders(root, 0)) == []


def test_an_adapter_without_connectors_is_not_a_metalm(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1, adapter=True, encoders=False)
    assert read_run(run) is None
