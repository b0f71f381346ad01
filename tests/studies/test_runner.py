"""Runner of a study: stages run once their requirements are met, failures are explained, stopped runs resume."""

from __future__ import annotations

import functools
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

from metalm_cli.errors import MetalmError
from metalm_cli.studies import runner
from metalm_cli.studies.display import Display
from metalm_cli.studies.load import Study, load_study
from metalm_cli.studies.runner import Runner, StudyStopped
from metalm_cli.studies.stages import Stage
from metalm_cli.studies.state import STATE_FILE, StudyFolder, error_file, is_stage_finished, last_record, logged_steps


@functools.cache
def world_study() -> Study:
    return load_study("world")


def open_folder(path: Path, scale: str = "quick") -> StudyFolder:
    return StudyFolder(path, world_study(), scale)


def stage(name: str, out: Path, *needs: str, steps: int = 0) -> Stage:
    makes = (out / name,) if steps else (out / f"{name}.json",)
    return Stage(name, f"what {name} does", "and why", ("evaluate", name), makes, needs, 1.0, steps)


class Script:
    """Starts child processes that make their outputs and exit with a given code after a number of polls."""

    def __init__(
        self, polls: int = 2, codes: dict[str, int] | None = None, output: str = "", error: dict[str, str] | None = None
    ) -> None:
        self.polls, self.codes, self.output, self.error = polls, codes or {}, output, error
        self.started: list[str] = []
        self.max_alive = 0
        self.alive: set[str] = set()
        self.stopped: list[str] = []

    def __call__(self, stage: Stage, log: Path) -> runner.ChildProcess:
        script = self
        script.started.append(stage.name)
        script.alive.add(stage.name)
        script.max_alive = max(script.max_alive, len(script.alive))
        with open(log, "a", encoding="utf-8") as file:
            file.write(script.output)
        if script.error:
            error_file(log).write_text(json.dumps(script.error))

        class Child:
            left = script.polls

            def poll(self) -> int | None:
                self.left -= 1
                if self.left > 0:
                    return None
                script.alive.discard(stage.name)
                code = script.codes.get(stage.name, 0)
                if code == 0 and stage.name not in script.stopped:
                    for path in stage.outputs:
                        if stage.steps:
                            (path / "model").mkdir(parents=True, exist_ok=True)
                        else:
                            path.write_text('{"complete": true}')
                return code if stage.name not in script.stopped else 75

            def stop(self) -> None:
                script.stopped.append(stage.name)
                self.left = 1

            def kill(self) -> None:
                raise AssertionError

        return Child()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(runner, "POLL_INTERVAL_S", 0.001)


@pytest.fixture
def folder(tmp_path):
    study_folder = open_folder(tmp_path / "demo")
    yield study_folder
    study_folder.close()


def make_runner(
    folder: StudyFolder, stages: list[Stage], script: Script, jobs: int = 2, describe_result=lambda stage: ""
) -> tuple:
    stream = io.StringIO()
    display = Display(Console(file=stream, width=40), stages)
    return Runner(stages, folder, script, display, jobs, describe_result), stream


def test_stages_run_when_their_requirements_are_met(folder):
    out, script = folder.path, Script()
    stages = [stage("a", out), stage("b", out, "a", steps=4), stage("c", out), stage("d", out, "b", "c")]
    study_runner, stream = make_runner(folder, stages, script, describe_result=lambda stage: f"fact of {stage.name}")
    study_runner.run()
    assert script.started == ["a", "c", "b", "d"]
    assert script.max_alive == 2
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/4] a  what a does: and why"
    assert "[2/4] b  done in 0:00 · fact of b" in lines
    assert set(json.loads((out / STATE_FILE).read_text())["stages"]) == {"a", "b", "c", "d"}


def test_finished_stages_do_not_run_again(folder):
    out = folder.path
    stages = [stage("a", out, steps=3), stage("b", out, "a")]
    make_runner(folder, stages, Script())[0].run()
    (out / "b.json").write_text('{"complete": false}')
    script = Script()
    study_runner, stream = make_runner(folder, stages, script)
    study_runner.run()
    assert script.started == ["b"]
    assert "[1/2] a  done before" in stream.getvalue()


def rerun_stages(folder: StudyFolder, stages: list[Stage]) -> list[str]:
    """Run the study again and return the names of the stages that it starts."""
    script = Script()
    make_runner(folder, stages, script)[0].run()
    return script.started


def test_a_stage_without_outputs_runs_again_with_all_stages_that_require_it(folder):
    out = folder.path
    stages = [stage("a", out, steps=3), stage("b", out, "a", steps=3), stage("c", out, "b"), stage("d", out)]
    assert rerun_stages(folder, stages) == ["a", "d", "b", "c"]
    (out / "b" / "from the old a").write_text("")
    shutil.rmtree(out / "a")
    assert folder.rerun_note(stages).endswith("have changed: b, c")
    assert rerun_stages(folder, stages) == ["a", "b", "c"]
    assert not (out / "b" / "from the old a").exists()
    assert folder.rerun_note(stages) == ""
    assert rerun_stages(folder, stages) == []


def test_a_stage_runs_again_after_its_requirement_even_if_the_study_was_stopped_in_between(folder):
    stages = [stage("a", folder.path), stage("b", folder.path, "a")]
    rerun_stages(folder, stages)
    stages[0].outputs[0].unlink()
    rerun_stages(folder, stages[:1])
    assert rerun_stages(folder, stages) == ["b"]


def test_a_stage_with_another_command_starts_from_scratch(folder):
    stages = [stage("a", folder.path, steps=3), stage("b", folder.path, "a")]
    rerun_stages(folder, stages)
    (folder.path / "a" / "checkpoint").write_text("")
    folder.close()
    again = open_folder(folder.path)
    changed = [replace(stages[0], command_hash="another"), stages[1]]
    assert again.rerun_note(changed).endswith(": all 2 stages")
    assert rerun_stages(again, changed) == ["a", "b"]
    assert not (folder.path / "a" / "checkpoint").exists()
    again.close()


def test_a_demo_of_another_version_is_reported_and_runs_again(folder, monkeypatch):
    stages = [stage("a", folder.path), stage("b", folder.path, "a")]
    rerun_stages(folder, stages)
    folder.close()
    monkeypatch.setattr("metalm_cli.__version__", "99.0")
    again = open_folder(folder.path)
    note = again.rerun_note(stages)
    assert re.fullmatch(r"made by metalm [\d.]+, this is 99\.0; running again: all 2 stages", note)
    assert rerun_stages(again, stages) == ["a", "b"]
    again.close()


def test_a_demo_of_version_0_1_is_continued_and_judged_by_its_version(folder, monkeypatch):
    stages = [stage("a", folder.path, steps=3), stage("b", folder.path, "a")]
    rerun_stages(folder, stages)
    folder.close()
    state = json.loads((folder.path / STATE_FILE).read_text())
    (folder.path / STATE_FILE).unlink()
    old = {"format": 1, "size": "quick", "stages": state["stages"]}
    for version, expected in ((state["metalm"], []), ("0.0.1", ["a", "b"])):
        (folder.path / STATE_FILE).unlink(missing_ok=True)
        (folder.path / "demo.json").write_text(json.dumps({**old, "metalm": version}))
        again = open_folder(folder.path)
        assert rerun_stages(again, stages) == expected
        again.close()


def test_a_resumed_stage_keeps_its_log_and_outputs(folder):
    training_stage = stage("a", folder.path, steps=3)
    with pytest.raises(StudyStopped):
        make_runner(folder, [training_stage], Script(1, {"a": 75}, "first part\n"))[0].run()
    (folder.path / "a").mkdir()
    (folder.path / "a" / "checkpoint").write_text("")
    make_runner(folder, [training_stage], Script(1, output="second part\n"))[0].run()
    text = folder.log_path(training_stage).read_text()
    assert text.splitlines() == ["$ metalm evaluate a", "first part", "$ metalm evaluate a", "second part"]
    assert (folder.path / "a" / "checkpoint").exists()


def test_a_failure_shows_the_error_of_the_last_attempt(folder):
    training_stage = stage("a", folder.path, steps=3)
    with pytest.raises(MetalmError):
        make_runner(folder, [training_stage], Script(1, {"a": 2}, "the first time\n", {"what": "the first time"}))[
            0
        ].run()
    with pytest.raises(MetalmError) as caught:
        make_runner(folder, [training_stage], Script(1, {"a": -9}, "the second time\n"))[0].run()
    assert caught.value.why == "the second time"


def test_a_failed_stage_shows_its_error_and_stops_the_others(folder):
    out = folder.path
    script = Script(2, {"a": 2}, "step 1\n", {"what": "the disk is full", "where": "/disk", "remedy": "make room"})
    study_runner, _ = make_runner(folder, [stage("a", out), stage("b", out)], script)
    with pytest.raises(MetalmError) as caught:
        study_runner.run()
    assert caught.value.what == "the stage a failed (exit code 2)"
    assert caught.value.why == "the disk is full\n      where: /disk\n      remedy: make room"
    assert "step 1" not in caught.value.why
    assert caught.value.where.endswith("a.log")
    assert caught.value.exit_code == 1


def test_a_killed_stage_has_failed(folder):
    study_runner, _ = make_runner(folder, [stage("a", folder.path)], Script(1, {"a": -9}))
    with pytest.raises(MetalmError, match=r"failed \(signal 9\)"):
        study_runner.run()


def test_a_stage_without_outputs_has_failed(folder):
    failed_stage = stage("a", folder.path)
    study_runner, _ = make_runner(folder, [failed_stage], Script(1))
    script = Script(1)
    study_runner.start = lambda stage, log: script(replace(stage, outputs=()), log)
    with pytest.raises(MetalmError, match=r"failed \(its outputs are missing\)"):
        study_runner.run()


def test_a_signal_stops_running_stages_and_the_handlers_are_restored(folder):
    before = signal.getsignal(signal.SIGINT)
    script = Script(polls=10_000)
    study_runner, _ = make_runner(folder, [stage("a", folder.path), stage("b", folder.path, "a")], script)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(StudyStopped, match="SIGINT"):
        study_runner.run()
    assert script.stopped == ["a"]
    assert script.started == ["a"]
    assert signal.getsignal(signal.SIGINT) is before


class Stubborn:
    """A child process that runs until it is killed."""

    def __init__(self, *, stop: type[BaseException] | None = None, leaves: bool = False) -> None:
        self.killed, self.stop_requested, self.error, self.leaves = False, False, stop, leaves

    def poll(self) -> int | None:
        return 75 if self.stop_requested and self.leaves else None

    def stop(self) -> None:
        self.stop_requested = True
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        self.killed = True
        raise ProcessLookupError


def stopping(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, children: dict[str, Stubborn]) -> tuple:
    """A runner whose stages are running when the study is stopped, and its output stream."""
    monkeypatch.setattr(runner, "STOP_TIMEOUT_S", 0.1)
    study_runner, stream = make_runner(folder, [stage(name, folder.path) for name in children], Script())
    study_runner.start = lambda stage, log: children[stage.name]
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    return study_runner, stream


def test_stages_that_do_not_exit_are_killed_even_if_stopping_fails(folder, monkeypatch):
    children = {"a": Stubborn(stop=PermissionError), "b": Stubborn()}
    study_runner, stream = stopping(folder, monkeypatch, children)
    with pytest.raises(PermissionError):
        study_runner.run()
    assert [child.killed for child in children.values()] == [True, True]
    assert "stopping: the running stages save their state first" in stream.getvalue()


def test_stages_are_killed_even_if_the_disk_is_full(folder, monkeypatch):
    def raise_full_disk(*_: object) -> None:
        raise MetalmError("cannot write study.json")

    children = {"a": Stubborn(leaves=True), "b": Stubborn()}
    study_runner, _ = stopping(folder, monkeypatch, children)
    monkeypatch.setattr(folder, "add_seconds", raise_full_disk)
    with pytest.raises(StudyStopped, match="SIGTERM"):
        study_runner.run()
    assert [child.killed for child in children.values()] == [False, True]


def test_a_stage_that_was_stopped_from_outside_stops_the_study(folder):
    study_runner, _ = make_runner(folder, [stage("a", folder.path)], Script(1, {"a": 75}))
    with pytest.raises(StudyStopped, match="a was stopped"):
        study_runner.run()


# -- the folder -------------------------------------------------------------------------------------------------------


def test_other_files_are_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for path, message in ((tmp_path, "something other"), (tmp_path / "thesis.txt", "this is a file")):
        with pytest.raises(MetalmError, match=message) as caught:
            open_folder(path)
        assert caught.value.exit_code == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 9, "stages": {}}',
        '{"format": 1, "stages": []}',
        '{"format": 2, "study": "world", "scale": "quick", "metalm": "1", "stages": {}, "records": {"a": 3}}',
        '{"format": 2, "study": "world", "scale": "quick", "metalm": "1", "stages": {}, "records": {}, "claims": 1}',
        "\x00",
    ],
)
def test_a_damaged_state_is_rejected_and_not_overwritten(tmp_path, text):
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(MetalmError, match="something other"):
        open_folder(tmp_path)
    assert (tmp_path / STATE_FILE).read_text() == text


def test_another_scale_or_study_is_rejected_and_nothing_changes(tmp_path):
    open_folder(tmp_path / "d").close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.is_file()}
    with pytest.raises(MetalmError, match="another scale: quick"):
        open_folder(tmp_path / "d", "full")
    renamed = world_study().file.model_copy(update={"name": "other"})
    with pytest.raises(MetalmError, match="another study: world"):
        StudyFolder(tmp_path / "d", Study(renamed, world_study().path), "quick")
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.is_file()} == before


def test_a_study_that_spends_its_budget_stops_and_continues_with_a_larger_one(folder):
    stages = [stage("a", folder.path), stage("b", folder.path, "a")]
    script = Script(polls=100_000)
    study_runner, _ = make_runner(folder, stages, script)
    study_runner.budget = 0.05
    with pytest.raises(runner.BudgetSpent, match=r"the budget of .* hours is spent"):
        study_runner.run()
    assert script.stopped == ["a"]
    study_runner, _ = make_runner(folder, stages, Script())
    study_runner.budget = 3600
    study_runner.run()
    assert study_runner.done == {"a", "b"}


def test_the_time_of_a_change_of_claims_is_recorded(tmp_path):
    open_folder(tmp_path / "d").close()
    again = open_folder(tmp_path / "d")
    assert again.claims_note.startswith("Claims and expectations were recorded before the first stage began (2")
    again.close()
    claims = [world_study().file.claims[0].model_copy(update={"expected": "disagrees"})]
    changed = Study(world_study().file.model_copy(update={"claims": claims}), world_study().path)
    again = StudyFolder(tmp_path / "d", changed, "quick")
    assert "were changed after the first stage began" in again.claims_note
    again.close()


def test_two_processes_do_not_share_a_folder(folder):
    with pytest.raises(MetalmError, match="another process runs this study"):
        open_folder(folder.path)
    folder.close()
    open_folder(folder.path).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(MetalmError, match="cannot be written here"):
            open_folder(tmp_path / "demo")
    finally:
        tmp_path.chmod(0o700)


def test_a_path_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MetalmError):
        open_folder(tmp_path / "file" / "demo")


def test_valid_metrics_are_read_from_a_damaged_log(tmp_path):
    run_stage = stage("run", tmp_path, steps=50)
    assert (logged_steps(run_stage), last_record(run_stage.run, "validation")) == (0, {})
    (tmp_path / "run").mkdir()
    lines = ['{"step": 10, "split": "train"}', '{"step": 10, "split": "validation", "loss": 2.5}', "{damaged", '{"st']
    (tmp_path / "run" / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\xfe\n")
    assert logged_steps(run_stage) == 10
    assert last_record(run_stage.run, "validation")["loss"] == 2.5
    assert not is_stage_finished(run_stage)
