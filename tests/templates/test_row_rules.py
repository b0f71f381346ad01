"""Rules over rows: what shows only when templates are rendered; and our own collections, which break no rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, Example, ExampleMaker
from metalm_cli.templates import Collection, collections
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
    found = [make(row, number, lambda: "rows.jsonl") for number, row in enumerate(rows)]
    return [one for one in found if one is not None]


def rows_of(count: int = 40, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    usual: dict[str, Callable[[int], Any]] = {
        "passage": lambda at: f"The house number {at} is red",
        "question": lambda at: f"Which colour has house {at}",
        "label": lambda at: at % 2,
    }
    return [{name: make(at) for name, make in {**usual, **columns}.items()} for at in range(count)]


def found(card: Card, rows: Sequence[dict[str, Any]], *texts: str, target: str = "{{ answer }}") -> dict[str, str]:
    templates = [Template(name=f"t{at}", input=text, target=target) for at, text in enumerate(texts)]
    return {
        rule: message
        for _, (rule, message) in lint_file(TemplateFile(templates=templates), card, examples_of(card, rows))
    }


SOUND = "{{ passage }}\n{{ question }}?\n{{ options }}"


def test_sound_templates_have_no_findings() -> None:
    assert found(make_card(), rows_of(), SOUND) == {}
    chosen = make_card(answer={"options": "choices", "index": "right"})
    rows = rows_of(choices=lambda at: [f"red {at}", f"blue {at}", "green"], right=lambda at: at % 3)
    assert found(chosen, rows, SOUND) == {}
    assert (
        found(
            make_card(answer={"text": "passage"}, fields={"question": "question"}, long_inputs=None),
            rows_of(),
            "{{ question }}?",
        )
        == {}
    )


def test_empty_and_failing_renderings() -> None:
    sometimes = "{% if 'house 3' in question %}{% else %}{{ passage }} {{ question }} {{ options }}{% endif %}"
    assert found(make_card(), rows_of(), sometimes)["empty-rendering"].startswith("row 3: ")
    failing = SOUND + "{{ passage.split('number')[5] }}"
    assert set(found(make_card(), rows_of(), failing)) == {"fails"}


def test_targets_that_are_no_options() -> None:
    chosen = make_card(answer={"options": "choices", "index": "right"})
    rows = rows_of(choices=lambda at: [f"red {at}", f"blue {at}"], right=lambda at: at % 2)
    assert set(found(chosen, rows, SOUND, target="{{ answer | upper }}")) == {"target-not-an-option"}


def test_another_answer_must_not_give_another_input() -> None:
    card = make_card(fields={"passage": "passage", "question": "question ~ (' indeed' if label else '')"})
    problems = rendering_problems(Template(name="one", input=SOUND), card, examples_of(card, rows_of()))
    assert list(problems) == [("answer-in-input", "row 0: another answer ('no') gives another input")]
    told = Template(name="one", input=SOUND + "{{ ' Surely.' if answer == 'yes' }}")
    problems = rendering_problems(told, make_card(), examples_of(make_card(), rows_of()))
    assert [rule for rule, _ in problems] == ["answer-in-input"]
    assert (
        list(rendering_problems(Template(name="one", input=SOUND), make_card(), examples_of(make_card(), rows_of())))
        == []
    )


def test_what_is_lost_when_the_long_field_is_cut() -> None:
    lost = (
        "{% if passage | length > 12 %}{{ passage }}\n{{ question }}{% else %}{{ passage }}{% endif %}\n{{ options }}"
    )
    assert found(make_card(), rows_of(), lost)["lost-when-cut"] == "row 0: question depends on how long passage is"
    cut = "{{ (passage ~ ' ' ~ question) | truncate(300) }}\n{{ options }}"
    assert set(found(make_card(), rows_of(), cut)) == {"lost-when-cut"}
    chosen = make_card(answer={"options": "choices", "index": "right"})
    rows = rows_of(choices=lambda at: [f"red {at}", f"blue {at}"], right=lambda at: at % 2)
    dropped = "{{ passage }} {{ question }}{% if passage | length < 4000 %}\n{{ options }}{% endif %}"
    assert found(chosen, rows, dropped)["lost-when-cut"] == "row 0: option 1, option 2 depends on how long passage is"
    unused = "{% if passage %}Passage: {{ passage }}\n{% endif %}{{ question }}\n{{ options }}"
    assert found(make_card(), rows_of(), unused) == {}


def test_the_place_of_the_right_option() -> None:
    chosen = make_card(answer={"options": "choices", "index": "right"})

    def biased(right: Callable[[int], int], count: int = 100) -> dict[str, str]:
        return found(chosen, rows_of(count, choices=lambda at: ["w", "x", "y", "z"], right=right), SOUND)

    message = biased(lambda at: 0 if at % 4 else 1)["option-order"]
    assert (
        message
        == "option 1 of 4 is right in 75% of 100 rows (75 in place 1, 25 in place 2, 0 in place 3, 0 in place 4)"
    )
    assert biased(lambda at: at % 4) == {}
    assert biased(lambda at: 0, count=20) == {}
    assert found(make_card(), rows_of(label=lambda at: 0), SOUND) == {}


def test_columns_that_hold_the_answers_word() -> None:
    told = rows_of(passage=lambda at: f"House {at}: {'no' if at % 2 else 'yes'}")
    assert "answer-in-fields" in found(make_card(), told, SOUND)
    both = rows_of(passage=lambda at: f"House {at}: yes and no")
    assert found(make_card(), both, SOUND) == {}


def test_marks_that_fields_bring_themselves() -> None:
    marked = rows_of(question=lambda at: f"Which colour has house {at}?")
    assert found(make_card(), marked, SOUND) == {
        "doubled-punctuation": "question ends in '?', and the template adds another in 40 of 40 rows"
    }
    quoted = '{{ passage }}\nThe question "{{ question }}" is asked.\n{{ options }}'
    assert found(make_card(), marked, quoted) == {}


def test_templates_that_render_alike_are_duplicates() -> None:
    other = "{% if passage %}{{ passage }}{% endif %}\n{{ fields.question }}?\n{{ options }}"
    assert set(found(make_card(), rows_of(), SOUND, other)) == {"duplicate"}


# -- our own collections ----------------------------------------------------------------------------------------------


def told(findings: Sequence[Finding]) -> list[str]:
    return [f"{one.collection} {one.task} {one.template} {one.rule}: {one.message}" for one in findings]


@pytest.mark.parametrize("name", collections())
def test_our_own_collections_break_no_static_rule(name: str) -> None:
    assert told(list(lint_collection(Collection(name), Cards().all()))) == []


@pytest.mark.parametrize("name", collections())
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
    assert told(list(lint_collection(Collection(name), real, rows, others=False))) == []
