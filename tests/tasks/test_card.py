"""Errors of invalid cards and rows, with location and remedy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from card_fixtures import CLASSES_BODY, OPTIONS_BODY, read_card_file, sentence_pair, write_card, write_rows
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Example, ExampleMaker, Split

QUESTION_ROW = {"question": "Which?", "choices": ["a", "b"], "answer": "a"}


def reading_error(folder: Path, body: str, *rows: Any) -> MetalmError:
    """Return the error that reading all rows raises."""
    path = write_card(folder, body)
    write_rows(folder / "rows.jsonl", rows)
    examples = open_examples(read_card_file(path), "train", cache=folder / "cache", card_path=path)
    with pytest.raises(MetalmError) as caught:
        list(examples)
    return caught.value


INDEX_BODY = OPTIONS_BODY.replace("text: answer", "index: answer")
STARS_BODY = CLASSES_BODY.replace("[entailment, not_entailment]", "['1', '2', '3']").replace(
    '{entailment: "yes", not_entailment: "no"}', "{'1': bad, '2': fine, '3': good}"
)
OPEN_BODY = OPTIONS_BODY.replace("options: choices, ", "")


@pytest.mark.parametrize(
    ("body", "rows", "why"),
    [
        (
            CLASSES_BODY.replace("premise: premise", "premise: text"),
            [sentence_pair()],
            "fields.premise: 'text' is undefined",
        ),
        (
            CLASSES_BODY,
            [sentence_pair(), sentence_pair(-1)],
            "got -1, expected 0 to 1 or one of entailment, not_entailment; -1 marks rows",
        ),
        (
            CLASSES_BODY,
            [sentence_pair(1), sentence_pair("entailment"), sentence_pair(2)],
            "answer.label: got 2, expected 0 to 1",
        ),
        (CLASSES_BODY, [sentence_pair(), sentence_pair("maybe")], "answer.label: got 'maybe'"),
        (CLASSES_BODY, [sentence_pair(None)], "answer.label: got None"),
        (CLASSES_BODY, [sentence_pair(0), sentence_pair(True)], "got True, expected 0 to 1 or one of"),
        (CLASSES_BODY, [sentence_pair("1")], "got '1', expected 0 to 1 or one of entailment, not_entailment; the col"),
        (STARS_BODY, [sentence_pair(1), sentence_pair(0)], "got 0, expected one of 1, 2, 3"),
        (OPEN_BODY, ['{"question": NaN, "answer": "a"}'], "fields.question: got None, expected text"),
        (
            OPEN_BODY,
            ['{"question": "Low?", "answer": -Infinity}'],
            "answer.text: got -inf, expected text or a finite number",
        ),
        (OPEN_BODY, [{**QUESTION_ROW, "question": "\u200b\ufeff \n"}], "fields.question: the text is empty"),
        (CLASSES_BODY, [sentence_pair(), sentence_pair(premise="  ")], "fields.premise: the text is empty"),
        (
            CLASSES_BODY,
            [sentence_pair(), {**sentence_pair(), "premise": None}],
            "fields.premise: got None, expected text",
        ),
        (CLASSES_BODY, [sentence_pair(), ["a"]], "got list, expected an object with columns"),
        (OPTIONS_BODY, [QUESTION_ROW, {**QUESTION_ROW, "answer": "c"}], "the answer 'c' is not among the options a, b"),
        (
            OPTIONS_BODY,
            [QUESTION_ROW, {**QUESTION_ROW, "choices": ["a"]}],
            "answer.options: got 1, expected at least two",
        ),
        (OPTIONS_BODY, [QUESTION_ROW, {**QUESTION_ROW, "choices": ["a", ""]}], "answer.options: the text is empty"),
        (
            OPTIONS_BODY,
            [QUESTION_ROW, {**QUESTION_ROW, "choices": "ab"}],
            "answer.options: got 'ab', expected a non-empty list",
        ),
        (
            INDEX_BODY,
            [{**QUESTION_ROW, "answer": 1}, {**QUESTION_ROW, "answer": 2}],
            "answer.index: got 2, expected 0 to 1",
        ),
        (INDEX_BODY, [{**QUESTION_ROW, "answer": True}], "answer.index: got True, expected 0 to 1"),
        (OPEN_BODY, [QUESTION_ROW, {**QUESTION_ROW, "answer": []}], "answer.text: got [], expected a non-empty list"),
        (OPEN_BODY.replace("question: question", "question: 'choices[7]'"), [QUESTION_ROW], "fields.question: "),
    ],
)
def test_a_row_that_does_not_fit(tmp_path: Path, body: str, rows: list[Any], why: str) -> None:
    error = reading_error(tmp_path, body, *rows)
    assert error.what == "a row does not match the card mine"
    assert error.where == f"{tmp_path / 'rows.jsonl'}:{len(rows)}"
    assert why in error.why
    assert "metalm tasks check mine" in error.remedy
    assert int(error.exit_code) == 2


def test_a_missing_column_is_reported_with_the_existing_ones(tmp_path: Path) -> None:
    error = reading_error(tmp_path, CLASSES_BODY.replace("premise: premise", "premise: text"), sentence_pair())
    assert "the row's columns are premise, hypothesis, label" in error.why


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("premise: premise", "premise: '{{ a'"), ["is not a valid expression", "mine.yaml:9"]),
        (('entailment: "yes", ', ""), ["a word for each class name", "entailment"]),
        (("class_names: [entailment, not_entailment], ", ""), ["class names"]),
        (('entailment: "yes"', 'entailment: "no"'), ["two classes have the same word"]),
        (('entailment: "yes"', 'entailment: " no\\n"'), ["two classes have the same word"]),
        (('entailment: "yes"', 'entailment: " "'), ["the word of a class is empty"]),
        (("label: label, ", ""), ["expected label, index or text"]),
        (("premise: premise", "answer: premise"), ["reserved field name: answer"]),
        (("metric:", "long_inputs: {field: story}\nmetric:"), ["got story, expected one of premise, hypothesis"]),
        (("name: accuracy", "name: meteor"), ["mine.yaml:11", "meteor"]),
        (("name: accuracy", "name: accuracy, also: [f1, bertscore]"), ["bertscore"]),
        (("metric:", "demonstrations: dev\nmetric:"), ["got dev, expected a role of splits"]),
        (("metric:", "lang: en\nmetric:"), ["lang", "did you mean"]),
        (("metric:", "row_filter: 'a +'\nmetric:"), ["is not a valid expression"]),
    ],
)
def test_a_wrong_card(tmp_path: Path, change: tuple[str, str], words: list[str]) -> None:
    assert change[0] in CLASSES_BODY
    path = write_card(tmp_path, CLASSES_BODY.replace(change[0], change[1], 1))
    with pytest.raises(MetalmError) as caught:
        read_card_file(path)
    for word in words:
        assert word in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_error_of_a_card_without_rows_starts_with_the_message(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("file:")), encoding="utf-8")
    with pytest.raises(MetalmError) as caught:
        read_card_file(path)
    assert str(caught.value).startswith("expected one of hub, file and world, got none")


@pytest.mark.parametrize("word", ["yes ", " yes", "yes\\n"])
def test_words_of_classes_have_no_surrounding_spaces(tmp_path: Path, word: str) -> None:
    path = write_card(tmp_path, CLASSES_BODY.replace('entailment: "yes"', f'entailment: "{word}"'))
    write_rows(tmp_path / "rows.jsonl", [sentence_pair(label=0)])
    example = next(iter(open_examples(read_card_file(path), "train", cache=tmp_path / "cache", card_path=path)))
    assert (example.answers, example.options) == (("yes",), ("yes", "no"))


def test_a_card_has_its_files_name(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    other = path.rename(tmp_path / "other.yaml")
    with pytest.raises(MetalmError, match=r"mine has the file name other\.yaml"):
        read_card_file(other)


def test_a_card_reads_columns_whose_names_are_not_identifiers(tmp_path: Path) -> None:
    body = CLASSES_BODY.replace("premise: premise", "premise: 'row[\"My Premise\"]'")
    path = write_card(tmp_path, body)
    write_rows(tmp_path / "rows.jsonl", [{"My Premise": "p", "hypothesis": "h", "label": 1, "self": 3}])
    example = next(iter(open_examples(read_card_file(path), "train", cache=tmp_path / "cache", card_path=path)))
    assert (example.fields["premise"], example.answers) == ("p", ("no",))


def test_a_column_named_row_is_that_column(tmp_path: Path) -> None:
    path = write_card(tmp_path, CLASSES_BODY.replace("premise: premise", "premise: row"))
    write_rows(tmp_path / "rows.jsonl", [{"row": "seven", "hypothesis": "h", "label": 1}])
    example = next(iter(open_examples(read_card_file(path), "train", cache=tmp_path / "cache", card_path=path)))
    assert example.fields["premise"] == "seven"


@pytest.mark.parametrize(
    ("text", "rows"),
    [("train", range(10)), ("train[:-3]", range(7)), ("train[-3:]", range(7, 10)), ("train[2:4]", range(2, 4))],
)
def test_splits_are_slices(text: str, rows: range) -> None:
    assert Split.parse(text).rows(10) == rows


@pytest.mark.parametrize("text", ["", "train[3]", "train[1:2:3]", "../train", "a b", "train[:-3]x"])
def test_an_invalid_split_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected a split"):
        Split.parse(text)


def read_examples(folder: Path, body: str, rows: list[Any]) -> list[Example]:
    path = write_card(folder, body)
    write_rows(folder / "rows.jsonl", rows)
    examples = open_examples(read_card_file(path), "train", cache=folder / "cache", card_path=path)
    return list(examples)


def test_a_label_that_spells_a_class_name_is_that_class(tmp_path: Path) -> None:
    rows = [sentence_pair(label) for label in (1, "2", 3, 1)]
    answers = [example.answers[0] for example in read_examples(tmp_path, STARS_BODY, rows)]
    assert answers == ["bad", "fine", "good", "bad"]


@pytest.mark.parametrize("names", [("true", "false"), ("False", "True"), ("No", "yes")])
def test_booleans_are_classes_by_name(tmp_path: Path, names: tuple[str, str]) -> None:
    body = CLASSES_BODY.replace("not_entailment", f"'{names[1]}'").replace("entailment", f"'{names[0]}'")
    rows = [sentence_pair(label) for label in (True, False)]
    labels = [names[example.label or 0].lower() for example in read_examples(tmp_path, body, rows)]
    assert [label in ("true", "yes") for label in labels] == [True, False]


def test_declared_class_ids_are_ids_even_if_they_spell_other_names(tmp_path: Path) -> None:
    card = read_card_file(write_card(tmp_path, STARS_BODY))
    make_example = ExampleMaker(card, label_ids=True)
    example = pickle.loads(pickle.dumps(make_example))(sentence_pair(1), 0, lambda: "")
    assert example is not None
    assert example.answers == ("fine",)


def test_numbers_keep_their_spelling_and_half_characters_are_replaced(tmp_path: Path) -> None:
    answers = ["1.10", "1e23", "-0", "100000000000000000000000.0", "12"]
    rows = [f'{{"question": "How much?", "answer": {answer}}}' for answer in answers]
    rows.append('{"question": "Half of \\ud83d?", "answer": "\\ud83d\\ude00"}')
    examples = read_examples(tmp_path, OPEN_BODY, rows)
    assert [example.answers[0] for example in examples] == [*answers, "\U0001f600"]
    assert examples[-1].fields["question"] == "Half of \ufffd?"
    assert str(pickle.loads(pickle.dumps(examples))[0].raw["answer"]) == "1.10"


def test_a_key_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetalmError) as caught:
        read_examples(tmp_path, OPEN_BODY, [QUESTION_ROW, '{"question": "a", "answer": "right", "answer": "wrong"}'])
    assert caught.value.what == "an object has the same key twice"
    assert caught.value.where == f"{tmp_path / 'rows.jsonl'}:2"
    assert "'answer'" in caught.value.why
