"""A resumed run reads the data that it started with, or its error names the changed sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_runs as micro
from hub_server import QUICK, HubServer
from metalm_cli.config.schema.data import DataConfig, DocumentSource, ValidationConfig
from metalm_cli.runs.data_record import pinned_revisions

COMMITS = ["a" * 40, "b" * 40]


def documents(path: Path, first: int, count: int = 60) -> Path:
    from metalm_cli.miniworld import generate_document

    lines = [json.dumps({"text": generate_document(0, first + number).text}) + "\n" for number in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def make_unfinished_run(folder: Path, *settings: str) -> Path:
    """Make an unfinished run with a checkpoint."""
    finished = folder / "whole"
    recipe = micro.write_recipe(folder)
    assert micro.metalm("pretrain", recipe, "train.checkpoint_every=3", *settings, "--out", finished) == 0
    return micro.interrupted_copy(finished, folder / "run", 3)


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_changed_data_is_named_on_resume(tmp_path: Path, streaming: str, capsys: pytest.CaptureFixture[str]) -> None:
    unchanged, changed = documents(tmp_path / "same.jsonl", 0), documents(tmp_path / "other.jsonl", 60)
    sources = ", ".join(
        f"{{name: {path.stem}-source, path: {path}, weight: 1, streaming: {streaming}}}"
        for path in (unchanged, changed)
    )
    run = make_unfinished_run(tmp_path, f"data.sources=[{sources}]")
    documents(changed, 200, 61)
    capsys.readouterr()
    recipe = (run / "recipe.yaml").read_text()
    assert micro.metalm("pretrain", "--out", run, "--resume", "train.log_every=5") == 2
    assert (run / "recipe.yaml").read_text() == recipe, "a failed resume does not change the run"
    output = " ".join(capsys.readouterr().err.split())
    assert "other-source: " in output
    assert "same-source" not in output
    assert "other.jsonl had" in output
    assert "remedy:" in output
    assert not (run / "model").exists()
    documents(changed, 60)
    assert micro.metalm("pretrain", "--out", run, "--resume") == 0
    micro.assert_same_run(tmp_path / "whole", run, 6)


def test_files_may_move_and_changed_content_of_the_same_size_is_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    path = documents(root / "own.jsonl", 0)
    run = make_unfinished_run(tmp_path, "data.sources=[{name: own, path: own.jsonl}]", "--data-root", str(root))
    moved_root = root.rename(tmp_path / "moved")
    text = (moved_root / path.name).read_text()
    (moved_root / path.name).write_text(text.replace("the", "teh", 1))
    resume = ["pretrain", "--out", run, "--resume", "--data-root", moved_root]
    capsys.readouterr()
    assert micro.metalm(*resume) == 2
    assert "the content of own.jsonl has changed" in " ".join(capsys.readouterr().err.split())
    (moved_root / path.name).write_text(text)
    assert micro.metalm(*resume) == 0


@pytest.mark.parametrize("record_state", ["damaged", "gone"])
def test_a_missing_or_damaged_record(tmp_path: Path, record_state: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_unfinished_run(tmp_path)
    (run / "data.json").write_text("[]") if record_state == "damaged" else (run / "data.json").unlink()
    assert micro.metalm("pretrain", "--out", run, "--resume") == (2 if record_state == "damaged" else 0)
    output = capsys.readouterr().err
    assert "Traceback" not in output
    assert ("data.json" if record_state == "damaged" else "the data is not compared") in output


@pytest.mark.parametrize(
    ("settings", "resumes"),
    [
        (["data.validation.documents=0"], True),
        ([], False),
        (["data.validation.documents=0", "data.sources.0.streaming=true"], False),
    ],
    ids=["every row usable", "rows held out", "stream"],
)
def test_a_run_of_a_version_that_numbered_all_rows(
    tmp_path: Path, settings: list[str], resumes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its order is that of this version if every row is usable; else it cannot be continued."""
    path = documents(tmp_path / "own.jsonl", 0)
    run = make_unfinished_run(tmp_path, f"data.sources=[{{name: own, path: {path}}}]", *settings)
    record = json.loads((run / "data.json").read_text())
    record["format"] = 1
    if not resumes:
        record["fingerprint"] = "0" * 16
    for source in record["sources"]:
        del source["usable"], source["left_out"]
    (run / "data.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert micro.metalm("pretrain", "--out", run, "--resume") == (0 if resumes else 2)
    if resumes:
        micro.assert_same_run(tmp_path / "whole", run, 6)
    else:
        message = " ".join(capsys.readouterr().err.split())
        assert "the order of the training data has changed with the version of metalm" in message
        assert "resume it with the version that started it" in message


def test_hub_sources_are_pinned_to_the_commit_that_the_run_started_with() -> None:
    data = DataConfig(
        sources=[DocumentSource(name="docs", hub="me/docs"), DocumentSource(name="own", path="own.jsonl")],
        validation=ValidationConfig(
            sources=[DocumentSource(name="docs", hub="me/docs", revision="main", split="test")]
        ),
    )
    saved = {
        "sources": [{"name": "docs", "revision": COMMITS[0]}, {"name": "own", "revision": None}],
        "validation": [{"name": "docs", "revision": COMMITS[1]}],
    }
    pinned = pinned_revisions(data, saved)
    assert [source.revision for source in pinned.sources] == [COMMITS[0], None]
    assert pinned.validation.sources is not None
    assert [source.revision for source in pinned.validation.sources] == [COMMITS[1]]
    assert pinned.sources[0].split == "train"
    assert pinned_revisions(data, None) is data


CALL = """
import sys
from metalm_cli.cli.app import run
sys.exit(run({arguments!r}))
"""


@pytest.mark.slow
def test_a_resumed_run_requests_the_commit_that_it_started_with(tmp_path: Path) -> None:
    rows = documents(tmp_path / "train.jsonl", 0).read_bytes()
    recipe, out = micro.write_recipe(tmp_path), tmp_path / "whole"
    settings = ["data.sources=[{name: docs, hub: me/docs}]", "train.checkpoint_every=3"]
    with HubServer() as hub:
        hub.add("datasets", "me/docs", {"train.jsonl": rows})
        first = ["pretrain", str(recipe), *settings, "--out", str(out)]
        done = hub.run(QUICK + CALL.format(arguments=first), tmp_path)
        assert done.returncode == 0, done.stderr
        commit = json.loads((out / "data.json").read_text())["sources"][0]["revision"]
        run = micro.interrupted_copy(out, tmp_path / "run", 3)
        hub.requests.clear()
        resume = ["pretrain", "--resume", "--out", str(run)]
        done = hub.run(QUICK + CALL.format(arguments=resume), tmp_path)
        assert done.returncode == 0, done.stderr
        requested = [request.path for request in hub.requests if request.path.startswith("/api/datasets/me/docs")]
    assert len(commit) == 40
    assert all(commit in path for path in requested)
    assert requested
    micro.assert_same_run(out, run, 6)
