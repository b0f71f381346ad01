"""File of a run with the spans of its first rows, and the continuations of its last validation.

A report does not load the model. Therefore the run itself saves some rows, as ``metalm show`` prints them, and the
continuations that its last validation sampled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.reports.reading.tolerant_json import with_valid_values

if TYPE_CHECKING:
    from metalm_cli.sessions.packing import Row
    from metalm_cli.sessions.row_display import Position

SESSIONS_FILE = "sessions.json"
"""File of a run folder with its first rows and last continuations."""
SESSIONS_FORMAT = 1
MAX_POSITIONS = 600
"""Positions of a row that are saved."""
DOCKED, CAUSAL, TRAINED = "docked", "causal", "trained"


def row_spans(row: Row, tokenizer: Any, processors: Mapping[str, Any], *, masked: bool = False) -> list[list[Any]]:
    """Spans of a row in order, each ``[session, kind, encoder or "", text, positions]``.

    Args:
        row: The row.
        tokenizer: Tokenizer of the row's own tokens.
        processors: Processors of the encoders.
        masked: Whether the row is one of an encoder alone.
    """
    from metalm_cli.sessions.row_display import positions_of

    positions = positions_of(row, tokenizer, {} if masked else processors, masked=masked)[:MAX_POSITIONS]
    spans = []
    for (segment, kind, encoder, _), group in groupby(positions, key=_span_key):
        members = list(group)
        spans.append([segment, kind, encoder, _span_text(members, masked and kind == TRAINED), len(members)])
    return spans


def _span_text(members: Sequence[Position], masked: bool) -> str:
    """Text of a span; for masked tokens with the original token, as in ``metalm show``."""
    if masked:
        return " ".join(f"{position.text}={''.join(position.predicts)}" for position in members)
    return "".join(position.text for position in members)


def _span_key(position: Position) -> tuple[int, str, str, int]:
    if position.dock is not None:
        return position.segment, DOCKED, position.dock[0], position.dock[1]
    return position.segment, TRAINED if position.trained else CAUSAL, "", -1


def write_sessions(
    folder: Path, rows: Iterable[tuple[str, Sequence[Sequence[Any]]]], continuations: Iterable[tuple[str, str]]
) -> None:
    """Write ``sessions.json``.

    Args:
        folder: The run folder.
        rows: Titles, and spans from :func:`row_spans`.
        continuations: Prompts with the continuations of the model.

    Raises:
        MetalmError: The file cannot be written.
    """
    from metalm_cli.common.atomic_files import write_atomically

    record = {
        "format": SESSIONS_FORMAT,
        "rows": [{"title": title, "spans": [list(span) for span in spans]} for title, spans in rows],
        "said": [list(pair) for pair in continuations],
    }
    write_atomically(folder / SESSIONS_FILE, (json.dumps(record, ensure_ascii=False) + "\n").encode())


def valid_sessions(record: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """First ``rows`` and last ``continuations`` in ``sessions.json``, without invalid values.

    Args:
        record: Content of the file.
        problems: Collects a line for each value that is left out.
    """
    valid = with_valid_values(record, SESSIONS_FILE, problems, entries={"rows": dict, "said": list})
    rows = [
        with_valid_values(row, SESSIONS_FILE, problems, {"title": str}, {"spans": list})
        for row in valid.get("rows", [])
    ]
    valid_rows = [{**row, "spans": [span for span in row.get("spans", []) if _is_span(span)]} for row in rows]
    continuations = [
        pair for pair in valid.get("said", []) if len(pair) == 2 and all(isinstance(text, str) for text in pair)
    ]
    dropped = sum(len(row.get("spans", [])) for row in rows) - sum(len(row["spans"]) for row in valid_rows)
    dropped += len(valid.get("said", [])) - len(continuations)
    problems += [f"{SESSIONS_FILE}: damaged spans or continuations, left out: {dropped}"] if dropped else []
    return {"rows": valid_rows, "continuations": continuations} if record else {}


def _is_span(span: Sequence[Any]) -> bool:
    """Whether a value is a span of :func:`row_spans`."""
    types = (int, str, str, str, int)
    matches = len(span) == len(types) and all(
        isinstance(value, expected) for value, expected in zip(span, types, strict=True)
    )
    return matches and span[1] in (DOCKED, CAUSAL, TRAINED)
