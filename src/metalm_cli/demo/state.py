"""The demo's folder: whose it is, what was asked of it, and which stages have finished."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
from metalm_cli.demo.stages import DemoSize, Stage
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs import metrics_log
from metalm_cli.runs.folder import is_finished

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

STATE = "demo.json"
LOGS = "logs"
COMMAND = "$ metalm "
"""What stands in a log before each command."""


class Folder:
    """The folder of a demo.

    Args:
        path: Where it is; made if there is none.
        budget: What is asked for.

    Raises:
        MetalmError: It holds something else or a demo of another size, another process is at it, or it cannot be
            written; nothing has been changed then.
    """

    def __init__(self, path: Path, budget: DemoSize) -> None:
        self.path = path
        self._lock: Any = None
        state = read_state(path)
        if state is not None and state.get("size") != budget.name:
            raise MetalmError(
                f"this folder holds a demo of another size: {state.get('size')}",
                where=str(path),
                why=f"asked for: {budget.name}",
                remedy="choose another --out, or remove the folder",
            )
        with explain_write_errors(path, "the demo cannot be written here", Exit.USAGE):
            (path / LOGS).mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._state = state or {"format": 1, "size": budget.name, "stages": {}, "records": {}}
            self._state["metalm"] = metalm_cli.__version__
            self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """How long each finished stage took, in all its parts; and what has begun, so far."""
        return dict(self._state["stages"])

    def done(self, stages: Sequence[Stage]) -> set[str]:
        """Stages that need not be done: what they make is there, and was made by this metalm, by the same command,
        from what the stages that they need have left last.

        Args:
            stages: All of them, in order.
        """
        found: set[str] = set()
        for stage in stages:
            if is_made(stage) and self._fits(stage) and found.issuperset(stage.needs):
                found.add(stage.name)
        return found

    def again(self, stages: Sequence[Stage]) -> str:
        """Which finished stages are done again, and why; empty where none is."""
        done = self.done(stages)
        names = [stage.name for stage in stages if stage.name not in done and is_made(stage)]
        if not names:
            return ""
        told = ", ".join(names) if len(names) < len(stages) else f"all {len(names)} stages"
        versions = {self._records[name]["metalm"] for name in names if name in self._records}
        other = " and ".join(sorted(versions - {metalm_cli.__version__}))
        if other:
            return f"made by metalm {other}, and this is {metalm_cli.__version__}; done again: {told}"
        return f"done again, because their commands or what they need are no longer the same: {told}"

    def log(self, stage: Stage) -> Path:
        """Where a stage's own output goes."""
        return self.path / LOGS / f"{stage.name}.log"

    def spent(self, stage: Stage, seconds: float) -> None:
        """Add to the time that a stage has taken."""
        self._state["stages"][stage.name] = round(self._state["stages"].get(stage.name, 0.0) + seconds, 1)
        self._write()

    def prepare(self, stage: Stage) -> None:
        """Make room for a stage, and record it.

        A run goes on where it fits; else it is removed. Half an evaluation is begun anew, with the answers that are
        kept.
        """
        with explain_write_errors(self.path, f"the stage {stage.name} of the demo cannot be begun", Exit.FAILED):
            error_file(self.log(stage)).unlink(missing_ok=True)
            if not self._fits(stage):
                _remove(stage)
                self.log(stage).unlink(missing_ok=True)
                self._state["stages"].pop(stage.name, None)
            elif stage.run is None:
                _remove(stage)
            with open(self.log(stage), "a", encoding="utf-8") as log:
                log.write(f"{COMMAND}{shown(stage.arguments)}\n")
        last = max((record["number"] for record in self._records.values()), default=0)
        self._records[stage.name] = {"metalm": metalm_cli.__version__, "command": stage.mark, "number": last + 1}
        self._write()

    def close(self) -> None:
        """Let go of the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    @property
    def _records(self) -> dict[str, dict[str, Any]]:
        """What was begun: by which metalm, by which command (None: not recorded), and in which order."""
        records: dict[str, dict[str, Any]] = self._state["records"]
        return records

    def _fits(self, stage: Stage) -> bool:
        """Whether a stage was begun by this metalm, by the same command, and after all that it needs."""
        record = self._records.get(stage.name)
        if record is None or record["metalm"] != metalm_cli.__version__:
            return False
        needs = [self._records[name]["number"] for name in stage.needs if name in self._records]
        return record["command"] in (None, stage.mark) and max(needs, default=0) <= record["number"]

    def _write(self) -> None:
        write_atomically(self.path / STATE, (json.dumps(self._state, indent=2) + "\n").encode())

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
                    "another process runs this demo",
                    where=str(self.path),
                    remedy="wait for it, stop it, or choose another --out",
                ) from error
            return  # a file system without locks
        self._lock = lock


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """The state as it is worked with; a folder from before there were records gets those of the stages it names.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is damaged.
    """
    stages = {name: float(seconds) for name, seconds in state["stages"].items()}
    unknown = {"metalm": state["metalm"], "command": None, "number": 0}
    records = {
        name: {"metalm": str(one["metalm"]), "command": one["command"], "number": int(one["number"])}
        for name, one in state.get("records", dict.fromkeys(stages, unknown)).items()
    }
    return {"format": 1, "size": state["size"], "stages": stages, "records": records}


def _remove(stage: Stage) -> None:
    """Remove what a stage has left, so that it begins anew."""
    for place in stage.makes:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
            place.with_name(f"{place.stem}.samples.jsonl").unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any] | None:
    """What a demo's folder says of itself; None where there is none yet.

    Raises:
        MetalmError: Something else is there.
    """
    other = "choose another --out, or remove what is there"
    if path.is_symlink() and not path.exists():
        raise MetalmError("the demo's folder is a link to nothing", where=str(path), remedy=other)
    if path.exists() and not path.is_dir():
        raise MetalmError("the demo needs a folder, and this is a file", where=str(path), remedy=other)
    with explain_write_errors(path, "the demo's folder cannot be read", Exit.USAGE):
        content = {one.name for one in path.iterdir()} if path.is_dir() else set()
    if not content - {LOGS, ".lock"}:
        return None
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        if state["format"] == 1:
            return _checked(state)
        why = f"{STATE} is of another version"
    except FileNotFoundError:
        why = f"it holds {', '.join(sorted(content)[:4])}, and no {STATE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        why = f"{STATE} is damaged"
    raise MetalmError("this folder holds something else than a demo", where=str(path), why=why, remedy=other)


def error_file(log: Path) -> Path:
    """File beside a stage's log that holds the error it failed with, as JSON: what, where, why and remedy."""
    return log.with_suffix(".error.json")


def is_made(stage: Stage) -> bool:
    """Whether everything that a stage makes is there and whole."""
    if stage.run is not None:
        return is_finished(stage.run)
    return all(_is_whole(place) for place in stage.makes)


def _is_whole(place: Path) -> bool:
    if place.suffix != ".json":
        return place.is_file()
    try:
        return bool(json.loads(place.read_bytes())["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def steps_done(stage: Stage) -> int:
    """Optimiser steps that a stage's run has logged."""
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
    """The last line of a split (``train``, ``validation``) that a run has logged; empty where there is none."""
    try:
        records, _ = metrics_log.read(run / "metrics.jsonl")
    except OSError:
        return {}
    return next((one for one in reversed(records) if one.get("split") == split), {})


def shown(arguments: tuple[str, ...]) -> str:
    """A command line as a shell takes it."""
    import shlex

    return shlex.join(arguments)
