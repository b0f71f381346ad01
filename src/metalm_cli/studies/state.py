"""State of a study's folder: its scale, how each stage was started, and which stages have finished."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs import metrics_log
from metalm_cli.runs.find import is_finished
from metalm_cli.studies.load import COPY, DEMO, WORLD, Study
from metalm_cli.studies.stages import Stage

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

STATE_FILE = "study.json"
DEMO_STATE_FILE = "demo.json"
"""State of a demo of an earlier version, read if the folder has no state of this version."""
STUDY_FILE = f"{COPY}.yaml"
"""Copy of the study's file in its folder."""
LOG_FOLDER = "logs"
COMMAND_PREFIX = "$ metalm "
"""Prefix of the log line that names a command, before the command's output."""
FORMAT = 2
"""Format version of the state."""


class StudyFolder:
    """The folder of a study, locked while it is open.

    Args:
        path: The folder; created if it does not exist.
        study: The study.
        scale: Name of its scale.
        check: Called with the folder before anything is written; may raise an error.

    Raises:
        MetalmError: The folder holds something else, another study or another scale, another process uses it, or it
            cannot be written; nothing has been changed in these cases.
    """

    def __init__(
        self, path: Path, study: Study, scale: str, check: Callable[[StudyFolder], None] = lambda folder: None
    ) -> None:
        self.path, self.study = path, study
        self._lock: Any = None
        state = read_state(path)
        for key, requested in (("study", study.name), ("scale", scale)):
            if state is not None and state[key] != requested:
                raise MetalmError(
                    f"this folder holds another {key}: {state[key]}",
                    where=str(path),
                    why=f"requested {key}: {requested}",
                    remedy="choose another --out, or remove the folder",
                )
        self._state: dict[str, Any] = state or {"stages": {}, "records": {}}
        check(self)
        with explain_write_errors(path, f"the {self.noun} cannot be written here", Exit.USAGE):
            (path / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._state |= {"format": FORMAT, "study": study.name, "scale": scale, "metalm": metalm_cli.__version__}
            claims = {"sha256": study.claims_sha256, "recorded": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
            self._state.setdefault("claims", claims)
            self._write()
            if study.path.resolve() != (path / STUDY_FILE).resolve():
                write_atomically(path / STUDY_FILE, study.path.read_bytes())

    @property
    def noun(self) -> str:
        """The word for the study in messages."""
        return noun(self.study.name)

    @property
    def claims_note(self) -> str:
        """Sentence on when the claims and their expectations were recorded."""
        return claims_note(self._state, self.study)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each started stage has taken so far, all its attempts together."""
        return dict(self._state["stages"])

    def finished(self, stages: Sequence[Stage]) -> set[str]:
        """Return the names of the finished stages.

        The outputs of a finished stage exist, and were made by this version of metalm, by the same command, from the
        latest outputs of the stages that it requires.

        Args:
            stages: All stages, in order.
        """
        finished: set[str] = set()
        for stage in stages:
            if is_stage_finished(stage) and self._is_current(stage) and finished.issuperset(stage.requires):
                finished.add(stage.name)
        return finished

    def rerun_note(self, stages: Sequence[Stage]) -> str:
        """Note that names the finished stages that will run again, with the reason; empty if there are none."""
        reason, names = self.changes(stages)
        if "made by" in reason:
            return f"{reason}; running again: {names}"
        return f"running again, because {reason}: {names}" if names else ""

    def changes(self, stages: Sequence[Stage]) -> tuple[str, str]:
        """Return why finished stages are not current, and their names; both are empty if there are none."""
        finished = self.finished(stages)
        names = [stage.name for stage in stages if stage.name not in finished and is_stage_finished(stage)]
        if not names:
            return "", ""
        stage_list = ", ".join(names) if len(names) < len(stages) else f"all {len(names)} stages"
        versions = {self._records[name]["metalm"] for name in names if name in self._records}
        other_versions = " and ".join(sorted(versions - {metalm_cli.__version__}))
        if other_versions:
            return f"made by metalm {other_versions}, this is {metalm_cli.__version__}", stage_list
        return "their commands or the stages they require have changed", stage_list

    def version_of(self, stage: Stage) -> str:
        """Version of metalm that started a stage; empty if it was not started."""
        record = self._records.get(stage.name)
        return "" if record is None else str(record["metalm"])

    def log_path(self, stage: Stage) -> Path:
        """Path of the log with a stage's output."""
        return self.path / LOG_FOLDER / f"{stage.name}.log"

    def add_seconds(self, stage: Stage, seconds: float) -> None:
        """Add to the recorded running time of a stage."""
        self._state["stages"][stage.name] = round(self._state["stages"].get(stage.name, 0.0) + seconds, 1)
        self._write()

    def prepare(self, stage: Stage) -> None:
        """Prepare the folder for a stage, and record its start.

        An unfinished run of the same command is kept, so that it is resumed; any other is removed. An incomplete
        evaluation starts again with its cached answers.
        """
        with explain_write_errors(
            self.path, f"the stage {stage.name} of the {self.noun} cannot be started", Exit.FAILED
        ):
            error_file(self.log_path(stage)).unlink(missing_ok=True)
            if not self._is_current(stage):
                _remove_outputs(stage)
                self.log_path(stage).unlink(missing_ok=True)
                self._state["stages"].pop(stage.name, None)
            elif stage.run is None:
                _remove_outputs(stage)
            with open(self.log_path(stage), "a", encoding="utf-8") as log:
                log.write(f"{COMMAND_PREFIX}{shell_command(stage.arguments)}\n")
        last_number = max((record["number"] for record in self._records.values()), default=0)
        self._records[stage.name] = {
            "metalm": metalm_cli.__version__,
            "command": stage.command_hash,
            "number": last_number + 1,
        }
        self._write()

    def close(self) -> None:
        """Release the lock of the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    @property
    def _records(self) -> dict[str, dict[str, Any]]:
        """Record of each started stage: version of metalm, hash of the command (None: unknown), number in the order."""
        records: dict[str, dict[str, Any]] = self._state["records"]
        return records

    def _is_current(self, stage: Stage) -> bool:
        """Whether a stage was started by this version of metalm, by the same command, after all stages it requires."""
        record = self._records.get(stage.name)
        if record is None or record["metalm"] != metalm_cli.__version__:
            return False
        numbers = [self._records[name]["number"] for name in stage.requires if name in self._records]
        return record["command"] in (None, stage.command_hash) and max(numbers, default=0) <= record["number"]

    def _write(self) -> None:
        write_atomically(self.path / STATE_FILE, (json.dumps(self._state, indent=2) + "\n").encode())

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        lock = open(self.path / ".lock", "a+")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise MetalmError(
                    f"another process runs this {self.noun}",
                    where=str(self.path),
                    remedy="wait for it, stop it, or choose another --out",
                ) from error
            return  # a file system without locks
        self._lock = lock


def noun(study_name: str) -> str:
    """The word for a study in messages.

    >>> noun("demo"), noun("multitask")
    ('demo', 'study')
    """
    return DEMO if study_name == DEMO else "study"


def claims_note(state: dict[str, Any], study: Study) -> str:
    """Sentence on when the claims and their expectations were recorded; empty if the study has none."""
    if not study.file.claims:
        return ""
    if state["claims"]["sha256"] != study.claims_sha256:
        return f"The claims or expectations were changed after the first stage began ({state['claims']['recorded']})."
    return f"Claims and expectations were recorded before the first stage began ({state['claims']['recorded']})."


def _parse_state(state: dict[str, Any], is_demo: bool) -> dict[str, Any]:
    """Parse a state; a state without records, from an earlier version, gets a record for each of its stages.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The state is damaged.
    """
    stages = {name: float(seconds) for name, seconds in state["stages"].items()}
    unknown = {"metalm": state["metalm"], "command": None, "number": 0}
    records = {
        name: {"metalm": str(record["metalm"]), "command": record["command"], "number": int(record["number"])}
        for name, record in state.get("records", dict.fromkeys(stages, unknown)).items()
    }
    parsed = {"format": FORMAT, "stages": stages, "records": records}
    if is_demo:
        return {**parsed, "study": WORLD, "scale": str(state["size"])}
    claims = {key: str(state["claims"][key]) for key in ("sha256", "recorded")}
    return {**parsed, "study": str(state["study"]), "scale": str(state["scale"]), "claims": claims}


def _remove_outputs(stage: Stage) -> None:
    """Remove the outputs of a stage."""
    for path in stage.outputs:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.stem}.samples.jsonl").unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any] | None:
    """Read the state of a study's folder; None if the folder holds no study yet.

    Raises:
        MetalmError: The folder holds something else.
    """
    remedy = "choose another --out, or remove the existing file or folder"
    if path.is_symlink() and not path.exists():
        raise MetalmError("the study's folder is a broken link", where=str(path), remedy=remedy)
    if path.exists() and not path.is_dir():
        raise MetalmError("a study needs a folder, but this is a file", where=str(path), remedy=remedy)
    with explain_write_errors(path, "the study's folder cannot be read", Exit.USAGE):
        entries = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if not entries - {LOG_FOLDER, ".lock"}:
        return None
    name = DEMO_STATE_FILE if DEMO_STATE_FILE in entries and STATE_FILE not in entries else STATE_FILE
    try:
        state = json.loads((path / name).read_text(encoding="utf-8"))
        if state["format"] == (1 if name == DEMO_STATE_FILE else FORMAT):
            return _parse_state(state, name == DEMO_STATE_FILE)
        why = f"{name} has another format version"
    except FileNotFoundError:
        why = f"the folder holds {', '.join(sorted(entries)[:4])}, but no {name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        why = f"{name} is damaged"
    raise MetalmError("this folder holds something other than a study", where=str(path), why=why, remedy=remedy)


def error_file(log: Path) -> Path:
    """File beside a stage's log that holds the error it failed with, as JSON: what, where, why and remedy."""
    return log.with_suffix(".error.json")


def is_stage_finished(stage: Stage) -> bool:
    """Whether all outputs of a stage exist and are complete."""
    if stage.run is not None:
        return is_finished(stage.run)
    return all(_is_complete(path) for path in stage.outputs)


def _is_complete(path: Path) -> bool:
    if path.suffix != ".json":
        return path.is_file()
    try:
        return bool(json.loads(path.read_bytes())["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def logged_steps(stage: Stage) -> int:
    """Number of optimiser steps that a stage's run has logged."""
    if stage.run is None:
        return 0
    try:
        with open(stage.run / "metrics.jsonl", "rb") as file:
            file.seek(max(file.seek(0, 2) - 20_000, 0))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    for line in reversed(lines[:-1]):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def last_record(run: Path, split: str) -> dict[str, Any]:
    """Last record of a split (``train``, ``validation``) in a run's metrics log; empty if there is none."""
    try:
        records, _ = metrics_log.read_metrics(run / "metrics.jsonl")
    except OSError:
        return {}
    return next((record for record in reversed(records) if record.get("split") == split), {})


def shell_command(arguments: tuple[str, ...]) -> str:
    """A command line, quoted for a shell."""
    import shlex

    return shlex.join(arguments)
