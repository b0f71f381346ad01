"""``metalm report``: runs to look at, as a page and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.training.run import Run

ROWS = 2
"""Rows of pretraining that a report shows."""
EXAMPLES = 4
"""Examples of tasks that a report shows."""


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
    from metalm_cli.reports.card import cards_of, write_card
    from metalm_cli.reports.places import home_of

    named = runs or [_latest()]
    read = read_runs(named)
    cards = cards_of(read) if card else []
    if terminal:
        from metalm_cli.reports.terminal import print_report

        print_report(read, console.stdout())
    if out is not None or not terminal:
        from metalm_cli.reports.writing import write_report

        console.write(f"{write_report(read, out or home_of(named[0]))}\n")
        if not terminal:
            for run in read:
                for problem in run.problems:
                    of = f"{run.name}: " if len(read) > 1 else ""
                    console.stderr().print(console.visible(f"note: {of}{problem}"), markup=False, soft_wrap=True)
    if figures is not None:
        from metalm_cli.reports.writing import write_figures

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


def report_run(run: Run, said: Sequence[tuple[str, str]], note: Callable[[str], None]) -> None:
    """Write the report of a run that has ended, from what is at hand. What fails is told, and fails nothing.

    Args:
        run: The run.
        said: What was given at the last validation, and what the model said to it.
        note: Where to tell.
    """
    from metalm_cli.reports.spans import SESSIONS, write_sessions
    from metalm_cli.reports.writing import report_of

    try:
        # A stream would be read from its beginning; a run resumed at its end has said nothing new.
        streamed = any(info.streamed for info in run.corpus.sources)
        if not streamed and (said or not (run.place / SESSIONS).exists()):
            write_sessions(run.place, _first_rows(run), said)
        note(f"report: {report_of(run.place)}")
    except Exception as error:  # a run that has trained well does not fail for its report
        what = error.what if isinstance(error, MetalmError) else f"{type(error).__name__}: {error}"
        note(f"no report was written ({what}); metalm report {run.place} tries again")


def _first_rows(run: Any) -> Iterator[tuple[str, list[list[Any]]]]:
    """The first rows, or examples, that a run has trained on, as spans."""
    from metalm_cli.cli.show import first_rows
    from metalm_cli.data.task_writer import row_of
    from metalm_cli.reports.spans import spans_of

    assembly = run.assembly
    masked = assembly.tokenizer is None
    if masked:
        (processor,) = assembly.processors.values()
        tokenizer = processor.tokenizer
    else:
        tokenizer = assembly.decoder_tokenizer.tokenizer
    if run.recipe.command == "pretrain":
        for number, row in enumerate(first_rows(run.recipe, run.corpus, assembly, ROWS)):
            yield f"row {number + 1}", spans_of(row, tokenizer, assembly.processors, masked=masked)
        return
    for number in range(EXAMPLES):
        row = row_of([run.writer.session(number)])
        yield run.corpus.where(number), spans_of(row, tokenizer, assembly.processors)
