"""Cards of coreference tasks, applied to rows in the hub's format."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import ExampleMaker
from metalm_cli.tasks.registry import Cards


def read(task: str, row: dict[str, Any]) -> Any:
    return ExampleMaker(Cards()[task])(row, 0, lambda: "row 0")


def test_dpr() -> None:
    row = {"sentence": "The bee stung Al, as it was angry.", "pronoun": "it", "candidates": ["The bee", "Al"]}
    example = read("dpr", {**row, "label": 0})
    assert example.fields == {"sentence": row["sentence"], "pronoun": "it"}
    assert (example.options, example.answers, example.label) == (("The bee", "Al"), ("The bee",), 0)
    assert read("dpr", {**row, "label": 1}).answers == ("Al",)


def test_winogrande_counts_its_options_from_one() -> None:
    row = {"sentence": "Ann thanked Eve, as _ had helped.", "option1": "Ann", "option2": "Eve"}
    example = read("winogrande", {**row, "answer": "2"})
    assert example.fields == {"sentence": row["sentence"]}
    assert (example.options, example.answers, example.label) == (("Ann", "Eve"), ("Eve",), 1)
    assert read("winogrande", {**row, "answer": "1"}).answers == ("Ann",)


@pytest.mark.parametrize("answer", ["", "3"])
def test_an_answer_that_is_not_an_option_is_an_error(answer: str) -> None:
    row = {"sentence": "Ann thanked Eve, as _ had helped.", "option1": "Ann", "option2": "Eve", "answer": answer}
    with pytest.raises(MetalmError, match=r"answer\.index"):
        read("winogrande", row)


def test_wsc_marks_the_pronoun_that_is_meant() -> None:
    row = {
        "text": "Ed met Al. He asked if he, Al, was well.",
        "span1_index": 2,
        "span1_text": "Al",
        "span2_index": 6,
        "span2_text": "he",
        "idx": 0,
    }
    example = read("wsc", {**row, "label": 1})
    assert example.fields == {"passage": "Ed met Al. He asked if *he*, Al, was well.", "mention": "Al", "pronoun": "he"}
    assert (example.options, example.answers) == (("no", "yes"), ("yes",))
    assert read("wsc", {**row, "label": 0}).answers == ("no",)
    assert read("wsc", {**row, "span2_index": 3, "span2_text": "He", "label": 0}).fields["passage"].count("*He*") == 1


def test_wsc273() -> None:
    row = {
        "text": "The cup fell on the dish and it broke.",
        "pronoun": "it",
        "pronoun_loc": 29,
        "quote": "it broke.",
        "quote_loc": 29,
        "options": ["the cup", "the dish"],
        "label": 1,
        "source": "",
    }
    example = read("wsc273", row)
    assert example.fields == {"text": row["text"], "pronoun": "it", "quote": "it broke"}
    assert (example.options, example.answers, example.label) == (("the cup", "the dish"), ("the dish",), 1)
    assert (Cards()["wsc273"].usage, Cards()["wsc273"].core) == ("eval", False)
