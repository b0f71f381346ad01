"""Cards of summarization, applied to rows in the hub's format: texts and summaries."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.tasks import Example, ExampleMaker
from metalm_cli.tasks.registry import Cards

ROWS = [
    ("aeslc", "email", {"email_body": "Please review.", "subject_line": "Reports"}, "Please review.", "Reports"),
    ("xsum", "document", {"document": "It rained.", "summary": "Rain fell.", "id": "1"}, "It rained.", "Rain fell."),
    ("gigaword", "sentence", {"document": "rain fell on monday .", "summary": "rain"}, "rain fell on monday .", "rain"),
    (
        "cnn_dailymail",
        "article",
        {"article": "It rained.", "highlights": "Rain .\nMore rain .", "id": "1"},
        "It rained.",
        "Rain .\nMore rain .",
    ),
    (
        "samsum",
        "dialogue",
        {"id": "1", "dialogue": "Amy: Hi\r\nBob: Hello", "summary": "They greet."},
        "Amy: Hi\nBob: Hello",
        "They greet.",
    ),
]


def read(task: str, row: dict[str, Any]) -> Example | None:
    """Make the example of a row."""
    return ExampleMaker(Cards()[task])(row, 0, lambda: "a row of the test")


@pytest.mark.parametrize(("task", "field", "row", "text", "summary"), ROWS, ids=[row[0] for row in ROWS])
def test_text_and_summary(task: str, field: str, row: dict[str, Any], text: str, summary: str) -> None:
    example = read(task, row)
    assert example is not None
    assert example.fields == {field: text}
    assert example.answers == (summary,)
    long = Cards()[task].long_inputs
    assert long is not None
    assert long.field == field


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("samsum", {"dialogue": None, "summary": "Nothing is said."}),
        ("samsum", {"dialogue": "", "summary": "Nothing is said."}),
        ("xsum", {"document": " ", "summary": "A summary."}),
        ("cnn_dailymail", {"article": "", "highlights": "A summary."}),
    ],
)
def test_rows_without_a_text_are_left_out(task: str, row: dict[str, Any]) -> None:
    assert read(task, row) is None
