"""Files of instruction data without a card: their formats, single turns, and the share that validates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from card_fixtures import write_card, write_rows
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, Example, read_card
from metalm_cli.templates import TemplateCollection, render

ALPACA = [
    {"instruction": "Give three tips for staying healthy.", "input": "", "output": "Eat well, move and sleep."},
    {"instruction": "Name the animal.", "input": "It barks.", "output": "A dog"},
    {"instruction": "Write nothing.", "input": "", "output": ""},
]
COMPLETIONS = [{"prompt": "Hello ->", "completion": " Bonjour\n"}, {"prompt": "Indent:", "completion": "    x = 1"}]
MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris."},
        ]
    },
    {"messages": [{"role": "user", "content": "And of Spain?"}, {"role": "assistant", "content": "Madrid."}]},
]
SHAREGPT = [
    {"id": "a_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    {
        "system": "Answer in French.",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Oui"}],
    },
]
FORMATS: list[tuple[str, list[Any], list[tuple[str, str]]]] = [
    (
        "Alpaca",
        ALPACA,
        [
            ("Give three tips for staying healthy.", "Eat well, move and sleep."),
            ("Name the animal.\n\nIt barks.", "A dog"),
        ],
    ),
    ("prompt and completion", COMPLETIONS, [("Hello ->", "Bonjour\n"), ("Indent:", "    x = 1")]),
    (
        "chat messages",
        MESSAGES,
        [("Be brief.\n\nWhat is the capital of France?", "Paris."), ("And of Spain?", "Madrid.")],
    ),
    ("ShareGPT", SHAREGPT, [("Hi", "Hello!"), ("Answer in French.\n\nHi", "Oui")]),
    ("input and target", [{"input": "1+1", "target": "2"}] * 2, [("1+1", "2")] * 2),
]


def every_example(path: Path) -> tuple[Card, list[Example]]:
    card = read_card(path).model_copy(update={"validation_share": 0})
    return card, list(open_examples(card, "train", card_path=path, cache=path.parent / "cache"))


@pytest.mark.parametrize(("name", "records", "pairs"), FORMATS, ids=[name for name, _, _ in FORMATS])
@pytest.mark.parametrize("layout", ["rows.jsonl", "array.json", "lines.json"])
def test_formats(tmp_path: Path, name: str, records: list[Any], pairs: list[tuple[str, str]], layout: str) -> None:
    path = tmp_path / layout
    if layout == "array.json":
        path.write_text("\n" + json.dumps(records, indent=2), encoding="utf-8")
    else:
        write_rows(path, records)
    card, examples = every_example(path)
    assert card.description == f"{layout}, read as {name}"
    assert card.metric.name == ("exact_match" if name in ("prompt and completion", "input and target") else "rougeL")
    (template,) = TemplateCollection("flan").templates_for(card)
    prompts = [render(example, template) for example in examples]
    assert [(prompt.input, prompt.target) for prompt in prompts] == pairs


@pytest.mark.parametrize(
    ("records", "what", "words"),
    [
        (
            [*MESSAGES, {"messages": 2 * MESSAGES[1]["messages"]}],
            "the records are chat messages with conversations that are not one question and one answer",
            ["rows.jsonl:3", "2 messages of the user and 2 of the assistant", "the other 2 records fit"],
        ),
        (
            [{"conversations": 3 * SHAREGPT[0]["conversations"]}] * 2,
            "the records are ShareGPT with conversations that are not one question and one answer",
            ["rows.jsonl:1", "3 messages of the user", "2 of 2 records"],
        ),
        ([{"messages": [{"role": "tool", "content": "x"}]}], "the records are chat messages", ["the role tool"]),
        (
            [{"messages": [{"role": "user", "content": [{"type": "text"}]}]}],
            "the records are chat messages",
            ["is not a text"],
        ),
        ([{**ALPACA[1], "history": [["a", "b"]]}], "the records are Alpaca", ["history of earlier turns"]),
        ([{"question": "a", "reply": "b"}], "unknown format", ["its columns are question, reply", "metalm tasks new"]),
    ],
)
def test_files_that_are_refused(tmp_path: Path, records: list[Any], what: str, words: list[str]) -> None:
    with pytest.raises(MetalmError) as caught:
        read_card(write_rows(tmp_path / "rows.jsonl", records))
    assert what in caught.value.what
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_record_of_a_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([*ALPACA, {"instruction": "Why?"}]))
    with pytest.raises(MetalmError) as caught:
        every_example(path)
    assert caught.value.where == f"{path}, record 3"


def sides(path: Path, share: float | None = None) -> tuple[set[str], set[str]]:
    card = Cards([path])[path.stem]
    if share is not None:
        card = card.model_copy(update={"validation_share": share})
    train, validation = (
        {example.fields["input"] for example in open_examples(card, role, card_path=path, cache=path.parent / "cache")}
        for role in ("train", "validation")
    )
    return train, validation


def test_a_share_validates_and_each_input_stays_on_its_side(tmp_path: Path) -> None:
    rows = [{"input": f"question {number % 1500}", "target": str(number)} for number in range(2000)]
    train, validation = sides(write_rows(tmp_path / "a.jsonl", rows))
    assert not train & validation
    assert len(train | validation) == 1500
    assert 50 <= len(validation) <= 100  # 5% of 1,500 inputs, at three standard deviations
    more_train, more_validation = sides(
        write_rows(tmp_path / "b.jsonl", [*reversed(rows), *({"input": f"new {n}", "target": "x"} for n in range(99))])
    )
    assert train <= more_train
    assert validation <= more_validation
    assert len(sides(write_rows(tmp_path / "c.jsonl", rows), share=0.5)[1]) == pytest.approx(750, abs=60)


def test_small_files_give_up_one_input_and_one_row_none(tmp_path: Path) -> None:
    train, validation = sides(write_rows(tmp_path / "a.jsonl", [{"input": n, "target": "x"} for n in "abc"]))
    assert (len(train), len(validation)) == (2, 1)
    path = write_rows(tmp_path / "b.jsonl", [{"input": "a", "target": "x"}] * 3)
    assert len(list(open_examples(read_card(path), "train", card_path=path, cache=tmp_path / "cache"))) == 3
    with pytest.raises(MetalmError, match="too few rows for a validation split"):
        sides(path)


def test_a_card_of_a_file_with_training_rows_only_gives_up_a_share(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"premise": f"p {n}", "hypothesis": "h", "label": n % 2} for n in range(40)])
    path = write_card(tmp_path)
    assert set(read_card(path).splits) == {"train"}
    path.write_text(path.read_text().replace("validation_share: 0\n", "validation_share: 0.2\n"))
    card = read_card(path)
    assert card.splits == {"train": "rows", "validation": "rows"}
    numbers = [len(open_examples(card, role, card_path=path, cache=tmp_path / "c")) for role in card.splits]
    assert sum(numbers) == 40
    assert 2 <= numbers[1] <= 16
