"""A resumed run reads the data that it began with, or says which source is another."""

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
    from metalm_cli.miniworld import render

    lines = [json.dumps({"text": render(0, first + number).text}) + "\n" for number in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def begun(folder: Path, *settings: str) -> Path:
    """A run with a checkpoint, which was not finished."""
    whole = folder / "whole"
    recipe = micro.write_recipe(folder)
    assert micro.metalm("pretrain", recipe, "train.checkpoint_every=3", *settings, "--out", whole) == 0
    return micro.interrupted_copy(whole, folder / "run", 3)


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_changed_data_is_named_on_resume(tmp_path: Path, streaming: str, capsys: pytest.CaptureFixture[str]) -> None:
    same, other = documents(tmp_path / "same.jsonl", 0), documents(tmp_path / "other.jsonl", 60)
    sources = ", ".join(
        f"{{name: {path.stem}-source, path: {path}, weight: 1, streaming: {streaming}}}" for path in (same, other)
    )
    run = begun(tmp_path, f"data.sources=[{sources}]")
    documents(other, 200, 61)
    capsys.readouterr()
    recipe = (run / "recipe.yaml").read_text()
    assert micro.metalm("pretrain", "--out", run, "--resume", "train.log_every=5") == 2
    assert (run / "recipe.yaml").read_text() == recipe, "a refused run is as it was"
    said = " ".join(capsys.readouterr().err.split())
    assert "other-source: " in said
    assert "same-source" not in said
    assert "other.jsonl had" in said
    assert "remedy:" in said
    assert not (run / "model").exists()
    documents(other, 60)
    assert micro.metalm("pretrain", "--out", run, "--resume") == 0
    micro.assert_same_run(tmp_path / "whole", run, 6)


def test_files_may_lie_elsewhere_and_content_of_the_same_size_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    path = documents(root / "own.jsonl", 0)
    run = begun(tmp_path, "data.sources=[{name: own, path: own.jsonl}]", "--data-root", str(root))
    moved = root.rename(tmp_path / "moved")
    text = (moved / path.name).read_text()
    (moved / path.name).write_text(text.replace("the", "teh", 1))
    again = ["pretrain", "--out", run, "--resume", "--data-root", moved]
    capsys.readouterr()
    assert micro.metalm(*again) == 2
    assert "the content of own.jsonl has changed" in " ".join(capsys.readouterr().err.split())
    (moved / path.name).write_text(text)
    assert micro.metalm(*again) == 0


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_a_record_that_does_not_tell(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = begun(tmp_path)
    (run / "data.json").write_text("[]") if how == "damaged" else (run / "data.json").unlink()
    assert micro.metalm("pretrain", "--out", run, "--resume") == (2 if how == "damaged" else 0)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert ("data.json" if how == "damaged" else "it is not compared") in said


def test_hub_sources_are_read_at_the_commit_that_the_run_began_with() -> None:
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
    found = pinned_revisions(data, saved)
    assert [source.revision for source in found.sources] == [COMMITS[0], None]
    assert found.validation.sources is not None
    assert [source.revision for source in found.validation.sources] == [COMMITS[1]]
    assert found.sources[0].split == "train"
    assert pinned_revisions(data, None) is data


CALL = """
import sys
from metalm_cli.cli.app import run
sys.exit(run({arguments!r}))
"""


def test_a_resumed_run_asks_the_hub_for_the_commit_that_it_began_with(tmp_path: Path) -> None:
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
        again = ["pretrain", "--resume", "--out", str(run)]
        done = hub.run(QUICK + CALL.format(arguments=again), tmp_path)
        assert done.returncode == 0, done.stderr
        asked = [one.path for one in hub.requests if one.path.startswith("/api/datasets/me/docs")]
    assert len(commit) == 40
    assert all(commit in path for path in asked)
    assert asked
    micro.assert_same_run(out, run, 6)
