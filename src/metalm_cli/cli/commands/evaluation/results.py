"""``metalm results``: tables of result files, and comparisons of two."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from metalm_cli.cli import console
from metalm_cli.cli.display.result_tables import comparison_table, result_table
from metalm_cli.cli.display.tables import TableFormat, write_tables
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import ResultRecord


app = typer.Typer(
    help="Show and compare result files.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT_SETTINGS
)


class Format(StrEnum):
    """Output format of results."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
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
) -> None:
    """Print scores by task and number of demonstrations, with cluster means.

    Each score has its standard error and a 95% interval from resampling examples.
    chance is the better of random guessing and the best constant answer.
    With several templates, score is the mean over templates, and spread the standard deviation.
    oracle is the score of the best template, selected on the scored examples.
    """
    from metalm_cli.evaluation.results.result_reader import read_result, result_files

    files = [path for file_or_run in files_or_runs for path in result_files(file_or_run)]
    records = [read_result(path) for path in dict.fromkeys(files)]
    write_tables([result_table(record) for record in records], _table_format(output_format))


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
    Scores that are not comparable (other cards, templates, rows, limits or protocols) are listed, not compared.
    """
    from metalm_cli.evaluation.results.comparison import compare
    from metalm_cli.evaluation.results.result_reader import read_result

    paths = result_file_pair(first, second)
    with console.stderr().status("resampling"):
        comparison = compare(read_result(paths[0]), read_result(paths[1]))
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


def result_file_pair(first: Path, second: Path) -> tuple[Path, Path]:
    """Find the result files of two arguments; in folders with several, the files whose name both folders have.

    Raises:
        MetalmError: The files are ambiguous, or both arguments are the same file.
    """
    from metalm_cli.evaluation.results.result_reader import result_files

    files = [result_files(file_or_run) for file_or_run in (first, second)]
    if any(len(candidates) > 1 for candidates in files):
        names = {path.name for path in files[0]} & {path.name for path in files[1]}
        for index, candidates in enumerate(files):
            chosen = [path for path in candidates if path.name in names] if len(names) == 1 else candidates
            if len(chosen) != 1:
                raise MetalmError(
                    f"{(first, second)[index]} has {len(candidates)} result files",
                    why=", ".join(path.name for path in candidates[-8:]),
                    remedy="pass one of these files",
                )
            files[index] = chosen
    if files[0][0].resolve() == files[1][0].resolve():
        raise MetalmError("both arguments are the same file", where=str(files[0][0]), remedy="pass two different files")
    return files[0][0], files[1][0]
