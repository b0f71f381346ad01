"""Drafts of templates, as importers read them, before they are checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from metalm_cli.common.slug import slug
from metalm_cli.tasks import Card

MAX_TEXT_LENGTH = 50_000
"""Maximum characters of a template's text."""
MAX_TEMPLATES = 500
"""Maximum templates of a file."""
MAX_NAME_LENGTH = 60
"""Maximum length of the name of a file or a template."""


class ImportRefused(Exception):
    """A file or a template cannot be imported; the message gives the reason."""


@dataclass
class TemplateDraft:
    """A template as an importer reads it.

    Args:
        name: Name of the template.
        input: The input, Jinja.
        target: The target, Jinja.
        choices: Answer choices of the template, Jinja with ||| between them; None: the card's.
        inverted: Whether the template asks for something other than the answer.
        allow: Linter rules that the template breaks intentionally.
        notes: Notes for the user.
    """

    name: str
    input: str
    target: str
    inverted: bool = False
    choices: str | None = None
    allow: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class TemplateDraftFile:
    """Drafts of one template file.

    Args:
        name: Name of the file, without suffix.
        origin: Origin of the templates.
        card: Card that the templates serve, if known.
        drafts: The drafts.
        refused: Names of templates that are not imported, with reasons.
        notes: Notes for the user about the whole file.
    """

    name: str
    origin: str
    card: Card | None = None
    drafts: list[TemplateDraft] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TemplateImporter:
    """Importer of one format.

    Args:
        suffix: Suffix of the files.
        read: Reader of the text of a file, the cards by name, and the name of the file. It raises
            :class:`ImportRefused` for a file that it does not read, and runs in the sandboxed process.
    """

    suffix: str
    read: Callable[[str, Mapping[str, Card], str], list[TemplateDraftFile]]


def as_jinja_text(text: str) -> str:
    """Escape text as Jinja that renders to the same text.

    >>> as_jinja_text("a {{b}} {c}")
    "a {{ '{' }}{b}} {c}"
    >>> as_jinja_text("ends in {")
    "ends in {{ '{' }}"
    """
    return re.sub(r"\{(?=[{%#]|\Z)", "{{ '{' }}", text)


def as_jinja_string(text: str) -> str:
    """Escape text as Jinja, with every brace as an explicit string.

    >>> as_jinja_string("a {{b}}")
    "a {{ '{{' }}b{{ '}}' }}"
    """
    return re.sub(r"[{}]+", lambda match: "{{ '" + match[0] + "' }}", text)


def short_name(text: str, separator: str = "-") -> str:
    """Convert a text to a name for files and templates: lower-case letters, digits and a separator.

    >>> short_name("MNLI crowdsource?"), short_name("../Glue", "_")
    ('mnli-crowdsource', 'glue')
    """
    return slug(text, separator, MAX_NAME_LENGTH)


def file_name(card: Card | None, fallback: str) -> str:
    """Return the name of a card's template file, or a safe form of a fallback name."""
    if card is None:
        return short_name(fallback, "_")
    return card.name if card.templates is None or card.bundled_templates is not None else card.templates
