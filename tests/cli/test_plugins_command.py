"""``metalm plugins`` lists what is registered, and the installed plug-ins with their state."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from metalm_cli.cli import app as tree
from metalm_cli.cli import console
from metalm_cli.common import registry


def test_every_name_is_listed_with_its_kind_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(["plugins"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = [(kind, entry.name, "metalm") for kind, names in registry.KINDS.items() for entry in names.entries()]
    assert [tuple(row[:3]) for row in rows] == expected
    assert all(row[3].startswith("metalm_cli.") and row[4] for row in rows)


def test_narrow_terminals_cut_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "stdout", lambda: Console(file=out, force_terminal=True, width=80, no_color=True))
    assert tree.run(["plugins", "aggregates"]) == 0
    assert "…" not in out.getvalue()
    for entry in registry.aggregates.entries():
        assert f" {entry.name} " in out.getvalue()


def test_kinds_can_be_selected(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(["plugins", "commands"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == registry.commands.names()
    assert tree.run(["plugins", "--json", "commands", "aggregates"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["kinds", "plugins"]
    assert list(content["kinds"]) == ["aggregates", "commands"]
    assert content["kinds"]["commands"][0]["name"] == "pretrain"
    assert content["plugins"] == []


def test_an_unknown_kind_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(["plugins", "metric"]) == 2
    message = capsys.readouterr().err
    assert "no kind is named metric" in message
    assert "did you mean metrics?" in message


def test_without_plug_ins_nothing_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(["plugins", "--installed"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no plug-in is installed\n")
