"""Cards of commonsense tasks, applied to rows in the hub's format: the text of each class id."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Example, ExampleMaker
from metalm_cli.tasks.registry import Cards
from metalm_cli.templates import TemplateCollection, render

CARDS = Cards()

HELLASWAG = {
    "ind": 24,
    "activity_label": "Home and Garden",
    "ctx_a": "[header] How to store bulbs [title] Dig them up. [step] Wait for the leaves to wilt.",
    "ctx_b": "",
    "ctx": "[header] How to store bulbs [title] Dig them up. [step] Wait for the leaves to wilt.",
    "endings": [
        "Eat them. [title] Dry them. [step] A shed will do.",
        "[substeps] Use a fork. Shake off the soil.",
        "Lift them with a fork.",
        "Paint them [title] Sell them.",
    ],
    "source_id": "wikihow~1",
    "split": "train",
    "split_type": "indomain",
    "label": "2",
}
COPA = {"premise": "The lamp went out.", "choice1": "The bulb broke.", "choice2": "It rained.", "question": "cause"}
STORY = {
    "story_id": "138d5bfb",
    "input_sentence_1": "Rick lost a tooth.",
    "input_sentence_2": "He put it under his pillow. ",
    "input_sentence_3": "He fell asleep.",
    "input_sentence_4": "In the morning he looked.",
    "sentence_quiz1": "The tooth had grown back.",
    "sentence_quiz2": "He found a coin.",
    "answer_right_ending": 2,
}
COSMOS = {
    "id": "3Q9SPIIRWJKVQ8244310E8TUS6YWAC##34V1S5K3GTZMDUBNBIGY93FLDOB690",
    "context": "We packed the tent and left at dawn .",
    "question": "Why did they leave so early ?",
    "answer0": "None of the above choices .",
    "answer1": "To hike before the heat .",
    "answer2": "To sleep longer .",
    "answer3": "To catch the night train .",
    "label": 1,
}


def read(task: str, row: dict[str, Any]) -> Example:
    """Make the example of a row."""
    example = ExampleMaker(CARDS[task])(row, 0, lambda: "a row of the test")
    assert example is not None
    return example


def test_hellaswag_numbers_are_texts_and_headings_become_running_text() -> None:
    example = read("hellaswag", HELLASWAG)
    assert example.fields == {
        "topic": "Home and Garden",
        "context": "How to store bulbs. Dig them up. Wait for the leaves to wilt.",
    }
    assert example.options == (
        "Eat them. Dry them. A shed will do.",
        "Use a fork. Shake off the soil.",
        "Lift them with a fork.",
        "Paint them. Sell them.",
    )
    assert (example.label, example.answers) == (2, ("Lift them with a fork.",))


def test_hellaswag_without_a_label_is_an_error_and_not_the_first_ending() -> None:
    with pytest.raises(MetalmError, match="does not match the card") as caught:
        read("hellaswag", HELLASWAG | {"label": ""})
    assert "got -1" in caught.value.why


@pytest.mark.parametrize(("label", "answer"), [(0, "With a ladder."), (1, "With a spoon.")])
def test_piqa_label_0_is_the_first_solution(label: int, answer: str) -> None:
    row = {"goal": "Reach the roof.", "sol1": "With a ladder.", "sol2": "With a spoon.", "label": label}
    example = read("piqa", row)
    assert example.fields == {"goal": "Reach the roof."}
    assert example.options == ("With a ladder.", "With a spoon.")
    assert example.answers == (answer,)


def test_copa_label_0_is_the_first_choice() -> None:
    example = read("copa", COPA | {"idx": 3, "label": 0})
    assert example.fields == {"premise": "The lamp went out.", "question": "cause"}
    assert example.options == ("The bulb broke.", "It rained.")
    assert example.answers == ("The bulb broke.",)


@pytest.mark.parametrize(
    ("question", "words"), [("cause", "Why did this happen?"), ("effect", "What happened as a re")]
)
def test_copa_templates_contain_the_rows_question(question: str, words: str) -> None:
    example = read("copa", COPA | {"question": question, "idx": 3, "label": 0})
    for template in TemplateCollection("flan").templates_for(CARDS["copa"]):
        text = render(example, template).input
        if template.name == "why-or-what-then":
            assert words in text
        if not template.inverted:
            assert ("cause" in text) <= (question == "cause")
            assert ("effect" in text) <= (question == "effect")


def test_story_cloze_counts_endings_from_one() -> None:
    example = read("story_cloze", STORY)
    assert example.fields == {
        "story": "Rick lost a tooth. He put it under his pillow. He fell asleep. In the morning he looked."
    }
    assert example.options == ("The tooth had grown back.", "He found a coin.")
    assert (example.label, example.answers) == (1, ("He found a coin.",))


def test_story_cloze_holds_out_the_end_of_its_labelled_split() -> None:
    card = CARDS["story_cloze"]
    parts = [card.split(role, local=False) for role in ("train", "validation")]
    assert [part.name for part in parts if part] == ["validation", "validation"]
    train, validation = (list(part.rows(1871)) for part in parts if part)
    assert train + validation == list(range(1871))
    assert len(validation) == 200


def test_cosmos_qa_label_counts_its_four_answers() -> None:
    example = read("cosmos_qa", COSMOS)
    assert example.fields == {
        "context": "We packed the tent and left at dawn .",
        "question": "Why did they leave so early ?",
    }
    assert example.options[0] == "None of the above choices ."
    assert (example.label, example.answers) == (1, ("To hike before the heat .",))
    assert CARDS["cosmos_qa"].tags == ["reading_with_commonsense"]


@pytest.mark.parametrize(
    ("task", "core", "count"),
    [
        ("hellaswag", True, 10),
        ("piqa", True, 10),
        ("copa", True, 10),
        ("story_cloze", False, 10),
        ("cosmos_qa", False, 3),
    ],
)
def test_as_many_templates_as_promised(task: str, core: bool, count: int) -> None:
    card = CARDS[task]
    templates = TemplateCollection("flan").templates_for(card)
    inverted = [template for template in templates if template.inverted]
    assert card.core is core
    assert len(templates) == count
    assert len(inverted) <= (3 if count == 10 else 0)
    assert all(
        template.input is not None and template.input.endswith("\n{{ options }}")
        for template in templates
        if not template.inverted
    )
