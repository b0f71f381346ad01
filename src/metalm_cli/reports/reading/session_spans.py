"""Sessions as coloured spans: what a run has read first, and what its model said last, kept in its folder.

A report is made without loading a model. So the run itself writes down, while everything is at hand, some rows as
``metalm show`` prints them, and the continuations that its last validation sampled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.reports.reading.tolerant_json import with_known_keys

if TYPE_CHECKING:
    from metalm_cli.sessions.packing import Row
    from metalm_cli.sessions.row_display import Position

SESSIONS = "sessions.json"
"""File of a run folder that tells how its first sessions look."""
FORMAT = 1
POSITIONS = 600
"""Positions of a row that are kept."""
DOCKED, READ, TRAINED = "docked", "causal", "trained"


def spans_of(row: Row, tokenizer: Any, processors: Mapping[str, Any], *, masked: bool = False) -> list[list[Any]]:
    """A row as spans ``[session, kind, encoder or "", text, positions]``, in its order.

    Args:
        row: The row.
        tokenizer: The tokenizer of its own tokens.
        processors: Of its encoders.
        masked: A row of an encoder alone.
    """
    from metalm_cli.sessions.row_display import positions_of

    found = positions_of(row, tokenizer, {} if masked else processors, masked=masked)[:POSITIONS]
    spans = []
    for (segment, kind, encoder, _), inside in groupby(found, key=_key):
        members = list(inside)
        spans.append([segment, kind, encoder, _text(members, masked and kind == TRAINED), len(members)])
    return spans


def _text(members: Sequence[Position], masked: bool) -> str:
    """What is read; at masked tokens also the original, as ``metalm show`` has it."""
    if masked:
        return " ".join(f"{one.text}={''.join(one.predicts)}" for one in members)
    return "".join(one.text for one in members)


def _key(one: Position) -> tuple[int, str, str, int]:
    if one.dock is not None:
        return one.segment, DOCKED, one.dock[0], one.dock[1]
    return one.segment, TRAINED if one.trained else READ, "", -1


def write_sessions(
    folder: Path, rows: Iterable[tuple[str, Sequence[Sequence[Any]]]], said: Iterable[tuple[str, str]]
) -> None:
    """Write ``sessions.json``.

    Args:
        folder: The run folder.
        rows: Titles, and spans from :func:`ngrams`.
        said: What was given, and what the model said to it.

    Raises:
        MetalmError: It cannot be written.
    """
    from metalm_cli.common.atomic_files import write_atomically

    record = {
        "format": FORMAT,
        "rows": [{"title": title, "spans": [list(one) for one in spans]} for title, spans in rows],
        "said": [list(one) for one in said],
    }
    write_atomically(folder / SESSIONS, (json.dumps(record, ensure_ascii=False) + "\n").encode())


def valid_sessions(found: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """What ``sessions.json`` tells, without what is misshapen.

    Args:
        found: As it was read.
        problems: Gets a line for whatever is left out.
    """
    sound = with_known_keys(found, SESSIONS, problems, entries={"rows": dict, "said": list})
    rows = [with_known_keys(one, SESSIONS, problems, {"title": str}, {"spans": list}) for one in sound.get("rows", [])]
    whole = [{**row, "spans": [one for one in row.get("spans", []) if _is_span(one)]} for row in rows]
    said = [one for one in sound.get("said", []) if len(one) == 2 and all(isinstance(text, str) for text in one)]
    left = sum(len(row.get("spans", [])) for row in rows) - sum(len(row["spans"]) for row in whole)
    left += len(sound.get("said", [])) - len(said)
    problems += [f"{SESSIONS}: damaged spans or continuations, left out: {left}"] if left else []
    return {"rows": whole, "said": said} if found else {}


def _is_span(found: Sequence[Any]) -> bool:
    """Whether it is as :func:`ngrams` makes them."""
    kinds = (int, str, str, str, int)
    fits = len(found) == len(kinds) and all(isinstance(one, kind) for one, kind in zip(found, kinds, strict=True))
    return fits and found[1] in (DOCKED, READ, TRAINED)
