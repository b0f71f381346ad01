"""Cards of JSON lines files with ``input`` and ``target``, which need no card file."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import zstandard

from metalm_cli.common.jsonl_files import file_format_remedy, parse_json_exactly
from metalm_cli.common.paths import check_regular
from metalm_cli.config.locate import display
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import Card
from metalm_cli.tasks.natural_instructions import task_name, train_validation_splits


def input_target_card(path: Path) -> Card:
    """Build the card of a JSON lines file of ``{input, target}``; cluster ``misc``, the last rows are for validation.

    Raises:
        MetalmError: The file cannot be read, or its first line has no ``input`` and ``target``.
    """
    row_count, first_line = 0, b""
    try:
        with _open_lines(path) as file:
            for line in file:
                if line.strip():
                    row_count, first_line = row_count + 1, first_line or line
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise MetalmError("cannot read the data file", where=display(path), why=str(error)) from error
    _check_first_line(first_line, path)
    return Card.model_validate(
        {
            "name": task_name(path),
            "cluster": "misc",
            "description": f"Inputs and targets of {path.name}",
            "file": str(path.absolute()),
            "splits": train_validation_splits("rows", row_count),
            "fields": {"input": "input"},
            "answer": {"text": "target"},
            "long_inputs": {"field": "input", "truncate": "middle"},
            "metric": {"name": "exact_match", "source": "this project"},
            "templates": str(path.absolute()),
            "licence": "unknown",
            "citation": "unknown",
        }
    )


def _open_lines(path: Path) -> Any:
    check_regular(path)
    if path.name.endswith(".zst"):
        return io.BufferedReader(zstandard.open(path, "rb"))
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _check_first_line(line: bytes, path: Path) -> None:
    try:
        row = parse_json_exactly(line) if line else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not {"input", "target"} <= set(row):
        content = "is empty" if not line else f"begins with {line[:60].decode('utf-8', 'replace')!r}"
        columns = f"; its columns are {', '.join(map(str, row))}" if isinstance(row, dict) else ""
        raise MetalmError(
            "a data file without a card needs the columns input and target",
            where=f"{display(path)}:1",
            why=f"the file {content}{columns}",
            remedy=file_format_remedy(line) or f"draft a card from its columns: metalm tasks new {display(path)}",
        )
