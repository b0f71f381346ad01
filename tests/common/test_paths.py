"""Pipes and devices as files of every kind that a command line names: an error at once, never a wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metalm_cli.common.paths import read_regular
from tiny_runs import metalm


def test_regular_files_are_read_and_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "link") == b"content"
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(path)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("recipe.yaml", ["recipe", "check", "FILE"]),
        ("results.json", ["results", "show", "FILE"]),
        ("table.csv", ["tasks", "new", "FILE", "--out", "draft"]),
        ("rows.jsonl", ["tasks", "new", "FILE", "--out", "draft"]),
        ("rows.jsonl", ["show", "small", "data.sources.0.path=FILE"]),
        ("task001_x.json", ["tasks", "show", "FILE"]),
        ("card.yaml", ["tasks", "show", "FILE"]),
        ("pairs.jsonl", ["tasks", "show", "FILE"]),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_command_refuses_it(name, arguments, kind, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert metalm(*(argument.replace("FILE", str(path)) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert name.partition(".")[0] in error
