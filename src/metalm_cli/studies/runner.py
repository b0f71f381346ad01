"""Runner of a study's stages: several in parallel, each in its own process; a stopped study can be resumed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Protocol

from metalm_cli.common.signals import signal_handlers
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.studies.display import Display, EtaEstimate
from metalm_cli.studies.stages import Stage
from metalm_cli.studies.state import COMMAND_PREFIX, StudyFolder, error_file, is_stage_finished, logged_steps

POLL_INTERVAL_S = 0.25
"""Seconds between checks of the running processes."""
STOP_TIMEOUT_S = 30.0
"""Seconds that stopped stages have to save their state."""
STOPPED_CODE = int(Exit.STOPPED)


class ChildProcess(Protocol):
    """A command that runs in its own process."""

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while the process runs."""

    def stop(self) -> None:
        """Make the process save its state and exit; a second call makes it exit at once."""

    def kill(self) -> None:
        """Kill the process."""


StartStage = Callable[[Stage, Path], ChildProcess]
"""Starts a stage in a process that writes its output to the file."""


class StudyStopped(Exception):
    """The user, the system or the budget stopped the study; finished work is kept."""


class BudgetSpent(StudyStopped):
    """The running time of the stages exceeds the budget."""


class Runner:
    """Runs stages in order, each as soon as the stages that it requires have finished.

    Args:
        stages: All stages.
        folder: Folder that stores their state.
        start: Starts a stage.
        display: Shows the progress.
        jobs: Number of stages that run in parallel.
        describe_result: Describes the result of a finished stage.
        budget: Running seconds of all stages together, after which the running ones are stopped; None: no limit.
        on_finished: Called after each finished stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        folder: StudyFolder,
        start: StartStage,
        display: Display,
        jobs: int,
        describe_result: Callable[[Stage], str] = lambda stage: "",
        budget: float | None = None,
        on_finished: Callable[[], object] = lambda: None,
    ) -> None:
        self.stages, self.folder, self.start, self.display = stages, folder, start, display
        self.jobs, self.describe_result = jobs, describe_result
        self.budget, self.on_finished = budget, on_finished
        self.done = folder.finished(stages)
        self.running: dict[str, tuple[Stage, ChildProcess, float]] = {}

    def run(self) -> None:
        """Run the stages that have not finished.

        Raises:
            StudyStopped: A signal arrived; the running stages have been stopped.
            MetalmError: A stage failed; the other running stages have been stopped.
        """
        estimate = EtaEstimate(self.stages, self.done, self.jobs)
        with _SignalCounter() as signals:
            for stage in self.stages:
                if stage.name in self.done:
                    self.display.skip(stage)
            try:
                while len(self.done) < len(self.stages):
                    self._collect_finished()
                    self._start_ready()
                    shares = {name: _finished_share(*entry) for name, entry in self.running.items()}
                    running = [(entry[0], logged_steps(entry[0])) for entry in self.running.values()]
                    self.display.tick(running, *estimate(self.done, shares))
                    if self.running:
                        signals.wait(POLL_INTERVAL_S)
                    if signals.pending:
                        raise StudyStopped(signals.pending)
                    if self.running and self.budget is not None and self._spent() > self.budget:
                        raise BudgetSpent(f"the budget of {self.budget / 3600:g} hours is spent")
            finally:
                self._stop_running(signals)

    def _start_ready(self) -> None:
        for stage in self.stages:
            if len(self.running) >= self.jobs:
                return
            if stage.name in self.done or stage.name in self.running or not self.done.issuperset(stage.requires):
                continue
            self.folder.prepare(stage)
            self.display.begin(stage)
            self.running[stage.name] = (stage, self.start(stage, self.folder.log_path(stage)), time.monotonic())

    def _collect_finished(self) -> None:
        """Record the stages that have ended.

        Raises:
            MetalmError: A stage failed.
            StudyStopped: A stage was stopped from outside.
        """
        for name, (stage, child, started) in list(self.running.items()):
            code = child.poll()
            if code is None:
                continue
            del self.running[name]
            self.folder.add_seconds(stage, time.monotonic() - started)
            if code == STOPPED_CODE:
                raise StudyStopped(f"{name} was stopped")
            if code or not is_stage_finished(stage):
                raise _stage_error(stage, self.folder.log_path(stage), code)
            self.done.add(name)
            self.display.end(stage, self.folder.seconds[name], self.describe_result(stage))
            self.on_finished()

    def _spent(self) -> float:
        """Running seconds of all stages so far."""
        now = time.monotonic()
        return sum(self.folder.seconds.values()) + sum(now - started for _, _, started in self.running.values())

    def _stop_running(self, signals: _SignalCounter) -> None:
        """Stop the running stages; a second signal is passed on to them. Stages that do not exit in time are killed."""
        try:
            if self.running:
                self.display.line("stopping: the running stages save their state first")
            for _, child, _ in self.running.values():
                child.stop()
            deadline, signals_seen = time.monotonic() + STOP_TIMEOUT_S, signals.count
            while self.running and time.monotonic() < deadline:
                for name, (stage, child, started) in list(self.running.items()):
                    if child.poll() is not None:
                        del self.running[name]
                        with suppress(MetalmError):  # such as a full disk: only the recorded time is lost
                            self.folder.add_seconds(stage, time.monotonic() - started)
                    elif signals.count > signals_seen:
                        child.stop()
                signals_seen = signals.count
                if self.running:
                    time.sleep(0.05)
        finally:
            for _, child, _ in self.running.values():
                with suppress(OSError):
                    child.kill()


def _finished_share(stage: Stage, child: ChildProcess, started: float) -> float:
    """Finished share of a running stage, by its steps or else by its running time."""
    if stage.steps:
        return min(logged_steps(stage) / stage.steps, 1.0)
    return min((time.monotonic() - started) / (2 * stage.cost), 0.9)


def _stage_error(stage: Stage, log: Path, code: int) -> MetalmError:
    """Error of a failed stage, with the error that its process wrote or else the end of its log."""
    try:
        lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    starts = [index for index, line in enumerate(lines) if line.startswith(COMMAND_PREFIX)]
    lines = lines[starts[-1] + 1 :] if starts else lines
    reason = _error_lines(log) or lines[-3:]
    ending = f"signal {-code}" if code < 0 else f"exit code {code}" if code else "its outputs are missing"
    return MetalmError(
        f"the stage {stage.name} failed ({ending})",
        where=str(log),
        why="\n    ".join(line for line in reason if line),
        remedy="run the same command again: it repeats this stage and keeps the finished ones",
        exit_code=Exit.FAILED,
    )


def _error_lines(log: Path) -> list[str]:
    """Lines of the error that a stage's process wrote; empty if there is none."""
    try:
        error = json.loads(error_file(log).read_text(encoding="utf-8"))
        return str(MetalmError(**error)).splitlines()
    except (OSError, ValueError, TypeError):
        return []


class _SignalCounter:
    """Context manager that counts SIGINT, SIGTERM and SIGHUP, which do not end the program meanwhile."""

    def __init__(self) -> None:
        self.pending = ""
        self.count = 0
        self._event = threading.Event()
        self._handlers = signal_handlers(self._handle, "SIGINT", "SIGTERM", "SIGHUP")

    def __enter__(self) -> _SignalCounter:
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.__exit__(None, None, None)

    def wait(self, seconds: float) -> None:
        """Sleep until the time is over or a signal arrives."""
        self._event.wait(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.pending = signal.Signals(number).name
        self.count += 1
        self._event.set()
