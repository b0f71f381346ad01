"""Tables of text cells, and numbers with their nouns, for pages, Markdown and terminals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table as RichTable


LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
"""Characters that LaTeX would not print as they are."""


def latex_text(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> latex_text("exact_match ±1")
    'exact\\_match $\\pm$1'
    """
    return "".join(LATEX_CHARACTERS.get(character, character) for character in " ".join(text.split()))


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1.

    >>> counted(1, "task"), counted(2000, "task")
    ('1 task', '2,000 tasks')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class Table:
    """Rows of text cells under headers.

    Args:
        title: Title of the table.
        headers: Names of the columns.
        rows: Rows with a cell for each header.
        note: Explanation of the columns.
        text_columns: Columns that hold text; all others hold numbers and are aligned to the right.
        mean_rows: Number of rows with means at the end, which an empty row separates in a terminal.
        marked: Cells that are marked, as (row, column): bold, in a terminal with a star.
        wrapped: Columns of long texts, which are wrapped in a terminal.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text_columns: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    mean_rows: int = 0
    marked: frozenset[tuple[int, int]] = frozenset()
    wrapped: frozenset[int] = frozenset()

    def to_markdown(self, printable: Callable[[str], str] = str) -> str:
        """Format headers and rows as Markdown.

        Args:
            printable: Replaces control characters of a cell.
        """
        rules = ["---" if column in self.text_columns else "---:" for column in range(len(self.headers))]
        rows = [
            [f"**{cell}**" if (index, column) in self.marked else cell for column, cell in enumerate(row)]
            for index, row in enumerate(self.rows)
        ]
        lines = (
            [" ".join(printable(cell).split()).replace("|", "\\|") for cell in row]
            for row in (self.headers, rules, *rows)
        )
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def to_latex(self, printable: Callable[[str], str] = str) -> str:
        """Format headers and rows as a ``tabular`` of LaTeX with the rules of the package booktabs.

        Args:
            printable: Replaces control characters of a cell.
        """
        rows = [
            [
                f"\\textbf{{{latex_text(printable(cell))}}}"
                if (index, column) in self.marked
                else latex_text(printable(cell))
                for column, cell in enumerate(row)
            ]
            for index, row in enumerate(self.rows)
        ]
        lines = [" & ".join(row) + r" \\" for row in ([latex_text(printable(cell)) for cell in self.headers], *rows)]
        split = len(lines) - self.mean_rows
        columns = "".join("l" if column in self.text_columns else "r" for column in range(len(self.headers)))
        means = [r"\midrule", *lines[split:]] if self.mean_rows else []
        begin = rf"\begin{{tabular}}{{{columns}}}"
        parts = [begin, r"\toprule", lines[0], r"\midrule", *lines[1:split], *means, r"\bottomrule", r"\end{tabular}"]
        return "\n".join(parts)

    def with_stars(self) -> Table:
        """Return the table with a star after marked cells, and a space after the others of their columns."""
        columns = {column for _, column in self.marked}
        rows = [
            [
                cell + ("*" if (index, column) in self.marked else " ") if column in columns else cell
                for column, cell in enumerate(row)
            ]
            for index, row in enumerate(self.rows)
        ]
        headers = [f"{header} " if column in columns else header for column, header in enumerate(self.headers)]
        return replace(self, headers=headers, rows=rows)

    def to_rich(
        self, printable: Callable[[str], str], *, folded: int, gap: int, header_style: str = "table.header"
    ) -> RichTable:
        """Return headers and rows for a terminal.

        Args:
            printable: Replaces control characters of a cell.
            folded: Column that may be folded; -1 for none.
            gap: Spaces between columns.
            header_style: Style of the headers.
        """
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style=header_style)
        for column, header in enumerate(self.headers):
            justify: Literal["left", "right"] = "left" if column in self.text_columns else "right"
            is_cut = column != folded and column not in self.wrapped
            table.add_column(Text(printable(header)), justify=justify, no_wrap=is_cut, overflow="fold")
        for index, row in enumerate(self.rows):
            if self.mean_rows and index == len(self.rows) - self.mean_rows:
                table.add_row()
            cells = (
                Text(printable(cell), "bold" if (index, column) in self.marked else "")
                for column, cell in enumerate(row)
            )
            table.add_row(*cells)
        return table
