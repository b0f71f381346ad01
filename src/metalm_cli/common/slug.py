"""Names made of any text."""

from __future__ import annotations

import re


def slug(text: str, separator: str, max_length: int | None = None) -> str:
    """Convert a text to a name of lower-case letters, digits and a separator.

    Args:
        text: Any text.
        separator: Character in place of all others.
        max_length: Maximum length of the name; default none.

    >>> slug("task141_odd-man-out_category", "_"), slug("Misc.", "_"), slug("???", "_")
    ('task141_odd_man_out_category', 'misc', 'unnamed')
    >>> slug("MNLI crowdsource?", "-"), slug("MNLI crowdsource?", "-", max_length=5)
    ('mnli-crowdsource', 'mnli')
    """
    name = re.sub(r"[^a-z0-9]+", separator, text.lower()).strip(separator)
    return name[:max_length].strip(separator) or "unnamed"
