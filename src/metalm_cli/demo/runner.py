"""Running the stages: as many at a time as there is room for, each in a process of its own. Stopped, they go on."""

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
from metalm_cli.demo.display import Display, EtaEstimate
from metalm_cli.demo.stages import Stage
from metalm_cli.demo.state import COMMAND, Folder, error_file, is_made, steps_done
from metalm_cli.errors import Exit, MetalmError

PAUSE = 0.25
"""Seconds between looks at what runs."""
PATIENCE = 30.0
"""Seconds that stopped stages have to save what they have."""
STOPPED = int(Exit.STOPPED)


class ChildProcess(Protocol):
    """A command that runs in a process of its own."""

    def poll(self) -> int | None:
        """Its exit code (negative for a signal); None while it runs."""

    def stop(self) -> None:
        """Ask it to save and leave; asked again, it leaves at once."""

    def kill(self) -> None:
        """End it."""


Start = Callable[[Stage, Path], ChildProcess]
"""Begins a stage whose output goes to a file."""


class DemoStopped(Exception):
    """The user, or the system, has asked the demo to stop; what was done is kept."""


class Runner:
    """Runs stages in their order as their needs are met.

    Args:
        stages: All of them.
        folder: Where they are remembered.
        start: Begins a stage.
        display: Shows them.
        jobs: How many run at a time.
        facts: What to say of a finished stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        folder: Folder,
        start: Start,
        display: Display,
        jobs: int,
        facts: Callable[[Stage], str] = lambda stage: "",
    ) -> None:
        self.stages, self.folder, self.start, self.display = stages, folder, start, display
        self.jobs, self.facts = jobs, facts
        self.done = folder.done(stages)
        self.running: dict[str, tuple[Stage, ChildProcess, float]] = {}

    def run(self) -> None:
        """Do what is not done.

        Raises:
            Stopped: By a signal; the running stages have been asked to save.
            MetalmError: A stage failed; the others have been asked to save.
        """
        reckoning = EtaEstimate(self.stages, self.done, self.jobs)
        with _Signals() as signals:
            for stage in self.stages:
                if stage.name in self.done:
                    self.display.skip(stage)
            try:
                while len(self.done) < len(self.stages):
                    self._look()
                    self._begin()
                    shares = {name: _share(*one) for name, one in self.running.items()}
                    running = [(one[0], steps_done(one[0])) for one in self.running.values()]
                    self.display.tick(running, *reckoning(self.done, shares))
                    if self.running:
                        signals.wait(PAUSE)
                    if signals.pending:
                        raise DemoStopped(signals.pending)
            finally:
                self._end(signals)

    def _begin(self) -> None:
        for stage in self.stages:
            if len(self.running) >= self.jobs:
                return
            if stage.name in self.done or stage.name in self.running or not self.done.issuperset(stage.needs):
                continue
            self.folder.prepare(stage)
            self.display.begin(stage)
            self.running[stage.name] = (stage, self.start(stage, self.folder.log(stage)), time.monotonic())

    def _look(self) -> None:
        """See which stages have ended.

        Raises:
            MetalmError: One of them badly.
            Stopped: One was stopped by somebody else.
        """
        for name, (stage, child, since) in list(self.running.items()):
            code = child.poll()
            if code is None:
                continue
            del self.running[name]
            self.folder.spent(stage, time.monotonic() - since)
            if code == STOPPED:
                raise DemoStopped(f"{name} was stopped")
            if code or not is_made(stage):
                raise _failed(stage, self.folder.log(stage), code)
            self.done.add(name)
            self.display.end(stage, self.folder.seconds[name], self.facts(stage))

    def _end(self, signals: _Signals) -> None:
        """Let what still runs save and leave; a second interrupt asks again. What does not leave is ended."""
        try:
            if self.running:
                self.display.line("stopping: what runs saves first")
            for _, child, _ in self.running.values():
                child.stop()
            deadline, asked = time.monotonic() + PATIENCE, signals.count
            while self.running and time.monotonic() < deadline:
                for name, (stage, child, since) in list(self.running.items()):
                    if child.poll() is not None:
                        del self.running[name]
                        with suppress(MetalmError):  # a full disk, say; the time is all that is lost
                            self.folder.spent(stage, time.monotonic() - since)
                    elif signals.count > asked:
                        child.stop()
                asked = signals.count
                if self.running:
                    time.sleep(0.05)
        finally:
            for _, child, _ in self.running.values():
                with suppress(OSError):
                    child.kill()


def _share(stage: Stage, child: ChildProcess, since: float) -> float:
    """How much of a running stage is done: by its steps, or by its time."""
    if stage.steps:
        return min(steps_done(stage) / stage.steps, 1.0)
    return min((time.monotonic() - since) / (2 * stage.cost), 0.9)


def _failed(stage: Stage, log: Path, code: int) -> MetalmError:
    """The error of a stage that failed, with the error that its process wrote, or else the end of its log."""
    try:
        lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    begun = [at for at, line in enumerate(lines) if line.startswith(COMMAND)]
    lines = lines[begun[-1] + 1 :] if begun else lines
    reason = _written_error(log) or lines[-3:]
    ended = f"signal {-code}" if code < 0 else f"exit code {code}" if code else "it left nothing behind"
    return MetalmError(
        f"the stage {stage.name} failed ({ended})",
        where=str(log),
        why="\n    ".join(line for line in reason if line),
        remedy="the same command begins this stage again; all that was done before is kept",
        exit_code=Exit.FAILED,
    )


def _written_error(log: Path) -> list[str]:
    """Lines of the error that a stage's process wrote; empty if it wrote none."""
    try:
        error = json.loads(error_file(log).read_text(encoding="utf-8"))
        return str(MetalmError(**error)).splitlines()
    except (OSError, ValueError, TypeError):
        return []


class _Signals:
    """While it is entered, SIGINT, SIGTERM and SIGHUP are counted instead of ending the program."""

    def __init__(self) -> None:
        self.pending = ""
        self.count = 0
        self._event = threading.Event()
        self._handled = signal_handlers(self._handle, "SIGINT", "SIGTERM", "SIGHUP")

    def __enter__(self) -> _Signals:
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal comes."""
        self._event.wait(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.pending = signal.Signals(number).name
        self.count += 1
        self._event.set()
