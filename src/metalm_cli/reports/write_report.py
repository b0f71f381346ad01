"""Writing a report: where it goes, and what a run adds to its own at its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.reports.figures import vega_export
from metalm_cli.reports.page import CONFIG, colours, figures_of, make_page
from metalm_cli.reports.reading.run_summary import RunSummary, read_run

REPORT = "report.html"
"""The page's name in a run folder."""


def report_place(runs: Sequence[RunSummary], out: Path | None) -> Path:
    """Where the page goes: ``out``, which may be a folder; default the first run's folder."""
    if out is None:
        return runs[0].path / REPORT
    return out / REPORT if out.is_dir() else out


def write_report(runs: Sequence[RunSummary], out: Path | None = None) -> Path:
    """Write the page.

    Args:
        runs: The runs.
        out: The file, or a folder; default the first run's.

    Raises:
        MetalmError: It cannot be written.
    """
    place = report_place(runs, out)
    page = make_page(runs, place, datetime.now())
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, page.encode())
    except (MetalmError, OSError) as error:
        why = error.why if isinstance(error, MetalmError) else error.strerror
        raise MetalmError(
            "the report cannot be written",
            where=str(place),
            why=why or str(error),
            remedy="choose another place with --out FILE, or look at it here with --terminal",
            exit_code=Exit.FAILED,
        ) from error
    return place


def write_figures(runs: Sequence[RunSummary], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG, in the light theme.

    Raises:
        MetalmError: The folder cannot be written.
    """
    return vega_export.export(figures_of(runs), folder, colours(), CONFIG)


def report_of(folder: Path) -> Path:
    """Write the report of one run into its own folder."""
    return write_report([read_run(folder)])
