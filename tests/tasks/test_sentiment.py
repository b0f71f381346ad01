"""Cards of sentiment tasks, applied to rows in the hub's format."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import ExampleMaker
from metalm_cli.tasks.card import Split
from metalm_cli.tasks.registry import Cards

WORDS = ("negative", "positive")


def read(task: str, row: dict[str, Any]) -> Any:
    return ExampleMaker(Cards()[task])(row, 0, lambda: "row 0")


def tweet(sentiment: int, text: str = "Rain again") -> dict[str, Any]:
    return {"text": text, "date": "", "user": "", "sentiment": sentiment, "query": ""}


@pytest.mark.parametrize(
    ("task", "row", "answer"),
    [
        ("imdb", {"text": "Dull.", "label": 0}, "negative"),
        ("imdb", {"text": "Lovely.", "label": 1}, "positive"),
        ("sst2", {"sentence": "a bore ", "label": 0, "idx": 0}, "negative"),
        ("sst2", {"sentence": "a joy ", "label": 1, "idx": 1}, "positive"),
        ("sentiment140", tweet(0), "negative"),
        ("sentiment140", tweet(4), "positive"),
        ("yelp", {"text": "Cold soup.", "label": 0}, "negative"),
        ("yelp", {"text": "Cold soup.", "label": 1}, "negative"),
        ("yelp", {"text": "Good soup.", "label": 3}, "positive"),
        ("yelp", {"text": "Good soup.", "label": 4}, "positive"),
    ],
)
def test_classes_and_stars_become_two_words(task: str, row: dict[str, Any], answer: str) -> None:
    example = read(task, row)
    assert (example.answers, example.options, example.label) == ((answer,), WORDS, WORDS.index(answer))


def test_neutral_rows_are_left_out() -> None:
    assert read("sentiment140", tweet(2)) is None
    assert read("yelp", {"text": "So-so.", "label": 2}) is None


def test_an_invalid_rating_is_an_error() -> None:
    with pytest.raises(MetalmError, match="does not match the card"):
        read("sentiment140", tweet(3))
    with pytest.raises(MetalmError, match="does not match the card"):
        read("yelp", {"text": "Good soup.", "label": 5})


def test_markup_becomes_text() -> None:
    assert read("imdb", {"text": "One.<br /><br />Two.<br />Three.", "label": 1}).fields["text"] == "One.\nTwo.\nThree."
    text = read("sentiment140", tweet(4, "me &amp; you &lt;3 &quot;ok&quot; &amp;lt;")).fields["text"]
    assert text == 'me & you <3 "ok" &lt;'
    example = read("yelp", {"text": 'Wow.\\n\\nA \\""must\\"" \\"see\\".', "label": 4})
    assert example.fields["text"] == 'Wow.\n\nA "must" "see".'


def test_no_validation_split_has_only_one_class() -> None:
    """The hub's rows of IMDB are sorted: 12,500 negative, then 12,500 positive."""
    card = Cards()["imdb"]
    hub, here = card.split("validation", local=False), card.split("validation", local=True)
    assert isinstance(hub, Split)
    assert isinstance(here, Split)
    assert sum(row >= 12_500 for row in hub.rows(25_000)) == 100 == len(hub.rows(25_000)) / 2
    assert sum(row >= 1_000 for row in here.rows(2_000)) == 100 == len(here.rows(2_000)) / 2
