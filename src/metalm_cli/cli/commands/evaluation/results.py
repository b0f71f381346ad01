"""``metalm results``: tables of result files, and comparisons of two."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from metalm_cli.cli import console
from metalm_cli.cli.display.result_tables import comparison_table, result_table
from metalm_cli.cli.display.tables import TableFormat, write_tables
from metalm_cli.cli.display.task_model_table import task_model_page
from metalm_cli.cli.display.wrong_answers import wrong_answers_page
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import ResultRecord


app = typer.Typer(
    help="Show and compare result files.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT_SETTINGS
)


class By(StrEnum):
    """What a table is about."""

    FILE = "file"
    TASK = "task"


class Format(StrEnum):
    """Output format of results."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"
    JSON = "json"


FormatOption = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="Output format. Default: a table on a terminal, else tab-separated values."),
]


@app.command("show")
def show(
    files_or_runs: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|RUN...", help="Result files; a run folder stands for all of its result files."),
    ],
    output_format: FormatOption = None,
    by: Annotated[
        By,
        typer.Option("--by", help="file: a table for each file; task: one table of tasks by models, the best marked."),
    ] = By.FILE,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Print the wrong answers, which evaluate --save-samples has written.")
    ] = False,
) -> None:
    """Print scores by task and number of demonstrations, with cluster means.

    Each score has its standard error and a 95% interval: Wilson's for accuracies, by resampling examples for others.
    chance is the better of random guessing and the best constant answer.
    With several templates, score is the mean over templates, and spread the standard deviation.
    oracle is the score of the best template, selected on the scored examples.
    """
    from metalm_cli.evaluation.results.result_reader import read_result, result_files

    files = [path for file_or_run in files_or_runs for path in result_files(file_or_run)]
    records = [read_result(path) for path in dict.fromkeys(files)]
    table_format = _table_format(output_format)
    if wrong:
        write_tables([wrong_answers_page(record) for record in records], table_format)
    elif by is By.TASK:
        width = console.stdout().width if table_format == "table" else None
        write_tables([task_model_page(records, width=width)], table_format)
    else:
        write_tables([result_table(record) for record in records], table_format)


@app.command("compare")
def compare_files(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result file, or a run folder with one.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The result file, or run folder, to compare with A.")],
    output_format: FormatOption = None,
) -> None:
    """Compare two models on the examples that both files have.

    The difference A-B, its 95% interval and p come from a paired bootstrap.
    A model is better where the interval excludes 0.
    CSV and JSON also have the exact McNemar test, for scores that are 0 or 1.
    Of several files in a run, those with the most comparable scores are compared.
    Scores that are not comparable (other cards, templates, rows, limits or protocols) are listed, not compared,
    with the command that would make them comparable.
    """
    from metalm_cli.evaluation.results.comparison import compare
    from metalm_cli.evaluation.results.matching import comparable_pair

    pair = comparable_pair(first, second)
    with console.stderr().status("resampling"):
        comparison = compare(pair.first[1], pair.second[1])
    write_tables([comparison_table(comparison)], _table_format(output_format))


def print_record(record: ResultRecord) -> None:
    """Print the record of an evaluation, as ``metalm results show`` does."""
    write_tables([result_table(record)], _table_format(None))


def print_comparison(first: ResultRecord, second: ResultRecord) -> None:
    """Print the comparison of two evaluations, as ``metalm results compare`` does.

    Raises:
        MetalmError: The evaluations have no task in common.
    """
    from metalm_cli.evaluation.results.comparison import compare

    write_tables([comparison_table(compare(first, second))], _table_format(None))


def _table_format(output_format: Format | None) -> TableFormat:
    if output_format is not None:
        return cast(TableFormat, output_format.value)
    return "table" if console.stdout().is_terminal else "lines"
