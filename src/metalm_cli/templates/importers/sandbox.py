"""Runner of the sandboxed process; its answers are treated as untrusted input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalm_cli.common.paths import read_regular
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.tasks import Card

STARTUP_TIMEOUT_S = 60.0
"""Time limit of a process in seconds, in addition to the time limit of its files."""
FILE_TIMEOUT_S = 120.0
FILES_PER_PROCESS = 32
"""Number of files read by one process."""
MAX_OUTPUT_BYTES = 64 << 20

_START = (
    "import sys; sys.path[:0] = sys.argv[2:];"
    "from metalm_cli.templates.importers.sandbox_worker import run; run(sys.argv[1])"
)
"""Program of the process: it finds modules where this process does, and starts with the importer's target."""

NamedFile = tuple[str, Path]
"""Name and path of a file."""


def read_in_sandbox(importer: str, sources: Sequence[NamedFile], cards: Mapping[str, Card]) -> Iterator[dict[str, Any]]:
    """Read files in sandboxed processes.

    If a process dies or exceeds its time, the file that it was reading is refused, and a new process continues with the
    next file.

    Args:
        importer: Target of the importer: ``package.module:object``.
        sources: The files.
        cards: Cards by name.

    Returns:
        For each file, in order, ``{"name", "files"}`` or ``{"name", "refused"}``.

    Raises:
        MetalmError: No process can be started.
    """
    waiting = list(sources)
    while waiting:
        batch = waiting[:FILES_PER_PROCESS]
        answers, reason = _run_worker(importer, batch, cards)
        yield from answers
        waiting = waiting[len(answers) :]
        if len(answers) < len(batch):
            yield {"name": batch[len(answers)][0], "refused": reason}
            waiting = waiting[1:]


def _run_worker(
    importer: str, batch: Sequence[NamedFile], cards: Mapping[str, Card]
) -> tuple[list[dict[str, Any]], str]:
    """Run one process; return its answers, and how it ended if answers are missing."""
    command = [sys.executable, "-I", "-c", _START, importer, *_module_folders()]
    # Environment variables are not passed on, except the folders of PYTHONPATH: some change Python's behaviour or
    # contain secrets.
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryFile() as requests, tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as errors:
        requests.write(_json_line({name: card.model_dump(mode="json") for name, card in cards.items()}))
        for name, path in batch:
            text = read_regular(path).decode("utf-8", errors="replace")
            requests.write(_json_line({"name": name, "text": text}))
        requests.seek(0)
        try:
            process = subprocess.run(
                command,
                stdin=requests,
                stdout=answers,
                stderr=errors,
                env=environment,
                cwd=tempfile.gettempdir(),
                timeout=STARTUP_TIMEOUT_S + FILE_TIMEOUT_S * len(batch),
                check=False,
            )
            reason = _exit_reason(process.returncode)
        except subprocess.TimeoutExpired:
            reason = "reading the file takes too long"
        except OSError as error:
            raise MetalmError(
                "cannot read imported templates safely",
                why=f"the sandboxed process cannot be started: {error.strerror or error}",
                exit_code=Exit.FAILED,
            ) from error
        answers.seek(0)
        parsed = list(_parse_answers(answers.read(MAX_OUTPUT_BYTES), [name for name, _ in batch]))
        if not parsed and reason == _exit_reason(1):
            errors.seek(0)
            reason += _last_line(errors.read(100_000))
        return parsed, reason


def _module_folders() -> list[str]:
    """Return the folders in which the process looks for modules before the installed ones.

    These are the absolute folders of ``PYTHONPATH``, as far as this process uses them, so that the same metalm and the
    same plugins are imported. The working folder, which may hold the imported files, is never among them.
    """
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [folder for folder in folders if os.path.isabs(folder) and folder in sys.path]


def _json_line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _exit_reason(code: int) -> str:
    if code == -24:
        return "reading the file takes too much processor time"
    if code < 0:
        return f"the reading process was ended by signal {-code}"
    return "the reading process failed"


def _last_line(raw: bytes) -> str:
    lines = raw.decode("utf-8", errors="replace").split("\n")
    non_blank = [line for line in lines if line.strip()]
    return f": {non_blank[-1][:200]}" if non_blank else ""


def _parse_answers(raw: bytes, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Parse complete lines that are answers to these files in order; stop at the first invalid line."""
    for name, line in zip(names, raw.split(b"\n")[:-1], strict=False):
        try:
            answer = json.loads(line)
        except ValueError:
            return
        if not isinstance(answer, dict) or answer.get("name") != name or not ({"files", "refused"} & set(answer)):
            return
        yield answer
