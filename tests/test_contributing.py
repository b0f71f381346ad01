"""The examples of CONTRIBUTING.md run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_runs
from metalm_cli.common import registry

PAGE = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## How to add")[2].partition("\n## ")[0]
TITLES = ("task", "template collection", "metric", "objective", "encoder", "command", "report figure")


def blocks(kind: str) -> list[tuple[str, str]]:
    """Fenced blocks of a kind: their ``file=`` name (empty if they have none) and text."""
    fences = re.findall(rf"```{kind}(?: file=(\S+))?\n(.*?)```", SECTION, flags=re.DOTALL)
    return [(name, text) for name, text in fences]


def test_there_is_an_example_of_everything_that_can_be_added() -> None:
    sections = dict(re.findall(r"^### An? ([\w ]+)\n(.*?)(?=^### |\Z)", SECTION, flags=re.DOTALL | re.MULTILINE))
    assert tuple(sections) == TITLES
    assert all("```" in text for text in sections.values())


def test_the_commands_run_on_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in [*blocks("yaml"), *blocks("json")]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    commands = [line for _, text in blocks("sh") for line in text.splitlines()]
    assert len(commands) == 3
    for command in commands:
        assert tiny_runs.metalm(*shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Python examples without the name of a file; those with one are importable, and additions are taken back."""
    texts = []
    for name, text in blocks("python"):
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
            monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
        else:
            texts.append(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for names in registry.KINDS.values():
        monkeypatch.setattr(names, "_entries", dict(names._entries))
    yield texts
    for name, _ in blocks("python"):
        sys.modules.pop(Path(name).stem, None)


def test_the_python_examples_run(examples: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(examples) == 5
    for example in examples:
        exec(compile(example, "CONTRIBUTING.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == "hello reader\n"
    added = {entry.name for names in registry.KINDS.values() for entry in names.entries() if entry.origin != "metalm"}
    assert added == {"first_word", "first_half", "first_layer", "hello"}
