"""``metalm data``: output and exit codes."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from card_fixtures import CLASSES_BODY, write_rows
from hub_server import HubServer
from metalm_cli.cli.app import run

Capture = pytest.CaptureFixture[str]
CARD = """\
name: {name}
cluster: nli
description: Does it follow?
hub: {{id: me/{name}}}
splits: {{train: train}}
licence: none
citation: none
"""
ROWS = [{"premise": f"p {number}", "hypothesis": "h", "label": number % 2} for number in range(5)]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METALM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "cards").mkdir()
    for name in ("one", "gone"):
        (tmp_path / "cards" / f"{name}.yaml").write_text(CARD.format(name=name) + CLASSES_BODY)
    with HubServer() as server:
        server.add("datasets", "me/one", {"train.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)})
        yield server


def metalm(hub: HubServer, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metalm_cli.cli", *arguments],
        env=hub.environment(home),
        cwd=home,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_mirror_continues_after_a_failure(hub: HubServer, tmp_path: Path) -> None:
    where = ("--cards", "cards", "--data-root", "new/data")
    done = metalm(hub, tmp_path, "data", "mirror", "gone", "one", "world_nli", *where)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "one train: written, 5 rows" in done.stdout
    assert "1 of 2 data sets could not be mirrored" in done.stdout
    assert "me/gone is not on the hub" in done.stderr
    assert "world_nli is not on the hub" in done.stderr
    written = gzip.decompress((tmp_path / "new" / "data" / "one" / "train.jsonl.gz").read_bytes())
    assert [json.loads(line) for line in written.splitlines()] == ROWS
    checked = metalm(hub, tmp_path, "tasks", "check", "one", *where)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "train: 5 rows" in checked.stdout


def test_mirror_takes_the_sources_of_a_recipe(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "command: pretrain\nextends: small\ndata: {sources: [{name: docs, hub: me/one, text: premise}]}\n"
    )
    done = metalm(hub, tmp_path, "data", "mirror", "--recipe", "mine.yaml", "--data-root", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "docs train: written, 5 rows" in done.stdout
    assert (tmp_path / "data" / "docs" / "train.jsonl.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data-root", "x"], "no data set is named"),
        (["rte"], "no data root is given"),
        (["rtee", "--data-root", "x"], "did you mean rte?"),
        (["world_nli", "--data-root", "x"], "none of these data sets is on the hub"),
        (["--recipe", "nowhere", "--data-root", "x"], "no shipped recipe is named nowhere"),
    ],
)
def test_mirror_of_nothing(capsys: Capture, arguments: list[str], words: str) -> None:
    assert run(["data", "mirror", *arguments]) == 2
    assert words in capsys.readouterr().err


def write_mirror(root: Path, name: str) -> None:
    write_rows(root / name / "train.jsonl", ROWS)
    (root / name / "features.json").write_text("{}")


def test_list(capsys: Capture, tmp_path: Path) -> None:
    write_mirror(tmp_path / "data", "one")
    write_rows(tmp_path / "data" / "theirs" / "test.jsonl", [{}])
    (tmp_path / "cache" / "metalm" / "unpacked").mkdir(parents=True)
    (tmp_path / "cache" / "metalm" / "unpacked" / "a.jsonl").write_bytes(b"x" * 2000)
    assert run(["data", "list", "--data-root", "data"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [["one", "train"], ["theirs", "test"], ["cache: unpacked", "unpacked copies"]]
    assert rows[1][4] == "another copy"
    assert rows[2][2:4] == ["1 file", "2.0 kB"]
    assert run(["data", "list"]) == 0
    assert "no data root is given" in capsys.readouterr().err


def test_clean_needs_confirmation_and_keeps_the_data_root(capsys: Capture, tmp_path: Path) -> None:
    write_mirror(tmp_path / "data", "one")
    write_rows(tmp_path / "data" / "theirs" / "test.jsonl", [{}])
    index_file = tmp_path / "cache" / "metalm" / "index" / "a.idx"
    index_file.parent.mkdir(parents=True)
    index_file.write_bytes(b"x")
    assert run(["data", "clean", "--data-root", "data"]) == 2
    assert "the command needs confirmation" in capsys.readouterr().err
    assert index_file.exists()
    assert run(["data", "clean", "--data-root", "data", "--yes"]) == 0
    assert not index_file.exists()
    assert (tmp_path / "data" / "one" / "train.jsonl").exists()
    assert "1 files removed" in capsys.readouterr().out
    assert run(["data", "clean", "--yes"]) == 0
    assert "the cache is empty" in capsys.readouterr().out


def test_clean_of_a_name(capsys: Capture, tmp_path: Path) -> None:
    write_mirror(tmp_path / "data", "one")
    write_rows(tmp_path / "data" / "theirs" / "test.jsonl", [{}])
    assert run(["data", "clean", "one", "theirs", "--data-root", "data", "--yes"]) == 2
    assert "theirs is not a mirror written by metalm" in capsys.readouterr().err
    assert (tmp_path / "data" / "one").exists()
    assert run(["data", "clean", "one", "--yes"]) == 2
    assert run(["data", "clean", "one", "--data-root", "data", "--yes"]) == 0
    assert not (tmp_path / "data" / "one").exists()
    assert (tmp_path / "data" / "theirs" / "test.jsonl").exists()
