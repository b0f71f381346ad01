"""Result reader: search and validation of result files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metalm_cli.common.paths import read_regular
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.schema import RESULT_FORMAT, ResultRecord, damaged_file

MAX_FILE_BYTES = 2_000_000_000
"""Maximum size of a result file."""


def parse_result(record: Mapping[str, Any], name: str) -> ResultRecord:
    """Validate a record.

    Args:
        record: Content of a result file.
        name: Name in tables and messages: the file.

    Raises:
        MetalmError: The record has another format, or is invalid.
    """
    version = record.get("format")
    if version != RESULT_FORMAT or isinstance(version, bool):
        if "tasks" not in record or not isinstance(version, int):
            raise MetalmError(
                "not a result file of metalm", where=name, remedy="name a file that metalm evaluate wrote"
            )
        is_older = version < RESULT_FORMAT
        raise MetalmError(
            f"results of format {version} cannot be read",
            where=name,
            why=f"this version of metalm reads format {RESULT_FORMAT}",
            remedy="evaluate the model again"
            if is_older
            else "use the version of metalm that wrote the file, or a newer version",
        )
    try:
        return ResultRecord.model_validate({**record, "name": name, "format": RESULT_FORMAT})
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise damaged_file(name, f"{location}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def read_result(path: Path) -> ResultRecord:
    """Read a result file.

    Raises:
        MetalmError: The file cannot be read, is damaged, is not a result file, or has another format.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MetalmError("the file is too large for a result file", where=str(path))
        record = json.loads(read_regular(path))
    except OSError as error:
        raise MetalmError(
            "results cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            remedy="name a result file, or a run folder with results/",
        ) from error
    except (ValueError, RecursionError) as error:
        raise damaged_file(str(path), f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise MetalmError(
            "not a result file of metalm", where=str(path), remedy="name a file that metalm evaluate wrote"
        )
    return parse_result(record, str(path))


def result_files(source: Path) -> list[Path]:
    """List the result files of an argument: a file itself, or the files of a run folder, oldest first.

    Raises:
        MetalmError: The folder has no result files.
    """
    if not source.is_dir():
        return [source]
    folder = source / "results" if (source / "results").is_dir() else source
    files = [path for path in folder.glob("*.json") if path.is_file() and _may_be_result_file(path)]
    if not files:
        raise MetalmError(
            "no results found",
            where=str(folder),
            remedy=f"run metalm evaluate {source} --task NAME to write results"
            if folder != source
            else "name a result file",
        )
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _may_be_result_file(path: Path) -> bool:
    """Whether a file may be a result file; an unreadable file counts, so that reading it reports the error."""
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError):
        return True
    return isinstance(content, dict) and {"tasks", "format"} <= set(content)
