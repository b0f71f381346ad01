"""``metalm demo``: the whole program in minutes, on data that it generates itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.demo.stages import DemoSize, Stage

PRELOADED_MODULES = (
    "metalm_cli.training.pretraining",
    "metalm_cli.training.finetuning",
    "metalm_cli.inference.preview",
    "metalm_cli.evaluation.run_evaluation",
    "transformers.models.llama.modeling_llama",
    "transformers.models.modernbert.modeling_modernbert",
)
"""Modules that stages import: where the system supports a fork server, they are imported once."""
EXAMPLE_QUESTION = """We spent Friday at the inn in Oakton. The soup was awful and the rooms were dirty.
Is this positive or negative?
OPTIONS:
- positive
- negative"""
"""Example question for the model that was finetuned on reviews, in the wording of its template."""
MAX_JOBS = 2
"""Maximum number of stages that run at the same time: most stages depend on one other stage."""


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: all stages within a minute, with little training.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The paper's comparisons, with three seeds and two twins: about an hour.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the demo. Default: runs/demo.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the stages and their commands; run nothing.")
    ] = False,
) -> None:
    """Run the whole program on the built-in miniature world, offline: about four minutes on two CPU cores.

    Trains a tokenizer and an encoder, pretrains a MetaLM and a GPT twin, and tunes both with one cluster held out.
    Then finetunes one task with the interface frozen, scores all models, and writes a report.
    If the demo is stopped, the same command continues it.
    """
    from metalm_cli.demo.stages import SIZES, demo_stages

    if quick and full:
        raise MetalmError("--quick and --full exclude each other", remedy="leave one of them out")
    size = SIZES["quick" if quick else "full" if full else "standard"]
    folder = out if out is not None else Path("runs") / ("demo" if size.name == "standard" else f"demo-{size.name}")
    stages = demo_stages(size, folder)
    if dry_run:
        _print_plan(stages, size, folder)
        return
    raise typer.Exit(int(_run_stages(stages, size, folder)))


def _print_plan(stages: Sequence[Stage], size: DemoSize, folder: Path) -> None:
    """Print the stages with their commands, and the expected results."""
    from metalm_cli.demo.display import format_duration
    from metalm_cli.demo.expectations import describe
    from metalm_cli.demo.state import shell_command

    for stage in stages:
        console.write(f"# {stage.name}: {stage.summary}: {stage.purpose}\nmetalm {shell_command(stage.arguments)}\n")
    if size.name == "full":
        console.write("\n# expected at this size\n" + "".join(f"# {line}\n" for line in describe()))
    core_seconds = sum(stage.cost for stage in stages)
    console.write(
        f"\n# {len(stages)} stages in {folder}, about {format_duration(core_seconds)} of one core; nothing was run\n"
    )


def _run_stages(stages: Sequence[Stage], size: DemoSize, folder: Path) -> Exit:
    from metalm_cli.demo.display import make_display
    from metalm_cli.demo.expectations import describe_briefly
    from metalm_cli.demo.runner import DemoStopped, Runner
    from metalm_cli.demo.state import DemoFolder

    demo_folder = DemoFolder(folder, size)
    printer = console.stderr()
    try:
        display = make_display(printer, stages)
        jobs = min(MAX_JOBS, os.cpu_count() or 1)
        runner = Runner(
            stages, demo_folder, _StageStarter(jobs), display, jobs, lambda stage: _stage_result(stage, folder)
        )
        if len(runner.done) == len(stages):
            display.line(f"the demo is finished; to run it again, remove {folder} or choose another --out")
        else:
            display.line(
                f"{len(stages)} stages in {folder}, about {size.duration} on two quiet cores. "
                "Ctrl-C stops the demo; the same command continues it."
            )
            if size.name == "full":
                display.line(f"{describe_briefly()} Why: metalm demo --full --dry-run")
            if restart_note := demo_folder.rerun_note(stages):
                display.line(restart_note)
            try:
                with display:
                    runner.run()
            except DemoStopped as stopped:
                display.line(f"stopped ({stopped}); finished stages are kept, and the same command continues the demo")
                return Exit.STOPPED
        _print_results(size, folder)
    finally:
        demo_folder.close()
    return Exit.DONE


# -- processes --------------------------------------------------------------------------------------------------------


class _StageStarter:
    """Starter of stages, each in a new process with its share of the cores.

    Where the system supports it, processes are forked from a server that has imported the libraries once; otherwise
    short stages would spend most of their time on imports.

    Args:
        jobs: Number of stages that run at the same time.
    """

    def __init__(self, jobs: int) -> None:
        self.threads = max(1, min(4, (os.cpu_count() or 1) // jobs))
        has_forkserver = "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
        self.context: Any = multiprocessing.get_context("forkserver" if has_forkserver else "spawn")
        if has_forkserver:
            self.context.set_forkserver_preload(list(PRELOADED_MODULES))

    def __call__(self, stage: Stage, log: Path) -> _StageProcess:
        from metalm_cli.cli.silence_libraries import silence_environment

        silence_environment(offline=True)
        process = self.context.Process(target=_run_command, args=(list(stage.arguments), str(log), self.threads))
        process.start()
        return _StageProcess(process)


class _StageProcess:
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
        os.setsid()  # only the demo receives Ctrl-C from the terminal, and forwards it once
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
    from metalm_cli.demo.state import error_file

    torch.set_num_threads(threads)
    code = run(arguments, on_error=lambda error: _write_error(error, error_file(Path(log))))
    seconds = time.process_time()
    file.write(f"\n{seconds:.1f} s of processor time\n")
    file.flush()
    os._exit(code)


def _leave_with_parent() -> None:
    """Stop this stage, with a checkpoint, when the demo itself has been killed."""
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


# -- results ----------------------------------------------------------------------------------------------------------


def _stage_result(stage: Stage, folder: Path) -> str:
    """Describe the result of a finished stage in one line."""
    from metalm_cli.demo.score_summary import decoder_hash
    from metalm_cli.demo.state import last_record

    name = stage.name.partition("-")[0]
    if name == "frozen" and stage.run is not None:
        before, after = map(decoder_hash, (stage.run.parent / "instruct-metalm" / "model", stage.run / "model"))
        verdict = "unchanged" if before == after else "CHANGED, which is a bug"
        return f"decoder sha256 {before[:12]} before, {after[:12]} after: {verdict}"
    if name == "report":
        return str(folder / "report.html")
    record = last_record(stage.run, "validation") if stage.run is not None else {}
    split_name = "documents held out" if stage.arguments[0] == "pretrain" else "validation examples"
    if isinstance(record.get("bits_per_byte"), float):
        return f"{record['bits_per_byte']:.3f} bits per byte on {split_name}"
    if isinstance(record.get("loss"), float):
        return f"loss {record['loss']:.3f} on {split_name}"
    return ""


def _print_results(size: DemoSize, folder: Path) -> None:
    """Print the result tables, the conclusions, and the next commands."""
    from metalm_cli.demo import score_summary

    seed_folders = score_summary.seed_folders(size, folder)
    twins = list(enumerate(score_summary.twin_names(size), 1))
    for twin_number, twin in twins:
        _print_in_context_results(size, seed_folders, twin_number, twin)
    names = ["instructed", *(["finetuned"] if size.multitask is not None else [])]
    for name, (twin_number, twin) in itertools.product(names, twins):
        rows = score_summary.result_rows(seed_folders, name, twin_number)
        console.write(f"\n{score_summary.TABLE_TITLES[name]}; {twin}; * held out\n")
        _print_table(*score_summary.result_table(rows))
        _print_sentences(score_summary.conclusions(rows))
        if size.name == "full":
            console.write("\nexpected and measured\n")
            _print_table(*score_summary.expectation_table(rows))
    console.write(f"\n{score_summary.TABLE_TITLES['frozen-score']}\n")
    if size.single_twin:
        rows = score_summary.result_rows(seed_folders, "frozen-score")
        _print_table(*score_summary.result_table(rows))
        _print_sentences(score_summary.conclusions(rows))
    else:
        _print_table(*score_summary.single_task_table(seed_folders))
    if size.name == "quick":
        _print_sentences(["Quick demo: it shows the mechanics; no model is trained long enough to learn much."])
    console.write(f"\nreport   {folder / 'report.html'}\n")
    console.write(f"results  metalm results show {seed_folders[0] / 'results' / 'in-context.json'}\n")
    console.write(f"ask it   metalm generate {seed_folders[0] / 'frozen'} '{EXAMPLE_QUESTION}'\n")


def _print_in_context_results(size: DemoSize, seed_folders: Sequence[Path], twin_number: int, twin: str) -> None:
    """Print the scores of the pretrained models next to a twin, per task and number of demonstrations."""
    from metalm_cli.demo import score_summary
    from metalm_cli.demo.expectations import IN_CONTEXT

    rows = score_summary.result_rows(seed_folders, "in-context", twin_number)
    console.write(f"\n{score_summary.TABLE_TITLES['in-context']}; {twin}\n")
    _print_table(*score_summary.result_table(rows, score_summary.mean_rows(seed_folders, twin_number)))
    _print_sentences([score_summary.pretraining_note(seed_folders), *score_summary.conclusions(rows)])
    if size.name == "full":
        expected_tasks = "all" if IN_CONTEXT.above_chance else "none"
        _print_sentences([f"Expected: {expected_tasks} above chance, because {IN_CONTEXT.reason}."])


def _print_sentences(sentences: Sequence[str]) -> None:
    console.write("".join(f"- {sentence}\n" for sentence in sentences))


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain-text table; on a terminal that is too narrow for it, one row after the other."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headers, *rows)
    ]
    out = console.stdout()
    if out.is_terminal and max(map(len, lines)) > out.width:
        lines = [line for row in rows for line in _stack_row(headers, row, out.width)]
    console.write("".join(f"{line}\n" for line in lines))


def _stack_row(headers: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines for a row of a table: its name, then one line or more for each cell, with the column's header."""
    left_width = max(min(max(map(len, headers[1:])), width // 2 - 2), 1)
    right_width = max(width - left_width - 4, 1)
    yield from textwrap.wrap(row[0], width)
    for header, cell in zip(headers[1:], row[1:], strict=True):
        wrapped = textwrap.wrap(header, left_width), textwrap.wrap(cell, right_width, break_on_hyphens=False)
        for left_line, right_line in itertools.zip_longest(*wrapped, fillvalue=""):
            yield f"  {left_line:<{left_width}}  {right_line}".rstrip()
