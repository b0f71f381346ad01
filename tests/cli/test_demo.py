"""The demo through its command: stopped, killed and gone on with, it ends with all it promises."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from metalm_cli.cli import console
from metalm_cli.cli.commands.project import demo as demo_command
from metalm_cli.demo.expectations import WITHOUT_CHANCE
from metalm_cli.demo.stages import BUDGETS, stages_of
from tiny_runs import metalm

SECONDS = 280
pytestmark = pytest.mark.timeout(900)  # a minute on two quiet cores, run three times in parts


def begin(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metalm_cli.cli", "demo", "--quick", "--out", str(out)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "40"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def until(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait for a file that a stage writes."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def running(out: Path) -> list[str]:
    """Processes whose environment or arguments name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = [os.readlink(one) for one in entry.iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(out)) for link in links):
            found.append(entry.parent.name)
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A quick demo that was stopped once and killed once: its folder, and what the last call printed."""
    out = tmp_path_factory.mktemp("demo") / "d"
    first = begin(out)
    until(out / "gpt" / "metrics.jsonl", first)
    first.send_signal(signal.SIGINT)
    printed = first.communicate(timeout=SECONDS)[1]
    assert first.returncode == 75, printed
    assert "stopping: what runs saves first" in printed
    assert "stopped (SIGINT)" in printed
    assert not (out / "gpt" / "model").exists()

    second = begin(out)
    until(out / "metalm" / "metrics.jsonl", second)
    second.kill()
    second.communicate()
    if Path("/proc").is_dir():
        deadline = time.monotonic() + 60
        while running(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not running(out), "stages outlive the demo"

    third = begin(out)
    printed, told = third.communicate(timeout=SECONDS)
    assert third.returncode == 0, told
    return out, printed, told


def test_it_goes_on_and_leaves_everything(demo):
    out, printed, told = demo
    for stage in stages_of(BUDGETS["quick"], out):
        assert all(place.exists() for place in stage.makes), stage.name
        assert f"] {stage.name} " in told
    assert "encoder          done before" in told
    log = (out / "logs" / "metalm.log").read_text()
    assert "resumed after step" in log or "starting at step 0" in log
    for name in ("report ", "results ", "reviews", "nli *", "difference (95%)", "Above chance", "decoder frozen"):
        assert name in printed
    for line in told.splitlines():
        assert "\x1b" not in line


def test_the_interface_stayed_what_it_was(demo):
    assert demo[2].count(": unchanged") == 1


def test_the_twins_tokenizer_is_the_metalms(demo):
    texts = [json.loads((demo[0] / arm / "model" / "tokenizer.json").read_text()) for arm in ("metalm", "gpt")]
    assert texts[0] == texts[1]


def test_nli_was_held_out_with_what_leaks_into_it(demo):
    record = json.loads((demo[0] / "results" / "instructed.json").read_text())
    labels = {name: task["seen"]["label"] for name, task in record["tasks"].items()}
    assert {name for name, label in labels.items() if label == "held out"} == {"world_nli", "world_paraphrase"}
    assert len(labels) == 11
    chances = {name: task["settings"][0]["templates"][0]["chance"] for name, task in record["tasks"].items()}
    assert {name for name, levels in chances.items() if not any(levels.values())} == set(WITHOUT_CHANCE)


def test_a_finished_demo_says_where_it_is(demo, capsys):
    began = time.monotonic()
    assert metalm("demo", "--quick", "--out", demo[0]) == 0
    assert time.monotonic() - began < 30
    found = capsys.readouterr()
    assert "this demo is finished" in found.err
    assert str(demo[0] / "report.html") in found.out
    assert "difference (95%)" in found.out
    assert "mean of 10 clusters  1 " in found.out
    assert re.search(r"encoder was pretrained alone on about \d+,000 tokens;", found.out)


def test_streams_without_all_characters_get_the_rest(demo):
    command = [sys.executable, "-m", "metalm_cli.cli", "demo", "--quick", "--out", str(demo[0])]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^gist +-  ", done.stdout.decode("ascii"), flags=re.MULTILINE)


def test_a_demo_of_another_size_is_not_touched(demo, capsys):
    assert metalm("demo", "--out", demo[0]) == 2
    assert "another size: quick" in capsys.readouterr().err


def test_a_dry_run_lists_the_commands_and_does_nothing(tmp_path, capsys):
    assert metalm("demo", "--full", "--dry-run", "--out", tmp_path / "d") == 0
    printed = capsys.readouterr().out
    assert printed.count("\nmetalm pretrain ") + printed.startswith("metalm pretrain ") == 12
    assert "--hold-out nli" in printed
    assert "nothing was done" in printed
    assert "# pretrained models in context: not above chance on any task" in printed
    assert "# passages, facts, triples, gist: nothing" in printed
    assert not (tmp_path / "d").exists()


def test_results_are_written_as_far_as_the_stream_can(monkeypatch):
    for encoding, written in (("ascii", rb"- \u00b7 a \ud83d\ude00"), ("utf-8", "– · a 😀".encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        console.write("– · a 😀")
        assert stream.buffer.getvalue() == written


HEADS = ["task", "chance", "difference (95%)"]
ROWS = [["paraphrase *", "53.3", "-11.7 (-20.0 to -3.3)"], ["gist", "–", "+0.0 (+0.0 to +0.0)"]]


@pytest.mark.parametrize("width", [16, 30, 42])
def test_tables_are_stacked_on_terminals_that_are_too_narrow(monkeypatch, capsys, width):
    terminal = Console(force_terminal=True, width=width)
    monkeypatch.setattr(console, "stdout", lambda: terminal)
    demo_command._table(HEADS, ROWS)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert printed.split()[:4] == ["paraphrase", "*", "chance", "53.3"]
    assert "-11.7" in printed.split()


def test_tables_stay_whole_where_they_fit_and_in_pipes(monkeypatch, capsys):
    for out in (Console(force_terminal=True, width=43), Console(file=io.StringIO(), width=20)):
        monkeypatch.setattr(console, "stdout", lambda out=out: out)
        demo_command._table(HEADS, ROWS)
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["task          chance  difference (95%)", "paraphrase *  53.3    -11.7 (-20.0 to -3.3)"]


def test_a_stage_that_ends_while_it_is_stopped_is_no_trouble():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = SimpleNamespace(pid=ended.pid, is_alive=lambda: True)
    demo_command._Process(process).stop()


def test_losses_are_told_with_what_they_are_of(tmp_path):
    for stage in stages_of(BUDGETS["quick"], tmp_path):
        if stage.name in ("encoder", "metalm", "instruct-gpt"):
            stage.run.mkdir()
            line = {"split": "validation", "loss": 1.3274, **({"bits_per_byte": 0.5} if stage.name == "metalm" else {})}
            (stage.run / "metrics.jsonl").write_text(json.dumps(line))
    told = {stage.name: demo_command._facts(stage, tmp_path) for stage in stages_of(BUDGETS["quick"], tmp_path)[:5]}
    assert told["encoder"] == "loss 1.327 on documents held out"
    assert told["metalm"] == "0.500 bits per byte on documents held out"
    assert told["instruct-gpt"] == "loss 1.327 on validation examples"
    assert told["gpt"] == ""


def test_wrong_usage(tmp_path, capsys):
    assert metalm("demo", "--quick", "--full") == 2
    assert "exclude each other" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert metalm("demo", "--quick", "--out", tmp_path) == 2
    assert "something else than a demo" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]
