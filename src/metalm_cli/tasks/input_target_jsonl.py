"""Input target jsonl."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import zstandard

from metalm_cli.config.locate import display
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import Card
from metalm_cli.tasks.natural_instructions import _splits, task_name


def pairs_card(path: Path) -> Card:
    """The card of JSON lines of ``{input, target}``: prompts already; cluster ``misc``; the last rows validate.

    Raises:
        MetalmError: The file cannot be read, or its first line has no ``input`` and ``target``.
    """
    rows, first = 0, b""
    try:
        with _opened(path) as file:
            for line in file:
                if line.strip():
                    rows, first = rows + 1, first or line
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise MetalmError("a data file cannot be read", where=display(path), why=str(error)) from error
    _check_pair(first, path)
    return Card.model_validate(
        {
            "name": task_name(path),
            "cluster": "misc",
            "description": f"Inputs and targets of {path.name}",
            "file": str(path.absolute()),
            "splits": _splits("rows", rows),
            "fields": {"input": "input"},
            "answer": {"text": "target"},
            "long_inputs": {"field": "input", "truncate": "middle"},
            "metric": {"name": "exact_match", "source": "SQuAD's normalisation"},
            "templates": str(path.absolute()),
            "licence": "unknown",
            "citation": "unknown",
        }
    )


def _opened(path: Path) -> Any:
    if path.name.endswith(".zst"):
        return io.BufferedReader(zstandard.open(path, "rb"))
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _check_pair(line: bytes, path: Path) -> None:
    try:
        row = json.loads(line) if line else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not {"input", "target"} <= set(row):
        got = "is empty" if not line else f"begins with {line[:60].decode('utf-8', 'replace')!r}"
        columns = f"; its columns are {', '.join(map(str, row))}" if isinstance(row, dict) else ""
        raise MetalmError(
            "a file without a card holds no {input, target}",
            where=f"{display(path)}:1",
            why=f"the file {got}{columns}",
            remedy=f"metalm tasks new {display(path)} drafts a card from its columns",
        )
