"""Drafted cards: what columns are taken for, and that every draft is a card that reads its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Cards, Example
from metalm_cli.tasks.card_draft import CardDraft, draft
from metalm_cli.templates import Collection, render

WORDS = ("sun", "rain", "wind", "snow", "ice")


def drafted(rows: list[dict[str, Any]]) -> CardDraft:
    return draft(rows, name="mine", cluster="weather", file="../rows.jsonl", source="rows.jsonl")


def read_back(rows: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], list[Example]]:
    """The card as plain values, and all examples; every one is rendered."""
    made = drafted(rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "cards" / "templates").mkdir(parents=True)
    path = folder / "cards" / "mine.yaml"
    path.write_text(made.card)
    (folder / "cards" / "templates" / "mine.yaml").write_text(made.templates)
    card = Cards([folder / "cards"])["mine"]
    found = [
        example for role in card.splits for example in open_examples(card, role, beside=path, cache=folder / "cache")
    ]
    template = Collection("flan").of(card)[0]
    for example in found:
        prompt = render(example, template)
        assert all(text in prompt.input for text in example.fields.values())
        assert all(f"- {option}" in prompt.input for option in example.options)
    return yaml.safe_load(made.card), found


def test_classes(tmp_path: Path) -> None:
    rows = [{"id": at, "text": f"{WORDS[at % 5]} {at}", "label": ("very_good", "bad")[at % 2]} for at in range(50)]
    card, examples = read_back(rows, tmp_path)
    assert card["fields"] == {"text": "text"}
    assert card["answer"]["class_names"] == ["bad", "very_good"]
    assert card["metric"]["name"] == "accuracy"
    assert card["splits"] == {"train": "rows[:-5]", "validation": "rows[-5:]"}
    assert [example.answers[0] for example in examples[:2]] == ["very good", "bad"]
    assert "long" not in card


@pytest.mark.parametrize(
    ("values", "names"),
    [([0, 1, 2], ["0", "1", "2"]), ([5, 1, 10], ["1", "5", "10"]), ([True, False], ["False", "True"])],
)
def test_classes_that_are_numbers(tmp_path: Path, values: list[Any], names: list[str]) -> None:
    rows = [{"text": f"t {at}", "label": values[at % len(values)]} for at in range(40)]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"]["class_names"] == names
    expected = {str(value): names.index(str(value)) for value in values}
    assert [example.label for example in examples] == [expected[str(row["label"])] for row in rows]


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    labels = [0, 1, -1, None, 0, 1, 1, 0]
    rows: list[dict[str, Any]] = [{"text": f"t {at}", "label": labels[at % 8]} for at in range(80)]
    del rows[8]["label"]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"]["class_names"] == ["0", "1"]
    assert len(examples) == sum(row.get("label") in (0, 1) for row in rows)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (lambda at: at % 3, "index"),
        (lambda at: at % 3 + 1, "index"),
        (lambda at: str(at % 3), "index"),
        (lambda at: "ABC"[at % 3], "index"),
        (lambda at: "abc"[at % 3], "index"),
        (lambda at: f"{'xyz'[at % 3]}{at}", "text"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_options(tmp_path: Path, which: Any, expected: str, listed: bool) -> None:
    rows: list[dict[str, Any]] = []
    for at in range(30):
        options = [f"{letter}{at}" for letter in "xyz"]
        given = {"choices": options} if listed else {f"choice{n}": one for n, one in enumerate(options, start=1)}
        rows.append({"question": f"Which {at}?", **given, "answer": which(at)})
    card, examples = read_back(rows, tmp_path)
    assert expected in card["answer"]
    assert card["fields"] == {"question": "question"}
    for at, example in enumerate(examples):
        assert example.options == (f"x{at}", f"y{at}", f"z{at}")
        assert example.answers == (f"{'xyz'[at % 3]}{at}",)


def test_texts_and_the_long_field(tmp_path: Path) -> None:
    rows = [
        {"title": f"t {at}", "document": f"{at} " * 150, "summary": f"a summary of more than forty characters: {at}"}
        for at in range(20)
    ]
    card, examples = read_back(rows, tmp_path)
    assert card["answer"] == {"text": "summary"}
    assert card["long_inputs"] == {"field": "document", "truncate": "tail"}
    assert card["metric"]["name"] == "rougeL"
    assert set(examples[0].fields) == {"title", "document"}


def test_references(tmp_path: Path) -> None:
    rows = [{"question": f"q {at}", "answers": [f"a {at}", f"b {at}"]} for at in range(20)]
    _, examples = read_back(rows, tmp_path)
    assert examples[3].answers == ("a 3", "b 3")


def test_names_that_are_no_names(tmp_path: Path) -> None:
    rows = [
        {"Review Text": f'say "{at}"', "task": f"k {at}", "2nd": f"n {at}", "Is it {good}?": ("yes", "no")[at % 2]}
        for at in range(20)
    ]
    card, examples = read_back(rows, tmp_path)
    assert set(card["fields"]) == {"review_text", "the_task", "the_2nd"}
    assert examples[1].fields["review_text"] == 'say "1"'
    assert examples[1].answers == ("no",)


def test_what_is_not_used_is_said() -> None:
    rows: list[dict[str, Any]] = [
        {
            "uid": f"u{at}",
            "text": f"t {at}",
            "same": "x",
            "meta": {"a": 1},
            "rare": "r" if at == 3 else "",
            "label": at % 2,
        }
        for at in range(30)
    ]
    notes = "\n".join(drafted(rows).notes)
    for word in ("uid: it names", "same: the same", "meta: nested", "rare: blank in 29 of 30 rows"):
        assert f"not used: {word}" in notes
    assert "say in words what the numbers mean" in notes


def test_a_field_that_is_sometimes_blank(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"t {at}", "context": f"c {at}", "label": "ab"[at % 2]} for at in range(40)]
    rows[4]["context"], rows[5]["context"] = "", None
    del rows[6]["context"]
    _, examples = read_back(rows, tmp_path)
    assert len(examples) == 37


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_few_rows(tmp_path: Path, rows: int) -> None:
    _, examples = read_back([{"question": f"q {at}", "answer": f"a {at}"} for at in range(rows)], tmp_path)
    assert len(examples) == rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([{"only": "a"}, {"only": "b"}], "no column looks like"),
        ([{"a": {"b": 1}}], "no column looks like an answer"),
        ([["a", "b"]], "is no object"),
    ],
)
def test_what_no_card_is_made_of(rows: list[Any], words: str) -> None:
    with pytest.raises(MetalmError) as caught:
        drafted(rows)
    assert words in str(caught.value)


def test_awkward_texts_do_not_break_the_card(tmp_path: Path) -> None:
    awkward = ['a: "b"', "# c", "{{ d }}", "e\u2028f\u0007"]
    rows = [{"text": f"t {at}", "label": awkward[at % 4]} for at in range(40)]
    _, examples = read_back(rows, tmp_path)
    assert {example.answers[0] for example in examples} == set(awkward)
