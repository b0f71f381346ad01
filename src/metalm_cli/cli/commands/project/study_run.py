"""Running of a study from the command line: its stages in processes, its progress, its results."""

from __future__ import annotations

import itertools
import os
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.cli import console
from metalm_cli.cli.commands.project.stage_process import StageStarter
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.studies.load import Study
    from metalm_cli.studies.results import StudyResults
    from metalm_cli.studies.stages import Stage
    from metalm_cli.studies.state import StudyFolder

MAX_JOBS = 2
"""Default maximum number of stages that run at the same time: most stages depend on one other stage."""


@dataclass(frozen=True)
class StudyRequest:
    """A study that the command line asks for.

    Args:
        study: The study.
        scale: Name of its scale.
        out: Folder of the study.
        seeds: Seeds of all stages; None for those of the scale.
        jobs: Number of stages that run at the same time; None for that of the scale, or at most two.
        offline: Whether stages may not use the network.
        data_root: Folder of local data sets.
        over_budget: Run the study even if it needs more hours than its budget.
        rerun: Run finished stages again whose commands have changed; without it, this is an error.
    """

    study: Study
    scale: str
    out: Path
    seeds: tuple[int, ...] | None = None
    jobs: int | None = None
    offline: bool = False
    data_root: Path | None = None
    over_budget: bool = False
    rerun: bool = False

    @cached_property
    def stages(self) -> list[Stage]:
        """Stages of the study.

        Raises:
            MetalmError: A recipe of a stage is invalid.
        """
        from metalm_cli.studies.stages import study_stages

        options = ["--offline"] if self.offline else []
        options += [] if self.data_root is None else ["--data-root", str(self.data_root)]
        return study_stages(self.study, self.scale, self.out, self.seeds, options)


def print_plan(request: StudyRequest) -> None:
    """Print the stages with their commands and costs, and the claims with their expectations."""
    from metalm_cli.studies.budget import plan_lines

    for line in plan_lines(request.study, request.scale, request.stages, request.out):
        console.write(f"{line}\n")


def run_study(request: StudyRequest) -> Exit:
    """Run the stages of a study that have not finished, and print its results.

    Raises:
        MetalmError: The folder is not the study's, its budget is too small, its commands have changed, or a stage
            fails.
    """
    from metalm_cli.studies.cells import write_cells
    from metalm_cli.studies.display import make_display
    from metalm_cli.studies.runner import BudgetSpent, Runner, StudyStopped
    from metalm_cli.studies.state import StudyFolder

    scale = request.study.scale(request.scale)
    jobs = request.jobs or scale.jobs or min(MAX_JOBS, os.cpu_count() or 1)
    folder = StudyFolder(request.out, request.study, request.scale, lambda folder: _check(folder, request))
    try:
        display = make_display(console.stderr(), request.stages)
        starter = StageStarter(jobs, request.offline)
        budget = None if scale.hours is None or request.over_budget else scale.hours * 3600
        runner = Runner(
            request.stages,
            folder,
            starter,
            display,
            jobs,
            lambda stage: stage_result(stage, request.out),
            budget,
            lambda: write_cells(folder, request.stages, runner.done, request.scale),
        )
        if len(runner.done) == len(request.stages):
            again = f"to run it again, remove {request.out} or choose another --out"
            display.line(f"the {folder.noun} is finished; {again}")
        else:
            display.line(
                f"{len(request.stages)} stages in {request.out}, about {scale.duration} on two quiet cores. "
                f"Ctrl-C stops the {folder.noun}; the same command continues it."
            )
            if restart_note := folder.rerun_note(request.stages[:-1]):
                display.line(restart_note)
            try:
                with display:
                    runner.run()
            except StudyStopped as stopped:
                option = " with --over-budget" if isinstance(stopped, BudgetSpent) else ""
                display.line(
                    f"stopped ({stopped}); finished stages are kept, and the same command{option} continues the "
                    f"{folder.noun}"
                )
                return Exit.STOPPED
        print_results(request, folder)
    finally:
        folder.close()
    return Exit.DONE


def _check(folder: StudyFolder, request: StudyRequest) -> None:
    """Refuse to run finished stages again without consent, and to exceed the budget.

    Raises:
        MetalmError: Commands of finished stages have changed since the study was started, or the budget is too small.
    """
    from metalm_cli.studies.budget import check_budget

    done = folder.finished(request.stages)
    if len(done) == len(request.stages):
        return
    reason, names = folder.changes(request.stages[:-1])
    if names and not request.rerun:
        raise MetalmError(
            "the study has changed since its stages were run",
            where=str(request.out),
            why=f"{reason}: {names}",
            remedy="add --rerun to run these stages again, restore the study, or choose another --out",
        )
    check_budget(request.study, request.scale, request.stages, done, folder.seconds, request.over_budget)


# -- results ----------------------------------------------------------------------------------------------------------


def stage_result(stage: Stage, folder: Path) -> str:
    """Describe the result of a finished stage in one line."""
    from metalm_cli.studies.score_tables import decoder_hash
    from metalm_cli.studies.state import last_record

    if stage.decoder_of is not None and stage.run is not None:
        before, after = decoder_hash(stage.decoder_of / "model"), decoder_hash(stage.run / "model")
        verdict = "unchanged" if before == after else "CHANGED, which is a bug"
        return f"decoder sha256 {before[:12]} before, {after[:12]} after: {verdict}"
    if stage.arguments[0] == "report":
        return str(folder / "report.html")
    record = last_record(stage.run, "validation") if stage.run is not None else {}
    split_name = "documents held out" if stage.arguments[0] == "pretrain" else "validation examples"
    if isinstance(record.get("bits_per_byte"), float):
        return f"{record['bits_per_byte']:.3f} bits per byte on {split_name}"
    if isinstance(record.get("loss"), float):
        return f"loss {record['loss']:.3f} on {split_name}"
    return ""


def print_results(request: StudyRequest, folder: StudyFolder) -> None:
    """Print the headline, the claims, the tables of all evaluations, and the next commands."""
    from metalm_cli.studies.results import StudyResults
    from metalm_cli.studies.score_tables import claim_table, headline

    results = StudyResults(request.study, request.scale, request.out)
    claims = results.claims()
    for evaluation in results.evaluations:
        if results.records[evaluation]:
            _print_evaluation(results, evaluation)
    if claims:
        console.write(f"\n{headline(claims)}\n\nclaims\n")
        _print_table(*claim_table(claims))
        _print_sentences([folder.claims_note])
    note = request.study.scale(request.scale).note
    _print_sentences([note] if note else [])
    console.write(f"\nreport   {request.out / 'report.html'}\n")
    first = next((stage for stage in request.stages if stage.run is None), None)
    if first is not None and first.arguments[0] == "evaluate":
        console.write(f"results  metalm results show {first.outputs[0]}\n")
    example = next((stage for stage in request.stages if stage.question), None)
    if example is not None:
        console.write(f"ask it   metalm generate {example.run} {shlex.quote(example.question)}\n")


def _print_evaluation(results: StudyResults, name: str) -> None:
    """Print the scores of the first model of an evaluation beside each other one."""
    from metalm_cli.studies.score_tables import conclusions, pair_table

    evaluation, (first, *others) = results.evaluations[name]
    for other in (*others,) or (None,):
        headers, rows = pair_table(results, name, first, other)
        stars = "; * held out" if any(row[0].endswith(" *") for row in rows) else ""
        console.write(f"\n{evaluation.title}{stars}\n")
        _print_table(headers, rows)
        if other is not None:
            _print_sentences(conclusions(results, name, first, other))


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
