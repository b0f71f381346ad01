"""The newest finished run: the model of commands that name none.

One rule for all commands: runs below ``runs/``, their seeds and the stages of studies count if their model has
encoders. Of these, a command prefers some kinds of training; of a kind, the newest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.runs.find import RESULTS, RUNS

UNKNOWN = ""
"""Command of a model without a lineage."""
TO_EVALUATE = ("instruct", "finetune", "pretrain", UNKNOWN)
"""Kinds of training that evaluation and generation prefer, the first before the others."""
TO_TRAIN = ("pretrain", "finetune", "instruct")
"""Kinds of training that finetuning and instruction tuning start from, the first before the others."""
LEVELS = 3
"""Levels of folders below ``runs/``: ``demo/seed-0/metalm``."""
KINDS = {"pretrain": "pretraining", "finetune": "finetuning", "instruct": "instruction tuning"}

_LINEAGE = "lineage.json"
_CONFIGS = {"model": "config.json", "adapter": "metalm_adapter.json"}


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose model has encoders.

    Args:
        path: Folder of the run.
        command: Command that trained the model, a key of ``KINDS``, or ``UNKNOWN``.
        time: Time when the result was written, in nanoseconds.
    """

    path: Path
    command: str
    time: int

    def __str__(self) -> str:
        return f"{self.path} (the newest run{f' of {KINDS[self.command]}' if self.command else ''})"


def newest_run(
    preference: Sequence[str], *, root: Path = RUNS, results: Sequence[str] = RESULTS, remedy: str
) -> FinishedRun:
    """Find the run of a command that names no model.

    Links named ``latest`` are not followed: a run elsewhere is used only by its name.

    Args:
        preference: Commands that may have trained it; those that come first are preferred.
        root: Parent folder of the runs.
        results: Results that count: ``model``, ``adapter``.
        remedy: What to do without such a run.

    Raises:
        MetalmError: No run counts.
    """
    runs = [run for path in run_folders(root) if (run := read_run(path, results)) and run.command in preference]
    if not runs:
        raise MetalmError(
            "no model is named, and no finished run has a model with encoders",
            where=str(root.absolute()),
            why="none of its runs has one" if root.is_dir() else "no such folder",
            remedy=remedy,
        )
    return min(runs, key=lambda run: (preference.index(run.command), -run.time, str(run.path)))


def real_path(model: str) -> str:
    """Return the run that a link to a run (``runs/latest``) points to; other names as they are."""
    path = Path(model)
    if not path.is_symlink() or not path.is_dir():
        return model
    target = Path(os.path.normpath(path.parent / path.readlink()))
    return str(target) if target.exists() else model


def run_folders(root: Path, levels: int = LEVELS) -> Iterator[Path]:
    """Yield the folders with a result below a folder, by name."""
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.name != "latest" and entry.is_dir())
    except OSError:  # it does not exist, or may not be read
        return
    if any(name in folders for name in RESULTS):
        yield root
    for name in folders:
        if levels and name not in (*RESULTS, "checkpoints") and not name.startswith("."):
            yield from run_folders(root / name, levels - 1)


def read_run(path: Path, results: Sequence[str] = RESULTS) -> FinishedRun | None:
    """Read the newest result of a run; None if it has no encoders, or if its files are missing or damaged."""
    runs = [_read_result(path, name) for name in results]
    return max((run for run in runs if run is not None), key=lambda run: run.time, default=None)


def _read_result(path: Path, name: str) -> FinishedRun | None:
    folder = path / name
    lineage, config = _read_object(folder / _LINEAGE), _read_object(folder / _CONFIGS[name])
    command = str(lineage.get("command", UNKNOWN))
    has_encoders = config.get("model_type") == "metalm" or bool(config.get("connectors"))
    if command not in (*KINDS, UNKNOWN) or not has_encoders:
        return None
    return FinishedRun(path, command, (folder / (_LINEAGE if lineage else _CONFIGS[name])).stat().st_mtime_ns)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
