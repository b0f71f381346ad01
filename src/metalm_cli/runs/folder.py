"""The folder of one run: its paths, its lock, atomic writes, and which runs are finished.

A run is *finished* when ``model/`` (or ``adapter/``) exists: both are written beside and renamed into place.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import (
    TEMPORARY,
    explain_write_errors,
    fsync_tree,
    replace_folder,
    restore_folder,
    write_atomically,
)
from metalm_cli.errors import Exit, MetalmError

try:
    import fcntl
except ImportError:  # not a POSIX system: runs go without a lock, and say so
    fcntl = None  # type: ignore[assignment]

RESULTS = ("model", "adapter")
BEFORE = "-before"
"""What stands after the name of a result that was set aside, because its run went on."""
_OURS = {
    "recipe.yaml",
    "metrics.jsonl",
    "checkpoints",
    "results",
    "environment.json",
    "data.json",
    "seeds.json",
    *RESULTS,
}
_STAMP = re.compile(r"-(\d{8}-\d{6})(?:-(\d+))?$")
_held: set[Path] = set()
"""Runs that this process writes; a POSIX record lock does not keep a process from itself."""


class RunFolder:
    """Paths and state of one run. Make it with :meth:`create` or :meth:`attach`.

    Attributes:
        path: The folder.
        resumed: Whether it held a run already.
        notes: Things worth saying that stopped nothing.
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

    @classmethod
    def begins(cls, out: Path | None, name: str, resume: bool, *, root: Path = Path("runs")) -> bool:
        """Whether :meth:`create` would start a run rather than go on in one; makes nothing.

        Raises:
            MetalmError: What can be told before it: the folder holds something, or nothing is there to resume.
        """
        path = newest_unfinished(root, _label(name)) if resume and out is None else out
        if path is None or not os.path.lexists(path):
            return True
        with explain_write_errors(path, "cannot make the run folder", Exit.USAGE):
            return not cls(path)._inspect(resume)

    @classmethod
    def create(
        cls, out: Path | None, name: str, resume: bool, *, root: Path = Path("runs"), now: datetime | None = None
    ) -> RunFolder:
        """Makes a run's folder, or opens it to go on, and locks it until :meth:`close`.

        Args:
            out: The folder itself; None: ``root/<name>-<yyyymmdd-hhmmss>``.
            name: Name of the recipe; characters that a folder cannot have become ``-``.
            resume: Go on in ``out``, or without it in the newest unfinished run of the same name. An ``out`` that
                does not exist yet is started, so that one command both starts and restarts a job.
            root: Where runs without ``out`` stand, and the link ``latest``.
            now: Time in the name; default the clock.

        Raises:
            MetalmError: The folder holds something already, nothing is there to resume, another process writes
                the run, or the place cannot be written.
        """
        label = _label(name)
        with explain_write_errors(out or root, "cannot make the run folder", Exit.USAGE):
            if out is not None:
                path = Path(out)
                path.mkdir(parents=True, exist_ok=True)
            elif resume:
                path = newest_unfinished(root, label)
            else:
                path = _new_folder(root, label, now or datetime.now())
            run = cls(path)
            run._inspect(resume)
            run._take_lock()
            try:
                # Again, because another process may have been quicker; before, to leave no lock in a folder
                # that is not ours.
                run._open(run._inspect(resume), resume)
            except BaseException:
                run.close()
                raise
        run._link_latest(root)
        return run

    @classmethod
    def attach(cls, path: Path) -> RunFolder:
        """The folder as the other processes of a run see it: no lock, nothing made."""
        return cls(Path(path))

    def write_text(self, name: str, text: str) -> Path:
        """Writes a file of the run atomically; ``name`` may hold folders (``results/rte.json``)."""
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise MetalmError("a file of a run must lie inside its folder", where=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8"))
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Writes JSON atomically; NaN and infinity are refused, because other readers refuse them."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @contextmanager
    def finishing(self, name: str = "model") -> Iterator[Path]:
        """Hands out an empty temporary folder; leaving without an error makes it ``model/`` (or ``adapter/``).

        Raises:
            MetalmError: The place cannot be written; the temporary folder is gone then.
        """
        if name not in RESULTS:
            raise ValueError(f"expected one of {RESULTS}, got {name!r}")
        temporary = self.path / f".{name}{TEMPORARY}{secrets.token_hex(4)}"
        try:
            with explain_write_errors(self.path / name, f"cannot write {name}/", Exit.FAILED):
                temporary.mkdir()
                yield temporary
                fsync_tree(temporary)
                replace_folder(temporary, self.path / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for one in RESULTS:
            shutil.rmtree(self.path / f"{one}{BEFORE}", ignore_errors=True)

    def unfinish(self) -> None:
        """Sets the result aside, because the run goes on to more steps: until it ends, it is no finished run."""
        for name in RESULTS:
            if (self.path / name).is_dir():
                with explain_write_errors(self.path / name, f"cannot set {name}/ aside", Exit.FAILED):
                    replace_folder(self.path / name, self.path / f"{name}{BEFORE}")

    def close(self) -> None:
        """Lets go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            _held.discard(self.path.resolve())

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inspect(self, resume: bool) -> list[str]:
        content = [entry for entry in os.listdir(self.path) if entry != ".lock"]
        if content and resume and _OURS.isdisjoint(content) and not all(e.startswith(".") for e in content):
            raise MetalmError(
                "there is no run in this folder to resume",
                where=str(self.path),
                why=f"it holds {', '.join(sorted(content)[:4])}{', …' if len(content) > 4 else ''}",
                remedy="name the folder of a run with --out",
            )
        if content and not resume:
            raise MetalmError(
                "the run folder exists already",
                where=str(self.path),
                why=f"it holds {', '.join(sorted(content)[:4])}{', …' if len(content) > 4 else ''}",
                remedy="go on in it with --resume, or choose another --out",
            )
        return content

    def _open(self, content: list[str], resume: bool) -> None:
        self.resumed = bool(content)
        if resume and not content:
            self.notes.append(f"nothing to resume in {self.path}: starting at step 0")
        for entry in content:
            leftover = self.path / entry
            if entry.startswith(".") and TEMPORARY in entry:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for name in RESULTS:
            restore_folder(self.path / name)

    def _take_lock(self) -> None:
        """Locks the run by a POSIX record lock: unlike flock's, forked workers that outlive us do not hold it."""
        if self.path.resolve() in _held:
            raise _busy(self.path, os.getpid())
        if fcntl is None:
            self.notes.append("no lock on this system: do not write one run from two processes")
            return
        lock = open(self.path / ".lock", "a+")  # noqa: SIM115
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read(20).strip()
            lock.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _busy(self.path, owner) from error
            self.notes.append(f"this file system has no locks ({error.strerror}): write one run from one process")
            return
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock
        _held.add(self.path.resolve())

    def _link_latest(self, root: Path) -> None:
        link = root / "latest"
        temporary = root / f".latest{TEMPORARY}{secrets.token_hex(4)}"
        if not root.is_dir():
            return
        try:
            if link.exists() and not link.is_symlink():
                raise FileExistsError(errno.EEXIST, "it is not a link")
            temporary.symlink_to(os.path.relpath(self.path.resolve(), root.resolve()), target_is_directory=True)
            os.replace(temporary, link)
        except (OSError, ValueError) as error:
            temporary.unlink(missing_ok=True)
            self.notes.append(f"{link} was not linked to this run: {getattr(error, 'strerror', None) or error}")


def _label(name: str) -> str:
    """A recipe's name as folders can have it."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def _busy(path: Path, owner: int | str) -> MetalmError:
    return MetalmError(
        "another process writes this run",
        where=str(path),
        why=f"process {owner} holds its lock" if owner else "its lock is held",
        remedy="wait for it, stop it, or choose another --out",
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
    raise FileExistsError(errno.EEXIST, "too many runs of one second", str(root / stem))


def is_finished(path: Path) -> bool:
    """Whether a run folder holds its result: a run is finished when ``model/`` or ``adapter/`` exists."""
    return any((path / name).is_dir() for name in RESULTS)


def newest_unfinished(root: Path, label: str) -> Path:
    """The newest unfinished run ``<label>-<time>`` under ``root``.

    Raises:
        MetalmError: There is none.
    """
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        match = _STAMP.search(path.name)
        if match and path.name[: match.start()] == label and path.is_dir() and not is_finished(path):
            found.append((match[1], int(match[2] or 1), path))
    if not found:
        raise MetalmError(
            f"there is no unfinished run of {label} to resume",
            where=str(root),
            remedy="leave out --resume to start one, or name the run folder with --out",
        )
    return max(found)[2]


def newest_finished(root: Path = Path("runs"), predicate: Callable[[Path], bool] = lambda _: True) -> Path | None:
    """The run folder with the newest result of those that ``predicate`` accepts; None where there is none.

    Looks at the runs under ``root``, at their seeds, and at the run that ``latest`` links to.
    """
    found: dict[Path, tuple[int, str, Path]] = {}
    runs = [path for path in root.glob("*") if path.name != "latest"] + [root / "latest"]
    for run in runs:
        for path in (run, *sorted(run.glob("seed-*"))):
            times = [(path / name).stat().st_mtime_ns for name in RESULTS if (path / name).is_dir()]
            if times:
                found.setdefault(path.resolve(), (max(times), str(path), path))
    for _, _, path in sorted(found.values(), reverse=True):
        if predicate(path):
            return path
    return None


def environment(device: str = "cpu") -> dict[str, str]:
    """What a run ran on: versions, system and device. No names of hosts or users, no environment variables.

    Args:
        device: A torch device; of a CUDA device the model's name is added.
    """
    facts = {"python": platform.python_version()}
    for package in ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "metalm"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["platform"] = f"{platform.system()} {platform.machine()}"
    facts["device"] = device
    if device.startswith("cuda"):
        import torch

        facts["device"] = f"{device} ({torch.cuda.get_device_name(device)})"
    return facts
