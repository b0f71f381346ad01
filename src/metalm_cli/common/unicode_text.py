"""Properties of texts that tokenizers and files depend on: well-formed, visible."""

from __future__ import annotations

import unicodedata

INVISIBLE_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
"""Unicode categories of white space, control characters and format characters such as the zero-width space."""


def well_formed(text: str) -> str:
    """Replace lone surrogates (legal in JSON, not in UTF-8) by U+FFFD."""
    if text.isascii():  # fast path
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character.

    >>> is_blank(" \\n"), is_blank("\\u200b"), is_blank("\\u200ba")
    (True, True, False)
    """
    if text[:1].isalnum():  # fast path
        return False
    return all(unicodedata.category(character) in INVISIBLE_CATEGORIES for character in text)


def escape(text: str) -> str:
    r"""Escape text so that it cannot control a terminal: line breaks become ``⏎``, tabs spaces, other control
    characters, invisible direction marks and lone surrogates ``\x1b``, ``\u202e``.

    >>> escape("a\nb\x1b[31m")
    'a⏎b\\x1b[31m'
    """
    text = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", " ")
    return "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(character)[1:-1]
        for character in text
    )
