"""Run folders: names, locks, resuming, and atomic results."""

from __future__ import annotations

import errno
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import pytest
from safetensors import SafetensorError

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs import folder
from metalm_cli.runs.find import is_finished
from metalm_cli.runs.folder import RunFolder

NOON = datetime(2024, 5, 17, 12, 0, 0)


def create(root: Path, out: Path | None = None, name: str = "small", resume: bool = False, now=NOON) -> RunFolder:
    return RunFolder.create(out, name, resume, root=root, now=now)


def finish(run: RunFolder, text: str = "weights") -> None:
    with run.write_result() as folder:
        (folder / "config.json").write_text(text)


def test_default_names_and_the_link(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with create(root) as first, create(root) as second, create(root, name="paper/language-1.3b") as third:
        assert first.path == root / "small-20240517-120000"
        assert second.path == root / "small-20240517-120000-2"
        assert third.path == root / "paper-language-1.3b-20240517-120000"
        assert os.readlink(root / "latest") == third.path.name
        assert not any(run.notes or run.resumed for run in (first, second, third))


@pytest.mark.parametrize("name", ["../../etc", "..", "/", "a b\n"])
def test_no_name_leaves_the_root(tmp_path: Path, name: str) -> None:
    with create(tmp_path / "runs", name=name) as run:
        assert run.path.parent == tmp_path / "runs"


def test_out_is_the_folder_itself(tmp_path: Path) -> None:
    root, out = tmp_path / "runs", tmp_path / "elsewhere" / "x"
    with create(root, out) as run:
        assert run.path == out
        assert not root.exists()
    root.mkdir()
    with create(root, tmp_path / "y"):
        assert not (root / "latest").is_symlink()
    with create(root, root / "y"):
        assert (root / "latest").resolve() == root / "y"


def test_a_folder_that_is_not_empty_is_rejected_unless_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with create(tmp_path, out) as run:
        run.write_text("recipe.yaml", "command: pretrain\n")
    with pytest.raises(MetalmError, match="exists already") as caught:
        create(tmp_path, out)
    assert caught.value.exit_code == Exit.USAGE
    assert "--resume" in caught.value.remedy
    with create(tmp_path, out, resume=True) as resumed:
        assert resumed.resumed
        assert resumed.recipe.read_text() == "command: pretrain\n"


def test_a_folder_that_is_not_a_run_is_neither_used_nor_changed(tmp_path: Path) -> None:
    out = tmp_path / "holiday"
    out.mkdir()
    (out / "photo.jpg").touch()
    for resume, message in ((False, "exists already"), (True, "the folder holds no run to resume")):
        with pytest.raises(MetalmError, match=message):
            create(tmp_path, out, resume=resume)
    assert os.listdir(out) == ["photo.jpg"]


def test_one_command_starts_and_restarts_a_job(tmp_path: Path) -> None:
    with create(tmp_path, tmp_path / "job", resume=True) as run:
        assert not run.resumed
        assert "nothing to resume" in run.notes[0]


def test_resume_without_out_takes_the_newest_unfinished_of_the_name(tmp_path: Path) -> None:
    paths = {}
    for day in range(1, 5):
        with create(tmp_path, now=NOON.replace(day=day)) as run:
            run.write_text("recipe.yaml", "")
            paths[day] = run.path
            if day in (2, 4):
                finish(run)
    for number in range(2):
        with create(tmp_path, name="small-other", now=NOON.replace(day=20 + number)) as run:
            run.write_text("recipe.yaml", "")
    with create(tmp_path, resume=True) as run:
        assert run.path == paths[3]
        finish(run)
    with create(tmp_path, resume=True) as run:
        assert run.path == paths[1]
        finish(run)
    with pytest.raises(MetalmError, match="no unfinished run of small"):
        create(tmp_path, resume=True)


@pytest.mark.parametrize(("out", "what"), [("file", "cannot create"), ("file/below", "cannot create")])
def test_a_run_folder_that_cannot_be_created(tmp_path: Path, out: str, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MetalmError, match=what) as caught:
        create(tmp_path, tmp_path / out)
    assert caught.value.exit_code == Exit.USAGE
    with pytest.raises(MetalmError, match=what):
        create(tmp_path / "file")


def test_a_failing_link_is_only_a_note(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with create(tmp_path) as run:
        assert "not linked" in run.notes[0]
        assert (tmp_path / "latest").is_dir()
        assert not list(tmp_path.glob(".latest*"))


HOLDER = """
    import os, sys, time
    from pathlib import Path
    from metalm_cli.runs.folder import RunFolder
    run = RunFolder.create(Path(sys.argv[1]), "x", False)
    run.write_text("recipe.yaml", "")
    if os.fork() == 0:
        time.sleep(20)      # a loader worker that outlives the run
        os._exit(0)
    print("held", flush=True)
    time.sleep(20)
"""


def test_two_processes_cannot_write_one_run_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(out)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MetalmError, match="another process is writing this run") as caught:
            create(tmp_path, out, resume=True)
        assert str(holder.pid) in caught.value.why
        holder.kill()
        holder.wait()
        with create(tmp_path, out, resume=True) as run:
            assert run.resumed
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def test_one_process_cannot_open_a_run_twice(tmp_path: Path) -> None:
    with create(tmp_path, tmp_path / "run"):
        with pytest.raises(MetalmError, match="another process"):
            create(tmp_path, tmp_path / "run")
        assert RunFolder.attach(tmp_path / "run").checkpoints == tmp_path / "run" / "checkpoints"
    create(tmp_path, tmp_path / "run").close()


def test_files_are_written_whole_and_inside(tmp_path: Path, monkeypatch) -> None:
    with create(tmp_path, tmp_path / "run") as run:
        run.write_json("results/rte.json", {"accuracy": 0.5, "task": "ü"})
        assert json.loads(((run.path / "results") / "rte.json").read_text()) == {"accuracy": 0.5, "task": "ü"}
        with pytest.raises(ValueError):
            run.write_json("x.json", {"loss": float("nan")})
        with pytest.raises(MetalmError, match="inside"):
            run.write_text("../x", "")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(MetalmError, match="no space left") as caught:
                run.write_json("results/rte.json", {})
        assert caught.value.exit_code == Exit.FAILED
        assert json.loads(((run.path / "results") / "rte.json").read_text())["accuracy"] == 0.5
        assert sorted(os.listdir(run.path)) == [".lock", "results"]
        assert os.listdir(run.path / "results") == ["rte.json"]


def test_a_run_is_finished_when_its_model_exists(tmp_path: Path) -> None:
    with create(tmp_path, tmp_path / "run") as run:
        with pytest.raises(ZeroDivisionError), run.write_result() as folder:
            _ = (folder / "config.json").write_text("half") // is_finished(run.path)
        assert os.listdir(run.path) == [".lock"]
        finish(run, "first")
        assert is_finished(run.path)
        finish(run, "second")
        assert (run.model / "config.json").read_text() == "second"
        assert sorted(os.listdir(run.path)) == [".lock", "model"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), SafetensorError("I/O error: x (os error 28)")])
def test_a_model_without_disk_space(tmp_path: Path, error: Exception) -> None:
    with create(tmp_path, tmp_path / "run") as run:
        with pytest.raises(MetalmError, match="no space left: cannot write model/"), run.write_result():
            raise error
        assert not is_finished(run.path)


def test_resuming_clears_what_a_kill_left(tmp_path: Path) -> None:
    with create(tmp_path, tmp_path / "run") as run:
        run.write_text("recipe.yaml", "")
        finish(run)
    (run.path / "model").rename(run.path / ".model.replaced")
    (run.path / ".model.tmp-12").mkdir()
    (run.path / ".recipe.yaml.tmp-34").touch()
    with create(tmp_path, run.path, resume=True) as run:
        assert sorted(os.listdir(run.path)) == [".lock", "model", "recipe.yaml"]


def test_the_environment_has_versions_but_no_names() -> None:
    facts = folder.environment()
    assert set(facts) >= {"python", "torch", "transformers", "metalm", "platform", "device"}
    assert facts["python"] == sys.version.split()[0]
    assert facts["device"] == "cpu"
    text = json.dumps(facts)
    for secret in (socket.gethostname(), os.path.expanduser("~"), f"/{getpass.getuser()}"):
        assert secret not in text


def test_importing_runs_does_not_import_torch() -> None:
    modules = ("runs.folder", "runs.metrics_log", "common.signals", "common.atomic_files", "training.progress")
    imports = "; ".join(f"import metalm_cli.{module}" for module in modules)
    code = f"import sys; {imports}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
