"""The template collection ``t5``: T5's prefixes, and numbered choices for rows with their own options."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.tasks import ExampleMaker
from metalm_cli.tasks.registry import Cards
from metalm_cli.templates.render import PromptStyle, render
from metalm_cli.templates.template import TemplateCollection

CARDS, T5 = Cards(), TemplateCollection("t5")


def prompt(task: str, row: dict[str, Any], style: PromptStyle = PromptStyle()) -> str:  # noqa: B008 (frozen)
    """Render a row with T5's template."""
    example = ExampleMaker(CARDS[task])(row, 0, lambda: "a row of the test")
    assert example is not None
    return render(example, T5.templates_for(CARDS[task])[0], style).input


COPA = {"premise": "It rained.", "question": "effect", "choice1": "It got wet.", "choice2": "It burnt.", "label": 0}

PREFIXES = [
    ("cola", {"sentence": "He runs.", "label": 1}, "cola sentence: He runs."),
    ("rte", {"sentence1": "A.", "sentence2": "B.", "label": 0}, "rte sentence1: A. sentence2: B."),
    ("mnli", {"premise": "A.", "hypothesis": "B.", "label": 0}, "mnli hypothesis: B. premise: A."),
    (
        "wic",
        {"word": "go", "sentence1": "Go.", "sentence2": "It goes.", "label": 1},
        "wic sentence1: Go. sentence2: It goes. word: go",
    ),
    ("copa", COPA, "copa choice1: It got wet. choice2: It burnt. premise: It rained. question: effect"),
    ("xsum", {"document": "It rained.", "summary": "Rain."}, "summarize: It rained."),
    (
        "squad",
        {"context": "Rome is old.", "question": "What is old?", "answers": {"text": ["Rome"], "answer_start": [0]}},
        "question: What is old? context: Rome is old.",
    ),
    (
        "arc_easy",
        {"question": "Which?", "choices": {"text": ["this", "that"], "label": ["A", "B"]}, "answerKey": "B"},
        "arc_easy question: Which? choice1: this choice2: that",
    ),
]


@pytest.mark.parametrize(("task", "row", "expected"), PREFIXES, ids=[row[0] for row in PREFIXES])
def test_prefixes_are_those_of_t5(task: str, row: dict[str, Any], expected: str) -> None:
    assert prompt(task, row) == expected


def test_choices_are_left_out_where_the_style_lists_none() -> None:
    assert prompt("copa", COPA, PromptStyle(options=False)) == "copa premise: It rained. question: effect"


def test_every_card_has_templates_that_read_its_fields() -> None:
    for card in CARDS.select(["core", "non_core"]):
        templates = T5.templates_for(card)
        own_choices = card.answer.options is not None
        assert templates[0].lists_options == own_choices, f"{card.name} lists choices: {templates[0].lists_options}"
