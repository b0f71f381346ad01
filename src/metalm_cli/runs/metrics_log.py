"""``metrics.jsonl``: one JSON object per logged step; the same records are sent to Accelerate's trackers."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import write_atomically, write_error
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs.file_identity import FileIdentity

_PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'metalm[trackers]'"),
    "wandb": (("wandb",), "pip install wandb"),
    "trackio": (("trackio",), "pip install trackio"),
}
"""Tracker -> packages, one of which is needed, and the command that installs it."""


class MetricsLog:
    """Appender of records to a JSON-lines file, one write per line. Opening it removes an incomplete last line.

    Args:
        path: The file; it and its folder are created if missing.

    Raises:
        MetalmError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._repair_end()
            self._file = self._open_file()
        except OSError as error:
            raise self._write_error(error) from error

    def write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Append one record and return it as written.

        NaN and infinite values become null, and their keys (``losses.rte`` if nested) are listed under ``nonfinite``.
        NumPy numbers become Python numbers.

        Raises:
            MetalmError: No space is left, or the disk fails.
        """
        nonfinite: list[str] = []
        line = {key: _to_json_value(value, key, nonfinite) for key, value in record.items()}
        if nonfinite:
            line["nonfinite"] = nonfinite
        unwritten = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise self._write_error(error) from error
        return line

    def check_in_place(self) -> None:
        """Check that the path still is the file that is open for writing.

        Raises:
            MetalmError: The file was removed or replaced, so that further records would be lost.
        """
        if problem := self._identity.problem():
            raise MetalmError(
                "the metrics of the run were removed or replaced while this run was writing them",
                where=str(self.path),
                why=problem,
                remedy="restore the file if there is a copy of it, then continue with --resume",
                exit_code=Exit.FAILED,
            )

    def remove_steps_after(self, step: int) -> int:
        """Remove, atomically, the lines of steps after ``step``, and return the number of removed lines.

        Lines without a step and damaged lines in the middle stay (:func:`read_metrics` reports the damaged ones).

        Raises:
            MetalmError: The file cannot be read or written.
        """
        remaining_lines, num_removed = [], 0
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise self._write_error(error) from error
        for line in lines:
            record = _parse(line)
            if record is not None and isinstance(record.get("step"), int | float) and record["step"] > step:
                num_removed += 1
            else:
                remaining_lines.append(line)
        if num_removed:
            write_atomically(self.path, b"".join(remaining_lines))
            self.close()
            self._file = self._open_file()
        return num_removed

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_file(self) -> Any:
        # Unbuffered: a line is one write, so that a kill or a full disk can truncate only the last line.
        file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._identity = FileIdentity(self.path, file.fileno())
        return file

    def _repair_end(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        if data and not data.endswith(b"\n"):
            complete_lines, _, last_line = data.rpartition(b"\n")
            lines = ([complete_lines] if complete_lines else []) + (
                [last_line] if _parse(last_line) is not None else []
            )
            write_atomically(self.path, b"".join(line + b"\n" for line in lines))

    def _write_error(self, error: OSError) -> MetalmError:
        return write_error(error, "cannot write the metrics", self.path, Exit.FAILED)


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the records of a metrics file, also while a run is writing it.

    Returns:
        The records, and a message for each damaged line (``…/metrics.jsonl:17: not a JSON object``). A damaged last
        line is still being written, or was truncated by a kill, and is skipped. A missing file has no records.
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


def missing_records_note(path: Path, step: int, log_every: int) -> str:
    """Describe that records before a resumed step are missing; empty if they are not.

    Args:
        path: The metrics file.
        step: Step of the checkpoint.
        log_every: Number of steps between two training records.

    Raises:
        MetalmError: The file cannot be read.
    """
    due = step // log_every * log_every if log_every > 0 else 0
    try:
        records, _ = read_metrics(path)
    except OSError as error:
        raise MetalmError(
            "the metrics of the run cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            remedy="move it away; the run continues without the earlier records",
        ) from error
    logged = [record["step"] for record in records if isinstance(record.get("step"), int)]
    last = max((number for number in logged if number <= step), default=0)
    if last >= due:
        return ""
    state = "does not exist" if not path.exists() else f"ends at step {last}" if last else "holds no record"
    return f"{path} {state}: the records up to step {step} are missing, and the report will lack them"


def check_trackers(names: Iterable[str], offline: bool = False) -> None:
    """Check, before work begins, that the packages of the requested trackers are installed.

    Accelerate silently skips a tracker whose package is missing.

    Args:
        names: The trackers.
        offline: No connection may be opened: W&B then only writes its files (``wandb sync`` uploads them later).

    Raises:
        MetalmError: A package is missing, or a tracker needs a connection and ``offline`` is set.
    """
    for name in names:
        if offline and name == "trackio":
            raise MetalmError(
                "the tracker trackio cannot be used with --offline",
                where="train.trackers",
                why="trackio starts a server and has no offline mode",
                remedy="remove trackio from train.trackers, or use tensorboard",
            )
        if offline and name == "wandb" and os.environ.get("WANDB_MODE") != "disabled":
            os.environ["WANDB_MODE"] = "offline"
        packages, install = _PACKAGES[name]
        if not any(importlib.util.find_spec(package) for package in packages):
            raise MetalmError(
                f"the tracker {name} is not installed",
                where="train.trackers",
                why=f"package {' or '.join(packages)} is missing",
                remedy=f"{install}, or remove {name} from train.trackers",
            )


def start_trackers(accelerator: Any, names: list[str], project: str, settings: Mapping[str, Any]) -> None:
    """Start the trackers of an ``Accelerator(log_with=names, project_dir=RUN)``, with the recipe as their settings.

    Settings are flattened (``train.steps``) to the plain values that every tracker accepts. All processes call this.
    """
    check_trackers(names)
    if names:
        with _explain_tracker_errors():
            accelerator.init_trackers(project, config=_flatten(settings))


@contextmanager
def _explain_tracker_errors() -> Iterator[None]:
    """Context manager that turns any error of a tracker, such as a missing login, into a :class:`MetalmError`."""
    try:
        yield
    except Exception as error:
        raise MetalmError(
            "a tracker failed",
            where="train.trackers",
            why=f"{type(error).__name__}: {error}".splitlines()[0],
            remedy="set the tracker up (login, disk space), or remove it from train.trackers; then continue "
            "with --resume",
            exit_code=Exit.FAILED,
        ) from error


def log_to_trackers(accelerator: Any, record: Mapping[str, Any]) -> None:
    """Log the numbers of a metrics record to the started trackers, as ``<split>/<key>`` at its step."""
    split = record.get("split", "train")
    values = {
        f"{split}/{key}": value
        for key, value in _flatten(
            {name: item for name, item in record.items() if name not in ("step", "split")}
        ).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    with _explain_tracker_errors():
        accelerator.log(values, step=record["step"])


def end_trackers(accelerator: Any) -> None:
    """Flush and close the started trackers."""
    with _explain_tracker_errors():
        for tracker in accelerator.trackers:
            tracker.finish()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    leaves: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            leaves[f"{prefix}{key}"] = value
        elif value is not None:
            leaves[f"{prefix}{key}"] = json.dumps(value, default=str)
    return leaves


def _to_json_value(value: Any, key: str, nonfinite: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {inner_key: _to_json_value(item, f"{key}.{inner_key}", nonfinite) for inner_key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item, f"{key}.{index}", nonfinite) for index, item in enumerate(value)]
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


class NullLog:
    """Metrics log of the ranks that do not write one."""

    def __enter__(self) -> Any:
        return None

    def __exit__(self, *_: object) -> None: ...


def last_validation(metrics: Path) -> dict[str, Any]:
    """Last validation record of a run; empty without one."""
    records = [record for record in read_metrics(metrics)[0] if record.get("split") == "validation"]
    return records[-1] if records else {}


def validation_losses(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a validation record by name, those of groups (``cluster nli loss``) among them."""
    group_losses = {
        f"{key.removesuffix('_loss')} {name} loss": loss
        for key, losses in record.items()
        if key.endswith("_loss") and isinstance(losses, dict)
        for name, loss in losses.items()
        if isinstance(loss, float)
    }
    return {**{key: value for key, value in record.items() if isinstance(value, float)}, **group_losses}
