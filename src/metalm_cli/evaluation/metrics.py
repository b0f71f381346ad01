"""Metrics: what a card's metric makes of the texts that a model says, with standard errors and chance levels.

All values are in 0 to 100 (Matthews and Pearson correlations in -100 to 100).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import texts
from metalm_cli.tasks import Example
from metalm_cli.tasks.card import MetricName

RESAMPLES = 1_000
"""Bootstrap samples of a corpus metric's standard error."""
NEITHER = 2
"""Class of a text that is neither of two answers."""
UNREAD = -1.0
"""Stands for a text without a number in Pearson's correlation (Raffel et al. 2020)."""

EACH: dict[str, Callable[[str, str], float]] = {
    "accuracy": texts.same,
    "exact_match": texts.exact_match,
    "token_f1": texts.token_f1,
    "rouge1": partial(texts.rouge_n, n=1),
    "rouge2": partial(texts.rouge_n, n=2),
    "rougeL": texts.rouge_l,
    "number": texts.same_number,
}
"""Metrics that are means over examples: a text and a reference to 0..1; the best reference counts."""
CLASSES = ("f1", "matthews")
"""Metrics over a whole split with two classes; class 1 is the positive one."""


@dataclass(frozen=True)
class Score:
    """A metric over a split.

    Args:
        metric: Its name.
        value: 0 to 100.
        error: Standard error: of the mean over examples, or by bootstrap (1,000 samples, seeded) for f1, matthews and
            pearson. None for fewer than two examples.
        n: Examples.
        counts: What else is to be known: ``unread`` texts without a number, ``neither`` texts that are no class.
    """

    metric: str
    value: float
    error: float | None
    n: int
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Chance:
    """What is had without reading the input, 0 to 100; None where it means nothing.

    Args:
        uniform: A guess, each option as likely.
        majority: The best constant answer on these examples, of those that all examples share.
    """

    uniform: float | None = None
    majority: float | None = None


def fits(metric: MetricName, examples: Sequence[Example]) -> None:
    """Refuse a metric that cannot be computed on these examples.

    Raises:
        MetalmError: f1 or matthews without two classes, pearson or number without numbers as answers.
    """
    for one in examples:
        why = ""
        if metric in CLASSES and (one.label not in (0, 1) or len(one.options) != 2):
            why = f"it needs two classes, got {len(one.options) or 'no'} options"
        elif metric == "pearson" and texts.first_number(one.answers[0]) is None:
            why = f"it needs a number as the answer, got {one.answers[0]!r:.40}"
        elif metric == "number" and all(texts.last_number(answer) is None for answer in one.answers):
            why = f"it needs a number in the answer, got {one.answers[0]!r:.40}"
        if why:
            raise MetalmError(
                f"the metric {metric} does not fit {one.task}",
                where=f"{one.task} row {one.row}",
                why=why,
                remedy="correct metric.name of the card",
            )


def each(metric: MetricName, said: str, example: Example) -> float | None:
    """What one text scores, 0 to 1; None for pearson, which has no value of one example.

    Args:
        metric: The metric; for f1 and matthews whether the text is the right class.
        said: What the model said.
        example: What is right.
    """
    if metric == "pearson":
        return None
    if metric in CLASSES:
        return texts.same(said, example.answers[0])
    references = example.answers[:1] if metric == "accuracy" and example.options else example.answers
    return texts.best(EACH[metric], said, references)


def score(metric: MetricName, said: Sequence[str], examples: Sequence[Example]) -> Score:
    """What texts score.

    Args:
        metric: accuracy (exact match with the right option, or with any answer of an open task, of a text that nothing
            constrained), exact_match and token_f1 (SQuAD's), rouge1, rouge2, rougeL, number (the last one in the
            text), f1 (class 1 positive), matthews, pearson (the first number in the text).
        said: What the model said of each example.
        examples: What is right.

    Raises:
        MetalmError: There is no example, or the metric does not fit them.
    """
    if not examples:
        raise MetalmError(f"there is nothing to score with {metric}")
    fits(metric, examples)
    counts: dict[str, int] = {}
    if metric in EACH:
        values = np.array([each(metric, one, example) for one, example in zip(said, examples, strict=True)])
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        value = float(values.mean())
    elif metric in CLASSES:
        right = np.array([example.label for example in examples])
        found = np.array([_class(one, example) for one, example in zip(said, examples, strict=True)])
        counts["neither"] = int((found == NEITHER).sum())
        value, error = _whole(f1 if metric == "f1" else matthews, found, right)
    else:
        numbers = [texts.first_number(one) for one in said]
        counts["unread"] = sum(one is None for one in numbers)
        found = np.array([UNREAD if one is None else one for one in numbers])
        right = np.array([texts.first_number(example.answers[0]) for example in examples], dtype=float)
        value, error = _whole(pearson, found, right)
    return Score(metric, 100 * value, None if error is None else 100 * error, len(examples), counts)


def _class(said: str, example: Example) -> int:
    return next((at for at, option in enumerate(example.options) if texts.same(said, option)), NEITHER)


def _whole(
    measure: Callable[[np.ndarray, np.ndarray], float], found: np.ndarray, right: np.ndarray
) -> tuple[float, float | None]:
    """A measure of a whole split, and its standard error over resampled examples."""
    n = len(right)
    if n < 2:
        return measure(found, right), None
    draws = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
    return measure(found, right), float(np.std([measure(found[draw], right[draw]) for draw in draws], ddof=1))


def f1(found: np.ndarray, right: np.ndarray) -> float:
    """F1 of class 1; 0 where it is neither there nor found.

    Args:
        found: Classes said; :data:`NEITHER` is not class 1. ``[n]``
        right: Classes. ``[n]``
    """
    hits = int(((found == 1) & (right == 1)).sum())
    total = int((found == 1).sum() + (right == 1).sum())
    return 2 * hits / total if total else 0.0


def matthews(found: np.ndarray, right: np.ndarray) -> float:
    """Matthews' correlation, a text of neither class counting as a third; 0 where one side is constant.

    Source: Gorodkin 2004 (two classes: Matthews 1975).
    """
    table = np.zeros((NEITHER + 1, NEITHER + 1))
    np.add.at(table, (right, found), 1)
    truth, said, n = table.sum(1), table.sum(0), table.sum()
    above = table.trace() * n - truth @ said
    below = math.sqrt((n * n - said @ said) * (n * n - truth @ truth))
    return float(above / below) if below else 0.0


def pearson(found: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    scale = max(float(np.abs(found).max()), 1.0)
    one, other = found / scale - (found / scale).mean(), right - right.mean()
    below = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / below if below > 1e-12 else 0.0


def chance(metric: MetricName, examples: Sequence[Example]) -> Chance:
    """The chance level of examples with options.

    Args:
        metric: For accuracy and exact_match the expected share of right answers; for f1 with guesses half positive,
            and all positive; 0 for correlations; else none.
        examples: What is scored.
    """
    if metric in ("matthews", "pearson"):
        return Chance(0.0, 0.0)
    if not examples or any(one.label is None or not one.options for one in examples):
        return Chance()
    if metric == "f1":
        share = sum(one.label == 1 for one in examples) / len(examples)
        return Chance(100 * share / (share + 0.5), 100 * 2 * share / (share + 1))
    if metric not in ("accuracy", "exact_match"):
        return Chance()
    uniform = 100 * sum(1 / len(one.options) for one in examples) / len(examples)
    if len({one.options for one in examples}) > 1:
        return Chance(uniform)
    most = Counter(one.label for one in examples).most_common(1)[0][1]
    return Chance(uniform, 100 * most / len(examples))
