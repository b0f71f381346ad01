"""Checking drafts: each is rendered on made-up rows and linted, within limits of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError, nodes
from pydantic import ValidationError

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Example
from metalm_cli.tasks.expressions import ENVIRONMENT, compile_text
from metalm_cli.templates.importers.draft import (
    MAX_TEMPLATES,
    MAX_TEXT,
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
)
from metalm_cli.templates.lint.linter import lint_file
from metalm_cli.templates.lint.rules import RULES
from metalm_cli.templates.render import options_block, render
from metalm_cli.templates.template import GIVEN, Template, TemplateFile
from metalm_cli.templates.template_ast import parse_template

SECONDS = 2.0
"""Processor time that one template may take."""
FORBIDDEN = (
    nodes.Macro,
    nodes.CallBlock,
    nodes.Import,
    nodes.FromImport,
    nodes.Include,
    nodes.Extends,
    nodes.Block,
)
MAX_LOOPS = 2
"""Loops within loops."""
MADE_UP = ("A first made-up text", "Something else that is made up")


class _TooLong(BaseException):
    """Raised by the timer, past everything that catches errors."""


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    except _TooLong:
        raise ImportRefused(f"it takes more than {SECONDS:g} s to render") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def render_drafts(file: TemplateDraftFile) -> dict[str, Any]:
    """A file as JSON: the templates that are fit, what is refused and why, what to know.

    Raises:
        Refused: It holds too many templates.
    """
    if len(file.drafts) > MAX_TEMPLATES:
        raise ImportRefused(f"it holds {len(file.drafts):,} templates, expected at most {MAX_TEMPLATES:,}")
    kept: list[Template] = []
    refused, notes = list(file.refused), []
    for draft in file.drafts:
        try:
            with _limited():
                kept.append(_rendered(draft, file.card))
            notes += [(draft.name, note) for note in draft.notes]
        except ImportRefused as error:
            refused.append((draft.name, str(error)))
        except (RecursionError, MemoryError) as error:
            refused.append((draft.name, f"it goes beyond the limits: {type(error).__name__}"))
    for name, (rule, message) in _linted(kept, file.card, refused):
        if RULES[rule].severity == "error":
            refused.append((name, f"{rule}: {message}"))
        else:
            notes.append((name, f"{rule}: {message}"))
    out = {name for name, _ in refused}
    kept = [template for template in kept if template.name not in out]
    if kept and all(template.inverted for template in kept):
        refused += [(template.name, "no template that asks for the answer is left beside it") for template in kept]
        kept = []
    if file.card is None and kept:
        notes += _left(kept)
    return {
        "name": file.name,
        "origin": file.origin,
        "card": file.card.name if file.card is not None else "",
        "templates": [template.model_dump(exclude_defaults=True) for template in kept],
        "refused": refused,
        "notes": [note for note in notes if note[0] not in out],
    }


def _linted(kept: list[Template], card: Card | None, refused: list[tuple[str, str]]) -> list[Any]:
    if not kept:
        return []
    file = TemplateFile.model_construct(templates=kept, allow=[], optional=[])
    examples = _examples(card) if card is not None else []
    try:
        with _limited_by(len(kept)):
            return lint_file(file, card, examples)
    except ImportRefused as error:
        refused += [(template.name, str(error)) for template in kept]
        return []


@contextmanager
def _limited_by(count: int) -> Iterator[None]:
    """Linting a file renders each template several times."""
    with _limited():
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS * (1 + count))
        yield


def _rendered(draft: TemplateDraft, card: Card | None) -> Template:
    """The template of a draft that can be rendered."""
    for text in (draft.input, draft.target):
        if len(text) > MAX_TEXT:
            raise ImportRefused(f"it has {len(text):,} characters, expected at most {MAX_TEXT:,}")
        try:
            _check_tree(ENVIRONMENT.parse(text))
        except TemplateError as error:
            raise ImportRefused(f"it is no Jinja: {error}") from error
    try:
        template = Template(
            name=draft.name, input=draft.input, target=draft.target, inverted=draft.turned, allow=draft.allow
        )
    except ValidationError as error:
        raise ImportRefused(error.errors()[0]["msg"]) from error
    if card is not None:
        unknown = sorted(template.reads - set(card.fields) - GIVEN)
        if unknown:
            raise ImportRefused(f"unknown-field: reads {', '.join(unknown)}; the card has {', '.join(card.fields)}")
        for example in _examples(card):
            try:
                render(example, template)
            except MetalmError as error:
                raise ImportRefused(f"it cannot be rendered: {error.why or error.what}") from error
    else:
        _render_alone(draft)
    return template


def _check_tree(tree: nodes.Template) -> None:
    for node in tree.find_all(FORBIDDEN):
        raise ImportRefused(f"it uses {type(node).__name__.lower()}, which templates have no use for")
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            raise ImportRefused(f"it reaches for {attribute.attr}")
    if _depth(tree) > MAX_LOOPS:
        raise ImportRefused(f"it nests more than {MAX_LOOPS} loops")


def _depth(node: nodes.Node) -> int:
    inner = max((_depth(child) for child in node.iter_child_nodes()), default=0)
    return inner + isinstance(node, nodes.For)


def _render_alone(draft: TemplateDraft) -> None:
    read = parse_template(draft.input).read | parse_template(draft.target).read
    values: dict[str, Any] = {name: f"{MADE_UP[0]} ({name})" for name in read}
    given = {"choices": list(MADE_UP), "options": options_block(MADE_UP), "task": "task", "rationale": "So it is."}
    fields = {name: value for name, value in values.items() if name not in GIVEN}
    for text in (draft.input, draft.target):
        try:
            compile_text(text)({**values, **given, "answer": MADE_UP[0], "fields": fields})
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise ImportRefused(f"it cannot be rendered on texts: {error}") from error


def _examples(card: Card) -> list[Example]:
    """Two made-up examples of a card."""
    options = card.verbalizers or (MADE_UP if card.answer.options else ())
    found = []
    for row, text in enumerate(MADE_UP):
        fields = {name: f"{text} ({name})" for name in card.fields}
        answer = options[row % len(options)] if options else f"An answer, number {row}"
        found.append(Example(card.name, row, fields, (answer,), tuple(options), row if options else None))
    return found


def _left(kept: list[Template]) -> list[tuple[str, str]]:
    names = sorted(set().union(*(template.reads for template in kept)) - GIVEN)
    return [("", f"no card is known for it: its fields are left as they are ({', '.join(names)})")] if names else []
