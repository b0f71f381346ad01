"""Rules over rows: what shows only when templates are rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from metalm_cli.errors import EmptyRenderingError, MetalmError
from metalm_cli.tasks import Card, Example, ExampleMaker
from metalm_cli.templates.lint.card_rules import contains_as_words
from metalm_cli.templates.lint.text_rules import Problem
from metalm_cli.templates.render import render
from metalm_cli.templates.template import Template
from metalm_cli.templates.template_ast import parse_template

TRACE = "zq7x"
"""Put behind fields to find them again in a rendering."""
LEAST_ROWS = 30
"""Fewer say nothing about how often."""
MUCH = 0.9
FAR = 0.2
"""How much more than its even share of right answers an option's place may have."""
LONG_WORDS = " ".join(["word"] * 2000)


def rows_problems(card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """What the rows of a card show, whatever the template."""
    yield from _option_order(card, examples)
    yield from _answer_in_fields(card, examples)


def rendering_problems(template: Template, card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """What is wrong with a template's renderings; each rule once, with the row that it was first seen in."""
    seen: set[str] = set()
    ended: Counter[str] = Counter()
    maker = ExampleMaker(card)
    for example in examples:
        for rule, message in _rendering(template, card, maker, example, ended):
            if rule not in seen:
                seen.add(rule)
                yield rule, f"row {example.row}: {message}"
    for what, count in ended.items():
        if len(examples) >= LEAST_ROWS and count >= len(examples) / 2:
            yield "doubled-punctuation", f"{what} in {count} of {len(examples)} rows"


def _rendering(
    template: Template, card: Card, maker: ExampleMaker, example: Example, ended: Counter[str]
) -> Iterator[Problem]:
    try:
        prompt = render(example, template)
    except MetalmError as error:
        yield ("empty-rendering" if isinstance(error, EmptyRenderingError) else "fails"), error.why or error.what
        return
    for what in _doubled(template, example):
        ended[what] += 1
    if template.inverted:
        return
    if example.options and prompt.target not in example.options:
        yield "target-not-an-option", f"the target {prompt.target!r:.60} is none of the options"
    for other in _counterfactuals(maker, example):
        if _input(other, template) != prompt.input:
            yield "answer-in-input", f"another answer ({other.answers[0]!r:.60}) gives another input"
            break
    if card.long_inputs is not None:
        yield from _lost(template, card.long_inputs.field, example)


def _input(example: Example, template: Template) -> str | None:
    try:
        return render(example, template).input
    except MetalmError:
        return None


def _counterfactuals(maker: ExampleMaker, example: Example) -> Iterator[Example]:
    """The example as it would be with another answer, all else equal."""
    if example.label is None:
        yield replace(example, answers=(f"{example.answers[0]} {TRACE}",))
        return
    other = (example.label + 1) % len(example.options)
    yield replace(example, answers=(example.options[other],), label=other)
    column = maker.card.answer.label
    if column is not None and column in example.raw:
        value = other if not isinstance(example.raw[column], str) else maker.card.answer.class_names[other]
        try:
            made = maker({**example.raw, column: value}, example.row, lambda: "")
        except MetalmError:
            return
        if made is not None:
            yield made


def _lost(template: Template, long: str, example: Example) -> Iterator[Problem]:
    """Fields and options that stand in the input only as long as the long field is short, or is not cut."""
    traced = {
        name: text if name == long else f"{text} {TRACE}{at}z" for at, (name, text) in enumerate(example.fields.items())
    }
    options = tuple(f"{option} {TRACE}o{at}z" for at, option in enumerate(example.options))
    marked = replace(
        example, options=options, answers=(options[example.label],) if example.label is not None else example.answers
    )
    traces = {f"{TRACE}{at}z": name for at, name in enumerate(traced) if name != long}
    traces.update({f"{TRACE}o{at}z": f"option {at + 1}" for at in range(len(options))})
    inputs = []
    for text in ("", "A few words", traced[long], f"{traced[long]} {LONG_WORDS}"):
        found = _input(replace(marked, fields={**traced, long: text}), template)
        if found is None and text == "":
            continue  # nothing but the long field is read; the data never cuts all of it
        inputs.append(found or "")
    everywhere = {trace for trace in traces if any(trace in text for text in inputs)}
    gone = [traces[trace] for trace in sorted(everywhere) if not all(trace in text for text in inputs)]
    if gone:
        yield "lost-when-cut", f"{', '.join(gone)} depends on how long {long} is"


def _doubled(template: Template, example: Example) -> Iterator[str]:
    """Fields that end in the mark that the template puts behind them."""
    for part in template.pieces:
        found = parse_template(part.text)
        for name, text in example.fields.items():
            for mark in ".?!":
                if text.endswith(mark) and any(
                    "{{ " + name + " }}" + mark in found.to_text(one) for one in found.wordings
                ):
                    yield f"{name} ends in {mark!r}, and the template adds another"


def _option_order(card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """The right option's place, over the rows with the most common number of options."""
    if card.verbalizers or not card.answer.options:
        return
    sizes = Counter(len(one.options) for one in examples if one.label is not None)
    if not sizes:
        return
    size = sizes.most_common(1)[0][0]
    places = Counter(one.label for one in examples if one.label is not None and len(one.options) == size)
    total, (place, most) = sum(places.values()), places.most_common(1)[0]
    even = 1 / size
    spread = (even * (1 - even) / total) ** 0.5
    if total >= LEAST_ROWS and most / total > even + max(FAR, 4 * spread):
        counts = ", ".join(f"{places[at]} in place {at + 1}" for at in range(size))
        yield (
            "option-order",
            f"option {(place or 0) + 1} of {size} is right in {most / total:.0%} of {total} rows ({counts})",
        )


def _answer_in_fields(card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """The answer's word stands in nearly every row's fields, and other classes' words hardly do."""
    if not card.verbalizers or len(examples) < LEAST_ROWS:
        return
    own = other = others = 0
    for one in examples:
        text = "\n".join(one.fields.values())
        own += contains_as_words(text, one.answers[0])
        wrong = [word for word in card.verbalizers if word != one.answers[0]]
        other += sum(contains_as_words(text, word) for word in wrong)
        others += len(wrong)
    if own / len(examples) >= MUCH and other / max(others, 1) <= 1 - MUCH:
        yield (
            "answer-in-fields",
            f"the answer's word stands in the fields of {own} of {len(examples)} rows, "
            f"other classes' in {other} of {others}",
        )
