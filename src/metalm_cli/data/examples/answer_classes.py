"""Classes of answers in the splits of a task: those that validation lacks, as where the rows are sorted by answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from metalm_cli.tasks import Card, Example

MAX_OPEN_CLASSES = 20
"""Open answers are classes if there are at most this many different ones."""
ROWS_PER_CLASS = 5
"""Open answers are classes if each occurs at least this often on average."""
CHANCE = 0.01
"""Probability below which the lack of a class in validation is not taken for chance."""


@dataclass
class AnswerClasses:
    """Counter of the classes of answers of examples.

    Attributes:
        counts: Examples by class.
        examples: Number of examples.
        is_open: Whether there are too many different answers for classes.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: int = 0
    is_open: bool = False

    def add(self, example: Example, card: Card) -> None:
        """Count an example."""
        self.examples += 1
        name = example.answers[0] if example.label is None else option_name(example, card)
        if example.label is None and name not in self.counts and len(self.counts) == MAX_OPEN_CLASSES:
            self.is_open = True
            return
        self.counts[name] += 1


def option_name(example: Example, card: Card) -> str:
    """Name of the correct option in a distribution: the class, or a number if rows have their own options."""
    assert example.label is not None
    return example.options[example.label] if card.answer.label is not None else f"option {example.label + 1}"


def lacking_classes(training: AnswerClasses, validation: AnswerClasses) -> dict[str, float]:
    """Classes of the training examples that no validation example has, with their share of the training examples.

    A class is left out if a random sample of as many validation examples would lack it with a probability of 1% or
    more.

    Example:
        >>> training = AnswerClasses(Counter(yes=50, no=50), 100)
        >>> lacking_classes(training, AnswerClasses(Counter(yes=10), 10))
        {'no': 0.5}
        >>> lacking_classes(training, AnswerClasses(Counter(yes=3), 3))
        {}
    """
    counts = training.counts
    if training.is_open or validation.is_open or training.examples < ROWS_PER_CLASS * len(counts):
        return {}
    shares = {name: count / training.examples for name, count in counts.items() if not validation.counts[name]}
    return {name: share for name, share in shares.items() if (1 - share) ** validation.examples < CHANCE}


def lacking_classes_note(training: AnswerClasses, validation: AnswerClasses) -> str:
    """Describe the classes that validation lacks, with the remedy; an empty text if there is none."""
    lacking = lacking_classes(training, validation)
    if not lacking:
        return ""
    names = ", ".join(f"{name!r:.40} ({share:.0%} of training)" for name, share in lacking.items())
    return (
        f"none of the {validation.examples:,} validation examples has the answer {names}; if the rows are sorted by "
        "answer, shuffle them, or take other validation rows (splits in the card)"
    )
