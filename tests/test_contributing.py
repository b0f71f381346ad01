"""The examples of CONTRIBUTING.md run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import tiny_runs
from metalm_cli.evaluation.metrics import task_metrics

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


@pytest.mark.parametrize("example", [text for _, text in blocks("python")])
def test_the_python_examples_run(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_metrics, "EXAMPLE_METRICS", dict(task_metrics.EXAMPLE_METRICS))
    namespace = {"__name__": "example"}
    exec(compile(example, "CONTRIBUTING.md", "exec"), namespace)
    defined = [value for value in namespace.values() if getattr(value, "__module__", None) == "example"]
    assert [value for value in defined if value.__doc__], "the example defines nothing documented"
