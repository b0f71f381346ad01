"""Escaping of texts for Markdown: a name from a file cannot become a link, an image or HTML."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"[\\`*\[\]~$]|!(?=\[)|^[#+-](?= )|^\d+(?=[.)] )")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape_markdown(text: str) -> str:
    r"""Return a text as one line of plain Markdown; ``|`` is left to the table that it may be in.

    >>> escape_markdown("<img src=x> [a](b)\n*c*")
    '&lt;img src=x&gt; \\[a\\](b) \\*c\\*'
    """
    line = _one_line(text)
    escaped = _SPECIAL.sub(lambda match: match[0] + "\\" if match[0].isdigit() else "\\" + match[0], line)
    return re.sub("[&<>]", lambda match: _HTML[match[0]], escaped)


def code_span(text: str) -> str:
    """Return a text as inline code; backticks in it become apostrophes."""
    return "`" + _one_line(text).replace("`", "'") + "`"


def code_block(text: str, language: str) -> str:
    """Return a text as a block of code, within a fence that is longer than every run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
