"""Drafted cards: roles of columns; every draft is a valid card that reads its rows."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.task_metrics import metric_value
from metalm_cli.tasks import Cards, Example
from metalm_cli.tasks.card_draft import CardDraft, draft_card
from metalm_cli.templates import TemplateCollection, render

WORDS = ("sun", "rain", "wind", "snow", "ice")


def draft_mine(rows: list[dict[str, Any]]) -> CardDraft:
    return draft_card(rows, name="mine", cluster="weather", file="../rows.jsonl", source="rows.jsonl")


def read_back(rows: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], list[Example]]:
    """Draft a card, read it and render all examples; return the card as plain values and the examples."""
    card_draft = draft_mine(rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "cards" / "templates").mkdir(parents=True)
    path = folder / "cards" / "mine.yaml"
    path.write_text(card_draft.card)
    (folder / "cards" / "templates" / "mine.yaml").write_text(card_draft.templates)
    card = Cards([folder / "cards"])["mine"]
    examples = [
        example for role in card.splits for example in open_examples(card, role, card_path=path, cache=folder / "cache")
    ]
    examples.sort(key=lambda example: example.row)
    template = TemplateCollection("flan").templates_for(card)[0]
    for example in examples:
        prompt = render(example, template)
        assert all(text in prompt.input for text in example.fields.values())
        assert all(f"- {option}" in prompt.input for option in example.options)
    return yaml.safe_load(card_draft.card), examples


def test_classes(tmp_path: Path) -> None:
    rows = [
        {"id": index, "text": f"{WORDS[index % 5]} {index}", "label": ("very_good", "bad")[index % 2]}
        for index in range(50)
    ]
    card, examples = read_back(rows, tmp_path)
    assert card["fields"] == {"text": "text"}
    assert card["answer"]["class_names"] == ["bad", "very_good"]
    assert card["metric"]["name"] == "accuracy"
    assert (card["splits"], card["validation_share"]) == ({"train": "rows"}, 0.05)
    assert [example.answers[0] for example in examples[:2]] == ["very good", "bad"]
    assert "long" not in card


@pytest.mark.parametrize(
    ("values", "names"),
    [([0, 1, 2], ["0", "1", "2"]), ([5, 1, 10], ["1", "5", "10"]), ([True, False], ["False", "True"])],
)
def test_classes_that_are_numbers(tmp_path: Path, values: list[Any], names: list[str]) -> None:
    rows = [{"text": f"t {index}", "label": values[index % len(values)]} for index in range(40)]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"]["class_names"] == names
    expected = {str(value): names.index(str(value)) for value in values}
    assert [example.label for example in examples] == [expected[str(row["label"])] for row in rows]


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    labels = [0, 1, -1, None, 0, 1, 1, 0]
    rows: list[dict[str, Any]] = [{"text": f"t {index}", "label": labels[index % 8]} for index in range(80)]
    del rows[8]["label"]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"]["class_names"] == ["0", "1"]
    assert len(examples) == sum(row.get("label") in (0, 1) for row in rows)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([-1, 1], ["-1", "1"]),
        (["-1", "1"], ["-1", "1"]),
        ([1, -1, 0], ["-1", "0", "1"]),
        ([-1, -2, 1], ["-2", "-1", "1"]),
    ],
)
def test_minus_one_is_a_class_beside_classes_as_frequent(tmp_path: Path, values: list[Any], names: list[str]) -> None:
    rows = [{"text": f"t {index}", "label": values[index % len(values)]} for index in range(48)]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"]["class_names"] == names
    assert [names[example.label] for example in examples] == [str(row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("summary", "language"),
    [
        ("Кошка спит на тёплой крыше дома весь день", "ru"),
        ("Die Katze schläft den ganzen Tag auf dem warmen Dach", "und"),
        ("The cat sleeps on the warm roof of the house all day", None),
    ],
)
def test_the_language_is_that_of_the_answers(tmp_path: Path, summary: str, language: str | None) -> None:
    rows = [{"article": f"Note {index}.", "summary": f"{summary}, {index} ."} for index in range(20)]
    card, examples = read_back(rows, tmp_path)
    assert (card["metric"]["name"], card.get("language")) == ("rougeL", language)
    assert metric_value("rougeL", [example.answers[0] for example in examples], examples).value == 100


@pytest.mark.parametrize(
    ("answer_of", "expected"),
    [
        (lambda index: index % 3, "index"),
        (lambda index: index % 3 + 1, "index"),
        (lambda index: str(index % 3), "index"),
        (lambda index: "ABC"[index % 3], "index"),
        (lambda index: "abc"[index % 3], "index"),
        (lambda index: f"{'xyz'[index % 3]}{index}", "text"),
    ],
)
@pytest.mark.parametrize("as_list", [True, False])
def test_options(tmp_path: Path, answer_of: Any, expected: str, as_list: bool) -> None:
    rows: list[dict[str, Any]] = []
    for index in range(30):
        options = [f"{letter}{index}" for letter in "xyz"]
        columns = (
            {"choices": options}
            if as_list
            else {f"choice{number}": option for number, option in enumerate(options, start=1)}
        )
        rows.append({"question": f"Which {index}?", **columns, "answer": answer_of(index)})
    card, examples = read_back(rows, tmp_path)
    assert expected in card["answer"]
    assert card["fields"] == {"question": "question"}
    for index, example in enumerate(examples):
        assert example.options == (f"x{index}", f"y{index}", f"z{index}")
        assert example.answers == (f"{'xyz'[index % 3]}{index}",)


def test_texts_and_the_long_field(tmp_path: Path) -> None:
    rows = [
        {
            "title": f"t {index}",
            "document": f"{index} " * 150,
            "summary": f"a summary of more than forty characters: {index}",
        }
        for index in range(20)
    ]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"] == {"text": "summary"}
    assert card["long_inputs"] == {"field": "document", "truncate": "tail"}
    assert card["metric"]["name"] == "rougeL"
    assert set(examples[0].fields) == {"title", "document"}


def test_references(tmp_path: Path) -> None:
    rows = [{"question": f"q {index}", "answers": [f"a {index}", f"b {index}"]} for index in range(20)]
    _, examples = read_back(rows, tmp_path)
    assert examples[3].answers == ("a 3", "b 3")


def test_column_names_that_are_not_identifiers(tmp_path: Path) -> None:
    rows = [
        {
            "Review Text": f'say "{index}"',
            "task": f"k {index}",
            "2nd": f"n {index}",
            "Is it {good}?": ("yes", "no")[index % 2],
        }
        for index in range(20)
    ]
    card, examples = read_back(rows, tmp_path)
    assert set(card["fields"]) == {"review_text", "the_task", "the_2nd"}
    assert examples[1].fields["review_text"] == 'say "1"'
    assert examples[1].answers == ("no",)


def test_unused_columns_are_reported() -> None:
    rows: list[dict[str, Any]] = [
        {
            "uid": f"u{index}",
            "text": f"t {index}",
            "same": "x",
            "meta": {"a": 1},
            "rare": "r" if index == 3 else "",
            "label": index % 2,
        }
        for index in range(30)
    ]
    notes = "\n".join(draft_mine(rows).notes)
    for word in ("uid: row id", "same: same value", "meta: nested"):
        assert f"not used: {word}" in notes
    assert "rare: optional, blank in 29 of 30 rows" in notes
    assert "replace the numbers by words" in notes


def test_a_field_that_is_sometimes_blank(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"t {index}", "context": f"c {index}", "label": "ab"[index % 2]} for index in range(40)
    ]
    rows[4]["context"], rows[5]["context"] = "", None
    del rows[6]["context"]
    card, examples = read_back(rows, tmp_path)
    assert card["optional_fields"] == ["context"]
    assert "row_filter" not in card
    template = TemplateCollection("flan").templates_for(Cards([tmp_path / "cards"])["mine"])[0]
    prompts = [render(example, template).input for example in examples]
    assert prompts[4:8] == [
        *(f"Text: t {index}\n\nOPTIONS:\n- a\n- b".replace("\n\n", "\n") for index in (4, 5, 6)),
        "Text: t 7\nContext: c 7\nOPTIONS:\n- a\n- b",
    ]


def test_a_row_needs_one_of_its_fields(tmp_path: Path) -> None:
    rows = [{"a": "x" * (n % 3 == 0), "b": f"b {n}" * (n % 3 == 1), "label": "uv"[n % 2]} for n in range(60)]
    card, examples = read_back(rows, tmp_path)
    assert card["optional_fields"] == ["a", "b"]
    assert len(examples) == 40


UUIDS = [str(uuid.UUID(int=n * 2**121 // 41 + 2**100)) for n in range(1, 41)]


@pytest.mark.parametrize(
    ("values", "is_left_out"),
    [
        (UUIDS, True),
        ([hashlib.sha1(str(n).encode()).hexdigest() for n in range(40)], True),
        ([f"train-{n:05}" for n in range(40)], True),
        ([str(n) for n in range(7, 47)], True),
        ([f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(40)], False),
        ([f"12.{n + 3}" for n in reversed(range(40))], False),
        (UUIDS[:20] * 2, False),
        ([f"Room {n}" for n in range(40)], False),
    ],
    ids=["uuid", "sha1", "numbered", "row number", "words", "numbers", "repeated", "with spaces"],
)
def test_identifiers_are_left_out(values: list[str], is_left_out: bool) -> None:
    rows = [{"key": key, "text": f"t {n} is fine", "label": "ab"[n % 2]} for n, key in enumerate(values)]
    drafted = draft_mine(rows)
    assert ("key" not in yaml.safe_load(drafted.card)["fields"]) == is_left_out
    assert any("not used: key" in note and values[0] in note for note in drafted.notes) == is_left_out


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_few_rows(tmp_path: Path, rows: int) -> None:
    _, examples = read_back([{"question": f"q {index}", "answer": f"a {index}"} for index in range(rows)], tmp_path)
    assert len(examples) == rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([{"only": "a"}, {"only": "b"}], "no column looks like"),
        ([{"a": {"b": 1}}], "no column looks like an answer"),
        ([["a", "b"]], "is not an object"),
    ],
)
def test_unusable_rows_are_an_error(rows: list[Any], words: str) -> None:
    with pytest.raises(MetalmError) as caught:
        draft_mine(rows)
    assert words in str(caught.value)


def test_awkward_texts_do_not_break_the_card(tmp_path: Path) -> None:
    awkward = ['a: "b"', "# c", "{{ d }}", "e\u2028f\u0007"]
    rows = [{"text": f"t {index}", "label": awkward[index % 4]} for index in range(40)]
    _, examples = read_back(rows, tmp_path)
    assert {example.answers[0] for example in examples} == set(awkward)


@pytest.mark.parametrize("name", ["not", "none", "true", "\U0001f600", "self", "a\\b", "in", "\u6587\u672c", "range"])
def test_any_name_of_a_column_makes_a_card_that_reads_it(tmp_path: Path, name: str) -> None:
    rows = [{name: f"t {index}", "label": ("a", "b")[index % 2]} for index in range(20)]
    _, examples = read_back(rows, tmp_path)
    assert list(examples[3].fields.values()) == ["t 3"]


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "number"])
def test_row_numbers_are_no_field(tmp_path: Path, name: str) -> None:
    rows = [{name: str(index), "text": f"t {index}", "label": ("a", "b")[index % 2]} for index in range(30)]
    card, _ = read_back(rows, tmp_path)
    assert list(card["fields"]) == ["text"]


@pytest.mark.parametrize("values", [["-1", "1"], [-1, 0, 1], ["-2", "-1", "0", "1", "2"]])
def test_numbers_around_zero_are_classes(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"text": f"t {index}", "label": values[index % len(values)]} for index in range(54)]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"]["class_names"] == [str(value) for value in values]
    assert len(examples) == 54
    assert any("-1 is a class" in note for note in draft_mine(rows).notes)


def test_where_counting_begins_is_said_if_the_rows_do_not_tell(tmp_path: Path) -> None:
    rows = [
        {"question": f"q {index}", "choices": [f"{letter}{index}" for letter in "xyz"], "answer": 1 + index % 2}
        for index in range(30)
    ]
    card_draft = draft_mine(rows)
    assert "CHECK: if the numbers begin at 1, write answer - 1" in card_draft.card
    assert any("or from 1" in note for note in card_draft.notes)
    read_back(rows, tmp_path)
