"""``metalm results``: result files as tables, and two of them compared."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from metalm_cli.cli import console
from metalm_cli.cli.display.result_tables import comparison_table, result_table
from metalm_cli.cli.display.tables import Form, write_tables
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.result_reader import ResultRecord

CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Show and compare result files.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT
)


class Format(StrEnum):
    """What results are printed as."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    JSON = "json"


HowPrinted = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="Default: a table on a terminal, else lines of tab-separated values."),
]


@app.command("show")
def show(
    places: Annotated[
        list[Path], typer.Argument(metavar="FILE|RUN...", help="Result files; of a run folder all that it has.")
    ],
    form: HowPrinted = None,
) -> None:
    """Print scores by task and number of demonstrations, with cluster means.

    Score ± its standard error, and a 95% interval by resampling examples. Of several templates it is the mean; spread
    is their standard deviation, oracle the best one, chosen on the scored examples. chance is the better of guessing
    and the best constant answer.
    """
    from metalm_cli.evaluation.results.result_reader import read, result_files

    files = [path for place in places for path in result_files(place)]
    records = [read(path) for path in dict.fromkeys(files)]
    write_tables([result_table(record) for record in records], _form(form))


@app.command("compare")
def compare_files(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result file, or a run folder with one.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    form: HowPrinted = None,
) -> None:
    """Compare two models on the examples that both files have.

    The difference A-B, its 95% interval and p are of a paired bootstrap; CSV and JSON also have the exact McNemar test
    of scores that are 0 or 1. One is better where the interval excludes 0. Scores that are not of the same thing
    (other cards, templates, rows, limits, protocols) are named, and not compared.
    """
    from metalm_cli.evaluation.results.comparison import compare
    from metalm_cli.evaluation.results.result_reader import read

    paths = pair_of(first, second)
    with console.stderr().status("resampling"):
        found = compare(read(paths[0]), read(paths[1]))
    write_tables([comparison_table(found)], _form(form))


def print_record(record: Mapping[str, Any], name: str = "") -> None:
    """Print an evaluation that was just made, as ``metalm results show`` does.

    Args:
        record: From :func:`metalm_cli.evaluation.results.result_writer.result_record`.
        name: Its file; empty: not said.
    """
    write_tables([result_table(_as_read(record, name))], _form(None))


def print_comparison(first: Mapping[str, Any], second: Mapping[str, Any], name: str, other: str) -> None:
    """Print two evaluations that were just made beside each other, as ``metalm results compare`` does.

    Args:
        first: A record.
        second: Another.
        name: File of the first.
        other: File of the second.

    Raises:
        MetalmError: They have nothing in common.
    """
    from metalm_cli.evaluation.results.comparison import compare

    write_tables([comparison_table(compare(_as_read(first, name), _as_read(second, other)))], _form(None))


def _as_read(record: Mapping[str, Any], name: str) -> ResultRecord:
    """A record as it would be read from its file, where tuples are lists."""
    import json

    from metalm_cli.evaluation.results.result_reader import parse_result

    return parse_result(json.loads(json.dumps(record)), name)


def _form(form: Format | None) -> Form:
    if form is not None:
        return cast(Form, form.value)
    return "table" if console.stdout().is_terminal else "lines"


def pair_of(first: Path, second: Path) -> tuple[Path, Path]:
    """The two files that two arguments stand for: of folders with several, those of the one name that both have.

    Raises:
        MetalmError: Which files are meant cannot be told, or it is twice the same one.
    """
    from metalm_cli.evaluation.results.result_reader import result_files

    files = [result_files(place) for place in (first, second)]
    if any(len(side) > 1 for side in files):
        names = {path.name for path in files[0]} & {path.name for path in files[1]}
        for at, side in enumerate(files):
            chosen = [path for path in side if path.name in names] if len(names) == 1 else side
            if len(chosen) != 1:
                raise MetalmError(
                    f"{(first, second)[at]} has {len(side)} result files",
                    why=", ".join(path.name for path in side[-8:]),
                    remedy="name one of them",
                )
            files[at] = chosen
    if files[0][0].resolve() == files[1][0].resolve():
        raise MetalmError("both are the same file", where=str(files[0][0]), remedy="name two")
    return files[0][0], files[1][0]
