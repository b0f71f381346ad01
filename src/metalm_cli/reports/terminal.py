"""The report's tables in a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metalm_cli.reports.reading.evaluation_summary import as_number
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.tables import Table, difference_table, tables

if TYPE_CHECKING:
    from rich.console import Console

BARS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=+*#@"
"""The same for terminals without block elements."""
CURVES = (
    ("training loss", "training", "loss"),
    ("held-out loss", "validation", "loss"),
    ("tokens a second", "training", "tokens_per_second"),
)
LEAST = 10
"""Columns that a folded column has at least."""
GAP = 2
"""Spaces between columns."""


def print_report(runs: Sequence[RunSummary], out: Console) -> None:
    """Print all tables, and curves as a line of bars each.

    A table that is too wide for the console is printed a row after the other, its heads beside the cells.

    Args:
        runs: The runs.
        out: Where to; its width counts, and its colours.
    """
    from rich.text import Text

    for run in runs:
        for problem in run.problems:
            of = f"{run.name}: " if len(runs) > 1 else ""
            out.print(Text(_plain(f"note: {of}{problem}"), style="yellow"), soft_wrap=False)
    differ = difference_table(runs)
    for at, table in enumerate([*tables(runs), *([differ] if differ is not None else [])]):
        _table(table, out)
        if at == 0:
            _curves(runs, out)


def _table(table: Table, out: Console) -> None:
    from rich.text import Text

    out.print()
    out.print(Text(_plain(table.title), style="bold"))
    if table.note:
        out.print(Text(_plain(table.note), style="dim"))
    folded = _folded(table, out.width)
    if folded is None:
        _stacked(table, out)
        return
    from rich.table import Table as RichTable

    shown = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="cyan")
    for at, head in enumerate(table.heads):
        shown.add_column(
            Text(_plain(head)), justify="left" if at in table.words else "right", no_wrap=at != folded, overflow="fold"
        )
    for row in table.rows:
        shown.add_row(*(Text(_plain(cell)) for cell in row))
    out.print(shown)


def _folded(table: Table, width: int) -> int | None:
    """The column that is folded so that the table fits; -1 if it fits as it is, None if it does not even so."""
    from rich.cells import cell_len

    columns = zip(table.heads, *table.rows, strict=True)
    widths = [max(cell_len(_plain(cell)) for cell in column) + GAP for column in columns]
    if sum(widths) - GAP <= width:
        return -1
    widest = max(table.words, key=lambda at: widths[at])
    rest = width - (sum(widths) - widths[widest])
    return widest if widest > 0 and rest >= LEAST else None


def _stacked(table: Table, out: Console) -> None:
    """A row after the other: its name, then its cells under their heads."""
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    widest = max(len(head) for head in table.heads[1:])
    for row in table.rows:
        out.print(Text(_plain(row[0]), style="cyan"))
        inner = RichTable.grid(padding=(0, GAP, 0, 0))
        inner.add_column(max_width=min(widest, out.width // 2), overflow="fold")
        inner.add_column(overflow="fold")
        for head, cell in zip(table.heads[1:], row[1:], strict=True):
            inner.add_row(Text(_plain(head), style="dim"), Text(_plain(cell)))
        out.print(Padding(inner, (0, 0, 0, GAP)))


def _curves(runs: Sequence[RunSummary], out: Console) -> None:
    """Curves of each run, as high as the console's encoding allows."""
    from rich.text import Text

    marks = BARS if _can_say(BARS, out) else ASCII
    for run in runs:
        lines = []
        for name, part, key in CURVES:
            values = [value for one in getattr(run, part) if (value := as_number(one.get(key))) is not None]
            if len(values) > 1:
                lines.append((name, sparkline(values, max(8, min(48, out.width - 20)), marks)))
        if lines:
            out.print()
            if len(runs) > 1:
                out.print(Text(_plain(run.name), style="bold"))
            for name, line in lines:
                out.print(Text.assemble((f"{name:<17}", "cyan"), line))


def sparkline(values: Sequence[float], width: int, marks: str = BARS) -> str:
    """Values as bars from their lowest to their highest, means of neighbours where there are more than fit."""
    size = min(width, len(values))
    parts = [values[at * len(values) // size : (at + 1) * len(values) // size] for at in range(size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    step = (high - low) / (len(marks) - 1) or 1.0
    return "".join(marks[round((one - low) / step)] for one in means)


def _can_say(text: str, out: Any) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _plain(text: str) -> str:
    """Text on one line, without characters that steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
