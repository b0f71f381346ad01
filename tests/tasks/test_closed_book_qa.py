"""Cards of closed-book question answering, applied to rows in the hub's format."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.tasks import Example, ExampleMaker
from metalm_cli.tasks.registry import Cards
from metalm_cli.templates import TemplateCollection

CARDS = Cards()


def read(task: str, row: dict[str, Any]) -> Example:
    """Make the example of a row."""
    example = ExampleMaker(CARDS[task])(row, 0, lambda: "a row of the test")
    assert example is not None
    return example


@pytest.mark.parametrize("task", ["arc_easy", "arc_challenge"])
@pytest.mark.parametrize(
    ("labels", "key", "answer"),
    [
        (["A", "B", "C", "D"], "C", "Mars"),
        (["1", "2", "3", "4"], "4", "Pluto"),
        (["A", "B", "C"], "A", "Venus"),
    ],
)
def test_arc_keys_are_letters_or_figures(task: str, labels: list[str], key: str, answer: str) -> None:
    texts = ["Venus", "Io", "Mars", "Pluto"][: len(labels)]
    row = {"id": "x", "question": "Which is it?", "choices": {"text": texts, "label": labels}, "answerKey": key}
    example = read(task, row)
    assert example.fields == {"question": "Which is it?"}
    assert example.options == tuple(texts)
    assert example.answers == (answer,)


def test_arc_sets_share_their_templates() -> None:
    flan = TemplateCollection("flan")
    assert flan.path_for(CARDS["arc_easy"]) == flan.path_for(CARDS["arc_challenge"])
    assert (CARDS["arc_easy"].core, CARDS["arc_challenge"].core) == (True, False)


def test_nq_open_questions_end_in_a_mark_and_every_answer_counts() -> None:
    example = read("nq_open", {"question": "who built the old mill", "answer": ["John Miller", "Miller"]})
    assert example.fields == {"question": "who built the old mill?"}
    assert example.answers == ("John Miller", "Miller")
    assert example.options == ()


def test_trivia_qa_takes_the_value_then_its_aliases_once() -> None:
    answer = {
        "aliases": ["Jove", "Jupiter", " ", "JUPITER", "The planet Jupiter"],
        "normalized_aliases": ["jove", "jupiter", "planet jupiter"],
        "matched_wiki_entity_name": "",
        "normalized_matched_wiki_entity_name": "",
        "normalized_value": "jupiter",
        "type": "WikipediaEntity",
        "value": "Jupiter",
    }
    row = {"question": "Which is the largest planet?", "question_id": "tc_1", "question_source": "", "answer": answer}
    example = read("trivia_qa", row)
    assert example.fields == {"question": "Which is the largest planet?"}
    assert example.answers == ("Jupiter", "Jove", "JUPITER", "The planet Jupiter")


def test_mmlu_is_for_evaluation_with_demonstrations_of_its_own() -> None:
    row = {"question": "What is 6 times 7?", "subject": "elementary_mathematics", "choices": ["36", "42", "48", "67"]}
    example = read("mmlu", row | {"answer": 1})
    assert example.fields == {"subject": "elementary mathematics", "question": "What is 6 times 7?"}
    assert example.options == ("36", "42", "48", "67")
    assert example.answers == ("42",)
    card = CARDS["mmlu"]
    assert card.usage == "eval"
    assert card.demonstrations in card.splits


@pytest.mark.parametrize(
    ("task", "core", "count", "choice"),
    [
        ("arc_easy", True, 10, True),
        ("arc_challenge", False, 10, True),
        ("nq_open", True, 10, False),
        ("trivia_qa", False, 3, False),
        ("mmlu", False, 3, True),
    ],
)
def test_as_many_templates_as_promised(task: str, core: bool, count: int, choice: bool) -> None:
    card = CARDS[task]
    templates = TemplateCollection("flan").templates_for(card)
    scored = [template for template in templates if not template.inverted]
    assert card.core is core
    assert len(templates) == count
    assert len(templates) - len(scored) <= (3 if count == 10 else 0)
    assert all(((template.input or "").splitlines()[-1] == "{{ options }}") is choice for template in scored)
