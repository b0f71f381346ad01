"""Linter rules on rendered templates; the shipped collections break no rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, Example, ExampleMaker
from metalm_cli.templates import TemplateCollection, collection_names
from metalm_cli.templates.lint.linter import Finding, lint_collection, lint_file
from metalm_cli.templates.lint.row_rules import rendering_problems
from metalm_cli.templates.template import Template, TemplateFile


def make_card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "name": "made",
        "cluster": "reading",
        "description": "made up",
        "file": "rows.jsonl",
        "splits": {"train": "train"},
        "fields": {"passage": "passage", "question": "question"},
        "answer": {"label": "label", "class_names": ["a", "b"], "verbalizers": {"a": "yes", "b": "no"}},
        "long_inputs": {"field": "passage"},
        "metric": {"name": "accuracy", "source": "nobody"},
        "licence": "none",
        "citation": "none",
    }
    return Card.model_validate({**values, **changes})


def examples_of(card: Card, rows: Sequence[dict[str, Any]]) -> list[Example]:
    make = ExampleMaker(card)
    examples = [make(row, number, lambda: "rows.jsonl") for number, row in enumerate(rows)]
    return [example for example in examples if example is not None]


def rows_of(count: int = 40, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    defaults: dict[str, Callable[[int], Any]] = {
        "passage": lambda index: f"The house number {index} is red",
        "question": lambda index: f"Which colour has house {index}",
        "label": lambda index: index % 2,
    }
    return [{name: make(index) for name, make in {**defaults, **columns}.items()} for index in range(count)]


def findings(card: Card, rows: Sequence[dict[str, Any]], *texts: str, target: str = "{{ answer }}") -> dict[str, str]:
    templates = [Template(name=f"t{index}", input=text, target=target) for index, text in enumerate(texts)]
    return {
        rule: message
        for _, (rule, message) in lint_file(TemplateFile(templates=templates), card, examples_of(card, rows))
    }


SOUND = "{{ passage }}\n{{ question }}?\n{{ options }}"


def test_sound_templates_have_no_findings() -> None:
    assert findings(make_card(), rows_of(), SOUND) == {}
    chosen = make_card(answer={"options": "choices", "index": "right"})
    rows = rows_of(choices=lambda index: [f"red {index}", f"blue {index}", "green"], right=lambda index: index % 3)
    assert findings(chosen, rows, SOUND) == {}
    assert (
        findings(
            make_card(answer={"text": "passage"}, fields={"question": "question"}, long_inputs=None),
            rows_of(),
            "{{ question }}?",
        )
        == {}
    )


def test_empty_and_failing_renderings() -> None:
    sometimes = "{% if 'house 3' in question %}{% else %}{{ passage }} {{ question }} {{ options }}{% endif %}"
    assert findings(make_card(), rows_of(), sometimes)["empty-rendering"].startswith("row 3: ")
    failing = SOUND + "{{ passage + 1 }}"
    assert set(findings(make_card(), rows_of(), failing)) == {"fails"}


def test_targets_that_are_not_options() -> None:
    chosen = make_card(answer={"options": "choices", "index": "right"})
    rows = rows_of(choices=lambda index: [f"red {index}", f"blue {index}"], right=lambda index: index % 2)
    assert set(findings(chosen, rows, SOUND, target="{{ answer | upper }}")) == {"target-not-an-option"}


def test_another_answer_must_not_give_another_input() -> None:
    card = make_card(fields={"passage": "passage", "question": "question ~ (' indeed' if label else '')"})
    problems = rendering_problems(Template(name="one", input=SOUND), card, examples_of(card, rows_of()))
    assert list(problems) == [("answer-in-input", "row 0: another answer ('no') gives another input")]
    leaking = Template(name="one", input=SOUND + "{{ ' Surely.' if answer == 'yes' }}")
    problems = rendering_problems(leaking, make_card(), examples_of(make_card(), rows_of()))
    assert [rule for rule, _ in problems] == ["answer-in-input"]
    assert (
        list(rendering_problems(Template(name="one", input=SOUND), make_card(), examples_of(make_card(), rows_of())))
        == []
    )


def test_content_that_is_lost_when_the_long_field_is_cut() -> None:
    conditional = (
        "{% if passage | length > 12 %}{{ passage }}\n{{ question }}{% else %}{{ passage }}{% endif %}\n{{ options }}"
    )
    assert (
        findings(make_card(), rows_of(), conditional)["lost-when-cut"]
        == "row 0: question depends on how long passage is"
    )
    cut = "{{ (passage ~ ' ' ~ question) | truncate(300) }}\n{{ options }}"
    assert set(findings(make_card(), rows_of(), cut)) == {"lost-when-cut"}
    chosen = make_card(answer={"options": "choices", "index": "right"})
    rows = rows_of(choices=lambda index: [f"red {index}", f"blue {index}"], right=lambda index: index % 2)
    dropped = "{{ passage }} {{ question }}{% if passage | length < 4000 %}\n{{ options }}{% endif %}"
    assert (
        findings(chosen, rows, dropped)["lost-when-cut"] == "row 0: option 1, option 2 depends on how long passage is"
    )
    unused = "{% if passage %}Passage: {{ passage }}\n{% endif %}{{ question }}\n{{ options }}"
    assert findings(make_card(), rows_of(), unused) == {}


def test_the_position_of_the_correct_option() -> None:
    chosen = make_card(answer={"options": "choices", "index": "right"})

    def findings_of_labels(right: Callable[[int], int], count: int = 100) -> dict[str, str]:
        return findings(chosen, rows_of(count, choices=lambda index: ["w", "x", "y", "z"], right=right), SOUND)

    message = findings_of_labels(lambda index: 0 if index % 4 else 1)["option-order"]
    assert (
        message == "option 1 of 4 is correct in 75% of 100 rows "
        "(75 at position 1, 25 at position 2, 0 at position 3, 0 at position 4)"
    )
    assert findings_of_labels(lambda index: index % 4) == {}
    assert findings_of_labels(lambda index: 0, count=20) == {}
    assert findings(make_card(), rows_of(label=lambda index: 0), SOUND) == {}


def test_columns_that_hold_the_answers_word() -> None:
    revealing = rows_of(passage=lambda index: f"House {index}: {'no' if index % 2 else 'yes'}")
    assert "answer-in-fields" in findings(make_card(), revealing, SOUND)
    both = rows_of(passage=lambda index: f"House {index}: yes and no")
    assert findings(make_card(), both, SOUND) == {}


def test_marks_that_fields_bring_themselves() -> None:
    marked = rows_of(question=lambda index: f"Which colour has house {index}?")
    assert findings(make_card(), marked, SOUND) == {
        "doubled-punctuation": "question ends in '?', and the template adds another in 40 of 40 rows"
    }
    quoted = '{{ passage }}\nThe question "{{ question }}" is asked.\n{{ options }}'
    assert findings(make_card(), marked, quoted) == {}


def test_templates_that_render_alike_are_duplicates() -> None:
    other = "{% if passage %}{{ passage }}{% endif %}\n{{ fields.question }}?\n{{ options }}"
    assert set(findings(make_card(), rows_of(), SOUND, other)) == {"duplicate"}


# -- our own collections ----------------------------------------------------------------------------------------------


def describe(findings: Sequence[Finding]) -> list[str]:
    return [
        f"{finding.collection} {finding.task} {finding.template} {finding.rule}: {finding.message}"
        for finding in findings
    ]


@pytest.mark.parametrize("name", collection_names())
def test_our_own_collections_break_no_static_rule(name: str) -> None:
    assert describe(list(lint_collection(TemplateCollection(name), Cards().all()))) == []


@pytest.mark.parametrize("name", collection_names())
def test_our_own_collections_break_no_rule_over_rows(name: str, data_root: Path) -> None:
    cards = Cards()

    def rows(card: Card) -> list[Example]:
        for role in ("validation", "test", "train"):
            try:
                opened = open_examples(card, role, data_root=data_root, offline=True)
            except MetalmError:
                continue
            return list(islice(opened, 25 if name == "flan" else 10))
        return []

    real = [card for card in cards.all() if card.world is None]
    assert describe(list(lint_collection(TemplateCollection(name), real, rows, include_unserved=False))) == []
