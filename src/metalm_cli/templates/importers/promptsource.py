"""promptsource: ``templates.yaml`` of a data set, by a safe loader that knows its two tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import TemplateError

from metalm_cli.tasks import Card
from metalm_cli.tasks.expressions import ENVIRONMENT, names_in
from metalm_cli.templates.importers.draft import ImportRefused, TemplateDraft, TemplateDraftFile, file_name, slug
from metalm_cli.templates.lint.card_rules import swapped_class_names

_LABELLED = re.compile(
    r"\{%-?\s*if\s+label\s*(?:!=\s*-\s*1|>=?\s*(?:0|-\s*1))\s*-?%\}"
    r"((?:(?!\{%-?\s*(?:if|else|elif|endif)\b).)*)\{%-?\s*endif\s*-?%\}",
    re.DOTALL,
)
"""What stands only where a row is labelled; every example of ours is."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses every tag but promptsource's two."""


def _mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is no mapping", node.start_mark)
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _mapping)


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """The templates of a data set.

    ``|||`` parts input and target; ``answer_choices`` become our card's options, the right one its answer; columns
    become the card's fields; ``original_task: false`` means turned around.

    Raises:
        Refused: The file is none of promptsource's.
    """
    try:
        found = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ImportRefused(f"it is no YAML that can be read: {problem}") from error
    if not isinstance(found, dict) or not isinstance(found.get("templates"), dict) or not found["templates"]:
        raise ImportRefused("it has no templates")
    dataset, subset = found.get("dataset") or source, found.get("subset") or ""
    if not isinstance(dataset, str) or not isinstance(subset, str):
        raise ImportRefused("its dataset or its subset is no text")
    card = _card(dataset, subset, cards)
    file = TemplateDraftFile(
        file_name(card, f"{dataset}_{subset}".strip("_")), f"{source}: {dataset} {subset}".strip(), card
    )
    taken: set[str] = set()
    for key, entry in found["templates"].items():
        name = _name(entry, str(key), taken)
        try:
            file.drafts.append(_draft(name, entry, card))
        except ImportRefused as error:
            file.refused.append((name, str(error)))
    return [file]


def _card(dataset: str, subset: str, cards: Mapping[str, Card]) -> Card | None:
    """The card of the same data: by its place on the hub, else by its name."""
    last = dataset.rpartition("/")[2]
    for card in cards.values():
        if card.hub is not None and card.hub.id.rpartition("/")[2] == last and (card.hub.config or "") == subset:
            return card
    return cards.get(slug(subset or last, "_"))


def _name(entry: Any, key: str, taken: set[str]) -> str:
    name = slug(str(entry.get("name") or key)) if isinstance(entry, dict) else slug(key)
    first, count = name, 2
    while name in taken:
        name, count = f"{first}-{count}", count + 1
    taken.add(name)
    return name


def _draft(name: str, entry: Any, card: Card | None) -> TemplateDraft:
    if not isinstance(entry, dict) or not isinstance(entry.get("jinja"), str):
        raise ImportRefused("it has no text")
    text = entry["jinja"]
    while (shorter := _LABELLED.sub(r"\1", text)) != text:
        text = shorter
    if text.count("|||") != 1:
        raise ImportRefused(f"it has {text.count('|||')} separators |||, expected one between input and target")
    choices = _choices(entry.get("answer_choices"))
    if card is not None and (swaps := swapped_class_names(card.answer.class_names, choices)):
        at, other = swaps[0]
        raise ImportRefused(
            f"labels-swapped: it calls {card.answer.class_names[at]} {choices[at]!r}, which is what "
            f"{card.answer.class_names[other]} means"
        )
    given, target = (_ours(part.strip(), card) for part in text.split("|||"))
    found = entry.get("metadata")
    metadata: dict[str, Any] = found if isinstance(found, dict) else {}
    draft = TemplateDraft(name, given, target, turned=metadata.get("original_task") is False)
    if metadata.get("choices_in_prompt") is True:
        draft.allow = ["options-not-listed"]
    if (
        choices
        and not any("{{" in one for one in choices)
        and card is not None
        and card.verbalizers
        and set(choices) != set(card.verbalizers)
    ):
        draft.notes.append(f"its answers {', '.join(choices)} are called {', '.join(card.verbalizers)} by the card")
    return draft


def _choices(value: Any) -> list[str]:
    """Answer choices: a list in early files, else parted by |||."""
    parts = value if isinstance(value, list) else str(value or "").split("|||")
    return [str(part).strip() for part in parts if str(part).strip()]


def _ours(text: str, card: Card | None) -> str:
    """A part in our names: the right choice is ``answer``, the choices ``choices``, columns fields."""
    keys = {"label", *([key for key in (card.answer.label, card.answer.index) if key] if card is not None else [])}
    for key in keys:
        text = re.sub(rf"answer_choices\s*\[\s*{re.escape(key)}\s*\]", "answer", text)
    renamed = {"answer_choices": "choices", **(_columns(card) if card is not None else {})}
    try:
        tokens = list(ENVIRONMENT.lex(text))
    except TemplateError as error:
        raise ImportRefused(f"it is no Jinja: {error}") from error
    pieces, before = [], ""
    for _, kind, value in tokens:
        pieces.append(renamed.get(value, value) if kind == "name" and before not in (".", "|") else value)
        before = value if value.strip() else before
    return "".join(pieces)


def _columns(card: Card) -> dict[str, str]:
    """Fields by the one column that each reads, and the answer by its."""
    found: dict[str, str] = {}
    for name, source in card.fields.items():
        columns = names_in(source)
        if len(columns) == 1:
            found.setdefault(columns.pop(), name)
    text = card.answer.text
    if text is not None and text.isidentifier():
        found[text] = "answer"
    return found
