"""Pages of numbers: blocks of rows with titles and notes, as a table, Markdown, CSV, JSON or plain lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metalm_cli.cli import console

Form = Literal["table", "csv", "markdown", "json", "lines"]


@dataclass
class Block:
    """Rows under heads.

    Args:
        title: What stands above.
        heads: Of each column.
        left: Columns that are not numbers.
        rows: Cells.
        tasks: Rows above the means.
    """

    title: str
    heads: Sequence[str]
    left: tuple[int, ...] = ()
    rows: list[list[str]] = field(default_factory=list)
    tasks: int = 0


@dataclass
class Page:
    """What is known of a file or two.

    Args:
        titles: Lines above.
        blocks: Rows for people.
        facts: Rows for programs: full numbers, named alike in all rows.
        warnings: Lines that must not be missed.
        notes: Lines below.
    """

    titles: list[str]
    blocks: list[Block] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_tables(pages: Sequence[Page], form: Form) -> None:
    """Print pages to standard output; where programs read the rows, what is no row goes to standard error."""
    if form == "table":
        for at, page in enumerate(pages):
            _table(page, first=at == 0)
        return
    if form == "markdown":
        console.write("\n".join(markdown(page) for page in pages))
        return
    if form == "json":
        import json

        facts = [fact for page in pages for fact in page.facts]
        console.write(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif form == "csv":
        console.write(csv_of([fact for page in pages for fact in page.facts]))
    else:
        for page in pages:
            for block in page.blocks:
                for row in [["shots", *block.heads], *([block.title, *row] for row in block.rows)]:
                    console.write("\t".join(console.escape_markup(cell).replace("\t", " ") for cell in row) + "\n")
    for page in pages:
        for line in [*(page.titles if form == "lines" else ()), *page.warnings, *page.notes]:
            console.stderr().print(console.escape_markup(line), markup=False, soft_wrap=True)


def _table(page: Page, first: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console.stdout()
    if not first:
        out.print()
    for line in page.titles:
        out.print(console.escape_markup(line), markup=False, soft_wrap=True)
    for block in page.blocks:
        out.print()
        out.print(block.title, style="bold", markup=False)
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for at, head in enumerate(block.heads):
            justify: Literal["left", "right"] = "left" if at in block.left else "right"
            table.add_column(head, justify=justify, overflow="fold", no_wrap=at > 0)
        for at, row in enumerate(block.rows):
            if at == block.tasks:
                table.add_row()
            table.add_row(*(Text(console.escape_markup(cell)) for cell in row))
        out.print(table)
    if page.warnings or page.notes:
        out.print()
    for line in page.warnings:
        out.print(console.escape_markup(line), style="bold red", markup=False)
    for line in page.notes:
        out.print(console.escape_markup(line), markup=False)


def markdown(page: Page) -> str:
    """A page in Markdown."""
    lines = [*page.titles, ""] if len(page.titles) == 1 else [*(f"- {line}" for line in page.titles), ""]
    for block in page.blocks:
        lines += [f"**{block.title}**", ""]
        lines.append(_markdown_row(block.heads))
        lines.append(_markdown_row(["---" if at in block.left else "---:" for at in range(len(block.heads))]))
        lines += [*map(_markdown_row, block.rows), ""]
    lines += [f"**{line}**\n" for line in page.warnings]
    lines += [f"{line}\n" for line in page.notes]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(console.escape_markup(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def csv_of(facts: Sequence[dict[str, Any]]) -> str:
    """Facts as CSV: a column for every name in any row, ``NAME.KEY`` for mappings, lists joined by semicolons."""
    import csv
    import io

    flat = []
    for fact in facts:
        row: dict[str, Any] = {}
        for name, value in fact.items():
            if isinstance(value, dict):
                row |= {f"{name}.{key}": one for key, one in value.items()}
            elif isinstance(value, float):
                row[name] = round(value, 6)
            elif isinstance(value, list):
                row[name] = "; ".join("" if one is None else str(one) for one in value)
            else:
                row[name] = value
        flat.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
