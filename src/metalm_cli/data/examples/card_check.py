"""Reading all rows of task cards: what does not fit, how classes are distributed, how long texts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metalm_cli.data.examples.open_examples import Examples, open_examples
from metalm_cli.errors import MetalmError, RowsUnavailableError
from metalm_cli.tasks import Card, Example

LISTED = 5
"""Wrong rows of a split that are listed; all are counted."""
ANSWER = "answer"
"""Stands among the fields for the first answer."""


@dataclass(frozen=True)
class FieldLengths:
    """Characters of a text over a split: median, 95th percentile, most."""

    median: int
    high: int
    most: int

    @classmethod
    def of(cls, counts: list[int]) -> FieldLengths:
        """Of at least one text."""
        middle, high = np.percentile(counts, (50, 95), method="inverted_cdf")
        return cls(int(middle), int(high), max(counts))


@dataclass
class SplitCheck:
    """A split of a card.

    Args:
        role: Its role.
        rows: Rows that were read.
        location: Where.
        left_out: Rows that the card leaves out.
        labels: Examples by class; by the number of the right option where each row has its own; empty for open tasks.
        lengths: Of each field, and of the answer.
        problems: What is wrong, at most ``LISTED`` rows, each with its place.
        wrong: Rows that do not fit, all of them.
    """

    role: str
    rows: int = 0
    location: str = ""
    left_out: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, FieldLengths] = field(default_factory=dict)
    problems: list[MetalmError] = field(default_factory=list)
    wrong: int = 0


@dataclass
class CardCheck:
    """A card.

    Args:
        card: It.
        splits: Those that are at hand.
        absent: Why others are not, by role.
    """

    card: Card
    splits: list[SplitCheck] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[MetalmError]:
        """All that is listed as wrong."""
        return [problem for split in self.splits for problem in split.problems]


def check_card(
    card: Card,
    *,
    rows: int | None = None,
    fits: Callable[[Example], None] | None = None,
    data_root: Path | None = None,
    offline: bool = True,
    cache: Path | None = None,
    beside: Path | None = None,
) -> CardCheck:
    """Read the rows of every split of a card that is at hand. A row that does not fit is noted, not raised.

    Args:
        card: The card.
        rows: Read the first so many rows of each split; None: all.
        fits: What else an example must satisfy; raises MetalmError.
        data_root: Folder in which data sets lie.
        offline: Open no connection: what is neither at hand nor in the hub's cache is absent.
        cache: Folder for unpacked files and indexes.
        beside: The card's own file.
    """
    found = CardCheck(card)
    for role in card.splits:
        try:
            opened = open_examples(card, role, data_root=data_root, offline=offline, cache=cache, beside=beside)
        except MetalmError as error:
            if is_missing_data(error):
                found.absent[role] = error.why or error.what
            else:
                found.splits.append(SplitCheck(role, problems=[error], wrong=1))
            continue
        found.splits.append(_read(opened, rows, fits))
    return found


def is_missing_data(error: MetalmError) -> bool:
    """Whether rows could not be had, and nothing is wrong with the card."""
    return isinstance(error, RowsUnavailableError)


def _read(opened: Examples, rows: int | None, fits: Callable[[Example], None] | None) -> SplitCheck:
    found = SplitCheck(opened.role, location=opened.location)
    lengths: dict[str, list[int]] = {name: [] for name in (*opened.card.fields, ANSWER)}
    count = len(opened) if rows is None else min(rows, len(opened))
    for index in range(count):
        found.rows += 1
        try:
            example = opened[index]
            if example is not None and fits is not None:
                fits(example)
        except MetalmError as error:
            found.wrong += 1
            if len(found.problems) < LISTED:
                found.problems.append(error)
            continue
        if example is None:
            found.left_out += 1
            continue
        for name, text in example.fields.items():
            lengths[name].append(len(text))
        lengths[ANSWER].append(len(example.answers[0]))
        if example.label is not None:
            found.labels[option_name(example, opened.card)] += 1
    found.lengths = {name: FieldLengths.of(counts) for name, counts in lengths.items() if counts}
    if not found.lengths and not found.problems:
        remedy = "correct its `where`"
        found.problems.append(MetalmError("the card leaves out every row", where=opened.location, remedy=remedy))
        found.wrong += 1
    return found


def option_name(example: Example, card: Card) -> str:
    """What the right option is called in a distribution: the class, or its number where rows have their own."""
    assert example.label is not None
    return example.options[example.label] if card.answer.label is not None else f"option {example.label + 1}"


def unseen_classes(split: SplitCheck, words: Iterable[str]) -> list[str]:
    """Classes that no row of a split has."""
    return [word for word in words if not split.labels[word]] if split.lengths else []
