"""Rules that need rows: problems that appear only when templates are rendered."""

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

TRACE_TEXT = "zq7x"
"""Mark appended to fields, to find them in a rendering."""
MIN_ROWS = 30
"""Minimum number of rows for rules on frequencies."""
MIN_ANSWER_SHARE = 0.9
"""Share of rows with the answer's word in their fields that is reported."""
MAX_POSITION_BIAS = 0.2
"""Maximum excess of a position's share of correct options over the even share."""
LONG_TEXT = " ".join(["word"] * 2000)


def rows_problems(card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """Yield problems of a card's rows, whatever the template."""
    yield from _option_order_problems(card, examples)
    yield from _answer_in_fields_problems(card, examples)


def rendering_problems(template: Template, card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """Yield problems of a template's renderings; each rule once, with the first row that breaks it."""
    seen: set[str] = set()
    doubled_marks: Counter[str] = Counter()
    maker = ExampleMaker(card, image_root=".")  # no image is opened
    for example in examples:
        for rule, message in _example_problems(template, card, maker, example, doubled_marks):
            if rule not in seen:
                seen.add(rule)
                yield rule, f"row {example.row}: {message}"
    for text, count in doubled_marks.items():
        if len(examples) >= MIN_ROWS and count >= len(examples) / 2:
            yield "doubled-punctuation", f"{text} in {count} of {len(examples)} rows"


def _example_problems(
    template: Template, card: Card, maker: ExampleMaker, example: Example, doubled_marks: Counter[str]
) -> Iterator[Problem]:
    try:
        prompt = render(example, template)
    except MetalmError as error:
        yield ("empty-rendering" if isinstance(error, EmptyRenderingError) else "fails"), error.why or error.what
        return
    for message in _doubled_mark_messages(template, example):
        doubled_marks[message] += 1
    if template.inverted:
        return
    if template.choices is None and example.options and prompt.target not in example.options:
        yield "target-not-an-option", f"the target {prompt.target!r:.60} is not one of the options"
    for other in _counterfactuals(maker, example):
        if _render_input(other, template) != prompt.input:
            yield "answer-in-input", f"another answer ({other.answers[0]!r:.60}) gives another input"
            break
    if card.long_inputs is not None:
        yield from _truncation_problems(template, card.long_inputs.field, example)


def _render_input(example: Example, template: Template) -> str | None:
    try:
        return render(example, template).input
    except MetalmError:
        return None


def _counterfactuals(maker: ExampleMaker, example: Example) -> Iterator[Example]:
    """Yield the example with another answer and everything else equal."""
    if example.label is None:
        yield replace(example, answers=(f"{example.answers[0]} {TRACE_TEXT}",))
        return
    other_label = (example.label + 1) % len(example.options)
    yield replace(example, answers=(example.options[other_label],), label=other_label)
    column = maker.card.answer.label
    if column is not None and column in example.raw:
        value = other_label if not isinstance(example.raw[column], str) else maker.card.answer.class_names[other_label]
        try:
            changed = maker({**example.raw, column: value}, example.row, lambda: "")
        except MetalmError:
            return
        if changed is not None:
            yield changed


def _truncation_problems(template: Template, long_field: str, example: Example) -> Iterator[Problem]:
    """Yield fields and options that are in the input only if the long field is short enough."""
    traced = {
        name: text if name == long_field else f"{text} {TRACE_TEXT}{index}z"
        for index, (name, text) in enumerate(example.fields.items())
    }
    options = tuple(f"{option} {TRACE_TEXT}o{index}z" for index, option in enumerate(example.options))
    marked = replace(
        example, options=options, answers=(options[example.label],) if example.label is not None else example.answers
    )
    traces = {f"{TRACE_TEXT}{index}z": name for index, name in enumerate(traced) if name != long_field}
    traces.update({f"{TRACE_TEXT}o{index}z": f"option {index + 1}" for index in range(len(options))})
    inputs = []
    for text in ("", "A few words", traced[long_field], f"{traced[long_field]} {LONG_TEXT}"):
        rendered = _render_input(replace(marked, fields={**traced, long_field: text}), template)
        if rendered is None and text == "":
            continue  # the template reads only the long field, which is never truncated to nothing
        inputs.append(rendered or "")
    present = {trace for trace in traces if any(trace in text for text in inputs)}
    lost = [traces[trace] for trace in sorted(present) if not all(trace in text for text in inputs)]
    if lost:
        yield "lost-when-cut", f"{', '.join(lost)} depends on how long {long_field} is"


def _doubled_mark_messages(template: Template, example: Example) -> Iterator[str]:
    """Yield a message for each field that ends in the punctuation mark that the template adds after it."""
    for part in template.input_parts:
        ast = parse_template(part.text)
        for name, text in example.fields.items():
            for mark in ".?!":
                if text.endswith(mark) and any(
                    "{{ " + name + " }}" + mark in ast.to_text(wording) for wording in ast.wordings
                ):
                    yield f"{name} ends in {mark!r}, and the template adds another"


def _option_order_problems(card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """Check the positions of the correct option, over the rows with the most common number of options."""
    if card.verbalizers or not card.answer.options:
        return
    option_counts = Counter(len(example.options) for example in examples if example.label is not None)
    if not option_counts:
        return
    option_count = option_counts.most_common(1)[0][0]
    label_counts = Counter(
        example.label for example in examples if example.label is not None and len(example.options) == option_count
    )
    total, (label, label_count) = sum(label_counts.values()), label_counts.most_common(1)[0]
    even_share = 1 / option_count
    deviation = (even_share * (1 - even_share) / total) ** 0.5
    if total >= MIN_ROWS and label_count / total > even_share + max(MAX_POSITION_BIAS, 4 * deviation):
        counts = ", ".join(f"{label_counts[index]} at position {index + 1}" for index in range(option_count))
        yield (
            "option-order",
            f"option {(label or 0) + 1} of {option_count} is correct in "
            f"{label_count / total:.0%} of {total} rows ({counts})",
        )


def _answer_in_fields_problems(card: Card, examples: Sequence[Example]) -> Iterator[Problem]:
    """Check whether nearly all rows have the answer's word in their fields, and few have the words of other classes."""
    if not card.verbalizers or len(examples) < MIN_ROWS:
        return
    answer_hits = other_hits = other_total = 0
    for example in examples:
        text = "\n".join(example.fields.values())
        answer_hits += contains_as_words(text, example.answers[0])
        other_words = [word for word in card.verbalizers if word != example.answers[0]]
        other_hits += sum(contains_as_words(text, word) for word in other_words)
        other_total += len(other_words)
    if answer_hits / len(examples) >= MIN_ANSWER_SHARE and other_hits / max(other_total, 1) <= 1 - MIN_ANSWER_SHARE:
        yield (
            "answer-in-fields",
            f"the answer's word occurs in the fields of {answer_hits} of {len(examples)} rows, "
            f"words of other classes in {other_hits} of {other_total}",
        )
