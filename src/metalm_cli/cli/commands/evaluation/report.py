"""``metalm report``: runs to look at, as a page and in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    pass


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run folders; several are laid over one another. A demo or a folder of seeds stands for all it holds. "
            "Left out: runs/latest.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; default report.html of the first folder named."),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Print the tables, and write no page unless --out names one.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Also write each figure as PNG and SVG.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Also put the scores into the model's card.")] = False,
) -> None:
    """Show runs: curves, data, scores, answers, recipe and provenance, on one page that needs no connection.

    A run that is still going, has crashed or is damaged shows what there is, and the page says what is missing.
    """
    from metalm_cli.reports import read_runs
    from metalm_cli.reports.card_section import cards_of, write_card
    from metalm_cli.reports.reading.find_runs import report_folder

    named = runs or [_latest()]
    read = read_runs(named)
    cards = cards_of(read) if card else []
    if terminal:
        from metalm_cli.reports.terminal import print_report

        print_report(read, console.stdout())
    if out is not None or not terminal:
        from metalm_cli.reports.write_report import write_report

        console.write(f"{write_report(read, out or report_folder(named[0]))}\n")
        if not terminal:
            for run in read:
                for problem in run.problems:
                    of = f"{run.name}: " if len(read) > 1 else ""
                    console.stderr().print(console.escape_markup(f"note: {of}{problem}"), markup=False, soft_wrap=True)
    if figures is not None:
        from metalm_cli.reports.write_report import write_figures

        written = write_figures(read, figures)
        console.write(f"{figures}: {len(written) // 2} figures, each as PNG and SVG\n")
    for one in cards:
        console.write(f"{write_card(one)}\n")


def _latest() -> Path:
    """The newest run.

    Raises:
        MetalmError: There is none.
    """
    latest = Path("runs") / "latest"
    if latest.is_dir():
        return latest
    raise MetalmError(
        "there is no run to report on",
        where=str(latest.absolute()),
        why="no run is named, and no newest one is there",
        remedy="name a run folder: metalm report RUN",
    )
