"""The template linter: static rules, and rules on templates rendered with rows of their cards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from metalm_cli.config.locate import display
from metalm_cli.config.yaml_records import read_node
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Example
from metalm_cli.templates.lint.card_rules import card_problems, target_problems, template_problems
from metalm_cli.templates.lint.row_rules import rendering_problems, rows_problems
from metalm_cli.templates.lint.rules import RULES, Finding, Rule, Severity
from metalm_cli.templates.lint.text_rules import Problem, duplicates, text_problems
from metalm_cli.templates.render import render
from metalm_cli.templates.template import (
    GENERIC_STEM,
    Template,
    TemplateCollection,
    TemplateFile,
    read_templates,
    with_images,
)

ReadExamples = Callable[[Card], Sequence[Example]]
"""Function that returns examples of a card, in the order of the split; none if its data is not available."""


def lint_file(
    file: TemplateFile, card: Card | None = None, examples: Sequence[Example] = (), allow: Sequence[str] = ()
) -> list[tuple[str, Problem]]:
    """Lint the templates of a file.

    Args:
        file: The templates.
        card: Card of the templates; without one, only their texts are checked.
        examples: Examples of the card; without any, nothing is rendered.
        allow: Rules that the collection breaks intentionally.

    Returns:
        Pairs of a template name (empty: the card or the whole file) and a problem, without allowed problems.
    """
    problems = [("", problem) for problem in card_problems(card)] if card is not None else []
    if card is not None and examples:
        problems += [("", problem) for problem in rows_problems(card, examples)]
    for template in file.templates:
        problems += [(template.name, problem) for problem in _all_template_problems(template, file, card, examples)]
    problems += [(name, problem) for name, problem in _duplicate_problems(file.templates, examples)]
    allowed = {template.name: set(template.allow) for template in file.templates}
    allowed_in_file = {*file.allow, *allow}
    return [
        (name, problem) for name, problem in problems if problem[0] not in allowed_in_file | allowed.get(name, set())
    ]


def _all_template_problems(
    template: Template, file: TemplateFile, card: Card | None, examples: Sequence[Example]
) -> Iterator[Problem]:
    static_problems: list[Problem] = []
    for text in (*(part.text for part in template.input_parts), template.target):
        static_problems += text_problems(text)
    static_problems += target_problems(template)
    if card is not None:
        static_problems += template_problems(template, card, frozenset(file.optional))
    yield from static_problems
    if card is not None and examples:
        static_rules = {rule for rule, _ in static_problems}
        if "unknown-field" not in static_rules:
            yield from (
                problem for problem in rendering_problems(template, card, examples) if problem[0] not in static_rules
            )


def _duplicate_problems(templates: Sequence[Template], examples: Sequence[Example]) -> Iterator[tuple[str, Problem]]:
    """Yield templates that duplicate an earlier one, as written or as rendered."""
    earlier_names = {later.name: earlier.name for later, earlier in duplicates(templates)}
    if len(examples) > 1:
        first_names: dict[object, str] = {}
        for template in templates:
            try:
                prompts = [render(example, template) for example in examples[:8]]
            except MetalmError:
                continue
            earlier = first_names.setdefault(tuple((prompt.input, prompt.target) for prompt in prompts), template.name)
            if earlier != template.name:
                earlier_names.setdefault(template.name, earlier)
    for name, other in earlier_names.items():
        yield name, ("duplicate", f"same wording as {other}")


def lint_collection(
    collection: TemplateCollection,
    cards: Iterable[Card],
    read_examples: ReadExamples | None = None,
    *,
    include_unserved: bool = True,
) -> Iterator[Finding]:
    """Lint the templates of a collection.

    Rules allowed in its generic file (``any.yaml``) are allowed in the whole collection.

    Args:
        collection: The collection.
        cards: Cards whose templates are checked; cards without templates in the collection are skipped.
        read_examples: Function that returns examples of a card; enables the rules on rendered templates.
        include_unserved: Check also files that serve none of these cards.
    """
    served: set[Path] = set()
    allow = _generic_file_allows(collection)
    for card in cards:
        try:
            path = collection.path_for(card)
        except MetalmError:
            continue
        served.add(path)
        yield from _file_findings(
            collection.name, path, card, read_examples(card) if read_examples is not None else (), allow
        )
    if include_unserved:
        for path in sorted(set(collection.folder.glob("*.yaml")) - served):
            yield from _file_findings(collection.name, path, None, (), allow)
            if path.stem != GENERIC_STEM:
                yield Finding("no-card", "no card uses this file", "", "", collection.name, display(path))


def lint_template_file(path: Path, card: Card | None, examples: Sequence[Example] = ()) -> Iterator[Finding]:
    """Lint a template file that belongs to no collection.

    Args:
        path: The file.
        card: Card of the templates; None: only their texts are checked.
        examples: Examples of the card; without any, nothing is rendered.
    """
    yield from _file_findings("", path, card, examples, ())


def _generic_file_allows(collection: TemplateCollection) -> list[str]:
    try:
        return read_templates(collection.folder / f"{GENERIC_STEM}.yaml").allow
    except MetalmError:
        return []


def _file_findings(
    collection: str, path: Path, card: Card | None, examples: Sequence[Example], allow: Sequence[str]
) -> Iterator[Finding]:
    task = card.name if card is not None else ""
    try:
        file = read_templates(path)
        locations = template_locations(path)
    except MetalmError as error:
        message = error.what + (f" ({error.why})" if error.why else "")
        yield Finding("unreadable", message, "", task, collection, error.where or display(path))
        return
    if card is not None and path.stem == GENERIC_STEM:
        file = file.model_copy(update={"templates": [with_images(template, card) for template in file.templates]})
    for name, (rule, message) in lint_file(file, card, examples, allow):
        yield Finding(rule, message, name, task, collection, locations.get(name, display(path)))


def template_locations(path: Path) -> dict[str, str]:
    """Return ``file:line`` of each template of a YAML file by name.

    Raises:
        MetalmError: The file cannot be read.
    """
    if path.suffix != ".yaml":
        return {}
    templates = read_node(path, "template file").value["templates"].value
    return {node.value["name"].value: node.where for node in templates}


__all__ = [
    "RULES",
    "Finding",
    "ReadExamples",
    "Rule",
    "Severity",
    "lint_collection",
    "lint_file",
    "lint_template_file",
    "template_locations",
]
