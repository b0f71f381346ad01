"""Importer of promptsource's ``templates.yaml``, by a safe YAML loader that accepts only its two tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import TemplateError

from metalm_cli.tasks import Card
from metalm_cli.tasks.expressions import ENVIRONMENT, names_in
from metalm_cli.templates.importers.draft import (
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
    TemplateImporter,
    file_name,
    short_name,
)
from metalm_cli.templates.lint.card_rules import swapped_class_names

_IF_LABELLED = re.compile(
    r"\{%-?\s*if\s+label\s*(?:!=\s*-\s*1|>=?\s*(?:0|-\s*1))\s*-?%\}"
    r"((?:(?!\{%-?\s*(?:if|else|elif|endif)\b).)*)\{%-?\s*endif\s*-?%\}",
    re.DOTALL,
)
"""Condition that a row is labelled; all our examples are labelled."""


class _Loader(yaml.SafeLoader):
    """Safe loader that rejects every tag except promptsource's two."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is not a mapping", node.start_mark)
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _construct_mapping)


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """Read the templates of a data set.

    ``|||`` separates input and target; ``answer_choices`` become the card's options, the correct choice its answer;
    columns become the card's fields; templates with ``original_task: false`` are inverted.

    Raises:
        ImportRefused: The file is not in promptsource's format.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ImportRefused(f"not valid YAML: {problem}") from error
    if not isinstance(content, dict) or not isinstance(content.get("templates"), dict) or not content["templates"]:
        raise ImportRefused("missing: templates")
    dataset, subset = content.get("dataset") or source, content.get("subset") or ""
    if not isinstance(dataset, str) or not isinstance(subset, str):
        raise ImportRefused("dataset or subset is not a text")
    card = _find_card(dataset, subset, cards)
    file = TemplateDraftFile(
        file_name(card, f"{dataset}_{subset}".strip("_")), f"{source}: {dataset} {subset}".strip(), card
    )
    used_names: set[str] = set()
    for key, entry in content["templates"].items():
        name = _unique_name(entry, str(key), used_names)
        try:
            file.drafts.append(_draft(name, entry, card))
        except ImportRefused as error:
            file.refused.append((name, str(error)))
    return [file]


def _find_card(dataset: str, subset: str, cards: Mapping[str, Card]) -> Card | None:
    """Find the card of the same data: by its hub id, else by its name."""
    dataset_name = dataset.rpartition("/")[2]
    for card in cards.values():
        if (
            card.hub is not None
            and card.hub.id.rpartition("/")[2] == dataset_name
            and (card.hub.config or "") == subset
        ):
            return card
    return cards.get(short_name(subset or dataset_name, "_"))


def _unique_name(entry: Any, key: str, used_names: set[str]) -> str:
    name = short_name(str(entry.get("name") or key)) if isinstance(entry, dict) else short_name(key)
    first, count = name, 2
    while name in used_names:
        name, count = f"{first}-{count}", count + 1
    used_names.add(name)
    return name


def _draft(name: str, entry: Any, card: Card | None) -> TemplateDraft:
    if not isinstance(entry, dict) or not isinstance(entry.get("jinja"), str):
        raise ImportRefused("missing: jinja, the template's text")
    text = entry["jinja"]
    while (shorter := _IF_LABELLED.sub(r"\1", text)) != text:
        text = shorter
    if text.count("|||") != 1:
        raise ImportRefused(f"found {text.count('|||')} separators |||, expected one between input and target")
    choices = _split_choices(entry.get("answer_choices"))
    if card is not None and (swaps := swapped_class_names(card.answer.class_names, choices)):
        index, other = swaps[0]
        raise ImportRefused(
            f"labels-swapped: class {card.answer.class_names[index]} has the word {choices[index]!r}, which means "
            f"{card.answer.class_names[other]}"
        )
    input_text, target = (_with_our_names(part.strip(), card) for part in text.split("|||"))
    raw_metadata = entry.get("metadata")
    metadata: dict[str, Any] = raw_metadata if isinstance(raw_metadata, dict) else {}
    draft = TemplateDraft(name, input_text, target, inverted=metadata.get("original_task") is False)
    if metadata.get("choices_in_prompt") is True:
        draft.allow = ["options-not-listed"]
    if (
        choices
        and not any("{{" in choice for choice in choices)
        and card is not None
        and card.verbalizers
        and set(choices) != set(card.verbalizers)
    ):
        draft.notes.append(f"the answers {', '.join(choices)} become the card's {', '.join(card.verbalizers)}")
    return draft


def _split_choices(value: Any) -> list[str]:
    """Split answer choices: a list in early files, else separated by |||."""
    parts = value if isinstance(value, list) else str(value or "").split("|||")
    return [str(part).strip() for part in parts if str(part).strip()]


def _with_our_names(text: str, card: Card | None) -> str:
    """Rename the names in a text: the correct choice becomes ``answer``, the choices ``choices``, columns fields."""
    keys = {"label", *([key for key in (card.answer.label, card.answer.index) if key] if card is not None else [])}
    for key in keys:
        text = re.sub(rf"answer_choices\s*\[\s*{re.escape(key)}\s*\]", "answer", text)
    renamed = {"answer_choices": "choices", **(_field_names_by_column(card) if card is not None else {})}
    try:
        tokens = list(ENVIRONMENT.lex(text))
    except TemplateError as error:
        raise ImportRefused(f"not valid Jinja: {error}") from error
    pieces, previous = [], ""
    for _, kind, value in tokens:
        pieces.append(renamed.get(value, value) if kind == "name" and previous not in (".", "|") else value)
        previous = value if value.strip() else previous
    return "".join(pieces)


def _field_names_by_column(card: Card) -> dict[str, str]:
    """Return the field name of each column that a field reads alone, and ``answer`` for the answer's column."""
    names: dict[str, str] = {}
    for name, source in card.fields.items():
        columns = names_in(source)
        if len(columns) == 1:
            names.setdefault(columns.pop(), name)
    text = card.answer.text
    if text is not None and text.isidentifier():
        names[text] = "answer"
    return names


IMPORTER = TemplateImporter(".yaml", read)
