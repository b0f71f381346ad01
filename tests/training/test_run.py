"""Parts of a run are made on first use: every attribute is declared by ``__init__`` or a property."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import metalm_cli.training

FOLDER = Path(metalm_cli.training.__file__).parent
FILES = [FOLDER / name for name in ("run.py", "pretraining.py", "finetuning.py")]


def set_attributes(source: str) -> dict[str, set[str]]:
    """Attributes of ``self`` that each method sets."""
    return {
        method.name: {
            node.attr
            for node in ast.walk(method)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
        }
        for method in ast.walk(ast.parse(source))
        if isinstance(method, ast.FunctionDef)
    }


DECLARED = set_attributes(FILES[0].read_text(encoding="utf-8"))["__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_methods_set_only_declared_attributes(path: Path) -> None:
    attributes = set_attributes(path.read_text(encoding="utf-8"))
    undeclared = {name: names - DECLARED for name, names in attributes.items() if names - DECLARED}
    assert undeclared == {}


def test_set_attributes_are_recognised() -> None:
    assert set_attributes("class A:\n    def f(self):\n        self.a, other.b = 1, 2\n        self.c.d = 3\n") == {
        "f": {"a"}
    }
