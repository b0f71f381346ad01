"""What importers make of a file before it is checked: drafts of templates."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from metalm_cli.tasks import Card

MAX_TEXT = 50_000
"""Characters of one template's text."""
MAX_TEMPLATES = 500
"""Templates of one file."""


class ImportRefused(Exception):
    """A file or a template that is not imported; the message says why."""


@dataclass
class TemplateDraft:
    """A template as an importer reads it.

    Args:
        name: Its name.
        input: Jinja.
        target: Jinja.
        turned: Asks for something else than the answer.
        allow: Rules of the linter that it is meant to break.
        notes: What the user should know about it.
    """

    name: str
    input: str
    target: str
    turned: bool = False
    allow: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class TemplateDraftFile:
    """Drafts that go into one template file.

    Args:
        name: Name of the file, without its ending.
        origin: Where they come from.
        card: The card that they serve, if one is known.
        drafts: The drafts.
        refused: Reasons by template that is not imported.
    """

    name: str
    origin: str
    card: Card | None = None
    drafts: list[TemplateDraft] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def as_jinja_text(text: str) -> str:
    """Text as Jinja that prints it.

    >>> as_jinja_text("a {{b}} {c}")
    "a {{ '{' }}{b}} {c}"
    >>> as_jinja_text("ends in {")
    "ends in {{ '{' }}"
    """
    return re.sub(r"\{(?=[{%#]|\Z)", "{{ '{' }}", text)


def as_jinja_string(text: str) -> str:
    """Text as Jinja that prints it, every brace marked as meant.

    >>> as_jinja_string("a {{b}}")
    "a {{ '{{' }}b{{ '}}' }}"
    """
    return re.sub(r"[{}]+", lambda found: "{{ '" + found[0] + "' }}", text)


def slug(text: str, between: str = "-") -> str:
    """A name for files and templates: small letters, digits and one mark.

    >>> slug("MNLI crowdsource?"), slug("../Glue", "_")
    ('mnli-crowdsource', 'glue')
    """
    return re.sub(r"[^a-z0-9]+", between, text.lower()).strip(between)[:60].strip(between) or "unnamed"


def file_name(card: Card | None, otherwise: str) -> str:
    """Name of the file that serves a card, or another, made safe."""
    if card is None:
        return slug(otherwise, "_")
    return card.name if card.templates is None or card.own_templates is not None else card.templates
