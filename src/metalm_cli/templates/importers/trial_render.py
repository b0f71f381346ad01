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
from metalm_cli.tasks.expressions import (
    ENVIRONMENT,
    ROW_NAME,
    SecurityError,
    UncalledMethodError,
    UnprintableValueError,
)
from metalm_cli.templates.importers.draft import (
    MAX_TEMPLATES,
    MAX_TEXT_LENGTH,
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
)
from metalm_cli.templates.importers.row_shapes import column_shapes, made_up_rows
from metalm_cli.templates.lint.linter import lint_file
from metalm_cli.templates.lint.row_rules import rendering_problems
from metalm_cli.templates.lint.rules import RULES
from metalm_cli.templates.render import render
from metalm_cli.templates.template import BUILTIN_NAMES, Template, TemplateFile

RENDER_TIME_S = 2.0
"""Processor time limit of one template, in seconds."""
MAX_LOOP_DEPTH = 2
"""Maximum depth of nested loops."""
REFUSED_ERRORS = (SecurityError, UncalledMethodError)
"""Errors of a template on a made-up row that no other row would prevent."""
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
    read_columns = {template.name for template in templates if ROW_NAME in template.names}
    for name, (rule, message) in _lint(templates, file.card, refused):
        if rule == "unused-field" and name in read_columns:
            next(template for template in templates if template.name == name).allow.append(rule)
            notes.append((name, f"{rule}: {message}, but reads columns itself"))
        elif RULES[rule].severity == "error":
            refused.append((name, f"{rule}: {message}"))
        else:
            notes.append((name, f"{rule}: {message}"))
    refused_names = {name for name, _ in refused}
    templates = [template for template in templates if template.name not in refused_names]
    if file.card is None and templates:
        notes += [*_unmapped_field_notes(templates), *(("", note) for note in file.notes)]
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
    try:
        with _lint_time_limit(len(templates)):
            return _problems(templates, card)
    except ImportRefused as error:
        refused += [(template.name, str(error)) for template in templates]
        return []


def _problems(templates: list[Template], card: Card | None) -> list[Any]:
    """Lint the templates of a file; those that read columns are rendered on rows of their own shapes."""
    problems = lint_file(_file_of(templates), card)
    if card is not None:
        plain = [template for template in templates if ROW_NAME not in template.names]
        if plain:
            problems += lint_file(_file_of(plain), card, list(_sample_examples(plain[0], card))[: len(SAMPLE_TEXTS)])
        for template in templates:
            if template not in plain:
                static_rules = {rule for name, (rule, _) in problems if name == template.name}
                problems_of_rows = rendering_problems(template, card, _rendered_examples(template, card)[0])
                problems += [
                    (template.name, (rule, message)) for rule, message in problems_of_rows if rule not in static_rules
                ]
    allowed = {template.name: set(template.allow) for template in templates}
    return [problem for problem in dict.fromkeys(problems) if problem[1][0] not in allowed.get(problem[0], set())]


def _file_of(templates: list[Template]) -> TemplateFile:
    return TemplateFile.model_construct(templates=templates, allow=[], optional=[])


@contextmanager
def _lint_time_limit(template_count: int) -> Iterator[None]:
    """Limit the time of linting a file, which renders each template several times."""
    with _time_limit():
        signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_TIME_S * (1 + template_count))
        yield


def _checked_template(draft: TemplateDraft, card: Card | None) -> Template:
    """Return the template of a draft after rendering it."""
    for text in (draft.input, draft.target, draft.choices or ""):
        if len(text) > MAX_TEXT_LENGTH:
            raise ImportRefused(f"{len(text):,} characters, expected at most {MAX_TEXT_LENGTH:,}")
        try:
            _check_tree(ENVIRONMENT.parse(text))
        except TemplateError as error:
            raise ImportRefused(f"not valid Jinja: {error!s:.300}") from error
    try:
        template = Template(
            name=draft.name,
            input=draft.input,
            target=draft.target,
            choices=draft.choices,
            inverted=draft.inverted,
            allow=draft.allow,
        )
    except ValidationError as error:
        raise ImportRefused(error.errors()[0]["msg"]) from error
    if card is not None:
        unknown = sorted(template.names - set(card.fields) - BUILTIN_NAMES)
        if unknown:
            raise ImportRefused(f"unknown-field: reads {', '.join(unknown)}; the card has {', '.join(card.fields)}")
    _, reason = _rendered_examples(template, card)
    if reason:
        draft.notes.append(f"renders on no made-up row, so check it on rows ({reason})")
    return template


def _rendered_examples(template: Template, card: Card | None) -> tuple[list[Example], str]:
    """Return made-up examples on which a template renders; if there are none, also the reason.

    Raises:
        ImportRefused: It fails whatever the values are, or takes too much work.
    """
    rendered: list[Example] = []
    reason = ""
    reads_columns = ROW_NAME in template.names
    for example in _sample_examples(template, card):
        try:
            render(example, template)
            rendered.append(example)
        except MetalmError as error:
            refused = REFUSED_ERRORS if reads_columns else (*REFUSED_ERRORS, UnprintableValueError)
            if isinstance(error.__cause__, refused):
                raise ImportRefused(f"rendering fails: {error.why or error.what}") from error
            reason = reason or error.why or error.what
    if reason and not reads_columns and not _works_with_values(template):
        raise ImportRefused(f"rendering fails: {reason}")
    return rendered, "" if rendered else reason


def _works_with_values(template: Template) -> bool:
    """Whether a template does more with values than to print them, so that made-up values may not suit it."""
    trees = [ENVIRONMENT.parse(text) for text in (template.input or "", template.target, template.choices or "")]
    kinds: list[type[nodes.Node]] = [nodes.Getitem, nodes.Call, nodes.If, nodes.CondExpr, nodes.BinExpr]
    return any(tree.find(kind) is not None for tree in trees for kind in kinds)


def _check_tree(tree: nodes.Template) -> None:
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            raise ImportRefused(f"access to {attribute.attr} is not allowed")
    if _loop_depth(tree) > MAX_LOOP_DEPTH:
        raise ImportRefused(f"more than {MAX_LOOP_DEPTH} nested loops")


def _loop_depth(node: nodes.Node) -> int:
    inner = max((_loop_depth(child) for child in node.iter_child_nodes()), default=0)
    return inner + isinstance(node, nodes.For)


def _sample_examples(template: Template, card: Card | None) -> Iterator[Example]:
    """Make up examples: two, or more if the template reads columns, with rows of the shapes that it reads."""
    texts = [*(part.text for part in template.input_parts), template.target, template.choices or ""]
    columns = column_shapes(texts)
    rows: list[dict[str, Any]] = list(made_up_rows(columns)) if columns else [{}] * len(SAMPLE_TEXTS)
    names = sorted(template.names - BUILTIN_NAMES) if card is None else list(card.fields)
    task = "task" if card is None else card.name
    options: tuple[str, ...] = () if card is None else card.verbalizers
    if not options and template.choices is None and (card is None or card.answer.options):
        options = SAMPLE_TEXTS
    for index, row in enumerate(rows):
        fields = {name: f"{SAMPLE_TEXTS[index % len(SAMPLE_TEXTS)]} ({name})" for name in names}
        answer = options[index % len(options)] if options else f"An answer, number {index}"
        label = index % len(options) if options else None
        yield Example(task, index, fields, (answer,), tuple(options), label, "So it is.", raw=row)


def _unmapped_field_notes(templates: list[Template]) -> list[tuple[str, str]]:
    names = sorted(set().union(*(template.names for template in templates)) - BUILTIN_NAMES)
    return [("", f"no matching card: field names are unchanged ({', '.join(names)})")] if names else []
