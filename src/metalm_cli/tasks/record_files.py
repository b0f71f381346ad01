"""Cards of data files whose records have a known format, which need no card file."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from metalm_cli.common.jsonl_files import file_format_remedy, is_json_array, parse_json_exactly, read_json_array
from metalm_cli.common.paths import check_regular
from metalm_cli.config.locate import display
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import COMPLETE_PROMPTS, PROMPTS_WITH_IMAGES, Card
from metalm_cli.tasks.natural_instructions import task_name
from metalm_cli.tasks.record_formats import FORMAT_COLUMNS, RecordFormat, format_of, image_column_of

MAX_FIRST_LINE = 1 << 24
"""Bytes of the first line of a JSON file that are read to tell records from a Natural Instructions task."""


def has_records(path: Path) -> bool:
    """Whether a ``.json`` file holds records, as a list or one per line, rather than a Natural Instructions task."""
    try:
        if is_json_array(path):
            return True
        with path.open("rb") as file:
            line = next((line for line in iter(lambda: file.readline(MAX_FIRST_LINE), b"") if line.strip()), b"")
    except OSError:
        return False
    record = _parsed(line)
    return isinstance(record, dict) and not {"Definition", "Instances"} & set(record)


def record_file_card(path: Path) -> Card:
    """Build the card of a file of records; a share of the records is for validation.

    Args:
        path: JSON lines, plain or compressed, or a ``.json`` file with a list of records or with one per line.

    Raises:
        MetalmError: The file cannot be read, its first record has no known format, or a conversation has several turns.
    """
    try:
        record_format = format_of_records(_records(path), display(path))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise MetalmError("cannot read the data file", where=display(path), why=str(error)) from error
    splits = {"train": "rows", "validation": "rows"}
    return record_card(record_format, task_name(path), path.name, splits, file=str(path.absolute()))


def record_card(record_format: RecordFormat, name: str, source: str, splits: dict[str, str], **place: Any) -> Card:
    """Build the card of records.

    Args:
        record_format: Their format.
        name: Name of the task.
        source: Name of the file or the data set, for the description.
        splits: Splits of the card.
        **place: ``file`` or ``hub`` of the card.
    """
    images: dict[str, Any] = {}
    if record_format.images:  # no text is truncated: a mark of an image could be lost
        images = {
            "images": {"image": record_format.images},
            "optional_fields": ["image"] if record_format.messages else [],
            "templates": str(PROMPTS_WITH_IMAGES),
            "long_inputs": None,
        }
    return Card.model_validate(
        {
            "name": name,
            "cluster": record_format.cluster,
            "description": f"{source}, read as {record_format.name}",
            "splits": splits,
            "row_filter": record_format.row_filter,
            "fields": {"input": record_format.input},
            "answer": {"text": record_format.target},
            "long_inputs": {"field": "input", "truncate": "middle"},
            "metric": {"name": record_format.metric, "source": "this project"},
            "templates": str(COMPLETE_PROMPTS),
            "licence": "unknown",
            "citation": "unknown",
            **images,
            **place,
        }
    )


def format_of_records(records: Iterable[tuple[str, Any]], source: str) -> RecordFormat:
    """Recognise the format of records by the first one, and check every record if it can have several turns.

    Args:
        records: Location and record of each record; a line of JSON may be unparsed.
        source: Location of the records.

    Raises:
        MetalmError: The file has no record, the first one has no known format, or one has several turns.
    """
    record_format: RecordFormat | None = None
    several_turns, first_problem, count = 0, ("", ""), 0
    for where, raw in records:
        count += 1
        record = _parsed(raw) if isinstance(raw, bytes) else raw
        if record_format is None:
            record_format = format_of(record)
            if record_format is None:
                raise _unknown_format_error(where, raw, record)
            if not record_format.may_have_turns:
                break
        if record_format.messages and not record_format.images and (images := image_column_of(record)):
            record_format = replace(record_format, images=images)
        problem = record_format.problem_of(record)
        several_turns += bool(problem)
        first_problem = first_problem if first_problem[0] or not problem else (where, problem)
    if record_format is None:
        raise _unknown_format_error(source, b"", None)
    if several_turns:
        others = f"so do {several_turns:,} of {count:,} records"
        raise MetalmError(
            f"the records are {record_format.name} with conversations that are not one question and one answer",
            where=first_problem[0],
            why=f"{first_problem[1]}; {others if several_turns > 1 else f'the other {count - 1:,} records fit'}",
            remedy="conversations of several turns cannot be trained on: keep those with one question and one answer",
        )
    return record_format


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the location and the record of each record; those of JSON lines are not parsed yet."""
    check_regular(path)
    if path.suffix == ".json" and is_json_array(path):
        for number, record in enumerate(read_json_array(path)):
            yield f"{display(path)}, record {number}", record
        return
    with _open_lines(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{display(path)}:{number}", line


def _open_lines(path: Path) -> Any:
    if path.name.endswith(".zst"):
        return io.BufferedReader(zstandard.open(path, "rb"))
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _parsed(line: bytes) -> Any:
    try:
        return parse_json_exactly(line) if line.strip() else None
    except (ValueError, RecursionError):
        return None


def _unknown_format_error(where: str, raw: Any, record: Any) -> MetalmError:
    start = raw[:60].decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)[:60]
    content = f"it begins with {start!r}" if raw else "it is empty"
    columns = f"; its columns are {', '.join(map(str, record))}" if isinstance(record, dict) else ""
    remedy = file_format_remedy(raw) if isinstance(raw, bytes) else ""
    return MetalmError(
        "data without a card have an unknown format",
        where=where,
        why=f"expected the columns {FORMAT_COLUMNS}; {content}{columns}",
        remedy=remedy
        or f"draft a card from its columns: metalm tasks new {re.split(', record|, row|, key|:', where)[0]}",
    )
