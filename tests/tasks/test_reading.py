"""Cards of reading comprehension, applied to rows in the hub's format: passages, answers and class ids."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.tasks import Example, ExampleMaker
from metalm_cli.tasks.registry import Cards
from metalm_cli.templates import TemplateCollection, render

CARDS = Cards()

PASSAGE = "The mill was built in 1851 and burnt down in 1870."
SQUAD = {"id": "1", "title": "Old_Mill", "context": PASSAGE, "question": "When was the mill built?"}
RECORD = {
    "passage": "Ann Lee won the race in Oslo.\n@highlight\nBob Ray came second\n@highlight\nLee had won before",
    "query": "It was the second title for @placeholder.",
    "entities": ["Oslo", "Ann Lee", "Lee", "Bob Ray"],
    "entity_spans": {"text": ["Ann Lee"], "start": [0], "end": [7]},
    "answers": ["Ann Lee", "Lee"],
    "idx": {"passage": 0, "query": 0},
}


def make_example(task: str, row: dict[str, Any]) -> Example | None:
    """Make the example of a row, or None if the card leaves it out."""
    return ExampleMaker(CARDS[task])(row, 0, lambda: "a row of the test")


def read(task: str, row: dict[str, Any]) -> Example:
    """Make the example of a row."""
    example = make_example(task, row)
    assert example is not None
    return example


def test_drop_takes_every_annotators_answer_and_trains_the_first() -> None:
    answers = {"spans": ["  19", "19 years"], "types": ["number", "span"]}
    row = {"section_id": "s", "query_id": "q", "passage": PASSAGE, "question": "How long did it stand?"}
    example = read("drop", row | {"answers_spans": answers})
    assert example.fields == {"passage": PASSAGE, "question": "How long did it stand?"}
    assert example.answers == ("19", "19 years")
    assert example.options == ()


@pytest.mark.parametrize("title", ["Old_Mill", ""])
def test_squad_needs_no_title(title: str) -> None:
    example = read("squad", SQUAD | {"title": title, "answers": {"text": ["1851"], "answer_start": [25]}})
    assert example.fields == {"context": PASSAGE, "question": "When was the mill built?"}
    assert example.answers == ("1851",)


@pytest.mark.parametrize(("texts", "answers"), [(["1851", "in 1851"], ("1851", "in 1851")), ([], ("unanswerable",))])
def test_squad_v2_marks_unanswerable_questions(texts: list[str], answers: tuple[str, ...]) -> None:
    example = read("squad_v2", SQUAD | {"answers": {"text": texts, "answer_start": [25] * len(texts)}})
    assert example.fields == {"title": "Old Mill", "context": PASSAGE, "question": "When was the mill built?"}
    assert example.answers == answers


def test_every_scored_template_of_squad_v2_names_the_way_out() -> None:
    example = read("squad_v2", SQUAD | {"answers": {"text": ["1851"], "answer_start": [25]}})
    for template in TemplateCollection("flan").templates_for(CARDS["squad_v2"]):
        assert ('"unanswerable"' in render(example, template).input) is not template.inverted


def test_openbookqa_counts_by_its_letters() -> None:
    row = {
        "id": "7-980",
        "question_stem": "Ice that is heated",
        "choices": {"text": ["melts", "sings", "grows", "rusts"], "label": ["B", "A", "C", "D"]},
        "answerKey": "A",
    }
    example = read("openbookqa", row)
    assert example.fields == {"question": "Ice that is heated"}
    assert example.options == ("melts", "sings", "grows", "rusts")
    assert (example.label, example.answers) == (1, ("sings",))


@pytest.mark.parametrize(("label", "word"), [(0, "no"), (1, "yes"), (False, "no"), ("True", "yes")])
def test_boolq_1_is_yes_and_questions_end_in_one_mark(label: Any, word: str) -> None:
    row = {"passage": f"Mill -- {PASSAGE}", "question": "did the mill burn down", "idx": 0, "label": label}
    example = read("boolq", row)
    assert example.fields == {"passage": f"Mill -- {PASSAGE}", "question": "did the mill burn down?"}
    assert example.answers == (word,)
    assert example.options == ("no", "yes")
    assert read("boolq", row | {"question": "did it burn ?"}).fields["question"] == "did it burn?"


@pytest.mark.parametrize(("label", "word"), [(0, "no"), (1, "yes")])
def test_multirc_asks_about_one_candidate_at_a_time(label: int, word: str) -> None:
    row = {
        "paragraph": f"<b>Sent 1: </b>{PASSAGE}<br>Nobody was hurt.",
        "question": "What happened in 1870?",
        "answer": "There was a fire",
        "idx": {"paragraph": 0, "question": 0, "answer": 1},
        "label": label,
    }
    example = read("multirc", row)
    assert example.fields == {
        "passage": f"Sent 1: {PASSAGE} Nobody was hurt.",
        "question": "What happened in 1870?",
        "candidate": "There was a fire",
    }
    assert example.options == ("no", "yes")
    assert example.answers == (word,)


def test_record_offers_the_names_and_takes_every_mention() -> None:
    example = read("record", RECORD)
    assert example.fields == {
        "passage": "Ann Lee won the race in Oslo.\nBob Ray came second\nLee had won before",
        "query": "It was the second title for @placeholder.",
    }
    assert example.options == ("Oslo", "Ann Lee", "Lee", "Bob Ray")
    assert (example.label, example.answers) == (1, ("Ann Lee", "Lee"))
    assert CARDS["record"].tags == ["reading_with_commonsense"]


@pytest.mark.parametrize("change", [{"answers": []}, {"entities": ["Ann Lee"], "answers": ["Ann Lee"]}])
def test_record_leaves_out_what_has_no_label_or_no_choice(change: dict[str, Any]) -> None:
    assert make_example("record", RECORD | change) is None


@pytest.mark.parametrize(
    ("task", "core", "count", "choice"),
    [
        ("drop", True, 10, False),
        ("squad", True, 10, False),
        ("squad_v2", True, 10, False),
        ("openbookqa", True, 10, True),
        ("boolq", True, 10, True),
        ("multirc", False, 3, True),
        ("record", False, 3, True),
    ],
)
def test_as_many_templates_as_promised(task: str, core: bool, count: int, choice: bool) -> None:
    card = CARDS[task]
    templates = TemplateCollection("flan").templates_for(card)
    scored = [template for template in templates if not template.inverted]
    assert card.core is core
    assert len(templates) == count
    assert len(templates) - len(scored) <= (3 if count == 10 else 0)
    assert all(("{{ options }}" in (template.input or "").splitlines()[-1]) is choice for template in scored)
    if card.long_inputs is not None:
        assert all(f"{{{{ {card.long_inputs.field} }}}}" in (template.input or "") for template in scored)
        assert all(template.target != f"{{{{ {card.long_inputs.field} }}}}" for template in templates)
