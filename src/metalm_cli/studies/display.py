"""Progress display of a study: lines for each stage and, on a terminal, bars for running stages and the total."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from metalm_cli.studies.stages import Stage


class Display:
    """Display of plain lines; :class:`Bars` adds progress bars for terminals.

    Args:
        console: Console to print to.
        stages: All stages, in order.
    """

    def __init__(self, console: Console, stages: Sequence[Stage]) -> None:
        self.console = console
        self.numbers = {stage.name: number for number, stage in enumerate(stages, 1)}
        self.width = max((len(stage.name) for stage in stages), default=0)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the terminal."""

    def begin(self, stage: Stage) -> None:
        """Announce a stage with its summary and its purpose."""
        purpose = f": {stage.purpose}" if stage.purpose else ""
        self.line(f"{self._prefix(stage)}{stage.summary}{purpose}")

    def skip(self, stage: Stage) -> None:
        """Report that a stage was finished before."""
        self.line(f"{self._prefix(stage)}done before")

    def end(self, stage: Stage, seconds: float, result: str) -> None:
        """Report that a stage has finished."""
        suffix = f" · {result}" if result else ""
        self.line(f"{self._prefix(stage)}done in {format_duration(seconds)}{suffix}")

    def tick(self, running: Sequence[tuple[Stage, int]], fraction: float, seconds_left: float | None) -> None:
        """Update the bars: running stages with their steps, finished share of all the work, and seconds left."""

    def line(self, text: str) -> None:
        """Print a line. A closed output stream is ignored."""
        stream = self.console.file
        try:
            stream.write(self._encodable(text) + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    def _encodable(self, text: str) -> str:
        """The text, with escapes for characters that the stream cannot encode."""
        encoding = getattr(self.console.file, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def _prefix(self, stage: Stage) -> str:
        stage_count = len(self.numbers)
        return f"[{self.numbers[stage.name]:>{len(str(stage_count))}}/{stage_count}] {stage.name:<{self.width}}  "


class Bars(Display):
    """Display with progress bars below the lines, redrawn when the terminal is resized."""

    def __enter__(self) -> Bars:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        narrow = self.console.width < self.width + 50
        name = TextColumn(
            "{task.description}",
            table_column=Column(no_wrap=True, overflow="ellipsis", min_width=0 if narrow else self.width),
        )
        status = TextColumn(
            "{task.fields[status]}",
            table_column=Column(no_wrap=True, overflow="ellipsis", min_width=0 if narrow else 24),
        )
        columns: list[Any] = [name, status] if narrow else [name, BarColumn(bar_width=None), status]
        self._progress = Progress(*columns, console=self.console, expand=not narrow, transient=True, auto_refresh=False)
        self._tasks: dict[str, Any] = {}
        self._total = self._progress.add_task("total", total=1.0, status="")
        self._print_safely(self._progress.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._print_safely(self._progress.stop)

    def tick(self, running: Sequence[tuple[Stage, int]], fraction: float, seconds_left: float | None) -> None:
        names = {stage.name for stage, _ in running}
        for name in [name for name in self._tasks if name not in names]:
            self._progress.remove_task(self._tasks.pop(name))
        for stage, done in running:
            if stage.name not in self._tasks:
                total = stage.steps or None
                self._tasks[stage.name] = self._progress.add_task(stage.name, total=total, status="")
            status = f"{done:,}/{stage.steps:,} steps" if done else "starting" if stage.steps else "running"
            self._progress.update(self._tasks[stage.name], completed=done, status=status)
        status = f"{fraction:.0%}" + ("" if seconds_left is None else f", about {format_duration(seconds_left)} left")
        self._progress.update(self._total, completed=fraction, status=status)
        self._print_safely(self._progress.refresh)

    def line(self, text: str) -> None:
        self._print_safely(lambda: self.console.print(Text(self._encodable(text))))

    def _print_safely(self, action: Any) -> None:
        try:
            action()
        except (OSError, ValueError, SystemExit):  # rich raises SystemExit on a broken pipe
            self.console.quiet = True


def make_display(console: Console, stages: Sequence[Stage]) -> Display:
    """Create a display: bars on a terminal that can move its cursor, else plain lines."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return Bars(console, stages) if bars else Display(console, stages)


class EtaEstimate:
    """Finished share and time left, estimated from the costs of the stages and the pace so far.

    Args:
        stages: All stages.
        done: Names of the stages that are finished at the start.
        jobs: Number of stages that run in parallel.
    """

    def __init__(self, stages: Sequence[Stage], done: set[str], jobs: int) -> None:
        self.costs = {stage.name: stage.cost for stage in stages}
        self.total_cost = sum(self.costs.values()) or 1.0
        self.jobs = jobs
        self.initial_cost = self._finished_cost(done, {})
        self.started = time.monotonic()

    def __call__(self, done: set[str], running: dict[str, float]) -> tuple[float, float]:
        """Return the finished share and the seconds left.

        Args:
            done: Names of finished stages.
            running: Finished shares of running stages, by name.
        """
        finished_cost = self._finished_cost(done, running)
        seconds_left = (self.total_cost - finished_cost) / self.jobs
        new_cost = finished_cost - self.initial_cost
        if new_cost > 0.05 * self.total_cost:
            seconds_left = (time.monotonic() - self.started) / new_cost * (self.total_cost - finished_cost)
        return min(finished_cost / self.total_cost, 1.0), max(seconds_left, 0.0)

    def _finished_cost(self, done: set[str], running: dict[str, float]) -> float:
        return sum(self.costs[name] for name in done) + sum(self.costs[name] * share for name, share in running.items())


def format_duration(seconds: float) -> str:
    """Format a duration in seconds.

    >>> format_duration(7), format_duration(75), format_duration(3700)
    ('0:07', '1:15', '1:01:40')
    """
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{remainder:02}" if hours else f"{minutes}:{remainder:02}"
