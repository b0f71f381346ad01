"""``metrics.jsonl``: one JSON object a logged step; and the same records handed to Accelerate's trackers."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import write_atomically, write_error
from metalm_cli.errors import Exit, MetalmError

_PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'metalm[trackers]'"),
    "wandb": (("wandb",), "pip install wandb"),
    "trackio": (("trackio",), "pip install trackio"),
}
"""Tracker -> packages of which one is enough, and the command that installs it."""


class MetricsLog:
    """Appends records to a JSON-lines file, one write a line. Opening it removes a torn last line.

    Args:
        path: The file; it and its folder are made where missing.

    Raises:
        MetalmError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._mend()
            self._file = self._append()
        except OSError as error:
            raise self._failed(error) from error

    def write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Appends one record and returns it as written.

        NaN and infinite values become null, and their keys (``losses.rte`` for a nested one) stand in the list
        ``nonfinite``. Numbers of numpy are taken as Python's.

        Raises:
            MetalmError: No space is left, or the disk fails.
        """
        nonfinite: list[str] = []
        line = {key: _plain(value, key, nonfinite) for key, value in record.items()}
        if nonfinite:
            line["nonfinite"] = nonfinite
        rest = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failed(error) from error
        return line

    def cut_back(self, step: int) -> int:
        """Removes, atomically, the lines of steps after ``step``, and returns how many they were.

        Lines without a step, and damaged ones in the middle, stay (:func:`append` names those).
        """
        kept, removed = [], 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            record = _parse(line)
            if record is not None and isinstance(record.get("step"), int | float) and record["step"] > step:
                removed += 1
            else:
                kept.append(line)
        if removed:
            write_atomically(self.path, b"".join(kept))
            self.close()
            self._file = self._append()
        return removed

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self) -> Any:
        # Unbuffered: a line is one write, so that a kill or a full disk can tear only the last.
        return open(self.path, "ab", buffering=0)

    def _mend(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        if data and not data.endswith(b"\n"):
            whole, _, last = data.rpartition(b"\n")
            lines = ([whole] if whole else []) + ([last] if _parse(last) is not None else [])
            write_atomically(self.path, b"".join(line + b"\n" for line in lines))

    def _failed(self, error: OSError) -> MetalmError:
        return write_error(error, "cannot write the metrics", self.path, Exit.FAILED)


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads the records of a metrics file, also while a run writes it.

    Returns:
        The records, and a line for each damaged one (``…/metrics.jsonl:17: not a JSON object``). A damaged last
        line is being written, or was torn by a kill, and is left out without a word. No file: no records.
    """
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return records, problems
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            problems.append(f"{path}:{number}: not a JSON object")
    return records, problems


def check_trackers(names: Iterable[str], offline: bool = False) -> None:
    """Checks before work begins that the packages of the asked trackers are installed.

    Accelerate leaves out a tracker whose package is missing, without a word.

    Args:
        names: The trackers.
        offline: No connection may be opened: W&B then writes its files alone (``wandb sync`` sends them later).

    Raises:
        MetalmError: A package is missing; or a tracker cannot do without connections.
    """
    for name in names:
        if offline and name == "trackio":
            raise MetalmError(
                "the tracker trackio cannot be used with --offline",
                where="train.trackers",
                why="it starts a server, and has no mode that opens no connection",
                remedy="take trackio out of train.trackers, or use tensorboard",
            )
        if offline and name == "wandb" and os.environ.get("WANDB_MODE") != "disabled":
            os.environ["WANDB_MODE"] = "offline"
        packages, install = _PACKAGES[name]
        if not any(importlib.util.find_spec(package) for package in packages):
            raise MetalmError(
                f"the tracker {name} is not installed",
                where="train.trackers",
                why=f"no package {' or '.join(packages)} was found",
                remedy=f"{install}, or take {name} out of train.trackers",
            )


def start_trackers(accelerator: Any, names: list[str], project: str, settings: Mapping[str, Any]) -> None:
    """Starts the trackers of an ``Accelerator(log_with=names, project_dir=RUN)``, with the recipe as their settings.

    Settings are flattened (``train.steps``) to the plain values that every tracker takes. In every process.
    """
    check_trackers(names)
    if names:
        accelerator.init_trackers(project, config=_flat(settings))


def log_to_trackers(accelerator: Any, record: Mapping[str, Any]) -> None:
    """Hands the numbers of a metrics record to the started trackers, as ``<split>/<key>`` at its step."""
    split = record.get("split", "train")
    values = {
        f"{split}/{key}": value
        for key, value in _flat({k: v for k, v in record.items() if k not in ("step", "split")}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    accelerator.log(values, step=record["step"])


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        elif isinstance(value, bool | int | float | str):
            flat[f"{above}{key}"] = value
        elif value is not None:
            flat[f"{above}{key}"] = json.dumps(value, default=str)
    return flat


def _plain(value: Any, key: str, nonfinite: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {inner: _plain(item, f"{key}.{inner}", nonfinite) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}.{index}", nonfinite) for index, item in enumerate(value)]
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(key)
        return None
    return value


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
