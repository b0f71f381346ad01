"""Writing of reports and of their figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.reports.figures import vega_export
from metalm_cli.reports.lead import Lead
from metalm_cli.reports.page import VEGA_CONFIG, light_colours, make_page, report_figures
from metalm_cli.reports.reading.run_summary import RunSummary, read_run, read_runs
from metalm_cli.runs.find import stage_runs

REPORT_FILE = "report.html"
"""Name of the page in a run folder."""


def report_path(runs: Sequence[RunSummary], out: Path | None) -> Path:
    """Path of the page: ``out`` or a file in the folder ``out``; by default in the first run's folder."""
    if out is None:
        return runs[0].path / REPORT_FILE
    return out / REPORT_FILE if out.is_dir() else out


def write_report(runs: Sequence[RunSummary], out: Path | None = None, lead: Lead | None = None) -> Path:
    """Write the page of a report and return its path.

    Args:
        runs: The runs.
        out: The file, or a folder; by default the first run's folder.
        lead: First view of a study.

    Raises:
        MetalmError: The page cannot be written.
    """
    path = report_path(runs, out)
    page = make_page(runs, path, datetime.now(), lead)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    except (MetalmError, OSError) as error:
        why = error.why if isinstance(error, MetalmError) else error.strerror
        raise MetalmError(
            "the report cannot be written",
            where=str(path),
            why=why or str(error),
            remedy="choose another path with --out FILE, or print the tables with --terminal",
            exit_code=Exit.FAILED,
        ) from error
    return path


def write_figures(runs: Sequence[RunSummary], folder: Path, lead: Lead | None = None) -> list[Path]:
    """Write each figure as PNG and SVG files, in the light theme; those of the first view of a study come first.

    Raises:
        MetalmError: The folder cannot be written.
    """
    figures = [*(lead.figures if lead is not None else ()), *report_figures(runs)]
    return vega_export.export_figures(figures, folder, light_colours(), VEGA_CONFIG)


def write_run_report(folder: Path) -> Path:
    """Write the report of a run into its folder; of a run with stages, that of all that have begun."""
    stages = stage_runs(folder)
    return write_report(read_runs(stages), folder / REPORT_FILE) if stages else write_report([read_run(folder)])
