"""Cards and data files of tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalm_cli.tasks import Card, Cards

HEAD = """\
name: {name}
cluster: nli
description: Does it follow?
file: {file}
splits: {splits}
licence: none
citation: none
"""
CLASSES = (
    "fields: {premise: premise, hypothesis: hypothesis}\n"
    "answer: {label: label, class_names: [entailment, not_entailment], "
    'verbalizers: {entailment: "yes", not_entailment: "no"}}\n'
    "metric: {name: accuracy, source: us}\n"
)
CARD: dict[str, Any] = {
    "cluster": "nli",
    "description": "A task of the tests",
    "core": True,
    "splits": {"train": "train", "validation": "validation"},
    "fields": {"text": "text"},
    "answer": {"label": "label", "class_names": ["even", "odd"], "verbalizers": {"even": "no", "odd": "yes"}},
    "metric": {"name": "accuracy", "source": "the tests"},
    "licence": "unknown",
    "citation": "nobody",
}
"""A card of even and odd numbers, but for its name and its rows."""
OPTIONS = """\
fields: {question: question}
answer: {options: choices, text: answer}
metric: {name: accuracy, source: us}
"""


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines of these rows; texts stand as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_card(
    folder: Path, body: str = CLASSES, *, name: str = "mine", file: str = "rows.jsonl", splits: str = "{train: rows}"
) -> Path:
    """A card in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(HEAD.format(name=name, file=file, splits=splits) + body, encoding="utf-8")
    return path


def read(path: Path) -> Card:
    """The card of a file, read as a user's."""
    known = Cards([path])
    return known[path.stem]


def pair(label: Any = 0, premise: str = "It rains.", hypothesis: str = "It is wet.") -> dict[str, Any]:
    """A row of two sentences."""
    return {"premise": premise, "hypothesis": hypothesis, "label": label}
