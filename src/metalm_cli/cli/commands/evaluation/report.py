"""``metalm report``: reports of runs, as an HTML page or in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.errors import MetalmError


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run folders; several are compared on one page. A study or a folder of seeds includes all its runs. "
            "Default: runs/latest.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="HTML page to write. Default: report.html in the folder of the run; for several runs, "
            "report-with-NAME.html in the first folder.",
        ),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Print tables to the terminal; write a page only with --out.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Also write each figure as PNG and SVG.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Also write the scores into the model card.")] = False,
    compare_reference: Annotated[
        bool,
        typer.Option("--compare-reference", help="Also say where each run leaves the reference curve of its recipe."),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="FILE", help="Also compare the runs with the reference curve in this file."
        ),
    ] = None,
    record_reference: Annotated[
        Path | None,
        typer.Option("--record-reference", metavar="FILE", help="Also record the runs, one of each seed, as a curve."),
    ] = None,
) -> None:
    """Write a report of runs: curves, data, scores, answers, recipe and provenance, on one self-contained HTML page.

    Runs that are still training, crashed or damaged are reported as far as possible; the page lists what is missing.
    """
    from metalm_cli.reports import read_runs
    from metalm_cli.reports.card_section import scored_cards, write_card
    from metalm_cli.reports.reading.find_runs import report_folder
    from metalm_cli.studies.page import is_study_folder, study_lead

    folders = runs or [_latest_run()]
    summaries = read_runs(folders)
    cards = scored_cards(summaries) if card else []
    references = list(_reference_lines(folders, compare_reference, reference, record_reference))
    if terminal:
        from metalm_cli.reports.terminal import print_report

        print_report(summaries, console.stdout())
    lead = study_lead(folders[0]) if len(folders) == 1 and is_study_folder(folders[0]) else None
    if out is not None or not terminal:
        from metalm_cli.reports.write_report import write_report

        about = [report_folder(folder) for folder in folders]
        console.write(f"{write_report(summaries, out, lead, about)}\n")
        if not terminal:
            for run in summaries:
                for problem in run.problems:
                    prefix = f"{run.name}: " if len(summaries) > 1 else ""
                    console.stderr().print(
                        console.escape_markup(f"note: {prefix}{problem}"), markup=False, soft_wrap=True
                    )
    if figures is not None:
        from metalm_cli.reports.write_report import write_figures

        paths = write_figures(summaries, figures, lead)
        console.write(f"{figures}: {len(paths) // 2} figures, each as PNG and SVG\n")
    for line in references:
        console.stdout().print(line, markup=False)
    for readme in cards:
        console.write(f"{write_card(readme)}\n")


def _reference_lines(
    folders: list[Path], compare: bool, reference: str | None, record_to: Path | None
) -> Iterator[str]:
    """Record runs as a reference curve, and yield their comparison with that of their recipe or of a file."""
    if not compare and reference is None and record_to is None:
        return
    from metalm_cli.reports.reading.find_runs import run_folders
    from metalm_cli.runs.reference_curves.compare import compare_with_curve
    from metalm_cli.runs.reference_curves.curve import curve_names, find_curve, read_curve, write_curve
    from metalm_cli.runs.reference_curves.record import record_curve
    from metalm_cli.runs.reference_curves.run_losses import read_run_losses

    paths = [run for folder in folders for run in run_folders(folder)]
    trained = [run for run in paths if (run / "recipe.yaml").is_file()] or paths
    runs = [read_run_losses(run) for run in trained]
    if record_to is not None:
        curve = record_curve(runs)
        write_curve(record_to, curve)
        yield f"{record_to}: the reference curve of {curve.recipe}, steps {curve.steps[0]} to {curve.steps[-1]}"
    for run in runs if compare or reference is not None else []:
        if len(runs) > 1:
            yield f"{run.path}:"
            if reference is None and run.recipe not in curve_names():
                yield f"recipe {run.recipe} has no reference curve"
                continue
        yield from compare_with_curve(run, read_curve(find_curve(reference or run.recipe))).lines()


def _latest_run() -> Path:
    """Newest run.

    Raises:
        MetalmError: There is no run.
    """
    latest = Path("runs") / "latest"
    if latest.is_dir():
        return latest
    raise MetalmError(
        "there is no run to report on",
        where=str(latest.absolute()),
        why="no run is named, and runs/latest does not exist",
        remedy="name a run folder: metalm report RUN",
    )
