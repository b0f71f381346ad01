"""The linter: what is wrong with templates, by themselves and over rows of their cards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from metalm_cli.config.locate import display
from metalm_cli.config.yaml_records import read_node
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Example
from metalm_cli.templates.lint.card_rules import card_problems, inverted_template_problems, template_problems
from metalm_cli.templates.lint.row_rules import rendering_problems, rows_problems
from metalm_cli.templates.lint.rules import RULES, Finding, Rule, Severity
from metalm_cli.templates.lint.text_rules import Problem, duplicates, text_problems
from metalm_cli.templates.render import render
from metalm_cli.templates.template import GENERIC, Collection, Template, TemplateFile, read_templates

Rows = Callable[[Card], Sequence[Example]]
"""Examples of a card, in the order of the split; none where its rows are not at hand."""


def lint_file(
    file: TemplateFile, card: Card | None = None, examples: Sequence[Example] = (), allow: Sequence[str] = ()
) -> list[tuple[str, Problem]]:
    """What is wrong with the templates of a file.

    Args:
        file: The templates.
        card: The card that they serve; without one, only their wording is looked at.
        examples: Examples of the card; without any, nothing is rendered.
        allow: Rules that the collection is meant to break.

    Returns:
        Names of templates (empty: of no one template) and what is wrong, what is allowed left out.
    """
    found = [("", problem) for problem in card_problems(card)] if card is not None else []
    if card is not None and examples:
        found += [("", problem) for problem in rows_problems(card, examples)]
    for template in file.templates:
        found += [(template.name, problem) for problem in _of_template(template, file, card, examples)]
    found += [(name, problem) for name, problem in _repeated(file.templates, examples)]
    allowed = {template.name: set(template.allow) for template in file.templates}
    everywhere = {*file.allow, *allow}
    return [(name, problem) for name, problem in found if problem[0] not in everywhere | allowed.get(name, set())]


def _of_template(
    template: Template, file: TemplateFile, card: Card | None, examples: Sequence[Example]
) -> Iterator[Problem]:
    static: list[Problem] = []
    for text in (*(part.text for part in template.pieces), template.target):
        static += text_problems(text)
    static += inverted_template_problems(template)
    if card is not None:
        static += template_problems(template, card, frozenset(file.optional))
    yield from static
    if card is not None and examples:
        known = {rule for rule, _ in static}
        if "unknown-field" not in known:
            yield from (one for one in rendering_problems(template, card, examples) if one[0] not in known)


def _repeated(templates: Sequence[Template], examples: Sequence[Example]) -> Iterator[tuple[str, Problem]]:
    """Templates that say the same as an earlier one, as written or as rendered."""
    same = {later.name: earlier.name for later, earlier in duplicates(templates)}
    if len(examples) > 1:
        first: dict[object, str] = {}
        for template in templates:
            try:
                prompts = [render(one, template) for one in examples[:8]]
            except MetalmError:
                continue
            earlier = first.setdefault(tuple((one.input, one.target) for one in prompts), template.name)
            if earlier != template.name:
                same.setdefault(template.name, earlier)
    for name, other in same.items():
        yield name, ("duplicate", f"says the same as {other}")


def lint_collection(
    collection: Collection,
    cards: Iterable[Card],
    rows: Rows | None = None,
    *,
    others: bool = True,
) -> Iterator[Finding]:
    """What is wrong with the templates of a collection.

    What its generic file (``any.yaml``) allows holds for all of it.

    Args:
        collection: The collection.
        cards: The cards whose templates are looked at; those that it has none for are passed over.
        rows: Their examples, if the rules over rows are wanted.
        others: Also look at files that serve none of these cards.
    """
    served: set[Path] = set()
    allow = _allowed(collection)
    for card in cards:
        try:
            path = collection.path(card)
        except MetalmError:
            continue
        served.add(path)
        yield from _findings(collection.name, path, card, rows(card) if rows is not None else (), allow)
    if others:
        for path in sorted(set(collection.folder.glob("*.yaml")) - served):
            yield from _findings(collection.name, path, None, (), allow)
            if path.stem != GENERIC:
                yield Finding("no-card", "no card is served by this file", "", "", collection.name, display(path))


def _allowed(collection: Collection) -> list[str]:
    try:
        return read_templates(collection.folder / f"{GENERIC}.yaml").allow
    except MetalmError:
        return []


def _findings(
    collection: str, path: Path, card: Card | None, examples: Sequence[Example], allow: Sequence[str]
) -> Iterator[Finding]:
    task = card.name if card is not None else ""
    try:
        file = read_templates(path)
        lines = findings_by_place(path)
    except MetalmError as error:
        message = error.what + (f" ({error.why})" if error.why else "")
        yield Finding("unreadable", message, "", task, collection, error.where or display(path))
        return
    for name, (rule, message) in lint_file(file, card, examples, allow):
        yield Finding(rule, message, name, task, collection, lines.get(name, display(path)))


def findings_by_place(path: Path) -> dict[str, str]:
    """``file:line`` of each template of a YAML file by its name.

    Raises:
        MetalmError: The file cannot be read.
    """
    if path.suffix != ".yaml":
        return {}
    templates = read_node(path, "template file").value["templates"].value
    return {node.value["name"].value: node.where for node in templates}


__all__ = ["RULES", "Finding", "Rows", "Rule", "Severity", "findings_by_place", "lint_collection", "lint_file"]
