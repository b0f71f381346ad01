"""Fuzzing of the real command line: ``make fuzz SEED=0 N=1000``.

Case ``i`` of a seed is always the same command on the same files. Each command runs in a process that is forked with
the libraries already imported. A case is a fault if the command prints a traceback or "this is a bug in metalm", ends
with an undocumented exit code or a signal, runs longer than 30 seconds, ends with an error code without an error, or
ends with 0 on input that is marked as garbage. Verdicts are appended to ``DIR/seed-SEED.jsonl``; a second start skips
what is there. The files of faulty cases stay in ``DIR/seed-SEED/``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz import data_surfaces, model_surfaces
from fuzz.data_surfaces import Case, Surface
from fuzz.garbage_surface import garbage
from fuzz.workspace import Workspace, build

SURFACES: dict[str, Surface] = {
    "recipes": data_surfaces.recipes,
    "overrides": data_surfaces.overrides,
    "rows": data_surfaces.rows,
    "paths": data_surfaces.paths,
    "cards": data_surfaces.cards,
    "suites": data_surfaces.suites,
    "templates": data_surfaces.templates,
    "csv": data_surfaces.csv_files,
    "checkpoints": model_surfaces.checkpoints,
    "images": model_surfaces.images,
    "results": model_surfaces.results,
    "runs": model_surfaces.run_folders,
    "generate": model_surfaces.generate_inputs,
    "garbage": garbage,
}
DOCUMENTED_CODES = (0, 1, 2, 75)
LIMIT_SECONDS = 30.0
MEMORY_BYTES = 12 * 2**30
ERROR_MARKS = ("error:", "Error", "problem", "wrong", "Usage", "warning", "could not be read")
BUG_MARKS = (
    "Traceback (most recent call last)",
    "this is a bug in metalm",
    "Fatal Python error",
    "the system refused an operation",  # an error of the system for which no code has a message
)


@dataclass(frozen=True)
class Verdict:
    """What one command did.

    Attributes:
        index: Number of the case.
        surface: The kind of input.
        arguments: The arguments after ``metalm``.
        code: Exit code; negative for a signal; None after the time limit.
        seconds: Wall time.
        fault: Why the case is a fault; empty if it is none.
        printed: The end of the output of a faulty case.
    """

    index: int
    surface: str
    arguments: list[str]
    code: int | None
    seconds: float
    fault: str
    printed: str


def run_case(seed: int, index: int, workspace: Workspace, folder: Path) -> Verdict:
    """Draw one case, run its command in a forked process, and judge it. Files of a sound case are removed."""
    rng = random.Random(f"{seed}:{index}")
    surface = sorted(SURFACES)[index % len(SURFACES)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = SURFACES[surface](rng, workspace, folder)
    (folder / "stdin").write_text(case.reads, encoding="utf-8", errors="replace")
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        _run_command(case, folder)
    code = _wait(process, start + LIMIT_SECONDS)
    printed = (folder / "printed").read_text(encoding="utf-8", errors="replace")
    fault = judge(case, code, printed)
    if not fault:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.monotonic() - start, 2)
    arguments = [argument[:300] for argument in case.arguments]
    return Verdict(index, surface, arguments, code, seconds, fault, printed[-1500:] if fault else "")


def judge(case: Case, code: int | None, printed: str) -> str:
    """Why a command's end is a fault; empty if it is none."""
    if code is None:
        return "hang"
    if any(mark in printed for mark in BUG_MARKS):
        return "bug"
    if code not in DOCUMENTED_CODES:
        return f"exit code {code}"
    if code and not any(mark in printed for mark in ERROR_MARKS):
        return "no error message"
    if code == 0 and case.garbage:
        return "silent success"
    return ""


def _run_command(case: Case, folder: Path) -> None:
    """Run the command in this forked process, with its output in a file; never returns."""
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.chdir(folder)
        output = os.open("printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in ((os.open("stdin", os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(descriptor, target)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        from tiny_runs import metalm

        code = metalm(*case.arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(process: int, deadline: float) -> int | None:
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def prepare() -> None:
    """Import what the commands import, and set an environment without network or the user's caches."""
    import tiny_runs

    tiny_runs._import_once()
    for name in ("transformers.models.vit.modeling_vit", "metalm_cli.training.finetuning", "metalm_cli.reports.page"):
        __import__(name)
    import torch

    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    for name in ("METALM_DATA", "METALM_CHECKPOINTS"):
        os.environ.pop(name, None)


def campaign(seed: int, count: int, root: Path, workers: int) -> list[Verdict]:
    """Run the cases of a seed that the log does not have yet.

    Returns:
        The verdicts of this call.
    """
    log = root / f"seed-{seed}.jsonl"
    root.mkdir(parents=True, exist_ok=True)
    past = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = {record["index"] for record in past}
    workspace = build(root / "workspace")
    indices = [index for index in range(count) if index not in done]
    verdicts = []
    with log.open("a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as pool:
        folder = root / f"seed-{seed}"
        for verdict in pool.map(lambda index: run_case(seed, index, workspace, folder / str(index)), indices):
            file.write(json.dumps(asdict(verdict)) + "\n")
            file.flush()
            verdicts.append(verdict)
            if verdict.fault:
                print(
                    f"{verdict.index}  {verdict.surface}: {verdict.fault}  metalm {' '.join(verdict.arguments)[:160]}"
                )
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="cases of the seed, those of earlier starts included")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ["XDG_CACHE_HOME"] = str(options.out.absolute() / "cache")
    prepare()
    campaign(options.seed, options.count, options.out.absolute(), options.workers)
    records: list[dict[str, Any]] = [
        json.loads(line)
        for line in (options.out / f"seed-{options.seed}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    faults = [record for record in records if record["fault"]]
    print(f"\n{len(records):,} commands, {len(faults)} faults {dict(Counter(record['fault'] for record in faults))}")
    print("slowest", sorted((record["seconds"], record["index"]) for record in records)[-3:])
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
