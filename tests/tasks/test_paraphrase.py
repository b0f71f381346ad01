"""Cards of paraphrase tasks, applied to rows in the hub's format."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.tasks import ExampleMaker
from metalm_cli.tasks.registry import Cards

QUESTIONS = {"question1": "What is tea?", "question2": "What does tea mean?"}
SENTENCES = {"sentence1": "Tea is hot .", "sentence2": "Hot is the tea ."}


def read(task: str, row: dict[str, Any]) -> Any:
    return ExampleMaker(Cards()[task])(row, 0, lambda: "row 0")


@pytest.mark.parametrize(
    ("task", "row"), [("qqp", QUESTIONS), ("mrpc", {**SENTENCES, "idx": 0}), ("paws_wiki", {**SENTENCES, "id": 1})]
)
def test_the_same_is_yes(task: str, row: dict[str, Any]) -> None:
    for label, word in enumerate(("no", "yes")):
        example = read(task, {**row, "label": label})
        assert (example.answers, example.options, example.label) == ((word,), ("no", "yes"), label)
        assert all(row[name] == text for name, text in example.fields.items())
        assert len(example.fields) == 2


def test_a_pair_that_lacks_a_question_is_left_out() -> None:
    assert read("qqp", {**QUESTIONS, "question2": " ", "label": 0}) is None


@pytest.mark.parametrize(
    ("label", "answer"), [(0.0, "0.0"), (5.0, "5.0"), (1.75, "1.8"), (2.6670000553131104, "2.6"), (3.9, "4.0")]
)
def test_stsb_answers_are_numbers_in_steps_of_a_fifth(label: float, answer: str) -> None:
    example = read("stsb", {**SENTENCES, "label": label, "idx": 0})
    assert (example.answers, example.options) == ((answer,), ())
