"""What the demo shows while it works: one line a stage, and on a terminal a bar for what runs and for the whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from metalm_cli.demo.stages import Stage


class Display:
    """Plain lines; what a terminal has besides is in :class:`Bars`.

    Args:
        console: Where to.
        stages: All stages, in order.
    """

    def __init__(self, console: Console, stages: Sequence[Stage]) -> None:
        self.console = console
        self.numbers = {stage.name: at for at, stage in enumerate(stages, 1)}
        self.width = max((len(stage.name) for stage in stages), default=0)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""

    def begin(self, stage: Stage) -> None:
        """A stage begins: what happens, and why."""
        self.line(f"{self._mark(stage)}{stage.what}: {stage.why}")

    def skip(self, stage: Stage) -> None:
        """A stage had been done before."""
        self.line(f"{self._mark(stage)}done before")

    def end(self, stage: Stage, seconds: float, facts: str) -> None:
        """A stage is done."""
        told = f" · {facts}" if facts else ""
        self.line(f"{self._mark(stage)}done in {clock(seconds)}{told}")

    def tick(self, running: Sequence[tuple[Stage, int]], fraction: float, left: float | None) -> None:
        """A moment has passed: what runs with its steps, the share of everything that is done, seconds left."""

    def line(self, text: str) -> None:
        """A line that stays. A reader who has left is no reason to stop."""
        stream = self.console.file
        try:
            stream.write(self._sayable(text) + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    def _sayable(self, text: str) -> str:
        """A text in characters that the stream can write."""
        encoding = getattr(self.console.file, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def _mark(self, stage: Stage) -> str:
        of = len(self.numbers)
        return f"[{self.numbers[stage.name]:>{len(str(of))}}/{of}] {stage.name:<{self.width}}  "


class Bars(Display):
    """Bars below the lines, redrawn as a terminal is resized."""

    def __enter__(self) -> Bars:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        narrow = self.console.width < self.width + 50
        name = TextColumn(
            "{task.description}",
            table_column=Column(no_wrap=True, overflow="ellipsis", min_width=0 if narrow else self.width),
        )
        told = TextColumn(
            "{task.fields[told]}", table_column=Column(no_wrap=True, overflow="ellipsis", min_width=0 if narrow else 24)
        )
        columns: list[Any] = [name, told] if narrow else [name, BarColumn(bar_width=None), told]
        self._progress = Progress(*columns, console=self.console, expand=not narrow, transient=True, auto_refresh=False)
        self._tasks: dict[str, Any] = {}
        self._whole = self._progress.add_task("everything", total=1.0, told="")
        self._safely(self._progress.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._safely(self._progress.stop)

    def tick(self, running: Sequence[tuple[Stage, int]], fraction: float, left: float | None) -> None:
        names = {stage.name for stage, _ in running}
        for name in [name for name in self._tasks if name not in names]:
            self._progress.remove_task(self._tasks.pop(name))
        for stage, done in running:
            if stage.name not in self._tasks:
                total = stage.steps or None
                self._tasks[stage.name] = self._progress.add_task(stage.name, total=total, told="")
            told = f"{done:,}/{stage.steps:,} steps" if done else "beginning" if stage.steps else "working"
            self._progress.update(self._tasks[stage.name], completed=done, told=told)
        told = f"{fraction:.0%}" + ("" if left is None else f", about {clock(left)} left")
        self._progress.update(self._whole, completed=fraction, told=told)
        self._safely(self._progress.refresh)

    def line(self, text: str) -> None:
        self._safely(lambda: self.console.print(Text(self._sayable(text))))

    def _safely(self, action: Any) -> None:
        try:
            action()
        except (OSError, ValueError, SystemExit):  # rich leaves so where the reader of a pipe has left
            self.console.quiet = True


def make_display(console: Console, stages: Sequence[Stage]) -> Display:
    """Bars on a terminal that can move its cursor, else lines alone."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return Bars(console, stages) if bars else Display(console, stages)


class EtaEstimate:
    """How much is done, and how long the rest may take, from the costs of stages and the pace so far.

    Args:
        stages: All of them.
        done: Names of those that are done already.
        jobs: How many run at a time.
    """

    def __init__(self, stages: Sequence[Stage], done: set[str], jobs: int) -> None:
        self.costs = {stage.name: stage.cost for stage in stages}
        self.whole = sum(self.costs.values()) or 1.0
        self.jobs = jobs
        self.first = self._of(done, {})
        self.began = time.monotonic()

    def __call__(self, done: set[str], running: dict[str, float]) -> tuple[float, float]:
        """The share that is done, and seconds left.

        Args:
            done: Names of finished stages.
            running: Shares of running ones.
        """
        have = self._of(done, running)
        expected = (self.whole - have) / self.jobs
        worked = have - self.first
        if worked > 0.05 * self.whole:
            expected = (time.monotonic() - self.began) / worked * (self.whole - have)
        return min(have / self.whole, 1.0), max(expected, 0.0)

    def _of(self, done: set[str], running: dict[str, float]) -> float:
        return sum(self.costs[name] for name in done) + sum(self.costs[name] * share for name, share in running.items())


def clock(seconds: float) -> str:
    """A duration.

    >>> clock(7), clock(75), clock(3700)
    ('0:07', '1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
