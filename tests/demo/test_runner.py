"""Stages run as their needs are met, end in words where they fail, and go on where they were stopped."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from metalm_cli.demo import runner
from metalm_cli.demo.display import Display
from metalm_cli.demo.runner import DemoStopped, Runner
from metalm_cli.demo.stages import BUDGETS, Stage
from metalm_cli.demo.state import STATE, Folder, error_file, is_made, last_record, steps_done
from metalm_cli.errors import MetalmError


def stage(name: str, out: Path, *needs: str, steps: int = 0) -> Stage:
    makes = (out / name,) if steps else (out / f"{name}.json",)
    return Stage(name, f"what {name} does", "and why", ("evaluate", name), makes, needs, 1.0, steps)


class Script:
    """Children that do what a test says: after so many looks they have made their results and end with a code."""

    def __init__(
        self, looks: int = 2, codes: dict[str, int] | None = None, said: str = "", error: dict[str, str] | None = None
    ) -> None:
        self.looks, self.codes, self.said, self.error = looks, codes or {}, said, error
        self.begun: list[str] = []
        self.most = 0
        self.alive: set[str] = set()
        self.stopped: list[str] = []

    def __call__(self, stage: Stage, log: Path) -> runner.ChildProcess:
        script = self
        script.begun.append(stage.name)
        script.alive.add(stage.name)
        script.most = max(script.most, len(script.alive))
        with open(log, "a", encoding="utf-8") as file:
            file.write(script.said)
        if script.error:
            error_file(log).write_text(json.dumps(script.error))

        class Child:
            left = script.looks

            def poll(self) -> int | None:
                self.left -= 1
                if self.left > 0:
                    return None
                script.alive.discard(stage.name)
                code = script.codes.get(stage.name, 0)
                if code == 0 and stage.name not in script.stopped:
                    for place in stage.makes:
                        if stage.steps:
                            (place / "model").mkdir(parents=True, exist_ok=True)
                        else:
                            place.write_text('{"complete": true}')
                return code if stage.name not in script.stopped else 75

            def stop(self) -> None:
                script.stopped.append(stage.name)
                self.left = 1

            def kill(self) -> None:
                raise AssertionError

        return Child()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(runner, "PAUSE", 0.001)


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "demo", BUDGETS["quick"])
    yield made
    made.close()


def make_runner(folder: Folder, stages: list[Stage], script: Script, jobs: int = 2, facts=lambda stage: "") -> tuple:
    stream = io.StringIO()
    display = Display(Console(file=stream, width=40), stages)
    return Runner(stages, folder, script, display, jobs, facts), stream


def test_stages_run_when_their_needs_are_met(folder):
    out, script = folder.path, Script()
    stages = [stage("a", out), stage("b", out, "a", steps=4), stage("c", out), stage("d", out, "b", "c")]
    whole, stream = make_runner(folder, stages, script, facts=lambda one: f"fact of {one.name}")
    whole.run()
    assert script.begun == ["a", "c", "b", "d"]
    assert script.most == 2
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/4] a  what a does: and why"
    assert "[2/4] b  done in 0:00 · fact of b" in lines
    assert set(json.loads((out / STATE).read_text())["stages"]) == {"a", "b", "c", "d"}


def test_what_is_done_is_not_done_again(folder):
    out = folder.path
    stages = [stage("a", out, steps=3), stage("b", out, "a")]
    make_runner(folder, stages, Script())[0].run()
    (out / "b.json").write_text('{"complete": false}')
    script = Script()
    whole, stream = make_runner(folder, stages, script)
    whole.run()
    assert script.begun == ["b"]
    assert "[1/2] a  done before" in stream.getvalue()


def redone(folder: Folder, stages: list[Stage]) -> list[str]:
    """The stages that a further call of the demo does."""
    script = Script()
    make_runner(folder, stages, script)[0].run()
    return script.begun


def test_a_stage_is_done_again_with_all_that_needs_it_where_its_results_are_gone(folder):
    out = folder.path
    stages = [stage("a", out, steps=3), stage("b", out, "a", steps=3), stage("c", out, "b"), stage("d", out)]
    assert redone(folder, stages) == ["a", "d", "b", "c"]
    (out / "b" / "from the old a").write_text("")
    shutil.rmtree(out / "a")
    assert folder.again(stages).endswith("no longer the same: b, c")
    assert redone(folder, stages) == ["a", "b", "c"]
    assert not (out / "b" / "from the old a").exists()
    assert folder.again(stages) == ""
    assert redone(folder, stages) == []


def test_what_needs_a_stage_is_done_again_though_the_demo_was_stopped_in_between(folder):
    stages = [stage("a", folder.path), stage("b", folder.path, "a")]
    redone(folder, stages)
    stages[0].makes[0].unlink()
    redone(folder, stages[:1])
    assert redone(folder, stages) == ["b"]


def test_a_stage_with_another_command_begins_anew(folder):
    stages = [stage("a", folder.path, steps=3), stage("b", folder.path, "a")]
    redone(folder, stages)
    (folder.path / "a" / "checkpoint").write_text("")
    folder.close()
    again = Folder(folder.path, BUDGETS["quick"])
    changed = [replace(stages[0], mark="another"), stages[1]]
    assert again.again(changed).endswith(": all 2 stages")
    assert redone(again, changed) == ["a", "b"]
    assert not (folder.path / "a" / "checkpoint").exists()
    again.close()


def test_a_demo_of_another_version_is_told_and_done_again(folder, monkeypatch):
    stages = [stage("a", folder.path), stage("b", folder.path, "a")]
    redone(folder, stages)
    folder.close()
    monkeypatch.setattr("metalm_cli.__version__", "99.0")
    again = Folder(folder.path, BUDGETS["quick"])
    told = again.again(stages)
    assert re.fullmatch(r"made by metalm [\d.]+, and this is 99\.0; done again: all 2 stages", told)
    assert redone(again, stages) == ["a", "b"]
    again.close()


def test_a_demo_from_before_there_were_records_counts_by_its_version(folder, monkeypatch):
    stages = [stage("a", folder.path, steps=3), stage("b", folder.path, "a")]
    redone(folder, stages)
    folder.close()
    state = json.loads((folder.path / STATE).read_text())
    del state["records"]
    for version, expected in ((state["metalm"], []), ("0.0.1", ["a", "b"])):
        (folder.path / STATE).write_text(json.dumps({**state, "metalm": version}))
        again = Folder(folder.path, BUDGETS["quick"])
        assert redone(again, stages) == expected
        again.close()


def test_a_stage_that_goes_on_keeps_its_log_and_what_it_has(folder):
    one = stage("a", folder.path, steps=3)
    with pytest.raises(DemoStopped):
        make_runner(folder, [one], Script(1, {"a": 75}, "first part\n"))[0].run()
    (folder.path / "a").mkdir()
    (folder.path / "a" / "checkpoint").write_text("")
    make_runner(folder, [one], Script(1, said="second part\n"))[0].run()
    text = folder.log(one).read_text()
    assert text.splitlines() == ["$ metalm evaluate a", "first part", "$ metalm evaluate a", "second part"]
    assert (folder.path / "a" / "checkpoint").exists()


def test_a_failure_is_told_in_the_words_of_the_last_attempt(folder):
    one = stage("a", folder.path, steps=3)
    with pytest.raises(MetalmError):
        make_runner(folder, [one], Script(1, {"a": 2}, "the first time\n", {"what": "the first time"}))[0].run()
    with pytest.raises(MetalmError) as caught:
        make_runner(folder, [one], Script(1, {"a": -9}, "the second time\n"))[0].run()
    assert caught.value.why == "the second time"


def test_a_stage_that_fails_says_why_and_stops_the_others(folder):
    out = folder.path
    script = Script(2, {"a": 2}, "step 1\n", {"what": "the disk is full", "where": "/disk", "remedy": "make room"})
    whole, _ = make_runner(folder, [stage("a", out), stage("b", out)], script)
    with pytest.raises(MetalmError) as caught:
        whole.run()
    assert caught.value.what == "the stage a failed (exit code 2)"
    assert caught.value.why == "the disk is full\n      where: /disk\n      remedy: make room"
    assert "step 1" not in caught.value.why
    assert caught.value.where.endswith("a.log")
    assert caught.value.exit_code == 1


def test_a_stage_that_dies_has_failed(folder):
    whole, _ = make_runner(folder, [stage("a", folder.path)], Script(1, {"a": -9}))
    with pytest.raises(MetalmError, match=r"failed \(signal 9\)"):
        whole.run()


def test_a_stage_that_leaves_nothing_has_failed(folder):
    one = stage("a", folder.path)
    whole, _ = make_runner(folder, [one], Script(1))
    script = Script(1)
    whole.start = lambda asked, log: script(replace(asked, makes=()), log)
    with pytest.raises(MetalmError, match=r"failed \(it left nothing behind\)"):
        whole.run()


def test_a_signal_stops_what_runs_and_the_handlers_come_back(folder):
    before = signal.getsignal(signal.SIGINT)
    script = Script(looks=10_000)
    whole, _ = make_runner(folder, [stage("a", folder.path), stage("b", folder.path, "a")], script)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(DemoStopped, match="SIGINT"):
        whole.run()
    assert script.stopped == ["a"]
    assert script.begun == ["a"]
    assert signal.getsignal(signal.SIGINT) is before


class Stubborn:
    """A child that runs until it is killed."""

    def __init__(self, *, stop: type[BaseException] | None = None, leaves: bool = False) -> None:
        self.killed, self.asked, self.error, self.leaves = False, False, stop, leaves

    def poll(self) -> int | None:
        return 75 if self.asked and self.leaves else None

    def stop(self) -> None:
        self.asked = True
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        self.killed = True
        raise ProcessLookupError


def stopping(folder: Folder, monkeypatch: pytest.MonkeyPatch, children: dict[str, Stubborn]) -> tuple:
    """A runner whose stages run when the demo is stopped, and what it shows."""
    monkeypatch.setattr(runner, "PATIENCE", 0.1)
    whole, stream = make_runner(folder, [stage(name, folder.path) for name in children], Script())
    whole.start = lambda asked, log: children[asked.name]
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    return whole, stream


def test_what_does_not_leave_is_ended_even_where_stopping_fails(folder, monkeypatch):
    children = {"a": Stubborn(stop=PermissionError), "b": Stubborn()}
    whole, stream = stopping(folder, monkeypatch, children)
    with pytest.raises(PermissionError):
        whole.run()
    assert [one.killed for one in children.values()] == [True, True]
    assert "stopping: what runs saves first" in stream.getvalue()


def test_a_full_disk_keeps_no_stage_alive(folder, monkeypatch):
    def full(*_: object) -> None:
        raise MetalmError("cannot write demo.json")

    children = {"a": Stubborn(leaves=True), "b": Stubborn()}
    whole, _ = stopping(folder, monkeypatch, children)
    monkeypatch.setattr(folder, "spent", full)
    with pytest.raises(DemoStopped, match="SIGTERM"):
        whole.run()
    assert [one.killed for one in children.values()] == [False, True]


def test_a_stage_that_somebody_else_stopped_stops_the_demo(folder):
    whole, _ = make_runner(folder, [stage("a", folder.path)], Script(1, {"a": 75}))
    with pytest.raises(DemoStopped, match="a was stopped"):
        whole.run()


# -- the folder -------------------------------------------------------------------------------------------------------


def test_other_things_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for place, said in ((tmp_path, "something else"), (tmp_path / "thesis.txt", "this is a file")):
        with pytest.raises(MetalmError, match=said) as caught:
            Folder(place, BUDGETS["quick"])
        assert caught.value.exit_code == 2
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 9, "stages": {}}',
        '{"format": 1, "stages": []}',
        '{"format": 1, "size": "quick", "metalm": "1", "stages": {}, "records": {"a": 3}}',
        "\x00",
    ],
)
def test_a_damaged_state_is_refused_and_kept(tmp_path, text):
    (tmp_path / STATE).write_text(text)
    with pytest.raises(MetalmError, match="something else"):
        Folder(tmp_path, BUDGETS["quick"])
    assert (tmp_path / STATE).read_text() == text


def test_a_demo_of_another_size_is_refused(tmp_path):
    Folder(tmp_path / "d", BUDGETS["quick"]).close()
    with pytest.raises(MetalmError, match="another size: quick"):
        Folder(tmp_path / "d", BUDGETS["full"])


def test_two_processes_do_not_share_a_folder(folder):
    with pytest.raises(MetalmError, match="another process runs this demo"):
        Folder(folder.path, BUDGETS["quick"])
    folder.close()
    Folder(folder.path, BUDGETS["quick"]).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_told(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(MetalmError, match="cannot be written here"):
            Folder(tmp_path / "demo", BUDGETS["quick"])
    finally:
        tmp_path.chmod(0o700)


def test_a_place_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MetalmError):
        Folder(tmp_path / "file" / "demo", BUDGETS["quick"])


def test_metrics_are_read_as_far_as_they_are_whole(tmp_path):
    one = stage("run", tmp_path, steps=50)
    assert (steps_done(one), last_record(one.run, "validation")) == (0, {})
    (tmp_path / "run").mkdir()
    lines = ['{"step": 10, "split": "train"}', '{"step": 10, "split": "validation", "loss": 2.5}', "{damaged", '{"st']
    (tmp_path / "run" / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\xfe\n")
    assert steps_done(one) == 10
    assert last_record(one.run, "validation")["loss"] == 2.5
    assert not is_made(one)
