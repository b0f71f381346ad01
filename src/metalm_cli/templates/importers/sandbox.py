"""Running the limited process, and reading its answers as what they are: text from others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.tasks import Card

WALL_SECONDS = 60.0
"""What a run may take beside the time of its files."""
FILE_SECONDS = 30.0
TOGETHER = 32
"""Files that one process reads."""
MAX_ANSWERS = 64 << 20

Source = tuple[str, Path]
"""What a file is called, and where it lies."""


def read_in_sandbox(format: str, sources: Sequence[Source], cards: Mapping[str, Card]) -> Iterator[dict[str, Any]]:
    """Have files read by limited processes.

    A process that dies or runs out of time costs the file that it was at; the next goes on behind it.

    Args:
        format: Name of the reader.
        sources: The files.
        cards: Cards by name.

    Returns:
        For each file, in order, ``{"name", "files"}`` or ``{"name", "refused"}``.

    Raises:
        MetalmError: No process can be started.
    """
    waiting = list(sources)
    while waiting:
        batch = waiting[:TOGETHER]
        answers, end = _run(format, batch, cards)
        yield from answers
        waiting = waiting[len(answers) :]
        if len(answers) < len(batch):
            yield {"name": batch[len(answers)][0], "refused": end}
            waiting = waiting[1:]


def _run(format: str, batch: Sequence[Source], cards: Mapping[str, Card]) -> tuple[list[dict[str, Any]], str]:
    """Answers of one process, and how it ended if there are too few."""
    command = [sys.executable, "-I", "-m", "metalm_cli.templates.importers.sandbox_worker"]
    # No variables of the user's: none is needed, and some steer Python or hold secrets.
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryFile() as requests, tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as errors:
        requests.write(_line({name: card.model_dump(mode="json") for name, card in cards.items()}))
        for name, path in batch:
            text = path.read_bytes().decode("utf-8", errors="replace")
            requests.write(_line({"format": format, "name": name, "text": text}))
        requests.seek(0)
        try:
            done = subprocess.run(
                command,
                stdin=requests,
                stdout=answers,
                stderr=errors,
                env=environment,
                cwd=tempfile.gettempdir(),
                timeout=WALL_SECONDS + FILE_SECONDS * len(batch),
                check=False,
            )
            end = _ending(done.returncode)
        except subprocess.TimeoutExpired:
            end = "reading it takes too long"
        except OSError as error:
            raise MetalmError(
                "templates of others cannot be read safely here",
                why=f"no limited process can be started: {error.strerror or error}",
                exit_code=Exit.FAILED,
            ) from error
        answers.seek(0)
        found = list(_answers(answers.read(MAX_ANSWERS), [name for name, _ in batch]))
        if not found and end == _ending(1):
            errors.seek(0)
            end += _last_line(errors.read(100_000))
        return found, end


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _ending(code: int) -> str:
    if code == -24:
        return "reading it takes too much processor time"
    if code < 0:
        return f"the process that read it was ended by signal {-code}"
    return "the process that read it failed"


def _last_line(raw: bytes) -> str:
    lines = raw.decode("utf-8", errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    return f": {said[-1][:200]}" if said else ""


def _answers(raw: bytes, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Whole lines that are answers to these files, in this order; nothing after the first that is not."""
    for name, line in zip(names, raw.split(b"\n")[:-1], strict=False):
        try:
            found = json.loads(line)
        except ValueError:
            return
        if not isinstance(found, dict) or found.get("name") != name or not ({"files", "refused"} & set(found)):
            return
        yield found
