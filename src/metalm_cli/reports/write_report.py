"""Writing of reports and of their figures."""

from __future__ import annotations

import html
import os
import re
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
RUN_FILES = ("recipe.yaml", "metrics.jsonl")
"""Files that mark the folder of a run."""
HEAD_CHARACTERS = 4_000
"""Characters of a page in which its meta elements are."""
GENERATOR = '<meta name="generator" content="metalm '
"""Beginning of the element that marks a page as a report of metalm."""


def report_path(about: Sequence[Path], out: Path | None) -> Path:
    """Path of the page of some folders.

    It is ``out``, or a file in the folder ``out``. By default the page of one folder is its ``report.html``, and that
    of several a file in the first one, named after the others; a page about other folders is not overwritten.

    Args:
        about: Folders of runs, studies or seeds.
        out: The file, or a folder.

    Raises:
        MetalmError: ``out`` is something other than a page about these folders.
    """
    if out is not None and not out.is_dir():
        path = out
    elif len(about) == 1:
        path = (out or about[0]) / REPORT_FILE
    else:
        folder, name = out or about[0], _name_of_several(about)
        paths = (folder / f"{name}{'' if number == 1 else f'-{number}'}.html" for number in range(1, 10_000))
        return next(path for path in paths if not path.exists() or _is_page_about(path, about))
    if path.exists() and not _is_page_about(path, about):
        raise MetalmError(
            "the file is not a page about these runs",
            where=str(path),
            why="a report overwrites only an earlier report of the same runs",
            remedy="choose another path with --out FILE",
        )
    return path


def _name_of_several(about: Sequence[Path]) -> str:
    _, second, *others = [path.resolve().name for path in about]
    return f"report-with-{second}" + (f"-and-{len(others)}-more" if others else "")


def _is_page_about(path: Path, about: Sequence[Path]) -> bool:
    """Whether a file is a page about some folders; pages of earlier versions are about those that contain them."""
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(HEAD_CHARACTERS)
    except (OSError, ValueError):
        return False
    if GENERATOR not in head:
        return False
    named = re.search(r'<meta name="metalm-runs" content="([^"]*)">', head)
    if named is None:
        in_own_folder = path.resolve().parent in [folder.resolve() for folder in about[:1]]
        return in_own_folder or not any((path.parent / name).exists() for name in RUN_FILES)
    return html.unescape(named[1]) == _relative_to(path, about)


def _relative_to(path: Path, about: Sequence[Path]) -> str:
    """Folders relative to a page, as its head names them: they stay the same if page and runs are moved together."""
    return " | ".join(os.path.relpath(folder.resolve(), path.resolve().parent) for folder in about)


def write_report(
    runs: Sequence[RunSummary],
    out: Path | None = None,
    lead: Lead | None = None,
    about: Sequence[Path] | None = None,
) -> Path:
    """Write the page of a report and return its path.

    Args:
        runs: The runs.
        out: The file, or a folder; default: see :func:`report_path`.
        lead: First view of a study.
        about: Folders that the page is about; default: those of the runs.

    Raises:
        MetalmError: The page cannot be written, or ``out`` is something other than a page about these folders.
    """
    folders = about or [run.path for run in runs]
    path = report_path(folders, out)
    page = make_page(runs, path, datetime.now(), lead, _relative_to(path, folders))
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
    return write_report(read_runs(stages) if stages else [read_run(folder)], about=[folder])
