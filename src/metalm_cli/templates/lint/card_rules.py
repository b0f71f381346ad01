"""Static rules on templates and the card that they serve: fields, options, the answer, turned-around templates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jinja2 import TemplateError

from metalm_cli.tasks import Card
from metalm_cli.tasks.expressions import compile_text, names_in
from metalm_cli.templates.lint.text_rules import Problem
from metalm_cli.templates.render import options_block
from metalm_cli.templates.template import GIVEN, Template
from metalm_cli.templates.template_ast import FIELDS, MARKER, parse_template

OPTIONAL = frozenset({"title", "section", "topic", "subject", "category", "genre", "kind", "source"})
"""Fields that say what a text is about: templates may leave them out. A file can name more (``optional``)."""
SECRETS = frozenset({"answer", "rationale"})
"""What an input must not read unless its template is turned around."""

_MEANINGS = {
    "yes": "yes|true|entailment|entails|entailed|correct|right|acceptable|grammatical|positive|equivalent|duplicate"
    "|paraphrase|same|the same meaning|always|definitely",
    "no": "no|false|contradiction|contradicts|incorrect|wrong|unacceptable|ungrammatical|negative|different"
    "|different meanings|never|not entailment|not equivalent|not duplicate|not paraphrase",
    "unsure": "maybe|neutral|neither|unknown|undetermined|inconclusive|unclear|it is not possible to tell"
    "|it's not possible to tell|it is impossible to say|it's impossible to say|it's impossible to tell|can't tell"
    "|cannot tell|cannot say|sometimes",
}
MEANING = {word: meaning for meaning, words in _MEANINGS.items() for word in words.split("|")}
"""What common names of classes claim."""


def card_problems(card: Card) -> Iterator[Problem]:
    """What is wrong with a card's answer words, so with every template of it."""
    for index, other in swapped_class_names(card.answer.class_names, card.verbalizers):
        yield (
            "labels-swapped",
            f"class {card.answer.class_names[index]} is called {card.verbalizers[index]!r}, which is what "
            f"{card.answer.class_names[other]} means",
        )


def swapped_class_names(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Classes that a second list of names calls what the first calls another class.

    Args:
        first: Names of the classes, in the order of their ids.
        second: Other names of the same classes, in the same order.

    Returns:
        Pairs ``(i, j)``: ``second[i]`` means what ``first[j]`` means, j being another class than i.

    Example:
        >>> swapped_class_names(["Yes", "No", "It's impossible to say"], ["true", "neither", "false"])
        [(1, 2), (2, 1)]
        >>> swapped_class_names(["Yes", "No"], ["true", "false"])
        []
    """
    if len(first) != len(second):
        return []
    one, two = ([_meaning(word) for word in words] for words in (first, second))
    return [
        (i, one.index(two[i]))
        for i in range(len(first))
        if two[i] is not None and two[i] != one[i] and one.count(two[i]) == 1 and one[i] is not None
    ]


def _meaning(word: str) -> str | None:
    return MEANING.get(re.sub(r"[_\s]+", " ", word).strip(" .!").casefold().replace("’", "'"))


def template_problems(template: Template, card: Card, optional: frozenset[str] = frozenset()) -> Iterator[Problem]:
    """What is wrong with a template, given its card and no rows.

    Args:
        template: The template.
        card: The card.
        optional: Fields that its file declares optional, beside :data:`OPTIONAL`.
    """
    unknown = sorted(_names(template) - set(card.fields) - GIVEN)
    if unknown:
        yield "unknown-field", f"reads {', '.join(unknown)}; the card has {', '.join(card.fields)}"
    if not template.inverted:
        yield from _leaks(template, card)
        yield from _unused(template, card, optional)
        yield from _options(template, card)
        yield from _wrong_target(template, card)


def inverted_template_problems(template: Template) -> Iterator[Problem]:
    """What is wrong with the target, whatever the card: marked turned or not, or copied from the input."""
    given = set().union(*(parse_template(part.text).printed for part in template.pieces))
    target = parse_template(template.target)
    asked = bool(target.read & {"answer", "rationale"})
    if template.inverted and re.fullmatch(MARKER, target.wordings[0]) and target.printed == {"answer"}:
        yield "wrongly-inverted", "is marked inverted, and its target is the answer"
    if not template.inverted and not asked:
        said = ", ".join(sorted(target.printed)) or "always the same"
        yield "not-marked-turned", f"its target is not the answer ({said}), and it is not marked turned"
    copied = target.printed & given
    if template.inverted and ("answer" in copied or (copied and copied == target.printed)):
        yield "target-in-input", f"{', '.join(sorted(copied))} stands in the input and in the target"


def answer_leaks(card: Card) -> dict[str, str]:
    """Fields of a card that give the answer away, and why."""
    answer = card.answer
    known = names_in(answer.options) if answer.options else set()
    key = answer.label or answer.index
    columns = names_in(key) - known if key else set()
    found = {
        name: f"reads {', '.join(sorted(shared))}, which says what the answer is"
        for name, source in card.fields.items()
        if (shared := names_in(source) & columns)
    }
    if answer.text is not None:
        same = {name for name, source in card.fields.items() if _squeezed(source) == _squeezed(answer.text)}
        found.update(dict.fromkeys(same, "is the answer"))
    return found


def _names(template: Template) -> set[str]:
    """Names that a template reads; fields one by one where ``fields.x`` names them."""
    texts = [part.text for part in template.pieces] + [template.target]
    return set().union(*(parse_template(text).read for text in texts))


def _input_names(template: Template) -> set[str]:
    return set().union(*(parse_template(part.text).read for part in template.pieces))


def _leaks(template: Template, card: Card) -> Iterator[Problem]:
    read = _input_names(template)
    for name in sorted(read & SECRETS):
        yield "answer-in-input", f"its input reads {name}"
    for name, why in answer_leaks(card).items():
        if name in read:
            yield "answer-in-input", f"its input reads {name}, which {why}"


def _unused(template: Template, card: Card, optional: frozenset[str]) -> Iterator[Problem]:
    read = _input_names(template)
    if FIELDS in read:
        return
    used = read & set(card.fields)
    covered = set().union(*(names_in(card.fields[name]) for name in used)) if used else set()
    if read & {"options", "choices"} and card.answer.options:
        covered |= names_in(card.answer.options)
    skipped = OPTIONAL | optional | set(answer_leaks(card))
    unused = [
        name
        for name, source in card.fields.items()
        if name not in used | skipped and not (names_in(source) and names_in(source) <= covered)
    ]
    if unused:
        yield "unused-field", f"leaves out {', '.join(unused)}"


def _options(template: Template, card: Card) -> Iterator[Problem]:
    if not (card.verbalizers or card.answer.options) or _input_names(template) & {"options", "choices"}:
        return
    text = "\n".join(wording for part in template.pieces for wording in parse_template(part.text).wordings)
    missing = [word for word in card.verbalizers if not contains_as_words(text, word)]
    if missing or not card.verbalizers:
        named = f"does not name {', '.join(missing)}" if missing else "they differ from row to row"
        yield "options-not-listed", f"the task has options, and the input does not list them ({named})"


def contains_as_words(text: str, words: str) -> bool:
    """Whether words stand in a text, as words, in any case."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def _wrong_target(template: Template, card: Card) -> Iterator[Problem]:
    """Targets that are no options, or another class's: rendered once for each class word."""
    if not card.verbalizers or "answer" not in parse_template(template.target).read:
        return
    swaps: list[str] = []
    strangers: list[str] = []
    for word in card.verbalizers:
        try:
            said = compile_text(template.target)(_stand_in(card, word)).strip()
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError):
            return
        if said != word:
            (swaps if said in card.verbalizers else strangers).append(f"{word!r} becomes {said!r}")
    if swaps:
        yield "labels-swapped", f"its target calls classes by each other's names: {', '.join(swaps)}"
    if strangers:
        yield "target-not-an-option", f"its target is none of the options: {', '.join(strangers)}"


def _stand_in(card: Card, word: str) -> dict[str, object]:
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


def _squeezed(source: str) -> str:
    return re.sub(r"\s+", "", source)
