"""Pages of result tables with titles and notes, printed as a table, Markdown, CSV, JSON or plain lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metalm_cli.cli import console
from metalm_cli.common.table import Table

TableFormat = Literal["table", "csv", "markdown", "latex", "json", "lines"]


@dataclass
class Page:
    """Content of one result file, or of a comparison of two.

    Args:
        titles: Lines above the tables.
        tables: Tables for people.
        data_rows: Rows for programs: unrounded numbers, with the same names in all rows.
        warnings: Lines below the tables, printed with emphasis.
        notes: Lines below the warnings.
    """

    titles: list[str]
    tables: list[Table] = field(default_factory=list)
    data_rows: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_tables(pages: Sequence[Page], table_format: TableFormat) -> None:
    """Print pages to standard output; in formats for programs, warnings and notes go to standard error."""
    if table_format == "table":
        for index, page in enumerate(pages):
            _print_page(page, first=index == 0)
        return
    if table_format == "markdown":
        console.write("\n".join(to_markdown(page) for page in pages))
        return
    if table_format == "latex":
        console.write("\n".join(to_latex(page) for page in pages))
        return
    if table_format == "json":
        import json

        data_rows = [data_row for page in pages for data_row in page.data_rows]
        console.write(json.dumps(data_rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif table_format == "csv":
        console.write(to_csv([data_row for page in pages for data_row in page.data_rows]))
    else:
        for page in pages:
            for table in map(Table.with_stars, page.tables):
                first = "shots" if table.title.endswith("-shot") else "table"
                for row in [[first, *table.headers], *([table.title, *row] for row in table.rows)]:
                    console.write(
                        "\t".join(console.escape_markup(cell).replace("\t", " ").rstrip() for cell in row) + "\n"
                    )
    for page in pages:
        for line in [*(page.titles if table_format == "lines" else ()), *page.warnings, *page.notes]:
            console.stderr().print(console.escape_markup(line), markup=False, soft_wrap=True)


def _print_page(page: Page, first: bool) -> None:
    out = console.stdout()
    if not first:
        out.print()
    for line in page.titles:
        out.print(console.escape_markup(line), markup=False, soft_wrap=True)
    for table in page.tables:
        out.print()
        out.print(table.title, style="bold", markup=False)
        out.print(table.with_stars().to_rich(console.escape_markup, folded=0, gap=1))
    if page.warnings or page.notes:
        out.print()
    for line in page.warnings:
        out.print(console.escape_markup(line), style="bold red", markup=False)
    for line in page.notes:
        out.print(console.escape_markup(line), markup=False)


def to_markdown(page: Page) -> str:
    """Format a page as Markdown."""
    lines = [*page.titles, ""] if len(page.titles) == 1 else [*(f"- {line}" for line in page.titles), ""]
    for table in page.tables:
        lines += [f"**{table.title}**", "", table.to_markdown(console.escape_markup), ""]
    lines += [f"**{line}**\n" for line in page.warnings]
    lines += [f"{line}\n" for line in page.notes]
    return "\n".join(lines)


def to_latex(page: Page) -> str:
    """Format a page as LaTeX: a ``tabular`` for each table, and all other lines as comments."""
    lines = [r"% needs \usepackage{booktabs}", *(f"% {_one_line(line)}" for line in page.titles)]
    for table in page.tables:
        lines += [f"% {_one_line(table.title)}", table.to_latex(console.escape_markup)]
    return "\n".join([*lines, *(f"% {_one_line(line)}" for line in (*page.warnings, *page.notes)), ""])


def _one_line(text: str) -> str:
    return " ".join(console.escape_markup(text).split())


def to_csv(data_rows: Sequence[dict[str, Any]]) -> str:
    """Format rows as CSV: one column per name in any row, ``NAME.KEY`` for mappings, lists joined by semicolons."""
    import csv
    import io

    flat_rows = []
    for data_row in data_rows:
        row: dict[str, Any] = {}
        for name, value in data_row.items():
            if isinstance(value, dict):
                row |= {f"{name}.{key}": item for key, item in value.items()}
            elif isinstance(value, float):
                row[name] = round(value, 6)
            elif isinstance(value, list):
                row[name] = "; ".join("" if item is None else str(item) for item in value)
            else:
                row[name] = value
        flat_rows.append(row)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in flat_rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows)
    return buffer.getvalue()
