"""The training loop uses the objective protocol and does not ask which objective it has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import metalm_cli.training

FILES = sorted(Path(metalm_cli.training.__file__).parent.rglob("*.py"))
SUBJECTS = {"root", "objective", "options", "assembly", "self"}
"""Names of what the loop gets from an objective, a model or a recipe."""


def capability_questions(source: str) -> list[str]:
    """Calls that ask an object of :data:`SUBJECTS` for an attribute that it may lack, or for its class."""
    questions = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        name, subject = node.func.id, ast.unparse(node.args[0]).removeprefix("self.")
        asks = name in ("hasattr", "isinstance") or (name == "getattr" and len(node.args) == 3)
        if asks and subject in SUBJECTS:
            questions.append(f"{node.lineno}: {ast.unparse(node)}")
    return questions


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_training_asks_for_no_capability(path: Path) -> None:
    assert capability_questions(path.read_text(encoding="utf-8")) == []


def test_questions_are_recognised() -> None:
    source = "hasattr(self, 'corpus')\ngetattr(self.root, 'generator', None)\nisinstance(objective, str)\n"
    assert [question.split(":")[0] for question in capability_questions(source)] == ["1", "2", "3"]
    assert capability_questions("getattr(norm, 'full')\nisinstance(error, OSError)\n") == []
