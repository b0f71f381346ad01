"""The two consoles that every command prints to, and how errors look on them."""

from __future__ import annotations

import codecs
import functools
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from metalm_cli.errors import MetalmError


@functools.cache
def stdout() -> Console:
    """The console for results. Plain where it is no terminal or ``NO_COLOR`` is set."""
    return _console(stderr=False)


@functools.cache
def stderr() -> Console:
    """The console for messages, so that results can be piped."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def write(text: str) -> None:
    """Write a result to standard output exactly as it is, however long its lines.

    What the stream has no character for is written as JSON has its code, a dash as ``-``.
    """
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # nothing has been written then
        encoding = sys.stdout.encoding
        sys.stdout.write(text.replace("–", "-").encode(encoding, ESCAPED).decode(encoding))
    sys.stdout.flush()


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Codes of characters that a stream does not have."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


ESCAPED = "metalm-escaped"
codecs.register_error(ESCAPED, _escaped)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under heads; where standard output is no terminal, the rows alone, with tabs between."""
    shown = [[escape_markup(cell) for cell in row] for row in rows]
    if not stdout().is_terminal:
        write("".join("\t".join(row) + "\n" for row in shown))
        return
    from rich.table import Table
    from rich.text import Text

    printed = Table(box=None, padding=(0, 2, 0, 0))
    for at, head in enumerate(heads):
        printed.add_column(head, style="cyan" if at == 0 else "", no_wrap=at == 0)
    for row in shown:
        printed.add_row(*map(Text, row))
    stdout().print(printed)


def show_error(error: MetalmError) -> None:
    """Print what is wrong, where, why, and the remedy to standard error."""
    from rich.text import Text

    message = Text("error: ", style="bold red")
    message.append(escape_markup(error.what), style="not bold default")
    for label, text in (("where", error.where), ("why", error.why), ("remedy", error.remedy)):
        if text:
            message.append(f"\n  {label}: ", style="cyan")
            message.append(escape_markup(text), style="not bold default")
    stderr().print(message, soft_wrap=True)


def show_bug(error: BaseException) -> None:
    """Print one line about an exception that should not have reached the user."""
    from rich.text import Text

    detail = " ".join(escape_markup(str(error)).split()) or "no message"
    message = Text("error: ", style="bold red")
    message.append(f"this is a bug in metalm: {type(error).__name__}: {detail}", style="not bold default")
    message.append(" (run again with --debug for the traceback)", style="not bold dim")
    stderr().print(message, soft_wrap=True)


def escape_markup(text: str) -> str:
    """Text without characters that steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
