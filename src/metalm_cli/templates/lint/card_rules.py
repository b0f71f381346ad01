"""Static lint rules for templates and their card: fields, options, the answer, inverted templates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jinja2 import TemplateError

from metalm_cli.tasks import Card
from metalm_cli.tasks.expressions import ROW_NAME, UncalledMethodError, compile_text, names_in
from metalm_cli.templates.lint.text_rules import Problem
from metalm_cli.templates.render import options_block
from metalm_cli.templates.template import BUILTIN_NAMES, Template
from metalm_cli.templates.template_ast import FIELDS_NAME, MARKER, parse_template

OPTIONAL_FIELDS = frozenset({"title", "section", "topic", "subject", "category", "genre", "kind", "source"})
"""Fields that describe a text, which templates may leave out. A file can add more (``optional``)."""
COLUMN_PREFIX = f"{ROW_NAME}."
"""Beginning of the names of columns that templates read through ``row``."""
LISTED_NAMES = frozenset({"options", "choices"})
"""Names of the answer options, which an input may list although the target is one of them."""
ANSWER_NAMES = frozenset({"answer", "rationale"})
"""Names that an input must not read unless its template is inverted."""

_WORDS_BY_MEANING = {
    "yes": "yes|true|entailment|entails|entailed|correct|right|acceptable|grammatical|positive|equivalent|duplicate"
    "|paraphrase|same|the same meaning|always|definitely",
    "no": "no|false|contradiction|contradicts|incorrect|wrong|unacceptable|ungrammatical|negative|different"
    "|different meanings|never|not entailment|not equivalent|not duplicate|not paraphrase",
    "unsure": "maybe|neutral|neither|unknown|undetermined|inconclusive|unclear|it is not possible to tell"
    "|it's not possible to tell|it is impossible to say|it's impossible to say|it's impossible to tell|can't tell"
    "|cannot tell|cannot say|sometimes",
}
MEANING_OF_WORD = {word: meaning for meaning, words in _WORDS_BY_MEANING.items() for word in words.split("|")}
"""Meaning of common class names."""


def card_problems(card: Card) -> Iterator[Problem]:
    """Yield problems of a card's class words, which affect all its templates."""
    for index, other in swapped_class_names(card.answer.class_names, card.verbalizers):
        yield (
            "labels-swapped",
            f"class {card.answer.class_names[index]} has the word {card.verbalizers[index]!r}, which means "
            f"{card.answer.class_names[other]}",
        )


def swapped_class_names(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Find classes whose second name means what the first name of another class means.

    Args:
        first: Names of the classes, in the order of their ids.
        second: Other names of the same classes, in the same order.

    Returns:
        Pairs ``(i, j)``: ``second[i]`` has the meaning of ``first[j]``, where j is another class than i.

    Example:
        >>> swapped_class_names(["Yes", "No", "It's impossible to say"], ["true", "neither", "false"])
        [(1, 2), (2, 1)]
        >>> swapped_class_names(["Yes", "No"], ["true", "false"])
        []
    """
    if len(first) != len(second):
        return []
    first_meanings, second_meanings = ([_meaning(word) for word in words] for words in (first, second))
    return [
        (i, first_meanings.index(second_meanings[i]))
        for i in range(len(first))
        if second_meanings[i] is not None
        and second_meanings[i] != first_meanings[i]
        and first_meanings.count(second_meanings[i]) == 1
        and first_meanings[i] is not None
    ]


def _meaning(word: str) -> str | None:
    return MEANING_OF_WORD.get(re.sub(r"[_\s]+", " ", word).strip(" .!").casefold().replace("’", "'"))


def template_problems(template: Template, card: Card, optional: frozenset[str] = frozenset()) -> Iterator[Problem]:
    """Yield problems of a template, given its card but no rows.

    Args:
        template: The template.
        card: The card.
        optional: Fields that its file declares optional, besides :data:`OPTIONAL_FIELDS`.
    """
    names = {name for name in _names_read(template) if not name.startswith(COLUMN_PREFIX)}
    unknown = sorted((names - set(card.fields) - BUILTIN_NAMES) | (template.image_names - set(card.images)))
    if unknown:
        yield "unknown-field", f"reads {', '.join(unknown)}; the card has {', '.join([*card.fields, *card.images])}"
    else:
        yield from _method_problems(template, card)
    if not template.inverted:
        yield from _leak_problems(template, card)
        yield from _unused_field_problems(template, card, optional)
        yield from _option_problems(template, card)
        yield from _rendered_target_problems(template, card)


def target_problems(template: Template) -> Iterator[Problem]:
    """Yield problems of the target that need no card: wrong `inverted` flag, or a target copied from the input."""
    input_names = set().union(*(parse_template(part.text).whole_names for part in template.input_parts))
    target = parse_template(template.target)
    reads_answer = bool(target.read_names & {"answer", "rationale"})
    if template.inverted and re.fullmatch(MARKER, target.wordings[0]) and target.printed_names == {"answer"}:
        yield "wrongly-inverted", "the template is marked inverted, but its target is the answer"
    if not template.inverted and not reads_answer:
        content = ", ".join(sorted(target.printed_names)) or "always the same"
        yield (
            "not-marked-inverted",
            f"the target is not the answer ({content}), but the template is not marked inverted",
        )
    copied = (target.whole_names & input_names) - LISTED_NAMES
    if len(target.wordings) > 1 and len(copied) > 1:
        return  # the target is one of several texts of the input
    if template.inverted and ("answer" in copied or (copied and copied == target.printed_names)):
        yield "target-in-input", f"{', '.join(sorted(copied))} is in both the input and the target"


def answer_leaks(card: Card) -> dict[str, str]:
    """Return the fields of a card, and the columns as ``row.x``, that reveal the answer, with the reason."""
    answer = card.answer
    option_columns = names_in(answer.options) if answer.options else set()
    key = answer.label or answer.index
    answer_columns = names_in(key) - option_columns if key else set()
    leaks = {
        name: f"reads {', '.join(sorted(shared))}, which determines the answer"
        for name, source in card.fields.items()
        if (shared := names_in(source) & answer_columns)
    }
    text_columns = names_in(answer.text) if answer.text is not None else set()
    leaks |= {f"{COLUMN_PREFIX}{column}": "determines the answer" for column in sorted(answer_columns | text_columns)}
    if answer.text is not None:
        same = {name for name, source in card.fields.items() if _without_spaces(source) == _without_spaces(answer.text)}
        leaks.update(dict.fromkeys(same, "is the answer"))
    return leaks


def _names_read(template: Template) -> set[str]:
    """Return the names that a template reads, with ``fields.x`` as the single field x."""
    texts = [part.text for part in template.input_parts] + [template.target]
    return set().union(*(parse_template(text).read_names for text in texts))


def _input_names_read(template: Template) -> set[str]:
    return set().union(*(parse_template(part.text).read_names for part in template.input_parts))


def _leak_problems(template: Template, card: Card) -> Iterator[Problem]:
    names = _input_names_read(template)
    for name in sorted(names & ANSWER_NAMES):
        yield "answer-in-input", f"the input reads {name}"
    for name, why in answer_leaks(card).items():
        if name in names:
            yield "answer-in-input", f"the input reads {name}, which {why}"


def _unused_field_problems(template: Template, card: Card, optional: frozenset[str]) -> Iterator[Problem]:
    names = _input_names_read(template)
    if unused_images := [name for name in card.images if name not in template.image_names]:
        yield "unused-field", f"leaves out the image {', '.join(unused_images)}"
    if FIELDS_NAME in names:
        return
    used = names & set(card.fields)
    covered_columns = set().union(*(names_in(card.fields[name]) for name in used)) if used else set()
    read_columns = {name.removeprefix(COLUMN_PREFIX) for name in names if name.startswith(COLUMN_PREFIX)}
    if names & {"options", "choices"} and card.answer.options:
        covered_columns |= names_in(card.answer.options)
    optional_fields = OPTIONAL_FIELDS | optional | set(answer_leaks(card))
    unused = [
        name
        for name, source in card.fields.items()
        if name not in used | optional_fields
        and not (names_in(source) and names_in(source) <= covered_columns)
        and not names_in(source) & read_columns
    ]
    if unused:
        yield "unused-field", f"leaves out {', '.join(unused)}"


def _method_problems(template: Template, card: Card) -> Iterator[Problem]:
    """Yield methods that a template prints without calling them: ``{{ premise.title }}``."""
    context = _placeholder_context(card, card.verbalizers[0] if card.verbalizers else "text")
    for text in (*(part.text for part in template.input_parts), template.target):
        try:
            compile_text(text)(context)
        except UncalledMethodError as error:
            yield "fails", str(error)
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError):
            continue


def _option_problems(template: Template, card: Card) -> Iterator[Problem]:
    if not (card.verbalizers or card.answer.options) or _input_names_read(template) & {"options", "choices"}:
        return
    text = "\n".join(wording for part in template.input_parts for wording in parse_template(part.text).wordings)
    missing = [word for word in card.verbalizers if not contains_as_words(text, word)]
    if missing or not card.verbalizers:
        reason = f"the text does not name {', '.join(missing)}" if missing else "options differ from row to row"
        yield "options-not-listed", f"the task has options, but the input does not list them ({reason})"


def contains_as_words(text: str, words: str) -> bool:
    """Return whether a text contains the words as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def _rendered_target_problems(template: Template, card: Card) -> Iterator[Problem]:
    """Yield targets that are not an option or are another class's word; the target is rendered for each class word."""
    if not card.verbalizers or "answer" not in parse_template(template.target).read_names:
        return
    swaps: list[str] = []
    non_options: list[str] = []
    for word in card.verbalizers:
        try:
            target = compile_text(template.target)(_placeholder_context(card, word)).strip()
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError):
            return
        if target != word:
            (swaps if target in card.verbalizers else non_options).append(f"{word!r} becomes {target!r}")
    if swaps:
        yield "labels-swapped", f"the target swaps the words of classes: {', '.join(swaps)}"
    if non_options:
        yield "target-not-an-option", f"the target is not one of the options: {', '.join(non_options)}"


def _placeholder_context(card: Card, word: str) -> dict[str, object]:
    fields = dict.fromkeys(card.fields, "text")
    return {
        **fields,
        "fields": fields,
        "task": card.name,
        "answer": word,
        "choices": list(card.verbalizers),
        "options": options_block(card.verbalizers),
        "rationale": "",
    }


def _without_spaces(source: str) -> str:
    return re.sub(r"\s+", "", source)
