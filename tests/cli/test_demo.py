"""``metalm demo`` and its study without a pretrained encoder: stopped, killed and continued, it finishes."""

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
from metalm_cli.cli.commands.project import stage_process, study_run
from metalm_cli.errors import MetalmError
from metalm_cli.studies.load import load_study
from metalm_cli.studies.stages import Stage, study_stages
from tiny_runs import metalm

TIME_LIMIT_S = 280
QUICK = ("reproduce", "world", "--scale", "quick", "--offline")
pytestmark = pytest.mark.timeout(900)  # a minute on two quiet cores, run three times in parts


WITHOUT_CHANCE = {"world_passages", "world_facts", "world_triples", "world_gist"}


def demo_stages(out: Path) -> list[Stage]:
    return study_stages(load_study("world"), "quick", out)


def begin(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metalm_cli.cli", *QUICK, "--out", str(out)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "40"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a stage has written a file."""
    deadline = time.monotonic() + TIME_LIMIT_S
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def open_processes(out: Path) -> list[str]:
    """Ids of processes that have files in the folder open."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = [os.readlink(descriptor) for descriptor in entry.iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(out)) for link in links):
            processes.append(entry.parent.name)
    return processes


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Quick demo that was stopped once and killed once: its folder, and the output and messages of the last call."""
    out = tmp_path_factory.mktemp("demo") / "d"
    first = begin(out)
    wait_for(out / "gpt" / "metrics.jsonl", first)
    first.send_signal(signal.SIGINT)
    printed = first.communicate(timeout=TIME_LIMIT_S)[1]
    assert first.returncode == 75, printed
    assert "stopping: the running stages save their state first" in printed
    assert "stopped (SIGINT)" in printed
    assert not (out / "gpt" / "model").exists()

    second = begin(out)
    wait_for(out / "metalm" / "metrics.jsonl", second)
    second.kill()
    second.communicate()
    if Path("/proc").is_dir():
        deadline = time.monotonic() + 60
        while open_processes(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not open_processes(out), "stages outlive the demo"

    third = begin(out)
    printed, messages = third.communicate(timeout=TIME_LIMIT_S)
    assert third.returncode == 0, messages
    return out, printed, messages


@pytest.mark.slow
def test_the_demo_continues_and_completes(demo):
    out, printed, messages = demo
    for stage in demo_stages(out):
        assert all(place.exists() for place in stage.outputs), stage.name
        assert f"] {stage.name} " in messages
    assert "encoder          done before" in messages
    log = (out / "logs" / "metalm.log").read_text()
    assert "resumed after step" in log or "starting at step 0" in log
    for name in ("report ", "results ", "reviews", "nli *", "difference (95%)", "Above chance", "decoder frozen"):
        assert name in printed
    for line in messages.splitlines():
        assert "\x1b" not in line


@pytest.mark.slow
def test_the_interface_is_unchanged(demo):
    assert demo[2].count(": unchanged") == 1


@pytest.mark.slow
def test_the_twins_tokenizer_is_the_metalms(demo):
    texts = [json.loads((demo[0] / arm / "model" / "tokenizer.json").read_text()) for arm in ("metalm", "gpt")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_nli_was_held_out_with_what_leaks_into_it(demo):
    record = json.loads((demo[0] / "results" / "instructed.json").read_text())
    labels = {name: task["seen"]["label"] for name, task in record["tasks"].items()}
    assert {name for name, label in labels.items() if label == "held out"} == {"world_nli", "world_paraphrase"}
    assert len(labels) == 11
    chances = {name: task["settings"][0]["templates"][0]["chance"] for name, task in record["tasks"].items()}
    assert {name for name, levels in chances.items() if not any(levels.values())} == WITHOUT_CHANCE


@pytest.mark.slow
def test_a_finished_demo_prints_its_results_again(demo, capsys):
    began = time.monotonic()
    assert metalm(*QUICK, "--out", demo[0]) == 0
    assert time.monotonic() - began < 30
    captured = capsys.readouterr()
    assert "the study is finished" in captured.err
    assert str(demo[0] / "report.html") in captured.out
    assert "difference (95%)" in captured.out
    assert "mean of 10 clusters  1 " in captured.out


@pytest.mark.slow
def test_output_to_streams_that_cannot_encode_all_characters(demo):
    command = [sys.executable, "-m", "metalm_cli.cli", *QUICK, "--out", str(demo[0])]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=TIME_LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^gist +-  ", done.stdout.decode("ascii"), flags=re.MULTILINE)


@pytest.mark.slow
def test_a_demo_of_another_scale_is_not_touched(demo, capsys):
    assert metalm("reproduce", "world", "--out", demo[0]) == 2
    assert "another scale: quick" in capsys.readouterr().err


def test_a_dry_run_lists_the_commands_and_does_nothing(tmp_path, capsys):
    assert metalm("reproduce", "world", "--scale", "full", "--dry-run", "--out", tmp_path / "d") == 0
    printed = capsys.readouterr().out
    assert printed.count("\nmetalm pretrain ") == 12
    assert "--hold-out nli" in printed
    assert "nothing was run" in printed
    assert (
        "# in-context: In context, the pretrained MetaLM is above chance on a task.\n#   expected: not agrees"
        in printed
    )
    assert "1.51M parameters, 1.51M trained; 700 steps of 2,048 positions" in printed
    assert not (tmp_path / "d").exists()


def test_characters_that_a_stream_cannot_encode_are_escaped(monkeypatch):
    for encoding, written in (("ascii", rb"- \u00b7 a \ud83d\ude00"), ("utf-8", "– · a 😀".encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        console.write("– · a 😀")
        assert stream.buffer.getvalue() == written


HEADERS = ["task", "chance", "difference (95%)"]
ROWS = [["paraphrase *", "53.3", "-11.7 (-20.0 to -3.3)"], ["gist", "–", "+0.0 (+0.0 to +0.0)"]]


@pytest.mark.parametrize("width", [16, 30, 42])
def test_tables_are_stacked_on_terminals_that_are_too_narrow(monkeypatch, capsys, width):
    terminal = Console(force_terminal=True, width=width)
    monkeypatch.setattr(console, "stdout", lambda: terminal)
    study_run._print_table(HEADERS, ROWS)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert printed.split()[:4] == ["paraphrase", "*", "chance", "53.3"]
    assert "-11.7" in printed.split()


def test_tables_stay_whole_where_they_fit_and_in_pipes(monkeypatch, capsys):
    for out in (Console(force_terminal=True, width=43), Console(file=io.StringIO(), width=20)):
        monkeypatch.setattr(console, "stdout", lambda out=out: out)
        study_run._print_table(HEADERS, ROWS)
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["task          chance  difference (95%)", "paraphrase *  53.3    -11.7 (-20.0 to -3.3)"]


def test_stopping_a_stage_interrupts_it_and_one_that_has_ended_is_left_alone():
    running = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)
    running.stdout.readline()
    stage_process.StageProcess(SimpleNamespace(pid=running.pid, is_alive=lambda: True)).stop()
    assert running.wait(60) == -signal.SIGINT
    with pytest.raises(ProcessLookupError):  # the id of a process that has ended
        os.kill(running.pid, 0)
    process = stage_process.StageProcess(SimpleNamespace(pid=running.pid, is_alive=lambda: True, exitcode=3))
    process.stop()
    assert process.poll() == 3


def test_losses_are_printed_with_their_data(tmp_path):
    for stage in demo_stages(tmp_path):
        if stage.name in ("encoder", "metalm", "instruct-gpt"):
            stage.run.mkdir()
            line = {"split": "validation", "loss": 1.3274, **({"bits_per_byte": 0.5} if stage.name == "metalm" else {})}
            (stage.run / "metrics.jsonl").write_text(json.dumps(line))
    results = {stage.name: study_run.stage_result(stage, tmp_path) for stage in demo_stages(tmp_path)[:5]}
    assert results["encoder"] == "loss 1.327 on documents held out"
    assert results["metalm"] == "0.500 bits per byte on documents held out"
    assert results["instruct-gpt"] == "loss 1.327 on validation examples"
    assert results["gpt"] == ""


def test_without_its_encoder_the_demo_trains_one_and_says_so(monkeypatch, tmp_path, capsys):
    def missing(name, **options):
        raise MetalmError(f"no checkpoint is named {name}")

    monkeypatch.setattr("metalm_cli.common.checkpoints.find.find_checkpoint", missing)
    assert metalm("demo", "--quick", "--dry-run", "--out", tmp_path / "d") == 0
    captured = capsys.readouterr()
    assert "metalm pretrain demo/encoder" in captured.out
    assert "the demo trains an encoder of its own (study world): no checkpoint is named sentence-" in captured.err


def test_with_its_encoder_the_demo_docks_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("metalm_cli.common.checkpoints.find.find_checkpoint", lambda name, **options: None)
    assert metalm("demo", "--dry-run", "--out", tmp_path / "d") == 0
    captured = capsys.readouterr()
    assert captured.out.count("\nmetalm finetune ") == 3
    assert "# twin: On at least five tasks about words that training never showed" in captured.out
    assert captured.err == ""


def test_wrong_usage(tmp_path, capsys):
    assert metalm("demo", "--quick", "--full") == 2
    assert "exclude each other" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert metalm("demo", "--quick", "--out", tmp_path) == 2
    assert "something other than a study" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
