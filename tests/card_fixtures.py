"""Task cards and data files for tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from metalm_cli.tasks import Card, Cards

CARD_HEAD = """\
name: {name}
cluster: nli
description: Does it follow?
file: {file}
splits: {splits}
validation_share: 0
licence: none
citation: none
"""
CLASSES_BODY = (
    "fields: {premise: premise, hypothesis: hypothesis}\n"
    "answer: {label: label, class_names: [entailment, not_entailment], "
    'verbalizers: {entailment: "yes", not_entailment: "no"}}\n'
    "metric: {name: accuracy, source: us}\n"
)
CARD_VALUES: dict[str, Any] = {
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
"""Values of a card of even and odd numbers, without its name and its rows."""
OPTIONS_BODY = """\
fields: {question: question}
answer: {options: choices, text: answer}
metric: {name: accuracy, source: us}
"""


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write a JSON lines file; rows that are texts are written unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_card(
    folder: Path,
    body: str = CLASSES_BODY,
    *,
    name: str = "mine",
    file: str = "rows.jsonl",
    splits: str = "{train: rows}",
) -> Path:
    """Write a card into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(CARD_HEAD.format(name=name, file=file, splits=splits) + body, encoding="utf-8")
    return path


def read_card_file(path: Path) -> Card:
    """Read a card file as a user card."""
    cards = Cards([path])
    return cards[path.stem]


def sentence_pair(label: Any = 0, premise: str = "It rains.", hypothesis: str = "It is wet.") -> dict[str, Any]:
    """Make a row of two sentences."""
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def write_desk(folder: Path, run: Path, places: dict[str, dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Write a folder with the run ``runs/mine``, cards of even and odd numbers, and the rows of ``odd.jsonl``.

    Args:
        folder: The folder.
        run: Run that is copied.
        places: Where the rows of each card are, and other values of the card.
        rows: The rows.
    """
    shutil.copytree(run, folder / "runs" / "mine")
    (folder / "cards").mkdir()
    for name, place in places.items():
        text = yaml.safe_dump({"name": name, **CARD_VALUES, **place})
        (folder / "cards" / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "cards" / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
