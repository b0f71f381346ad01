"""``metalm demo``: everything that the program does, in minutes, on data that it makes itself."""

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

WARM = (
    "metalm_cli.training.pretraining",
    "metalm_cli.training.finetuning",
    "metalm_cli.cli.commands.evaluation.evaluate_run",
    "metalm_cli.inference.preview",
    "metalm_cli.evaluation.evaluator",
    "transformers.models.llama.modeling_llama",
    "transformers.models.modernbert.modeling_modernbert",
)
"""What stages import; done once, where a system can fork from a process that has."""
QUESTION = """We spent Friday at the inn in Oakton. The soup was awful and the rooms were dirty.
Is this positive or negative?
OPTIONS:
- positive
- negative"""
"""Something to ask the model that was finetuned on reviews, in the words of its template."""
MOST_JOBS = 2
"""Stages at a time: two keep two cores busy, and what one waits for is seldom more than one other."""


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: everything within a minute, learning little.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Three seeds, two twins, the paper's comparisons: about an hour.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The demo's folder; default runs/demo.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the stages with their commands, and do nothing.")
    ] = False,
) -> None:
    """Show the whole program on the embedded miniature world, offline: about four minutes on two CPU cores.

    Trains a tokenizer and an encoder, pretrains a MetaLM and a GPT twin, tunes both on instructions with a cluster
    held out, finetunes one task with the interface frozen, scores them, and names the report. Stopped, the same
    command goes on.
    """
    from metalm_cli.demo.stages import BUDGETS, stages_of

    if quick and full:
        raise MetalmError("--quick and --full exclude each other", remedy="leave one of them out")
    budget = BUDGETS["quick" if quick else "full" if full else "standard"]
    place = out if out is not None else Path("runs") / ("demo" if budget.name == "standard" else f"demo-{budget.name}")
    stages = stages_of(budget, place)
    if dry_run:
        _list(stages, budget, place)
        return
    raise typer.Exit(int(_run(stages, budget, place)))


def _list(stages: Sequence[Stage], budget: DemoSize, place: Path) -> None:
    """What would be done, and what is expected of it."""
    from metalm_cli.demo.display import clock
    from metalm_cli.demo.expectations import describe
    from metalm_cli.demo.state import shown

    for stage in stages:
        console.write(f"# {stage.name}: {stage.what}: {stage.why}\nmetalm {shown(stage.arguments)}\n")
    if budget.name == "full":
        console.write("\n# expected at this size\n" + "".join(f"# {line}\n" for line in describe()))
    work = sum(stage.cost for stage in stages)
    console.write(f"\n# {len(stages)} stages in {place}, about {clock(work)} of one core; nothing was done\n")


def _run(stages: Sequence[Stage], budget: DemoSize, place: Path) -> Exit:
    from metalm_cli.demo.display import make_display
    from metalm_cli.demo.expectations import describe_briefly
    from metalm_cli.demo.runner import DemoStopped, Runner
    from metalm_cli.demo.state import Folder

    folder = Folder(place, budget)
    printer = console.stderr()
    try:
        display = make_display(printer, stages)
        jobs = min(MOST_JOBS, os.cpu_count() or 1)
        runner = Runner(stages, folder, _Starter(jobs), display, jobs, lambda stage: _facts(stage, place))
        if len(runner.done) == len(stages):
            display.line(f"this demo is finished; remove {place} or name another --out to do it again")
        else:
            display.line(
                f"{len(stages)} stages in {place}, about {budget.about} on two quiet cores. "
                "Ctrl-C stops; the same command goes on."
            )
            if budget.name == "full":
                display.line(f"{describe_briefly()} Why: metalm demo --full --dry-run")
            if again := folder.again(stages):
                display.line(again)
            try:
                with display:
                    runner.run()
            except DemoStopped as stopped:
                display.line(f"stopped ({stopped}); what was done is kept: the same command goes on from there")
                return Exit.STOPPED
        _tell(budget, place)
    finally:
        folder.close()
    return Exit.DONE


# -- processes --------------------------------------------------------------------------------------------------------


class _Starter:
    """Begins stages, each in a fresh process with its share of the cores.

    Where a system can, processes are forked from a server that has imported the libraries once: a stage of a few
    seconds would else spend most of them on imports.

    Args:
        jobs: How many run at a time.
    """

    def __init__(self, jobs: int) -> None:
        self.threads = max(1, min(4, (os.cpu_count() or 1) // jobs))
        server = "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
        self.context: Any = multiprocessing.get_context("forkserver" if server else "spawn")
        if server:
            self.context.set_forkserver_preload(list(WARM))

    def __call__(self, stage: Stage, log: Path) -> _Process:
        from metalm_cli.cli.silence_libraries import silence_environment

        silence_environment(offline=True)
        process = self.context.Process(target=_command, args=(list(stage.arguments), str(log), self.threads))
        process.start()
        return _Process(process)


class _Process:
    """A running stage."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def stop(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has ended in between
                os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()


def _write_error(error: MetalmError, path: Path) -> None:
    """Write an error for the process that started this one."""
    content = {"what": error.what, "where": error.where, "why": error.why, "remedy": error.remedy}
    with contextlib.suppress(OSError):  # a full disk: the log still holds the message
        path.write_text(json.dumps(content), encoding="utf-8")


def _command(arguments: list[str], log: str, threads: int) -> None:
    """Run a command line in this process, its output in a file; leave with its exit code."""
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C on the terminal reaches the demo alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    for number in (1, 2):
        os.dup2(file.fileno(), number)
    sys.stdout = sys.stderr = file
    console.stdout.cache_clear()
    console.stderr.cache_clear()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    from metalm_cli.cli.app import run
    from metalm_cli.demo.state import error_file

    torch.set_num_threads(threads)
    code = run(arguments, on_error=lambda error: _write_error(error, error_file(Path(log))))
    spent = time.process_time()
    file.write(f"\n{spent:.1f} s of processor time\n")
    file.flush()
    os._exit(code)


def _leave_with_parent() -> None:
    """Save and leave when the demo itself has been killed."""
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


# -- what came out ----------------------------------------------------------------------------------------------------


def _facts(stage: Stage, place: Path) -> str:
    """What to say of a stage that has finished."""
    from metalm_cli.demo.score_summary import decoder_hash
    from metalm_cli.demo.state import last_record

    name = stage.name.partition("-")[0]
    if name == "frozen" and stage.run is not None:
        before, after = map(decoder_hash, (stage.run.parent / "instruct-metalm" / "model", stage.run / "model"))
        same = "unchanged" if before == after else "CHANGED, which is a bug"
        return f"decoder sha256 {before[:12]} before, {after[:12]} after: {same}"
    if name == "report":
        return str(place / "report.html")
    found = last_record(stage.run, "validation") if stage.run is not None else {}
    on = "documents held out" if stage.arguments[0] == "pretrain" else "validation examples"
    if isinstance(found.get("bits_per_byte"), float):
        return f"{found['bits_per_byte']:.3f} bits per byte on {on}"
    if isinstance(found.get("loss"), float):
        return f"loss {found['loss']:.3f} on {on}"
    return ""


def _tell(budget: DemoSize, place: Path) -> None:
    """The tables, what they carry, and where to go on."""
    from metalm_cli.demo import score_summary

    folders = score_summary.folders_of(budget, place)
    twins = list(enumerate(score_summary.twin_names(budget), 1))
    for number, twin in twins:
        _tell_in_context(budget, folders, number, twin)
    names = ["instructed", *(["finetuned"] if budget.multitask is not None else [])]
    for name, (number, twin) in itertools.product(names, twins):
        lines = score_summary.lines_of(folders, name, number)
        console.write(f"\n{score_summary.TABLE[name]}; {twin}; * held out\n")
        _table(*score_summary.table_of(lines))
        _sentences(score_summary.sentences(lines))
        if budget.name == "full":
            console.write("\nexpected beforehand, and found\n")
            _table(*score_summary.expectations_and_results(lines))
    console.write(f"\n{score_summary.TABLE['frozen-score']}\n")
    if budget.whole:
        lines = score_summary.lines_of(folders, "frozen-score")
        _table(*score_summary.table_of(lines))
        _sentences(score_summary.sentences(lines))
    else:
        _table(*score_summary.single_task(folders))
    if budget.name == "quick":
        _sentences(["Quick: a look at the mechanics. Nothing is trained long enough to learn."])
    console.write(f"\nreport   {place / 'report.html'}\n")
    console.write(f"results  metalm results show {folders[0] / 'results' / 'in-context.json'}\n")
    console.write(f"ask it   metalm generate {folders[0] / 'frozen'} '{QUESTION}'\n")


def _tell_in_context(budget: DemoSize, folders: Sequence[Path], number: int, twin: str) -> None:
    """The pretrained models beside a twin, on every task with each number of demonstrations."""
    from metalm_cli.demo import score_summary
    from metalm_cli.demo.expectations import IN_CONTEXT

    lines = score_summary.lines_of(folders, "in-context", number)
    console.write(f"\n{score_summary.TABLE['in-context']}; {twin}\n")
    _table(*score_summary.table_of(lines, score_summary.mean_rows(folders, number)))
    _sentences([score_summary.read_before(folders), *score_summary.sentences(lines)])
    if budget.name == "full":
        side = "all" if IN_CONTEXT.above else "none"
        _sentences([f"Expected beforehand: {side} above chance, for {IN_CONTEXT.why}."])


def _sentences(sentences: Sequence[str]) -> None:
    console.write("".join(f"- {sentence}\n" for sentence in sentences))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in plain text; on a terminal that is too narrow for it, a row after the other."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    ]
    out = console.stdout()
    if out.is_terminal and max(map(len, lines)) > out.width:
        lines = [line for row in rows for line in _stacked(heads, row, out.width)]
    console.write("".join(f"{line}\n" for line in lines))


def _stacked(heads: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    """A row's name, then its cells under their heads."""
    left = max(min(max(map(len, heads[1:])), width // 2 - 2), 1)
    right = max(width - left - 4, 1)
    yield from textwrap.wrap(row[0], width)
    for head, cell in zip(heads[1:], row[1:], strict=True):
        sides = textwrap.wrap(head, left), textwrap.wrap(cell, right, break_on_hyphens=False)
        for one, other in itertools.zip_longest(*sides, fillvalue=""):
            yield f"  {one:<{left}}  {other}".rstrip()
