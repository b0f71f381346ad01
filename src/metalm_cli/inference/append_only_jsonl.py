"""Append-only JSONL file of answers, written by one process; a killed run continues from it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import write_error
from metalm_cli.errors import Exit, MetalmError

CONFIGURATION_KEY = "configuration_sha256"
"""Key in the header for the hash of the model's configuration, which older files lack."""
HEADER_START = b'{"format": 1, "metalm": '
"""First bytes of a header. A file that ends within them, or has no line end, holds an incomplete header."""


class OutputFile:
    """Output file: a header, then the answers of numbered input lines.

    Args:
        path: The file; created if it does not exist.
        header: First line of the file. Existing answers are continued only if their header has the same ``hash``.
        line_numbers: Input lines that may have an answer.

    Attributes:
        done: Numbers of the input lines that have an answer.
        errors: Number of answers that are errors.

    Raises:
        MetalmError: The file holds something other than answers, answers under another header or damaged answers;
            another process is writing it; or it cannot be read or written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], line_numbers: Set[int]) -> None:
        self.path = path
        self.done: set[int] = set()
        self.errors = 0
        if path.exists() and not path.is_file():
            raise MetalmError(
                "the output file cannot be written",
                where=str(path),
                why="it is not a regular file, from which an interrupted command could continue",
                remedy="name a file with --out",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that close() does not retry a write that failed.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._write_error(error, Exit.USAGE) from error
        try:
            self._resume(header, line_numbers)
        except OSError as error:
            self._file.close()
            raise self._write_error(error) from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush the file to disk and close it."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._write_error(error) from error
            finally:
                self._file.close()

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append answers.

        Args:
            records: JSON objects; ``line`` is the number of the input line.

        Raises:
            MetalmError: The file cannot be written.
        """
        if not records:
            return
        self._write(b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records))
        self.done.update(record["line"] for record in records)
        self.errors += sum("error" in record for record in records)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._write_error(error) from error

    def _resume(self, header: Mapping[str, Any], line_numbers: Set[int]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MetalmError(
                "another process is writing to this file",
                where=str(self.path),
                remedy="wait until it ends, or choose another --out",
            ) from error
        self._file.seek(0)
        data = self._file.read()
        end = data.rfind(b"\n") + 1
        if not end and (data.startswith(HEADER_START) or HEADER_START.startswith(data)):
            self._file.truncate(0)
            self._write(json.dumps(header, ensure_ascii=False).encode() + b"\n")
            return
        header_line, *record_lines = data[:end].split(b"\n")[:-1] or [data]
        self._check_header(header_line, header)
        for number, record_line in enumerate(record_lines, 2):
            self._add_existing_record(number, record_line, line_numbers)
        if end < len(data):
            self._file.truncate(end)

    def _check_header(self, header_line: bytes, header: Mapping[str, Any]) -> None:
        """Raise an error unless the file holds answers of the same model, settings and input."""
        try:
            existing = json.loads(header_line)
        except (ValueError, RecursionError):
            existing = None
        if not header_line.startswith(HEADER_START) or not isinstance(existing, dict):
            raise MetalmError(
                "the output file exists and does not hold answers",
                where=str(self.path),
                remedy="choose another --out; existing files are never overwritten",
            )
        differences = _header_differences(existing, header)
        is_older = CONFIGURATION_KEY in header["model"] and CONFIGURATION_KEY not in _part(existing, "model")
        if existing.get("hash") != header["hash"] and (differences or not is_older):
            raise MetalmError(
                "the output file holds answers of another run",
                where=str(self.path),
                why="; ".join(differences) or "the hash of its header differs",
                remedy="choose another --out, or continue with the same model, settings and input; "
                "existing files are never overwritten",
            )

    def _add_existing_record(self, number: int, record_line: bytes, line_numbers: Set[int]) -> None:
        try:
            record = json.loads(record_line)
            line = record["line"]
            valid = line in line_numbers and ("text" in record or "error" in record)
        except (ValueError, TypeError, KeyError, RecursionError):
            valid = False
        if not valid:
            raise MetalmError(
                "the output file is damaged",
                where=f"{self.path}:{number}",
                why=f"this line is not an answer: {record_line[:60].decode(errors='replace')}",
                remedy="remove the line, or choose another --out",
            )
        self.done.add(line)
        self.errors += "error" in record

    def _write_error(self, error: OSError, exit_code: Exit = Exit.FAILED) -> MetalmError:
        remedy = "choose another --out, or free disk space and run the same command to continue"
        return write_error(error, "the output file cannot be written", self.path, exit_code, remedy)


def _header_differences(old_header: Mapping[str, Any], new_header: Mapping[str, Any]) -> list[str]:
    """List the differences between two headers; older files lack the hash of the configuration."""
    differences = []
    for part in ("model", "settings", "input"):
        old, new = _part(old_header, part), new_header[part]
        for key in sorted(set(old) | set(new)):
            if key in ("source", "file", "lines") or (key == CONFIGURATION_KEY and key not in old):
                continue
            if old.get(key) != new.get(key):
                labels = {
                    "sha256": "another file",
                    "weights_sha256": "other weights",
                    "reads_sha256": "other tokens",
                    CONFIGURATION_KEY: "another configuration",
                }
                differences.append(
                    f"{part}: {labels[key]}" if key in labels else f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
                )
    return differences


def _part(header: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a part of a header; an empty one if it is damaged."""
    part = header.get(name)
    return part if isinstance(part, dict) else {}
