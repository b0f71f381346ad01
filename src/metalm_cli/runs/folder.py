"""Run folders: paths, lock and atomic writes."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import (
    TEMPORARY_MARKER,
    explain_write_errors,
    fsync_tree,
    replace_folder,
    restore_folder,
    temporary_path,
    write_atomically,
)
from metalm_cli.common.paths import read_regular
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs.file_identity import FileIdentity
from metalm_cli.runs.find import RESULTS, RUNS, STAGES_FOLDER, is_finished, newest_unfinished

try:
    import fcntl
except ImportError:  # not a POSIX system: runs have no lock, which they note
    fcntl = None  # type: ignore[assignment]

BACKUP_SUFFIX = "-before"
"""Suffix of a result that was set aside because its run continued to more steps."""
LOCK_FILE = ".lock"
_RUN_FILES = {
    "recipe.yaml",
    "metrics.jsonl",
    "checkpoints",
    "results",
    "environment.json",
    "data.json",
    "seeds.json",
    STAGES_FOLDER,
    *RESULTS,
}
_locked_runs: set[Path] = set()
"""Runs locked by this process; a POSIX record lock does not exclude the process that holds it."""


class RunFolder:
    """Paths and state of one run; constructed by :meth:`create` or :meth:`attach`.

    Attributes:
        path: The folder.
        resumed: Whether the folder held a run already.
        notes: Problems that are reported but do not stop the run.
    """

    def __init__(self, path: Path, *, resumed: bool = False) -> None:
        self.path = path
        self.resumed = resumed
        self.notes: list[str] = []
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.adapter = path / "adapter"
        self.environment = path / "environment.json"
        self._lock: Any = None
        self._identity: FileIdentity | None = None
        self._lock_identity: FileIdentity | None = None

    @classmethod
    def starts_new_run(cls, out: Path | None, name: str, resume: bool, *, root: Path = RUNS) -> bool:
        """Whether :meth:`create` would start a new run and not resume one; creates nothing.

        Raises:
            MetalmError: The folder is not empty and ``resume`` is False, or there is no run to resume.
        """
        path = newest_unfinished(root, _label(name)) if resume and out is None else out
        if path is None or not os.path.lexists(path):
            return True
        with explain_write_errors(path, "cannot create the run folder", Exit.USAGE):
            return not cls(path)._check_content(resume)

    @classmethod
    def create(
        cls, out: Path | None, name: str, resume: bool, *, root: Path = RUNS, now: datetime | None = None
    ) -> RunFolder:
        """Create a run's folder, or open it to resume, and lock it until :meth:`close`.

        Args:
            out: The folder; None: ``root/<name>-<yyyymmdd-hhmmss>``.
            name: Name of the recipe; characters that a folder name cannot contain become ``-``.
            resume: Resume the run in ``out``, or without ``out`` the newest unfinished run of the same name. If
                ``out`` does not exist yet, a run is started, so that one command both starts and restarts a job.
            root: Parent folder of runs without ``out``, and of the link ``latest`` to the newest run below it.
            now: Time in the folder's name; default: the current time.

        Raises:
            MetalmError: The folder is not empty, there is no run to resume, another process is writing the run, or the
                folder cannot be written.
        """
        label = _label(name)
        with explain_write_errors(out or root, "cannot create the run folder", Exit.USAGE):
            if out is not None:
                path = Path(out)
                path.mkdir(parents=True, exist_ok=True)
            elif resume:
                path = newest_unfinished(root, label)
            else:
                path = _new_folder(root, label, now or datetime.now())
            run = cls(path)
            run._check_content(resume)
            run._take_lock()
            try:
                # Checked again, because another process may have been faster; the check before the lock avoids
                # leaving a lock file in a folder that is not a run.
                run._clean_up(run._check_content(resume), resume)
                run._identity = FileIdentity.of_folder(run.path)
            except BaseException:
                run.close()
                raise
        is_below = out is None or path.resolve().is_relative_to(root.resolve())
        if is_below and path.parent.name != STAGES_FOLDER:
            run._link_latest(root)
        return run

    @classmethod
    def attach(cls, path: Path) -> RunFolder:
        """Open the folder for another process of the same run: without a lock, creating nothing."""
        return cls(Path(path))

    def check_in_place(self) -> None:
        """Check that the path still is the folder that this process has opened and locked.

        Raises:
            MetalmError: The folder or its lock was moved, removed or replaced.
        """
        if self._identity is not None and (problem := self._identity.problem()):
            raise MetalmError(
                "the run folder was moved or removed while this run was writing it",
                where=str(self.path),
                why=problem,
                remedy="move the folder back, then continue with --resume; or start a new run",
                exit_code=Exit.FAILED,
            )
        if self._lock_identity is not None and (problem := self._lock_identity.problem()):
            raise MetalmError(
                "the lock of the run was removed or replaced while this run was writing it",
                where=str(self.path / LOCK_FILE),
                why=f"{problem}, so that another process could write the run at the same time",
                remedy="make sure that no other process writes this run, then continue with --resume",
                exit_code=Exit.FAILED,
            )

    def read_json(self, name: str, what: str, remedy: str) -> dict[str, Any] | None:
        """Read a JSON object of the run; None if the file does not exist.

        Args:
            name: Name of the file.
            what: Message of the error.
            remedy: Remedy of the error.

        Raises:
            MetalmError: The file cannot be read, or holds no JSON object.
        """
        path = self.path / name
        try:
            value = json.loads(read_regular(path))
            if not isinstance(value, dict):
                raise ValueError(f"expected an object, got {type(value).__name__}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MetalmError(what, where=str(path), why=error.strerror or str(error), remedy=remedy) from error
        except (ValueError, RecursionError) as error:
            raise MetalmError(what, where=str(path), why=str(error), remedy=remedy) from error
        return value

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run atomically; ``name`` may contain folders (``results/rte.json``)."""
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise MetalmError("a file of a run must be inside the run's folder", where=str(path))
        with explain_write_errors(path, f"cannot write {path.name}", Exit.FAILED):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8"))
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON atomically; NaN and infinity raise ValueError, because other JSON readers reject them."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @contextmanager
    def write_result(self, name: str = "model") -> Iterator[Path]:
        """Yield an empty temporary folder that becomes ``model/`` (or ``adapter/``) when the block succeeds.

        Raises:
            MetalmError: The result cannot be written; the temporary folder is removed.
        """
        if name not in RESULTS:
            raise ValueError(f"expected one of {RESULTS}, got {name!r}")
        temporary = temporary_path(self.path / name)
        try:
            with explain_write_errors(self.path / name, f"cannot write {name}/", Exit.FAILED):
                temporary.mkdir()
                yield temporary
                fsync_tree(temporary)
                replace_folder(temporary, self.path / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for result in RESULTS:
            shutil.rmtree(self.path / f"{result}{BACKUP_SUFFIX}", ignore_errors=True)

    def set_result_aside(self) -> None:
        """Set the result aside because the run continues to more steps: until then the run is unfinished."""
        for name in RESULTS:
            if (self.path / name).is_dir():
                with explain_write_errors(self.path / name, f"cannot set {name}/ aside", Exit.FAILED):
                    replace_folder(self.path / name, self.path / f"{name}{BACKUP_SUFFIX}")

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            _locked_runs.discard(self.path.resolve())

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_content(self, resume: bool) -> list[str]:
        content = [entry for entry in os.listdir(self.path) if entry != LOCK_FILE]
        if (
            content
            and resume
            and _RUN_FILES.isdisjoint(content)
            and not all(entry.startswith(".") for entry in content)
        ):
            raise MetalmError(
                "the folder holds no run to resume",
                where=str(self.path),
                why=f"it holds {', '.join(sorted(content)[:4])}{', …' if len(content) > 4 else ''}",
                remedy="pass the folder of a run with --out",
            )
        if content and not resume:
            raise MetalmError(
                "the run folder exists already",
                where=str(self.path),
                why=f"it holds {', '.join(sorted(content)[:4])}{', …' if len(content) > 4 else ''}",
                remedy="resume the run with --resume, or choose another --out",
            )
        return content

    def _clean_up(self, content: list[str], resume: bool) -> None:
        self.resumed = bool(content)
        if resume and not content:
            self.notes.append(f"nothing to resume in {self.path}: starting at step 0")
        for entry in content:
            leftover = self.path / entry
            if entry.startswith(".") and TEMPORARY_MARKER in entry:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for name in RESULTS:
            restore_folder(self.path / name)

    def _take_lock(self) -> None:
        """Lock the run with a POSIX record lock: unlike flock's, forked workers do not inherit it."""
        if self.path.resolve() in _locked_runs:
            raise _lock_error(self.path, os.getpid())
        if fcntl is None:
            self.notes.append("this system has no file locks: do not write one run from two processes")
            return
        lock = open(self.path / LOCK_FILE, "a+", errors="replace")  # noqa: SIM115
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read(20).strip()
            lock.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _lock_error(self.path, owner) from error
            self.notes.append(
                f"this file system has no locks ({error.strerror}): do not write one run from two processes"
            )
            return
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock
        self._lock_identity = FileIdentity(self.path / LOCK_FILE, lock.fileno())
        _locked_runs.add(self.path.resolve())

    def _link_latest(self, root: Path) -> None:
        link = root / "latest"
        temporary = temporary_path(link)
        if not root.is_dir():
            return
        try:
            if link.exists() and not link.is_symlink():
                raise FileExistsError(errno.EEXIST, "the path is not a link")
            temporary.symlink_to(os.path.relpath(self.path.resolve(), root.resolve()), target_is_directory=True)
            os.replace(temporary, link)
        except (OSError, ValueError) as error:
            temporary.unlink(missing_ok=True)
            self.notes.append(f"{link} was not linked to this run: {getattr(error, 'strerror', None) or error}")


def run_state(path: Path) -> str:
    """State of the run in a folder: ``finished``, ``running`` (a process holds its lock) or ``unfinished``."""
    if is_finished(path):
        return "finished"
    if fcntl is None:
        return "unfinished"
    try:
        with (path / LOCK_FILE).open("rb") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return "running"
    except OSError:  # there is no lock file, or it cannot be read
        pass
    return "unfinished"


def _label(name: str) -> str:
    """Convert a recipe's name to a valid folder name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def _lock_error(path: Path, owner: int | str) -> MetalmError:
    return MetalmError(
        "another process is writing this run",
        where=str(path),
        why=f"process {owner} holds the lock" if owner else "the lock is held",
        remedy="wait for that process, stop it, or choose another --out",
    )


def _new_folder(root: Path, label: str, now: datetime) -> Path:
    stem = f"{label}-{now:%Y%m%d-%H%M%S}"
    for number in range(1, 10_000):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if root.exists() and not root.is_dir():
                raise
            continue
        return path
    raise FileExistsError(errno.EEXIST, "too many runs started in one second", str(root / stem))


def environment(device: str = "cpu") -> dict[str, str]:
    """Environment of a run: package versions, system and device, without host names, user names or variables.

    Args:
        device: A torch device; for a CUDA device the name of the GPU is added.
    """
    record = {"python": platform.python_version()}
    for package in ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "metalm"):
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[package] = "not installed"
    record["platform"] = f"{platform.system()} {platform.machine()}"
    record["device"] = device
    if device.startswith("cuda"):
        import torch

        record["device"] = f"{device} ({torch.cuda.get_device_name(device)})"
    return record
