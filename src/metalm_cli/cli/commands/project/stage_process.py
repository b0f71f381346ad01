"""Processes of a study's stages: each command runs in a process of its own, with its output in a log."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.cli import console
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.studies.stages import Stage

PRELOADED_MODULES = (
    "metalm_cli.training.pretraining",
    "metalm_cli.training.finetuning",
    "metalm_cli.inference.preview",
    "metalm_cli.evaluation.run_evaluation",
    "transformers.models.llama.modeling_llama",
    "transformers.models.modernbert.modeling_modernbert",
)
"""Modules that stages import: where the system supports a fork server, they are imported once."""


class StageStarter:
    """Starter of stages, each in a new process with its share of the cores.

    Where the system supports it, processes are forked from a server that has imported the libraries once; otherwise
    short stages would spend most of their time on imports.

    Args:
        jobs: Number of stages that run at the same time.
        offline: Whether stages may not use the network.
    """

    def __init__(self, jobs: int, offline: bool) -> None:
        self.offline = offline
        self.threads = max(1, min(4, (os.cpu_count() or 1) // jobs))
        has_forkserver = "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
        self.context: Any = multiprocessing.get_context("forkserver" if has_forkserver else "spawn")
        if has_forkserver:
            self.context.set_forkserver_preload(list(PRELOADED_MODULES))

    def __call__(self, stage: Stage, log: Path) -> StageProcess:
        from metalm_cli.cli.silence_libraries import silence_environment

        silence_environment(offline=self.offline)
        process = self.context.Process(target=_run_command, args=(list(stage.arguments), str(log), self.threads))
        process.start()
        return StageProcess(process)


class StageProcess:
    """Process of a running stage."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def stop(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # the process may have ended meanwhile
                os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()


def _write_error(error: MetalmError, path: Path) -> None:
    """Write an error to a file for the parent process."""
    content = {"what": error.what, "where": error.where, "why": error.why, "remedy": error.remedy}
    with contextlib.suppress(OSError):  # a full disk: the log still holds the message
        path.write_text(json.dumps(content), encoding="utf-8")


def _run_command(arguments: list[str], log: str, threads: int) -> None:
    """Run a command line in this process with its output in a file, and exit with its code."""
    if hasattr(os, "setsid"):
        os.setsid()  # only the study receives Ctrl-C from the terminal, and forwards it once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file
    console.stdout.cache_clear()
    console.stderr.cache_clear()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    from metalm_cli.cli.app import run
    from metalm_cli.studies.state import error_file

    torch.set_num_threads(threads)
    code = run(arguments, on_error=lambda error: _write_error(error, error_file(Path(log))))
    seconds = time.process_time()
    file.write(f"\n{seconds:.1f} s of processor time\n")
    file.flush()
    os._exit(code)


def _leave_with_parent() -> None:
    """Stop this stage, with a checkpoint, when the study itself has been killed."""
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
