"""Cards of miscellaneous tasks, applied to rows in the hub's format: class ids, answers and solutions."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Example, ExampleMaker
from metalm_cli.tasks.registry import Cards

CARDS = Cards()


def read(task: str, row: dict[str, Any]) -> Example:
    """Make the example of a row."""
    example = ExampleMaker(CARDS[task])(row, 0, lambda: "a row of the test")
    assert example is not None
    return example


@pytest.mark.parametrize(
    ("sentence", "label", "word"),
    [("The sailors rode the breeze.", 1, "acceptable"), ("They drank the pub.", 0, "unacceptable")],
)
def test_cola_names_what_speakers_accept(sentence: str, label: int, word: str) -> None:
    example = read("cola", {"sentence": sentence, "label": label, "idx": 0})
    assert example.fields == {"sentence": sentence}
    assert example.options == ("unacceptable", "acceptable")
    assert example.answers == (word,)


@pytest.mark.parametrize(("label", "word"), [(0, "different meanings"), (True, "the same meaning")])
def test_wic_says_whether_two_uses_agree(label: int, word: str) -> None:
    row = {"word": "board", "sentence1": "Room and board.", "sentence2": "He nailed boards.", "idx": 1, "label": label}
    example = read("wic", row)
    assert list(example.fields) == ["sentence1", "sentence2", "word"]
    assert example.answers == (word,)
    assert example.options == ("different meanings", "the same meaning")


TREC = [
    ("What is the full form of .com ?", 0, "ABBR", "abbreviation"),
    ("What films featured the character Popeye Doyle ?", 1, "ENTY", "entity"),
    ("How did serfdom develop in and then leave Russia ?", 2, "DESC", "description"),
    ("Who was the first governor of Alaska ?", 3, "HUM", "human"),
    ("What county is Modesto , California in ?", 4, "LOC", "location"),
    ("How far is it from Denver to Aspen ?", 5, "NUM", "numeric"),
]


@pytest.mark.parametrize(("question", "label", "name", "word"), TREC)
def test_trec_maps_the_ids_of_the_hub_by_name(question: str, label: int, name: str, word: str) -> None:
    """Copies of the data set elsewhere order the classes differently (0 is a description there)."""
    for value in (label, name):
        example = read("trec", {"text": question, "coarse_label": value, "fine_label": 0})
        assert example.fields == {"question": question}
        assert example.answers == (word,)
        assert example.label == label


def test_trec_rejects_an_unlabelled_row() -> None:
    with pytest.raises(MetalmError, match="does not match the card trec"):
        read("trec", {"text": "Why ?", "coarse_label": -1})


@pytest.mark.parametrize(("label", "word"), [(0, "World"), (1, "Sports"), (2, "Business"), (3, "Science/Tech")])
def test_ag_news_names_its_topics(label: int, word: str) -> None:
    example = read("ag_news", {"text": "Stocks fell on Monday.", "label": label})
    assert example.answers == (word,)
    assert example.options == ("World", "Sports", "Business", "Science/Tech")


def test_bbh_reads_files_with_the_sub_task_and_the_hub_without() -> None:
    row = {"input": "not True or ( False and True ) is", "target": "False"}
    local_example = read("bbh", {"task": "boolean_expressions", **row})
    assert local_example.fields == {"kind": "boolean expressions", "question": row["input"]}
    assert local_example.answers == ("False",)
    assert local_example.options == ()
    assert read("bbh", row).fields["kind"] == "reasoning"


def test_gsm8k_splits_the_solution_from_the_number() -> None:
    solution = "He has 500*2=<<500*2=1000>>1000 and 1/2=<<1/2=.5>>.5 more.\nThat is $<<1000*2=2000>>2,000.\n#### 2,000"
    example = read("gsm8k", {"question": "How much?", "answer": solution})
    assert example.answers == ("2000",)
    assert example.rationale == "He has 500*2=1000 and 1/2=.5 more.\nThat is $2,000."


def test_splits_without_a_validation_set_take_the_last_rows_of_train() -> None:
    for task in ("trec", "ag_news", "gsm8k"):
        card = CARDS[task]
        train, validation = card.split("train", local=True), card.split("validation", local=True)
        assert train is not None
        assert validation is not None
        assert train.rows(1000) == range(800)
        assert validation.rows(1000) == range(800, 1000)


def test_core_cards_are_those_of_the_paper() -> None:
    assert [card.name for card in CARDS.select(["misc"])] == ["cola", "trec", "wic"]
    assert [card.name for card in CARDS.select(["struct_to_text"])] == ["common_gen", "e2e_nlg"]
    assert [card.name for card in CARDS.select(["summarization"])] == ["aeslc", "samsum", "xsum"]
    assert CARDS["bbh"].usage == "eval"
