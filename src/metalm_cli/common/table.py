"""Tables of text cells, for pages, Markdown and terminals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table as RichTable


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
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text_columns: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    mean_rows: int = 0

    def to_markdown(self, printable: Callable[[str], str] = str) -> str:
        """Format headers and rows as Markdown.

        Args:
            printable: Replaces control characters of a cell.
        """
        rules = ["---" if column in self.text_columns else "---:" for column in range(len(self.headers))]
        lines = (
            [" ".join(printable(cell).split()).replace("|", "\\|") for cell in row]
            for row in (self.headers, rules, *self.rows)
        )
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

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
            table.add_column(Text(printable(header)), justify=justify, no_wrap=column != folded, overflow="fold")
        for index, row in enumerate(self.rows):
            if self.mean_rows and index == len(self.rows) - self.mean_rows:
                table.add_row()
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table
