"""Progress display of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, TextIO

import psutil
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metalm_cli.common.unicode_text import escape
from metalm_cli.training.progress_fields import Record, dock_fields, group_losses, number_fields

SampleContinuation = tuple[str, str]
"""Prompt, and the model's continuation."""

_REFRESH_SECONDS = 0.25
_RATE_WINDOW = 50
_BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """Interface of progress displays; this base class displays nothing (for all ranks but rank zero)."""

    def start(self, steps: int, description: str, done: int = 0) -> None:
        """Start the display of ``steps`` optimiser steps, of which a resumed run has ``done``."""

    def advance(self, step: int) -> None:
        """Update the number of completed optimiser steps; cheap, without a device sync. Optional between records."""

    def step(self, record: Record) -> None:
        """Display a training record."""

    def validation(self, record: Record, samples: Sequence[SampleContinuation] = ()) -> None:
        """Display a validation record with sample continuations."""

    def evaluation(self, record: Record) -> None:
        """Display an evaluation record: ``scores`` by name."""

    def activity(self, text: str) -> None:
        """Display what is done between two steps; optional."""

    def note(self, text: str) -> None:
        """Print a line that stays visible, such as a warning or the path of a checkpoint."""

    def close(self) -> None:
        """Restore the terminal; may be called twice."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_progress(*, main: bool = True, stream: TextIO | None = None, console: Console | None = None) -> Progress:
    """Make a panel if ``stream`` (default stderr) is a terminal that can move its cursor, else plain lines.

    ``NO_COLOR`` removes only the colours; ``TERM=dumb`` gives plain lines. ``main=False`` displays nothing.
    """
    if not main:
        return Progress()
    console = console or Console(file=stream or sys.stderr, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return PanelProgress(console)
    return LineProgress(console.file)


class LineProgress(Progress):
    """Display of one line per record: ``step 20/100 | loss 3.2100 | bits/byte 1.2300 | tokens/s 2,200 | …``."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._clock = _Clock()

    def start(self, steps: int, description: str, done: int = 0) -> None:
        self._clock.start(steps, done)
        resumed = f", resumed after step {done}" if done else ""
        self._print(f"start | {escape(description)} | {steps} steps{resumed}")

    def advance(self, step: int) -> None:
        self._clock.advance(step)

    def step(self, record: Record) -> None:
        self._clock.advance(record["step"])
        fields = [f"{name} {text}" for name, text in number_fields(record)]
        remaining = self._clock.remaining_seconds()
        fields += [] if remaining is None else [f"left {duration(remaining)}"]
        self._print(" | ".join([f"step {record['step']}/{self._clock.steps}", *fields, f"memory {memory()}"]))

    def validation(self, record: Record, samples: Sequence[SampleContinuation] = ()) -> None:
        texts = [*number_fields(record), *group_losses(record), *dock_fields(record)]
        fields = [f"{name} {text}" for name, text in texts]
        self._print(" | ".join([f"validation {record['step']}/{self._clock.steps}", *fields]))
        for prompt, continuation in samples:
            self._print(f'sample | "{escape(prompt)}" -> "{escape(continuation)}"')

    def evaluation(self, record: Record) -> None:
        scores = [f"{name} {score:.2f}" for name, score in record["scores"].items()]
        self._print(" | ".join([f"evaluation {record['step']}/{self._clock.steps}", *map(escape, scores)]))

    def note(self, text: str) -> None:
        self._print(f"note | {escape(text)}")

    def _print(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # The reader has closed the stream; training continues, and metrics.jsonl holds every record.


class PanelProgress(Progress):
    """Live panel at the bottom of the terminal; notes scroll above it.

    The training process itself draws it, at most a few times per second, without a thread: forked loader workers
    can then never inherit a held lock.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._size = console.size
        self._last_drawn = -math.inf
        self._view = PanelView()

    def start(self, steps: int, description: str, done: int = 0) -> None:
        self._view.description = description
        self._view.clock.start(steps, done)
        self._open()
        self._draw()

    def advance(self, step: int) -> None:
        self._view.clock.advance(step)
        if time.monotonic() - self._last_drawn >= _REFRESH_SECONDS:
            self._draw()

    def step(self, record: Record) -> None:
        self._view.add(record)
        self.advance(record["step"])

    def validation(self, record: Record, samples: Sequence[SampleContinuation] = ()) -> None:
        self._view.validation = record
        self._view.samples = list(samples) or self._view.samples
        self._draw()

    def evaluation(self, record: Record) -> None:
        self._view.evaluation, self._view.activity = record, ""
        self._draw()

    def activity(self, text: str) -> None:
        self._view.activity = text
        self.advance(self._view.clock.done)

    def note(self, text: str) -> None:
        self._safely(lambda: self._console.print(Text(escape(text), style="dim"), soft_wrap=True))

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.update(self._view)
            self._safely(live.stop)

    def _open(self) -> None:
        self._size = self._console.size
        self._live = Live(self._view, console=self._console, auto_refresh=False)
        self._safely(self._live.start)

    def _draw(self) -> None:
        if self._live is None:
            return
        self._last_drawn = time.monotonic()
        if self._console.size != self._size:
            # A resized terminal has wrapped the old panel, so its position is unknown: clear the screen.
            live = self._live
            self._safely(live.stop)
            self._safely(self._console.clear)
            self._open()
        self._safely(self._live.refresh)

    def _safely(self, action: Any) -> None:
        try:
            action()
        except (OSError, ValueError):
            self._live = None  # The terminal was closed; training continues.


class PanelView:
    """Content of the panel, laid out for the console's width and height when it is rendered."""

    def __init__(self) -> None:
        self.description = ""
        self.clock = _Clock()
        self.record: Record = {}
        self.validation: Record = {}
        self.evaluation: Record = {}
        self.activity = ""
        self.samples: list[SampleContinuation] = []
        self._losses: deque[float] = deque(maxlen=200)

    def add(self, record: Record) -> None:
        self.record = record
        loss = record.get("loss")
        if isinstance(loss, int | float) and math.isfinite(loss):
            self._losses.append(float(loss))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Two columns stay free for the ^C that a terminal echoes, which would wrap and leave a line of the old panel.
        width = max(options.max_width - 2, 1)
        inner_width = max(width - 4, 1)
        columns = 1 if inner_width < 60 else 2 if inner_width < 110 else 3
        numbers = self._numbers(columns)
        parts: list[RenderableType] = [self._bar(inner_width), numbers]
        # Two border lines, two lines of the bar, and one spare line so that the panel never scrolls the screen.
        free_lines = console.size.height - 5 - numbers.row_count
        if not options.ascii_only and len(self._losses) > 1 and free_lines > 2:
            parts.append(Text(f"loss {sparkline(list(self._losses), inner_width - 5)}", style="cyan", no_wrap=True))
            free_lines -= 1
        losses = "  ".join(
            f"{name} {value}" for name, value in group_losses(self.validation, "task_loss") or group_losses(self.record)
        )
        docks = "  ".join(f"{name} {text}" for name, text in dock_fields(self.validation))
        scores = "  ".join(f"{escape(name)} {score:.2f}" for name, score in self.evaluation.get("scores", {}).items())
        at_step = f"scores at {self.evaluation['step']:,}: {scores}" if scores else ""
        for text in (at_step, f"evaluating {escape(self.activity)}" if self.activity else "", docks, losses):
            if text and free_lines > 2:
                lines = Text(text, style="dim").wrap(console, inner_width)[: max(free_lines - 1, 1)]
                parts += list(lines)
                free_lines -= len(lines)
        for prompt, continuation in self.samples[: max(free_lines, 0)]:
            parts.append(self._sample(prompt, continuation, inner_width))
        title = Text(escape(self.description))
        title.truncate(max(width - 6, 1), overflow="ellipsis")
        yield Panel(Group(*parts), title=title, title_align="left", border_style="dim", width=width)

    def _bar(self, width: int) -> RenderableType:
        clock = self.clock
        remaining = clock.remaining_seconds()
        counts = f"{clock.done:,}/{clock.steps:,}"
        times = duration(clock.elapsed()) + ("" if remaining is None else f" · {duration(remaining)} left")
        bar = ProgressBar(total=max(clock.steps, 1), completed=clock.done)
        if width < 60:
            # In a grid, because the bar alone does not end its line on a colour terminal.
            narrow = Table.grid(expand=True)
            narrow.add_column(no_wrap=True, overflow="ellipsis")
            narrow.add_row(Text(f"step {counts} · {times}"))
            narrow.add_row(bar)
            return narrow
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(Text(f"step {counts}"), bar, Text(times))
        return Group(grid, Text())

    def _numbers(self, columns: int) -> Table:
        train = dict(number_fields(self.record))
        valid = dict(number_fields(self.validation))
        step_suffix = f" at {self.validation['step']:,}" if self.validation else ""
        valid_name = "valid." if columns == 1 else "validation"
        cells = [
            ("loss", train.get("loss", "–")),
            ("bits/byte", train.get("bits/byte", "–")),
            ("lr" if columns == 1 else "learning rate", train.get("lr", "–")),
            (f"{valid_name} loss", valid.get("loss", "–") + step_suffix),
            (f"{valid_name} bits/byte", valid.get("bits/byte", "–")),
            ("tokens/s", train.get("tokens/s", "–")),
            ("grad norm", train.get("grad norm", "–")),
            ("memory", memory()),
        ]
        grid = Table.grid(padding=(0, 1), expand=True)
        for _ in range(columns):
            grid.add_column(no_wrap=True, style="dim")
            grid.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        for start in range(0, len(cells), columns):
            row = cells[start : start + columns]
            grid.add_row(*(Text(text) for cell in row for text in cell))
        return grid

    def _sample(self, prompt: str, continuation: str, width: int) -> RenderableType:
        # The continuation matters most, so the prompt is truncated on the left.
        prompt, continuation = escape(prompt), escape(continuation)
        prompt_width = max(width - min(len(continuation), width * 2 // 3) - 1, 0)
        if len(prompt) > prompt_width:
            prompt = ("…" + prompt[len(prompt) - prompt_width + 1 :]) if prompt_width > 1 else ""
        text = Text(prompt, style="dim", overflow="ellipsis", no_wrap=True)
        return text.append(continuation, style="not dim bold")


class _Clock:
    """Completed steps, and the remaining time at the rate of the last steps."""

    def __init__(self) -> None:
        self.steps = self.done = 0
        self._start_time = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)

    def start(self, steps: int, done: int) -> None:
        self.steps, self.done = steps, done
        self._start_time = time.monotonic()
        self._marks.clear()
        self._marks.append((self._start_time, done))

    def advance(self, step: int) -> None:
        if step > self.done:
            self.done = step
            self._marks.append((time.monotonic(), step))

    def elapsed(self) -> float:
        return time.monotonic() - self._start_time

    def remaining_seconds(self) -> float | None:
        """Remaining seconds; None until a rate is known."""
        if len(self._marks) < 2:
            return None
        (first_time, first_step), (last_time, last_step) = self._marks[0], self._marks[-1]
        return max(self.steps - self.done, 0) * (last_time - first_time) / (last_step - first_step)


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds.

    >>> duration(5), duration(65), duration(3661), duration(90061)
    ('0:05', '1:05', '1:01:01', '25:01:01')
    """
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def sparkline(values: list[float], width: int) -> str:
    """Draw the last values as bars between their minimum and maximum.

    >>> sparkline([4.0, 3.0, 0.5], 10)
    '█▆▁'
    """
    values = values[-max(width, 0) :] if width > 0 else []
    if not values:
        return ""
    low, high = min(values), max(values)
    value_range = (high - low) or 1.0
    return "".join(_BARS[min(int((value - low) / value_range * len(_BARS)), len(_BARS) - 1)] for value in values)


def memory() -> str:
    """Format :func:`memory_bytes`."""
    return _size(memory_bytes()) + (" (device)" if _on_device() else "")


def memory_bytes() -> int:
    """Peak memory of tensors on the CUDA device in use, else the current resident memory of this process."""
    if _on_device():
        return int(sys.modules["torch"].cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


def _on_device() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
