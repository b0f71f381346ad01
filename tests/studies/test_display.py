"""Progress display of a study: plain lines, bars that fit the terminal, and the time left."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from metalm_cli.studies.display import Bars, Display, EtaEstimate, make_display
from metalm_cli.studies.stages import Stage


def stage(name: str, out: Path, *needs: str, steps: int = 0) -> Stage:
    return Stage(name, f"what {name} does", "and why", ("evaluate", name), (out / name,), needs, 1.0, steps)


@pytest.mark.parametrize("width", [20, 50, 120])
@pytest.mark.parametrize("colour", [True, False])
def test_bars_fit_terminals_of_any_width(tmp_path, width, colour):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, no_color=not colour, legacy_windows=False)
    stages = [stage("a", tmp_path, steps=100), stage("b", tmp_path, "a")]
    display = make_display(console, stages)
    assert isinstance(display, Bars)
    with display:
        display.begin(stages[0])
        display.tick([(stages[0], 40)], 0.2, 61.0)
        display.end(stages[0], 75, "facts")
        display.tick([(stages[1], 0)], 0.5, None)
    output = stream.getvalue()
    assert "40/100" in output or width < 40
    assert "1:15" in output
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output))
    assert max(map(cell_len, lines)) <= width


def test_characters_that_a_terminal_cannot_encode_are_escaped(tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=stream, force_terminal=True, width=60, legacy_windows=False)
    stages = [stage("a", tmp_path, steps=100)]
    with make_display(console, stages) as display:
        display.end(stages[0], 75, "facts")
        display.line("the last line")
    stream.flush()
    output = stream.buffer.getvalue().decode("ascii")
    assert r"1:15 \xb7 facts" in output
    assert "the last line" in output


def test_without_a_terminal_there_are_only_lines(tmp_path):
    stream = io.StringIO()
    stages = [stage("a", tmp_path)]
    for console in (Console(file=stream), Console(file=stream, force_terminal=True, _environ={"TERM": "dumb"})):
        display = make_display(console, stages)
        assert type(display) is Display
    display.tick([], 0.5, 3.0)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_closed_stream_is_tried_and_ignored(tmp_path, terminal, error):
    class Closed(io.StringIO):
        closed_stream = False
        attempts = 0

        def write(self, text: str) -> int:
            self.attempts += 1
            if self.closed_stream:
                raise error
            return super().write(text)

    stream = Closed()
    console = Console(file=stream, force_terminal=terminal, width=60, _environ={"TERM": "xterm"})
    with make_display(console, [stage("a", tmp_path)]) as display:
        stream.closed_stream, stream.attempts = True, 0
        display.line("first")
        assert stream.attempts
        stream.closed_stream = False
        display.line("second")
    assert "first" not in stream.getvalue()
    assert ("second" in stream.getvalue()) != terminal  # bars are not drawn again


def test_the_time_left_is_estimated_from_the_pace(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stages = [stage(name, tmp_path) for name in "abcd"]
    estimate = EtaEstimate(stages, {"a"}, 2)
    assert estimate({"a"}, {}) == (0.25, 1.5)  # three seconds of work, two stages in parallel
    clock[0] += 20
    assert estimate({"a", "b"}, {"c": 0.0}) == (0.5, 40.0)
    assert estimate({"a", "b", "c"}, {"d": 1.0}) == (1.0, 0.0)
