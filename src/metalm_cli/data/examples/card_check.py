"""Checks of a task card's rows: rows that do not fit, the distribution of classes, the lengths of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from metalm_cli.data.examples.answer_classes import AnswerClasses, lacking_classes_note, option_name
from metalm_cli.data.examples.open_examples import Examples, open_examples
from metalm_cli.errors import MetalmError, NoTemplatesError, RowsUnavailableError
from metalm_cli.sessions import check_image
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import TemplateCollection, collection_names

MAX_LISTED = 5
"""Wrong rows listed per split; all are counted."""
ANSWER = "answer"
"""Key of the first answer among the lengths of fields."""


@dataclass(frozen=True)
class FieldLengths:
    """Lengths of a text over a split, in characters: median, 95th percentile, maximum."""

    median: int
    percentile_95: int
    longest: int

    @classmethod
    def of(cls, counts: list[int]) -> FieldLengths:
        """Lengths of at least one text."""
        median, percentile_95 = np.percentile(counts, (50, 95), method="inverted_cdf")
        return cls(int(median), int(percentile_95), max(counts))


@dataclass
class SplitCheck:
    """Result of checking a split of a card.

    Args:
        role: Role of the split.
        rows: Rows that were read.
        location: Where the rows were read.
        excluded: Rows that the card excludes.
        label_counts: Examples by class, or by the number of the correct option if each row has its own options; empty
            for open tasks.
        answer_classes: Classes of the answers, also of open tasks with few different answers.
        lengths: Lengths of each field and of the answer.
        problems: Errors of at most ``MAX_LISTED`` wrong rows.
        wrong_rows: Number of rows that do not fit the card.
    """

    role: str
    rows: int = 0
    location: str = ""
    excluded: int = 0
    label_counts: Counter[str] = field(default_factory=Counter)
    answer_classes: AnswerClasses = field(default_factory=AnswerClasses)
    lengths: dict[str, FieldLengths] = field(default_factory=dict)
    problems: list[MetalmError] = field(default_factory=list)
    wrong_rows: int = 0


@dataclass
class CardCheck:
    """Result of checking a card.

    Args:
        card: The card.
        splits: Results of the available splits.
        missing: Why other splits are not available, by role.
        template_problems: Template files that do not fit the card.
    """

    card: Card
    splits: list[SplitCheck] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    template_problems: list[MetalmError] = field(default_factory=list)

    @property
    def problems(self) -> list[MetalmError]:
        """All listed problems."""
        return [*self.template_problems, *(problem for split in self.splits for problem in split.problems)]

    @property
    def notes(self) -> list[str]:
        """What the splits lack, although the card fits them."""
        splits = {split.role: split for split in self.splits}
        if not {"train", "validation"} <= splits.keys():
            return []
        note = lacking_classes_note(splits["train"].answer_classes, splits["validation"].answer_classes)
        return [note] if note else []


def check_card(
    card: Card,
    *,
    max_rows: int | None = None,
    check_example: Callable[[Example], None] | None = None,
    data_root: Path | None = None,
    offline: bool = True,
    cache: Path | None = None,
    card_path: Path | None = None,
) -> CardCheck:
    """Check the templates of a card, and the rows of every available split. What does not fit is recorded, not raised.

    Args:
        card: The card.
        max_rows: Read the first ``max_rows`` rows of each split; None: all.
        check_example: Further check of an example; raises MetalmError.
        data_root: Folder of local data sets.
        offline: Open no connection: data in neither ``data_root`` nor the hub's cache is missing.
        cache: Folder for unpacked files and indexes.
        card_path: The file of the card.
    """
    check = CardCheck(card, template_problems=list(_template_problems(card)))
    for role in card.splits:
        try:
            examples = open_examples(card, role, data_root=data_root, offline=offline, cache=cache, card_path=card_path)
        except MetalmError as error:
            if is_missing_data(error):
                check.missing[role] = error.why or error.what
            else:
                check.splits.append(SplitCheck(role, problems=[error], wrong_rows=1))
            continue
        check.splits.append(_check_split(examples, max_rows, check_example))
    _add_empty_fields(check)
    return check


def _add_empty_fields(check: CardCheck) -> None:
    """Add a problem for each optional field that is empty in every row of every split that was read."""
    read = [split for split in check.splits if split.lengths]
    for name in check.card.optional_fields if read else ():
        if not any(split.lengths[name].longest for split in read):
            error = MetalmError(
                f"the optional field {name} is empty in every row",
                where=read[0].location,
                why=f"it reads {check.card.fields[name]}",
                remedy="correct the column in `fields` of the card, or remove the field",
            )
            read[0].problems.append(error)
            read[0].wrong_rows += 1


def _template_problems(card: Card) -> Iterator[MetalmError]:
    """Yield an error for each template file, of the shipped collections or the card's own, that does not fit."""
    reported: set[Path] = set()
    for name in collection_names():
        collection = TemplateCollection(name)
        try:
            path = collection.path_for(card)
            if path not in reported:
                reported.add(path)
                collection.templates_for(card)
        except NoTemplatesError:
            continue
        except MetalmError as error:
            yield error


def is_missing_data(error: MetalmError) -> bool:
    """Whether an error means that the data is not available, rather than that the card is wrong."""
    return isinstance(error, RowsUnavailableError)


def _check_split(
    examples: Examples, max_rows: int | None, check_example: Callable[[Example], None] | None
) -> SplitCheck:
    check = SplitCheck(examples.role, location=examples.location)
    lengths: dict[str, list[int]] = {name: [] for name in (*examples.card.fields, ANSWER)}
    count = len(examples) if max_rows is None else min(max_rows, len(examples))
    for index in range(count):
        check.rows += 1
        try:
            example = examples[index]
            for image in chain.from_iterable(example.images.values()) if example is not None else ():
                check_image(image)
            if example is not None and check_example is not None:
                check_example(example)
        except MetalmError as error:
            check.wrong_rows += 1
            if len(check.problems) < MAX_LISTED:
                check.problems.append(error)
            continue
        if example is None:
            check.excluded += 1
            continue
        for name, text in example.fields.items():
            lengths[name].append(len(text))
        lengths[ANSWER].append(len(example.answers[0]))
        check.answer_classes.add(example, examples.card)
        if example.label is not None:
            check.label_counts[option_name(example, examples.card)] += 1
    check.lengths = {name: FieldLengths.of(counts) for name, counts in lengths.items() if counts}
    if not check.lengths and not check.problems:
        remedy = "correct `row_filter` of the card"
        check.problems.append(MetalmError("the card excludes every row", where=examples.location, remedy=remedy))
        check.wrong_rows += 1
    return check


def unseen_classes(split: SplitCheck, class_names: Iterable[str]) -> list[str]:
    """Classes that no row of a split has."""
    return [name for name in class_names if not split.label_counts[name]] if split.lengths else []
