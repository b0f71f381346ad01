"""Checks of drafts: each is rendered on made-up rows and linted, within time limits."""

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
    MAX_TEXT_LENGTH,
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
)
from metalm_cli.templates.lint.linter import lint_file
from metalm_cli.templates.lint.rules import RULES
from metalm_cli.templates.render import options_block, render
from metalm_cli.templates.template import BUILTIN_NAMES, Template, TemplateFile
from metalm_cli.templates.template_ast import parse_template

RENDER_TIME_S = 2.0
"""Processor time limit of one template, in seconds."""
MAX_LOOP_DEPTH = 2
"""Maximum depth of nested loops."""
SAMPLE_TEXTS = ("A first made-up text", "Something else that is made up")


class _TimeLimitExceeded(BaseException):
    """Raised by the timer; a BaseException, so that no error handler catches it."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TimeLimitExceeded

    previous_handler = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_TIME_S)
    try:
        yield
    except _TimeLimitExceeded:
        raise ImportRefused(f"rendering takes more than {RENDER_TIME_S:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous_handler)


def render_drafts(file: TemplateDraftFile) -> dict[str, Any]:
    """Check the drafts of a file; return the accepted templates, refused ones with reasons, and notes, as JSON values.

    Raises:
        ImportRefused: The file has too many templates.
    """
    if len(file.drafts) > MAX_TEMPLATES:
        raise ImportRefused(f"{len(file.drafts):,} templates, expected at most {MAX_TEMPLATES:,}")
    templates: list[Template] = []
    refused, notes = list(file.refused), []
    for draft in file.drafts:
        try:
            with _time_limit():
                templates.append(_checked_template(draft, file.card))
            notes += [(draft.name, note) for note in draft.notes]
        except ImportRefused as error:
            refused.append((draft.name, str(error)))
        except (RecursionError, MemoryError) as error:
            refused.append((draft.name, f"exceeds the limits: {type(error).__name__}"))
    for name, (rule, message) in _lint(templates, file.card, refused):
        if RULES[rule].severity == "error":
            refused.append((name, f"{rule}: {message}"))
        else:
            notes.append((name, f"{rule}: {message}"))
    refused_names = {name for name, _ in refused}
    templates = [template for template in templates if template.name not in refused_names]
    if templates and all(template.inverted for template in templates):
        refused += [
            (template.name, "an inverted template needs another one that asks for the answer") for template in templates
        ]
        templates = []
    if file.card is None and templates:
        notes += _unmapped_field_notes(templates)
    return {
        "name": file.name,
        "origin": file.origin,
        "card": file.card.name if file.card is not None else "",
        "templates": [template.model_dump(exclude_defaults=True) for template in templates],
        "refused": refused,
        "notes": [note for note in notes if note[0] not in refused_names],
    }


def _lint(templates: list[Template], card: Card | None, refused: list[tuple[str, str]]) -> list[Any]:
    if not templates:
        return []
    file = TemplateFile.model_construct(templates=templates, allow=[], optional=[])
    examples = _sample_examples(card) if card is not None else []
    try:
        with _lint_time_limit(len(templates)):
            return lint_file(file, card, examples)
    except ImportRefused as error:
        refused += [(template.name, str(error)) for template in templates]
        return []


@contextmanager
def _lint_time_limit(template_count: int) -> Iterator[None]:
    """Limit the time of linting a file, which renders each template several times."""
    with _time_limit():
        signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_TIME_S * (1 + template_count))
        yield


def _checked_template(draft: TemplateDraft, card: Card | None) -> Template:
    """Return the template of a draft after rendering it."""
    for text in (draft.input, draft.target):
        if len(text) > MAX_TEXT_LENGTH:
            raise ImportRefused(f"{len(text):,} characters, expected at most {MAX_TEXT_LENGTH:,}")
        try:
            _check_tree(ENVIRONMENT.parse(text))
        except TemplateError as error:
            raise ImportRefused(f"not valid Jinja: {error!s:.300}") from error
    try:
        template = Template(
            name=draft.name, input=draft.input, target=draft.target, inverted=draft.inverted, allow=draft.allow
        )
    except ValidationError as error:
        raise ImportRefused(error.errors()[0]["msg"]) from error
    if card is not None:
        unknown = sorted(template.names - set(card.fields) - BUILTIN_NAMES)
        if unknown:
            raise ImportRefused(f"unknown-field: reads {', '.join(unknown)}; the card has {', '.join(card.fields)}")
        for example in _sample_examples(card):
            try:
                render(example, template)
            except MetalmError as error:
                raise ImportRefused(f"rendering fails: {error.why or error.what}") from error
    else:
        _render_without_card(draft)
    return template


def _check_tree(tree: nodes.Template) -> None:
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            raise ImportRefused(f"access to {attribute.attr} is not allowed")
    if _loop_depth(tree) > MAX_LOOP_DEPTH:
        raise ImportRefused(f"more than {MAX_LOOP_DEPTH} nested loops")


def _loop_depth(node: nodes.Node) -> int:
    inner = max((_loop_depth(child) for child in node.iter_child_nodes()), default=0)
    return inner + isinstance(node, nodes.For)


def _render_without_card(draft: TemplateDraft) -> None:
    names = parse_template(draft.input).read_names | parse_template(draft.target).read_names
    values: dict[str, Any] = {name: f"{SAMPLE_TEXTS[0]} ({name})" for name in names}
    builtin_values = {
        "choices": list(SAMPLE_TEXTS),
        "options": options_block(SAMPLE_TEXTS),
        "task": "task",
        "rationale": "So it is.",
    }
    fields = {name: value for name, value in values.items() if name not in BUILTIN_NAMES}
    for text in (draft.input, draft.target):
        try:
            compile_text(text)({**values, **builtin_values, "answer": SAMPLE_TEXTS[0], "fields": fields})
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise ImportRefused(f"rendering with texts as fields fails: {error!s:.300}") from error


def _sample_examples(card: Card) -> list[Example]:
    """Make two sample examples of a card."""
    options = card.verbalizers or (SAMPLE_TEXTS if card.answer.options else ())
    examples = []
    for row, text in enumerate(SAMPLE_TEXTS):
        fields = {name: f"{text} ({name})" for name in card.fields}
        answer = options[row % len(options)] if options else f"An answer, number {row}"
        examples.append(Example(card.name, row, fields, (answer,), tuple(options), row if options else None))
    return examples


def _unmapped_field_notes(templates: list[Template]) -> list[tuple[str, str]]:
    names = sorted(set().union(*(template.names for template in templates)) - BUILTIN_NAMES)
    return [("", f"no matching card: field names are unchanged ({', '.join(names)})")] if names else []
