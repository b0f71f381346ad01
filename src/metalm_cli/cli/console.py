"""Consoles for standard output and standard error, and the layout of errors."""

from __future__ import annotations

import codecs
import functools
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from metalm_cli.errors import MetalmError


@functools.cache
def stdout() -> Console:
    """Console for results. Output is plain if it does not go to a terminal or ``NO_COLOR`` is set."""
    return _console(stderr=False)


@functools.cache
def stderr() -> Console:
    """Console for messages (standard error), so that results can be piped."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def write(text: str) -> None:
    """Write text to standard output unchanged, without wrapping.

    Characters that the stream cannot encode are written as JSON escapes, an en dash as ``-``.
    """
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # in this case nothing has been written
        encoding = sys.stdout.encoding
        sys.stdout.write(text.replace("–", "-").encode(encoding, ESCAPE_HANDLER).decode(encoding))
    sys.stdout.flush()


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: JSON escapes for characters that a stream cannot encode."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


ESCAPE_HANDLER = "metalm-escaped"
codecs.register_error(ESCAPE_HANDLER, _escape_unencodable)


WIDE = 120
"""Columns of a terminal from which on tables have all their columns."""


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, unbroken: int = 1, only_wide: Collection[str] = ()
) -> None:
    """Print a table; if standard output is not a terminal, only the rows, with tab-separated cells.

    Args:
        headers: Name of each column.
        rows: Rows with a cell for each header.
        unbroken: Number of columns at the left whose cells stay on a line. Cells of the others are folded, never cut.
        only_wide: Headers of columns that a terminal of less than ``WIDE`` columns does not show; a line names them.
    """
    escaped_rows = [[escape_markup(cell) for cell in row] for row in rows]
    if not stdout().is_terminal:
        write("".join("\t".join(row) + "\n" for row in escaped_rows))
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, padding=(0, 2, 0, 0))
    hidden = set(only_wide) if stdout().width < WIDE else set()
    visible = [index for index, header in enumerate(headers) if header not in hidden]
    for index in visible:
        style = "cyan" if index == 0 else ""
        grid.add_column(headers[index], style=style, no_wrap=index < unbroken, overflow="fold")
    for row in escaped_rows:
        grid.add_row(*(Text(row[index]) for index in visible))
    stdout().print(grid)
    if hidden:
        left_out = ", ".join(header for header in headers if header in hidden)
        stdout().print(f"a terminal of {WIDE} columns, or a pipe, also shows {left_out}", style="dim")


def show_error(error: MetalmError) -> None:
    """Print an error to standard error: what is wrong, where, why, and the remedy."""
    from rich.text import Text

    message = Text("error: ", style="bold red")
    message.append(escape_markup(error.what), style="not bold default")
    for label, text in (("where", error.where), ("why", error.why), ("remedy", error.remedy)):
        if text:
            message.append(f"\n  {label}: ", style="cyan")
            message.append(escape_markup(text), style="not bold default")
    _print_last(message)


def show_bug(error: BaseException, origin: str = "metalm") -> None:
    """Print one line about an unexpected exception, which is a bug in metalm or in the plug-in of the command."""
    from rich.text import Text

    detail = " ".join(escape_markup(str(error)).split()) or "no message"
    message = Text("error: ", style="bold red")
    message.append(f"this is a bug in {origin}: {type(error).__name__}: {detail}", style="not bold default")
    message.append(" (run again with --debug for the traceback)", style="not bold dim")
    _print_last(message)


def _print_last(message: Text) -> None:
    """Print the message that ends a command; a closed terminal or a full disk does not change its exit code."""
    with suppress(OSError):
        stderr().print(message, soft_wrap=True)


def escape_markup(text: str) -> str:
    """Replace control characters, which could steer a terminal, by escapes."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
