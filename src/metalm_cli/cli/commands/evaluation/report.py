"""``metalm report``: reports of runs, as an HTML page or in the terminal."""

from __future__ import annotations

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
        typer.Option("--out", metavar="FILE", help="HTML page to write. Default: report.html in the first folder."),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Print tables to the terminal; write a page only with --out.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Also write each figure as PNG and SVG.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Also write the scores into the model card.")] = False,
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
    if terminal:
        from metalm_cli.reports.terminal import print_report

        print_report(summaries, console.stdout())
    lead = study_lead(folders[0]) if len(folders) == 1 and is_study_folder(folders[0]) else None
    if out is not None or not terminal:
        from metalm_cli.reports.write_report import write_report

        console.write(f"{write_report(summaries, out or report_folder(folders[0]), lead)}\n")
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
    for readme in cards:
        console.write(f"{write_card(readme)}\n")


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
