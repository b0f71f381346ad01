"""A model's card with what was measured since: a section of scores, put in or put in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.reports.reading.run_summary import RunSummary, answers, evaluate_command
from metalm_cli.reports.tables import Table, cluster_table, series_of, task_table, template_table
from metalm_cli.runs.folder import RESULTS

BEGIN, END = "<!-- metalm: evaluation -->", "<!-- metalm: end of evaluation -->"
_SECTION = re.compile(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", flags=re.DOTALL)


def cards_of(runs: Sequence[RunSummary]) -> list[tuple[Path, str]]:
    """The cards of models with their scores in them, not yet written; a section from before is replaced.

    Of several runs, folders of results alone and encoders alone have no card to put scores into, and are left out.

    Args:
        runs: The runs; evaluations of one may lie in the folder of another.

    Raises:
        MetalmError: A run has no model or no scores yet, or its card cannot be read.
    """
    scored = [run for run in runs if run.state != "evaluated" and answers(run)]
    return [_card_of(run) for run in scored or runs]


def write_card(card: tuple[Path, str]) -> Path:
    """Write one of :func:`load_cards`.

    Raises:
        MetalmError: It cannot be written.
    """
    path, text = card
    write_atomically(path, text.encode())
    return path


def _card_of(run: RunSummary) -> tuple[Path, str]:
    folder = next((run.path / name for name in RESULTS if (run.path / name).is_dir()), None)
    about = (*run.evaluations, *run.elsewhere)
    if folder is None or not about:
        why, remedy = "no results are there", evaluate_command(run)
        if run.state == "evaluated":
            why, remedy = "it holds results alone, and no model", "name the run beside it: metalm report RUN RESULTS"
        elif folder is None:
            why, remedy = "the run is not finished: it has no model yet", "finish it with --resume"
        elif not answers(run):
            remedy = "name a run whose model answers: an encoder alone has no scores"
        raise MetalmError("there is nothing to put into a card", where=str(run.path), why=why, remedy=remedy)
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MetalmError(
            "the model's card cannot be read", where=str(path), why=str(error), exit_code=Exit.FAILED
        ) from error
    return path, with_section(text, section(replace(run, evaluations=about)))


def with_section(card: str, written: str) -> str:
    """A card with this section before its part on use, or else at its end, and without the one from before."""
    bare = _SECTION.sub("\n\n", card).rstrip() + "\n"
    before, head, after = bare.partition("\n## Use\n")
    block = f"{BEGIN}\n{written.strip()}\n{END}\n"
    return f"{before.rstrip()}\n\n{block}{head}{after}" if head else f"{bare}\n{block}"


def section(run: RunSummary) -> str:
    """The section: scores of clusters and tasks as Markdown."""
    scored = series_of([run])
    made = [cluster_table(scored), task_table(scored), template_table(scored)]
    return "\n\n".join(["## Evaluation", *(part for table in made if table.rows for part in _markdown(table))])


def _markdown(table: Table) -> Iterator[str]:
    yield f"### {table.title}"
    yield table.note
    rules = ["---" if at in table.words else "---:" for at in range(len(table.heads))]
    lines = [table.heads, rules, *table.rows]
    yield "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
