"""Importer of promptsource's ``templates.yaml``, by a safe YAML loader that accepts only its two tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from metalm_cli.tasks import Card
from metalm_cli.templates.importers.answers import Answer, answer_of, answers_of_card, most_frequent, with_answer
from metalm_cli.templates.importers.column_names import ANSWER, CHOICES, ColumnNames
from metalm_cli.templates.importers.draft import (
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
    TemplateImporter,
    file_name,
    short_name,
)
from metalm_cli.templates.importers.separate import SEPARATOR, separate
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


@dataclass(frozen=True)
class _Entry:
    """A template of promptsource: its texts with the columns' names, and its answer choices."""

    name: str
    input: str
    target: str
    choices: str
    asks_for_answer: bool
    lists_choices: bool

    @cached_property
    def answer(self) -> Answer | None:
        """What the target is."""
        return answer_of(self.target)


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """Read the templates of a data set.

    ``|||`` separates input and target; ``answer_choices`` become the template's choices, the correct choice its answer;
    columns become the card's fields, or are read through ``row``. Templates with ``original_task: false``, and those
    whose target is not the answer, are inverted. Without a card the most frequent target of the file is the answer, and
    a note says which it is.

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
    entries: list[_Entry] = []
    used_names: set[str] = set()
    for key, raw in content["templates"].items():
        name = _unique_name(raw, str(key), used_names)
        try:
            entries.append(_entry(name, raw))
        except ImportRefused as error:
            file.refused.append((name, str(error)))
    if card is not None:
        answers = answers_of_card(card)
    else:
        asking = [entry for entry in entries if entry.asks_for_answer] or entries
        answers = most_frequent([entry.answer for entry in asking])
        file.notes += [f"the answer, which a card for them needs, is {answer.source:.200}" for answer in answers]
    for entry in entries:
        try:
            file.drafts.append(_draft(entry, card, answers))
        except ImportRefused as error:
            file.refused.append((entry.name, str(error)))
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


def _entry(name: str, raw: Any) -> _Entry:
    if not isinstance(raw, dict) or not isinstance(raw.get("jinja"), str):
        raise ImportRefused("missing: jinja, the template's text")
    text = raw["jinja"]
    while (shorter := _IF_LABELLED.sub(r"\1", text)) != text:
        text = shorter
    input_text, target = separate(text)
    value = raw.get("answer_choices")
    choices = " ||| ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    raw_metadata = raw.get("metadata")
    metadata: dict[str, Any] = raw_metadata if isinstance(raw_metadata, dict) else {}
    is_original = metadata.get("original_task") is not False
    return _Entry(name, input_text, target, choices.strip(), is_original, metadata.get("choices_in_prompt") is True)


def _draft(entry: _Entry, card: Card | None, answers: Sequence[Answer]) -> TemplateDraft:
    words = [word.strip() for word in entry.choices.split(SEPARATOR)] if "{" not in entry.choices else []
    has_other_classes = bool(card is not None and card.verbalizers and words and len(words) != len(card.verbalizers))
    if has_other_classes:
        answers = [answer for answer in answers if answer.kind != "choice"]
    elif card is not None:
        _check_not_swapped(words, card)
    texts = [with_answer(text, answers) for text in (entry.input, entry.target)]
    if entry.answer in answers or _is_label_of_choice(entry, card):
        assert entry.answer is not None, "only a target that is an answer is among the answers"
        texts[1] = entry.answer.replaced
    choices = entry.choices if any(name in text for name in (CHOICES, ANSWER) for text in texts) else ""
    if has_other_classes:
        constant = f"{{% set {CHOICES} = {json.dumps(words, ensure_ascii=False)} %}}"
        texts, choices = [constant + text if CHOICES in text else text for text in texts], ""
    names = ColumnNames(card, [*texts, choices])
    input_text, target, own_choices = (names.rename(text) for text in (*texts, choices))
    is_of_card = card is not None and bool(words) and tuple(words) == card.verbalizers
    draft = TemplateDraft(entry.name, input_text, target, choices=None if is_of_card else own_choices or None)
    if not entry.asks_for_answer:
        draft.inverted = True
        draft.allow.append("wrongly-inverted")
    elif ANSWER not in texts[1]:
        draft.inverted = True
        draft.notes.append("asks for something other than the answer, so it is inverted and never scored")
    if entry.lists_choices:
        draft.allow.append("options-not-listed")
    return draft


def _is_label_of_choice(entry: _Entry, card: Card | None) -> bool:
    """Whether the target is the label of the correct option, and the answer choices are the labels of all options.

    The card finds the correct option by its label: ``labels.index(label)``.
    """
    if card is None or card.answer.index is None or entry.answer is None or not entry.choices:
        return False
    labels = re.fullmatch(r"\{\{\s*([\w.]+)\s*\|\s*join\(\s*(['\"])\|\|\|\2\s*\)\s*\}\}", entry.choices)
    return labels is not None and answer_of(
        "{{ " + f"{labels[1]}.index(" + entry.answer.source.strip("{} ") + ") }}"
    ) == (answer_of("{{ " + card.answer.index + " }}"))


def _check_not_swapped(words: Sequence[str], card: Card) -> None:
    """Check that the choices do not mean other classes than the card's."""
    if swaps := swapped_class_names(card.answer.class_names, words):
        index, other = swaps[0]
        raise ImportRefused(
            f"labels-swapped: class {card.answer.class_names[index]} has the word {words[index]!r}, which means "
            f"{card.answer.class_names[other]}"
        )


IMPORTER = TemplateImporter(".yaml", read)
