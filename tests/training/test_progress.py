"""Progress: the panel at every width, plain lines, and escaping of control characters."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from metalm_cli.common.unicode_text import escape
from metalm_cli.training import progress
from metalm_cli.training.progress import LineProgress, PanelProgress, PanelView, make_progress

TRAIN = {"step": 20, "loss": 3.21, "bits_per_byte": 1.5, "lr": 3e-4, "tokens_per_second": 2200.4, "grad_norm": 0.9}
VALIDATION = {"step": 20, "split": "validation", "loss": 3.5, "bits_per_byte": 1.625}
EVALUATION: dict[str, Any] = {"step": 20, "split": "evaluation", "scores": {"rte": 62.5, "mean": 48.125}}
NASTY = "[bold]x[/bold]\n\x1b[2J\x07\u202eevil\u2028\udc80\t\r\n日本"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(progress, "memory", lambda: "1.5 GiB")
    return Clock(monkeypatch)


def test_the_lines(clock: Clock) -> None:
    stream = io.StringIO()
    with make_progress(stream=stream) as lines:
        assert isinstance(lines, LineProgress)
        lines.start(100, "pretrain small", done=10)
        clock.now += 30
        lines.step(TRAIN)
        lines.validation(VALIDATION, [("one\ntwo", " three")])
        lines.activity("rte (1 of 2)")
        lines.evaluation(EVALUATION)
        lines.note("checkpoint of step 20")
        lines.step({"step": 30, "loss": None})
    assert stream.getvalue().splitlines() == [
        "start | pretrain small | 100 steps, resumed after step 10",
        "step 20/100 | loss 3.2100 | bits/byte 1.5000 | lr 3.00e-04 | grad norm 0.900 | tokens/s 2,200 | left 4:00"
        " | memory 1.5 GiB",
        "validation 20/100 | loss 3.5000 | bits/byte 1.6250",
        'sample | "one⏎two" -> " three"',
        "evaluation 20/100 | rte 62.50 | mean 48.12",
        "note | checkpoint of step 20",
        "step 30/100 | loss nan | left 1:45 | memory 1.5 GiB",
    ]


def test_lines_go_to_any_encoding_and_outlive_their_reader() -> None:
    raw = io.BytesIO()
    lines = LineProgress(io.TextIOWrapper(raw, encoding="ascii"))
    lines.note("naïve\n")
    assert raw.getvalue() == rb"note | na\xefve\u23ce" + b"\n"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        lines = LineProgress(closed)
        lines.note("a line without a reader")
        lines.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)


def terminal(width: int, height: int = 30, **settings) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, _environ={"TERM": "xterm"}, **settings
    )


def view(clock: Clock) -> PanelView:
    panel = PanelView()
    panel.description = "pretrain small"
    panel.clock.start(100, 0)
    for step in range(1, 21):
        clock.now += 2
        panel.clock.advance(step)
        panel.add({**TRAIN, "step": step, "loss": 5 - step / 10})
    panel.validation = VALIDATION
    panel.samples = [("Once upon a time there was", " a small model"), (NASTY, NASTY)]
    return panel


def render(panel: PanelView, width: int, height: int = 30) -> list[str]:
    console = terminal(width, height, record=True)
    console.print(panel)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [10, 20, 40, 80, 160])
def test_the_panel_fits_every_width(clock: Clock, width: int) -> None:
    lines = render(view(clock), width)
    assert {cell_len(line) for line in lines} == {width - 2}
    assert len(lines) < 20
    assert not any(c in "".join(lines) for c in "\x1b\x07\u202e\u2028\udc80\r")


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_panel_displays_everything(clock: Clock, width: int) -> None:
    text = "\n".join(render(view(clock), width))
    for part in (
        "pretrain small",
        "20/100",
        "0:40",
        "2:40 left",
        "3.0000",
        "1.5000",
        "3.00e-04",
        "3.5000",
        "1.6250",
        "2,200",
        "0.900",
        "1.5 GiB",
        "a small model",
        "█▇",
    ):
        assert part in text, part
    if width == 160:
        assert "[bold]x[/bold]⏎\\x1b[2J\\x07\\u202eevil\\u2028\\udc80 ⏎日本" in text


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("height", range(5, 18))
def test_a_low_terminal_loses_the_samples_first(clock: Clock, width: int, height: int) -> None:
    lines = render(view(clock), width, height)
    numbers = {40: 8, 80: 4, 160: 3}[width]
    assert len(lines) == max(min(height - 1, 4 + numbers + 3), 4 + numbers)
    assert ("a small model" in "\n".join(lines)) == (height - 1 > 4 + numbers)
    assert ("█▇" in "\n".join(lines)) == (height - 1 >= 4 + numbers + 3)


@pytest.mark.parametrize("width", [20, 80])
def test_the_panel_displays_scores_and_what_is_evaluated(clock: Clock, width: int) -> None:
    panel = view(clock)
    panel.evaluation = {**EVALUATION, "scores": {**EVALUATION["scores"], NASTY: 1.0}}
    panel.activity = "rte (1 of 2): 5 of 40 examples\x1b[2J"
    lines = render(panel, width)
    assert {cell_len(line) for line in lines} == {width - 2}
    text = re.sub(r"[\s│]+", " ", "\n".join(lines))
    assert "scores at 20: rte 62.50 mean 48.12" in text
    assert "evaluating rte (1 of 2): 5 of 40 examples" in text
    assert "\x1b[2J" not in text


DOCK_WORTH = {
    "sessions": 20,
    "loss": 0.5,
    "exchanged": {"difference": 1.25, "low": 0.75, "high": 2.0},
    "mean_vector": {"difference": -0.125, "low": -0.5, "high": 0.25},
}


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_panel_and_the_lines_display_what_docks_are_worth(clock: Clock, width: int) -> None:
    panel = view(clock)
    panel.validation = {**VALIDATION, "dock_worth": DOCK_WORTH}
    lines = render(panel, width)
    assert {cell_len(line) for line in lines} == {width - 2}
    text = re.sub(r"[\s│]+", " ", "\n".join(lines))
    exchanged, mean = "docks exchanged +1.250 (+0.750 to +2.000)", "mean dock vector -0.125 (-0.500 to +0.250)"
    assert f"{exchanged} {mean}" in text
    stream = io.StringIO()
    line_progress = LineProgress(stream)
    line_progress.start(100, "finetune")
    line_progress.validation(panel.validation)
    line_progress.validation({**VALIDATION, "dock_worth": {"why": "none has docks"}})
    assert stream.getvalue().splitlines()[1:] == [
        f"validation 20/100 | loss 3.5000 | bits/byte 1.6250 | {exchanged} | {mean}",
        "validation 20/100 | loss 3.5000 | bits/byte 1.6250",
    ]


def test_a_finished_evaluation_replaces_the_activity(clock: Clock) -> None:
    panel = PanelProgress(terminal(80))
    panel.start(100, "finetune")
    panel.activity("rte (1 of 2)")
    assert panel._view.activity == "rte (1 of 2)"
    panel.evaluation(EVALUATION)
    assert (panel._view.activity, panel._view.evaluation) == ("", EVALUATION)
    panel.close()


def test_before_the_first_record(clock: Clock) -> None:
    panel = PanelView()
    panel.clock.start(10, 0)
    assert "0/10" in "\n".join(render(panel, 80))


def test_the_kind_follows_the_terminal() -> None:
    assert isinstance(make_progress(console=terminal(80)), PanelProgress)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(make_progress(console=dumb), LineProgress)
    assert isinstance(make_progress(stream=io.StringIO()), LineProgress)
    silent = make_progress(main=False)
    silent.start(1, "x")
    silent.step(TRAIN)
    silent.close()


def drive(console: Console, clock: Clock) -> str:
    with make_progress(console=console) as panel:
        panel.start(100, "pretrain small")
        for step in range(1, 11):
            clock.now += 0.1
            panel.advance(step)
        panel.step(TRAIN)
        panel.step({**TRAIN, "step": 21})
        panel.note("[red]a checkpoint\x1b[0m")
        panel.validation(VALIDATION, [("Once", " upon")])
        panel.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_panel_gives_the_terminal_back(clock: Clock) -> None:
    text = drive(terminal(80), clock)
    assert text.count("\x1b[?25l") == 1
    assert text.endswith("\x1b[?25h")
    assert "[red]a checkpoint\\x1b[0m" in text
    assert text.count("pretrain small") < 10, "the panel must not be drawn at every step"


def test_no_color_takes_the_colours(clock: Clock) -> None:
    coloured = re.compile(r"\x1b\[(?:[0-9;]*;)?[39][0-7](?:;[0-9;]*)?m")
    assert coloured.search(drive(terminal(80), clock))
    console = Console(
        file=io.StringIO(), force_terminal=True, width=80, height=30, _environ={"TERM": "xterm", "NO_COLOR": "1"}
    )
    assert not coloured.search(drive(console, clock))


def test_a_resized_terminal_is_drawn_afresh(clock: Clock) -> None:
    console = terminal(120)
    panel = PanelProgress(console)
    panel.start(100, "pretrain small")
    console.width = 50
    clock.now += 1
    panel.step(TRAIN)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("\x1b[2J") == 1
    after = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.split("\x1b[2J")[1])
    assert {cell_len(line) for line in after.replace("\r", "\n").splitlines() if line} == {48}
    panel.close()


class Gone(io.StringIO):
    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)


def test_a_terminal_that_goes_away_stops_nothing(clock: Clock) -> None:
    stream = Gone()
    panel = PanelProgress(Console(file=stream, force_terminal=True, width=80, height=30, _environ={"TERM": "xterm"}))
    panel.start(100, "x")
    stream.gone = True
    for step in range(1, 5):
        clock.now += 1
        panel.step({**TRAIN, "step": step})
        panel.note("still here")
    stream.gone = False
    panel.step({**TRAIN, "step": 5})
    panel.close()
    assert panel._view.record["step"] == 5  # records are received, and a panel that failed is not drawn again
    assert "step 5" not in stream.getvalue()


def test_escape() -> None:
    assert escape("plain ünï 日本 [b]") == "plain ünï 日本 [b]"
    assert escape(NASTY) == "[bold]x[/bold]⏎\\x1b[2J\\x07\\u202eevil\\u2028\\udc80 ⏎日本"


def test_memory_is_a_size() -> None:
    assert re.fullmatch(r"(\d+\.\d G|\d+ M)iB( \(device\))?", progress.memory())
    assert [progress._size(count) for count in (5 * 2**20, 3 * 2**29)] == ["5 MiB", "1.5 GiB"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (90061, "25:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_sparkline() -> None:
    assert progress.sparkline([4.0, 3.0, 0.5], 10) == "█▆▁"
    assert progress.sparkline([1.0, 1.0], 10) == "▁▁"
    assert progress.sparkline([1.0, 2.0, 3.0], 2) == "▁█"
    assert progress.sparkline([1.0], 0) == ""
