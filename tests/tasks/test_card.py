"""Wrong cards and rows that do not fit: one message each, with the place and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from card_fixtures import CLASSES, OPTIONS, pair, read, write_card, write_rows
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Split

ASKED = {"question": "Which?", "choices": ["a", "b"], "answer": "a"}


def first_wrong(folder: Path, body: str, *rows: Any) -> MetalmError:
    """The error that reading all rows ends in."""
    path = write_card(folder, body)
    write_rows(folder / "rows.jsonl", rows)
    opened = open_examples(read(path), "train", cache=folder / "cache", beside=path)
    with pytest.raises(MetalmError) as caught:
        list(opened)
    return caught.value


INDEX = OPTIONS.replace("text: answer", "index: answer")
OPEN = OPTIONS.replace("options: choices, ", "")


@pytest.mark.parametrize(
    ("body", "rows", "why"),
    [
        (CLASSES.replace("premise: premise", "premise: text"), [pair()], "fields.premise: 'text' is undefined"),
        (CLASSES, [pair(), pair(-1)], "got -1, expected 0 to 1 or one of entailment, not_entailment; -1 marks rows"),
        (CLASSES, [pair(1), pair(True), pair("entailment"), pair(2)], "answer.label: got 2, expected 0 to 1"),
        (CLASSES, [pair(), pair("maybe")], "answer.label: got 'maybe'"),
        (CLASSES, [pair(None)], "answer.label: got None"),
        (CLASSES, [pair(), pair(premise="  ")], "fields.premise: the text is empty"),
        (CLASSES, [pair(), {**pair(), "premise": None}], "fields.premise: got None, expected text"),
        (CLASSES, [pair(), ["a"]], "got list, expected an object with columns"),
        (OPTIONS, [ASKED, {**ASKED, "answer": "c"}], "the answer 'c' is not among the options a, b"),
        (OPTIONS, [ASKED, {**ASKED, "choices": ["a"]}], "answer.options: got 1, expected at least two"),
        (OPTIONS, [ASKED, {**ASKED, "choices": ["a", ""]}], "answer.options: the text is empty"),
        (OPTIONS, [ASKED, {**ASKED, "choices": "ab"}], "answer.options: got 'ab', expected a list"),
        (INDEX, [{**ASKED, "answer": 1}, {**ASKED, "answer": 2}], "answer.index: got 2, expected 0 to 1"),
        (INDEX, [{**ASKED, "answer": True}], "answer.index: got True, expected 0 to 1"),
        (OPEN, [ASKED, {**ASKED, "answer": []}], "answer.text: got [], expected a list of texts"),
        (OPEN.replace("question: question", "question: 'choices[7]'"), [ASKED], "fields.question: "),
    ],
)
def test_a_row_that_does_not_fit(tmp_path: Path, body: str, rows: list[Any], why: str) -> None:
    error = first_wrong(tmp_path, body, *rows)
    assert error.what == "a row does not fit the card of mine"
    assert error.where == f"{tmp_path / 'rows.jsonl'}:{len(rows)}"
    assert why in error.why
    assert "metalm tasks check mine" in error.remedy
    assert int(error.exit_code) == 2


def test_a_missing_column_is_said_with_those_that_are_there(tmp_path: Path) -> None:
    error = first_wrong(tmp_path, CLASSES.replace("premise: premise", "premise: text"), pair())
    assert "the row's columns are premise, hypothesis, label" in error.why


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("premise: premise", "premise: '{{ a'"), ["is no expression", "mine.yaml:8"]),
        (('entailment: "yes", ', ""), ["one word for each class name", "entailment"]),
        (("class_names: [entailment, not_entailment], ", ""), ["class names"]),
        (('entailment: "yes"', 'entailment: "no"'), ["two classes have the same word"]),
        (("label: label, ", ""), ["expected label, index or text"]),
        (("premise: premise", "answer: premise"), ["a field cannot be named answer"]),
        (("metric:", "long_inputs: {field: story}\nmetric:"), ["got story, expected one of premise, hypothesis"]),
        (("name: accuracy", "name: meteor"), ["mine.yaml:10", "meteor"]),
        (("name: accuracy", "name: accuracy, also: [f1, bertscore]"), ["bertscore"]),
        (("metric:", "demonstrations: dev\nmetric:"), ["got dev, expected one of the roles"]),
        (("metric:", "lang: en\nmetric:"), ["lang", "did you mean"]),
        (("metric:", "row_filter: 'a +'\nmetric:"), ["is no expression"]),
    ],
)
def test_a_wrong_card(tmp_path: Path, change: tuple[str, str], words: list[str]) -> None:
    assert change[0] in CLASSES
    path = write_card(tmp_path, CLASSES.replace(change[0], change[1], 1))
    with pytest.raises(MetalmError) as caught:
        read(path)
    for word in words:
        assert word in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_card_has_its_files_name(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    other = path.rename(tmp_path / "other.yaml")
    with pytest.raises(MetalmError, match=r"is named mine and its file other\.yaml"):
        read(other)


def test_a_card_reads_columns_whose_names_are_no_names(tmp_path: Path) -> None:
    body = CLASSES.replace("premise: premise", "premise: 'row[\"My Premise\"]'")
    path = write_card(tmp_path, body)
    write_rows(tmp_path / "rows.jsonl", [{"My Premise": "p", "hypothesis": "h", "label": 1, "self": 3}])
    found = next(iter(open_examples(read(path), "train", cache=tmp_path / "cache", beside=path)))
    assert (found.fields["premise"], found.answers) == ("p", ("no",))


def test_a_column_named_row_is_that_column(tmp_path: Path) -> None:
    path = write_card(tmp_path, CLASSES.replace("premise: premise", "premise: row"))
    write_rows(tmp_path / "rows.jsonl", [{"row": "seven", "hypothesis": "h", "label": 1}])
    found = next(iter(open_examples(read(path), "train", cache=tmp_path / "cache", beside=path)))
    assert found.fields["premise"] == "seven"


@pytest.mark.parametrize(
    ("text", "rows"),
    [("train", range(10)), ("train[:-3]", range(7)), ("train[-3:]", range(7, 10)), ("train[2:4]", range(2, 4))],
)
def test_splits_are_slices(text: str, rows: range) -> None:
    assert Split.parse(text).rows(10) == rows


@pytest.mark.parametrize("text", ["", "train[3]", "train[1:2:3]", "../train", "a b", "train[:-3]x"])
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(ValueError, match="expected a split"):
        Split.parse(text)
