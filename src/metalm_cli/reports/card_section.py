"""Section of scores in a model's card: added, or replaced if there is one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.common.markdown import escape_markdown
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.reports.reading.run_summary import RunSummary, can_answer, evaluate_command
from metalm_cli.reports.tables import cluster_table, message_table, named_evaluations, task_table, template_table
from metalm_cli.runs.find import RESULTS

BEGIN_MARKER, END_MARKER = "<!-- metalm: evaluation -->", "<!-- metalm: end of evaluation -->"
_SECTION = re.compile(rf"\n*{re.escape(BEGIN_MARKER)}.*?{re.escape(END_MARKER)}\n*", flags=re.DOTALL)


def scored_cards(runs: Sequence[RunSummary]) -> list[tuple[Path, str]]:
    """Paths and texts of the models' cards with their scores; nothing is written yet.

    Folders with results alone and runs of an encoder alone have no card for scores; they are skipped if there are
    other runs.

    Args:
        runs: The runs; the folder of one may hold evaluations of another.

    Raises:
        MetalmError: A run has no model or no scores yet, or its card cannot be read.
    """
    scored = [run for run in runs if run.state != "evaluated" and can_answer(run)]
    return [_scored_card(run) for run in scored or runs]


def write_card(card: tuple[Path, str]) -> Path:
    """Write a card from :func:`scored_cards` and return its path.

    Raises:
        MetalmError: The card cannot be written.
    """
    path, text = card
    write_atomically(path, text.encode())
    return path


def _scored_card(run: RunSummary) -> tuple[Path, str]:
    folder = next((run.path / name for name in RESULTS if (run.path / name).is_dir()), None)
    evaluations = (*run.evaluations, *run.external_evaluations)
    if folder is None or not evaluations:
        why, remedy = "the run has no results", evaluate_command(run)
        if run.state == "evaluated":
            why, remedy = "the folder holds results but no model", "name the run as well: metalm report RUN RESULTS"
        elif folder is None:
            why, remedy = "the run is not finished and has no model yet", "finish the run with --resume"
        elif not can_answer(run):
            remedy = "name a run of a model that generates answers: an encoder alone has no scores"
        raise MetalmError("there are no scores for a model card", where=str(run.path), why=why, remedy=remedy)
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MetalmError(
            "the model's card cannot be read", where=str(path), why=str(error), exit_code=Exit.FAILED
        ) from error
    return path, with_section(text, score_section(replace(run, evaluations=evaluations)))


def with_section(card: str, section: str) -> str:
    """A card with the section of scores before its section on use, or else at its end; an older section is replaced."""
    unscored_card = _SECTION.sub("\n\n", card).rstrip() + "\n"
    before, heading, after = unscored_card.partition("\n## Use\n")
    block = f"{BEGIN_MARKER}\n{section.strip()}\n{END_MARKER}\n"
    return f"{before.rstrip()}\n\n{block}{heading}{after}" if heading else f"{unscored_card}\n{block}"


def score_section(run: RunSummary) -> str:
    """The section of scores as Markdown: scores of clusters, tasks and templates, and their limits."""
    scored = named_evaluations([run])
    tables = [cluster_table(scored), task_table(scored), template_table(scored), message_table(scored)]
    sections = [
        f"### {table.title}\n\n{table.note}\n\n{table.to_markdown(escape_markdown)}" for table in tables if table.rows
    ]
    return "\n\n".join(["## Evaluation", *sections])
