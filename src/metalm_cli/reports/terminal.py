"""Tables of a report in a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metalm_cli.common.table import Table
from metalm_cli.reports.dock_worth import dock_worth_table
from metalm_cli.reports.reading.evaluation_summary import as_number
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.step_scores import step_score_table
from metalm_cli.reports.tables import difference_table, report_tables
from metalm_cli.runs.part_changes import change_table

if TYPE_CHECKING:
    from rich.console import Console

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*#@"
"""Bars for terminals without block elements."""
CURVES = (
    ("training loss", "training", "loss"),
    ("held-out loss", "validation", "loss"),
    ("tokens/second", "training", "tokens_per_second"),
)
MIN_COLUMN_WIDTH = 10
"""Smallest width of a folded column, in characters."""
COLUMN_GAP = 2
"""Spaces between columns."""


def print_report(runs: Sequence[RunSummary], out: Console) -> None:
    """Print all tables of a report, and each curve as a line of bars.

    A table that is too wide for the console is printed row by row, with headers beside the cells.

    Args:
        runs: The runs.
        out: Console to print to.
    """
    from rich.text import Text

    for run in runs:
        for problem in run.problems:
            prefix = f"{run.name}: " if len(runs) > 1 else ""
            out.print(Text(_printable(f"note: {prefix}{problem}"), style="yellow"), soft_wrap=False)
    moved = change_table({run.name: run.changes for run in runs})
    further = (dock_worth_table(runs), moved, step_score_table(runs), difference_table(runs))
    for index, table in enumerate([*report_tables(runs), *(table for table in further if table is not None)]):
        _print_table(table, out)
        if index == 0:
            _print_curves(runs, out)


def _print_table(table: Table, out: Console) -> None:
    from rich.text import Text

    out.print()
    out.print(Text(_printable(table.title), style="bold"))
    if table.note:
        out.print(Text(_printable(table.note), style="dim"))
    folded = _folded_column(table, out.width)
    if folded is None:
        _print_stacked(table, out)
        return
    out.print(table.to_rich(_printable, folded=folded, gap=COLUMN_GAP, header_style="cyan"))


def _folded_column(table: Table, width: int) -> int | None:
    """Index of the column to fold so that the table fits; -1 if it fits unfolded, None if folding is not enough."""
    from rich.cells import cell_len

    columns = zip(table.headers, *table.rows, strict=True)
    widths = [max(cell_len(_printable(cell)) for cell in column) + COLUMN_GAP for column in columns]
    if sum(widths) - COLUMN_GAP <= width:
        return -1
    widest = max(table.text_columns, key=lambda index: widths[index])
    remaining = width - (sum(widths) - widths[widest])
    return widest if widest > 0 and remaining >= MIN_COLUMN_WIDTH else None


def _print_stacked(table: Table, out: Console) -> None:
    """Print a table row by row: the name of a row, then its cells beside their headers."""
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    widest = max(len(header) for header in table.headers[1:])
    for row in table.rows:
        out.print(Text(_printable(row[0]), style="cyan"))
        inner = RichTable.grid(padding=(0, COLUMN_GAP, 0, 0))
        inner.add_column(max_width=min(widest, out.width // 2), overflow="fold")
        inner.add_column(overflow="fold")
        for header, cell in zip(table.headers[1:], row[1:], strict=True):
            inner.add_row(Text(_printable(header), style="dim"), Text(_printable(cell)))
        out.print(Padding(inner, (0, 0, 0, COLUMN_GAP)))


def _print_curves(runs: Sequence[RunSummary], out: Console) -> None:
    """Print curves of each run, with block elements if the console can encode them."""
    from rich.text import Text

    marks = BARS if _can_encode(BARS, out) else ASCII_BARS
    for run in runs:
        lines = []
        for name, split, key in CURVES:
            values = [value for record in getattr(run, split) if (value := as_number(record.get(key))) is not None]
            if len(values) > 1:
                lines.append((name, sparkline(values, max(8, min(48, out.width - 20)), marks)))
        if lines:
            out.print()
            if len(runs) > 1:
                out.print(Text(_printable(run.name), style="bold"))
            for name, line in lines:
                out.print(Text.assemble((f"{name:<17}", "cyan"), line))


def sparkline(values: Sequence[float], width: int, marks: str = BARS) -> str:
    """Values as a line of bars from lowest to highest; if there are more values than ``width``, means of neighbours."""
    size = min(width, len(values))
    chunks = [values[index * len(values) // size : (index + 1) * len(values) // size] for index in range(size)]
    means = [sum(chunk) / len(chunk) for chunk in chunks]
    low, high = min(means), max(means)
    step = (high - low) / (len(marks) - 1) or 1.0
    return "".join(marks[round((mean - low) / step)] for mean in means)


def _can_encode(text: str, out: Any) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _printable(text: str) -> str:
    """Text on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)
