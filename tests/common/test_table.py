"""Tables of text cells: Markdown and terminal."""

from __future__ import annotations

import io

from rich.console import Console

from metalm_cli.common.table import Table

TABLE = Table("Scores", ("task", "a|b"), (("rte", "65.0"), ("mean\n of all", "7")), mean_rows=1)


def test_markdown_aligns_numbers_and_escapes_cells() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "| task | a\\|b |",
        "| --- | ---: |",
        "| rte | 65.0 |",
        "| mean of all | 7 |",
    ]
    assert "| r?te |" in Table("", ("task",), (("r\0te",),)).to_markdown(lambda text: text.replace("\0", "?"))


def test_an_empty_row_separates_means_in_a_terminal() -> None:
    out = io.StringIO()
    table = TABLE.to_rich(lambda text: " ".join(text.split()), folded=-1, gap=2)
    Console(file=out, width=40).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines == ["task          a|b", "rte          65.0", "", "mean of all     7"]
