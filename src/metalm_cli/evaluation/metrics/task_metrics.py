"""Metrics: what a card's metric makes of the texts that a model says, with standard errors and chance levels.

All values are in 0 to 100 (correlations in -100 to 100). Where a well-kept library has a metric, it is the library's:
rouge-score, sacrebleu, scikit-learn, scipy.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import text_metrics
from metalm_cli.evaluation.metrics.bootstrap import Measure, Observations, corpus_error, standard_error
from metalm_cli.tasks import Card, Example
from metalm_cli.tasks.card import MetricName

NEITHER = 2
"""Class of a text that is neither of two answers."""
UNREAD = -1.0
"""Stands for a text without a number in correlations (Raffel et al. 2020)."""

EACH: dict[str, Callable[[str, str], float]] = {
    "accuracy": text_metrics.same,
    "exact_match": text_metrics.exact_match,
    "token_f1": text_metrics.token_f1,
    "trivia_em": text_metrics.trivia_em,
    "trivia_f1": text_metrics.trivia_f1,
    "drop_em": text_metrics.drop_em,
    "drop_f1": text_metrics.drop_f1,
    "rouge1": partial(text_metrics.rouge, kind="rouge1"),
    "rouge2": partial(text_metrics.rouge, kind="rouge2"),
    "rougeL": partial(text_metrics.rouge, kind="rougeL"),
    "number": text_metrics.same_number,
    "s1": text_metrics.listed_s1,
}
"""Metrics that are means over examples: a text and a reference to 0..1; the best reference counts."""
CLASSES = ("f1", "matthews")
"""Metrics over a whole split with two classes; class 1 is the positive one."""
NUMBERS = ("pearson", "spearman")
"""Metrics over a whole split with numbers as answers."""
CORPORA = ("bleu", "chrf")
"""Metrics over a whole split of texts, from what is counted in each."""
ALSO: dict[str, tuple[MetricName, ...]] = {
    "exact_match": ("token_f1",),
    "token_f1": ("exact_match",),
    "trivia_em": ("trivia_f1",),
    "trivia_f1": ("trivia_em",),
    "drop_f1": ("drop_em",),
    "drop_em": ("drop_f1",),
    "rouge1": ("rouge2", "rougeL"),
    "rouge2": ("rouge1", "rougeL"),
    "rougeL": ("rouge1", "rouge2"),
    "bleu": ("chrf",),
    "chrf": ("bleu",),
    "f1": ("accuracy",),
    "matthews": ("accuracy",),
    "pearson": ("spearman",),
    "spearman": ("pearson",),
}
"""Columns that stand beside a metric, whatever its card; cards name more (``metric.also``)."""


@dataclass(frozen=True)
class Score:
    """A metric over a split.

    Args:
        metric: Its name.
        value: 0 to 100.
        error: Standard error: of the mean over examples, or by bootstrap (1,000 samples, seeded) for metrics over a
            whole split. None for fewer than two examples.
        n: Examples.
        counts: What else is to be known: ``unread`` texts without a number, ``neither`` texts that are no class.
    """

    metric: str
    value: float
    error: float | None
    n: int
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ChanceLevel:
    """What is had without reading the input, 0 to 100; None where it means nothing.

    Args:
        uniform: A guess, each option as likely.
        majority: The best constant answer on these examples, of those that all examples share.
    """

    uniform: float | None = None
    majority: float | None = None


def check_metric(metric: MetricName, examples: Sequence[Example]) -> None:
    """Refuse a metric that cannot be computed on these examples.

    Raises:
        MetalmError: f1 or matthews without two classes; pearson, spearman or number without numbers as answers.
    """
    for one in examples:
        why = _misfit(metric, one)
        if why:
            raise MetalmError(
                f"the metric {metric} does not fit {one.task}",
                where=f"{one.task} row {one.row}",
                why=why,
                remedy="correct metric.name of the card",
            )


def _misfit(metric: MetricName, example: Example) -> str:
    if metric in CLASSES and (example.label not in (0, 1) or len(example.options) != 2):
        return f"it needs two classes, got {len(example.options) or 'no'} options"
    if metric in NUMBERS and text_metrics.first_number(example.answers[0]) is None:
        return f"it needs a number as the answer, got {example.answers[0]!r:.40}"
    if metric == "number" and all(text_metrics.last_number(answer) is None for answer in example.answers):
        return f"it needs a number in the answer, got {example.answers[0]!r:.40}"
    return ""


def score_of_example(metric: MetricName, said: str, example: Example) -> float | None:
    """What one text scores, 0 to 1; None for correlations of numbers, which have no value of one example.

    Args:
        metric: The metric; for f1 and matthews whether the text is the right class; for bleu and chrf the value of this
            sentence alone (bleu over the orders that it has), of which the score is not the mean.
        said: What the model said.
        example: What is right.
    """
    if metric in NUMBERS:
        return None
    if metric in CLASSES:
        return text_metrics.same(said, example.answers[0])
    if metric in CORPORA:
        return float(_sacrebleu(metric, True).sentence_score(said, list(example.answers)).score) / 100
    references = example.answers[:1] if metric == "accuracy" and example.options else example.answers
    return text_metrics.best(EACH[metric], said, references)


def columns_by_example(metric: MetricName, said: Sequence[str], examples: Sequence[Example]) -> dict[str, list[Any]]:
    """What of each example a result file keeps, so that models can be compared: columns of equal length.

    Returns:
        ``row``, and ``value`` (0 to 1); or for metrics over a whole split ``found`` and ``right`` (classes or numbers);
        or for bleu and chrf ``counts`` (what they sum over sentences). :func:`observations` reads it.
    """
    rows = [one.row for one in examples]
    if metric in CLASSES:
        found = [_class(one, example) for one, example in zip(said, examples, strict=True)]
        return {"row": rows, "found": found, "right": [example.label for example in examples]}
    if metric in NUMBERS:
        numbers = [text_metrics.first_number(one) for one in said]
        right = [text_metrics.first_number(example.answers[0]) for example in examples]
        return {"row": rows, "found": [UNREAD if one is None else one for one in numbers], "right": right}
    if metric in CORPORA:
        most = max(len(example.answers) for example in examples)
        streams = [[one.answers[at] if at < len(one.answers) else None for one in examples] for at in range(most)]
        return {"row": rows, "counts": _sacrebleu(metric)._extract_corpus_statistics(list(said), streams)}
    values = [score_of_example(metric, one, example) for one, example in zip(said, examples, strict=True)]
    return {"row": rows, "value": values}


def observations(metric: str, columns: Mapping[str, Sequence[Any]]) -> Observations:
    """The observations in the columns of :func:`columns_by_example`.

    Raises:
        KeyError: A column is missing, or no metric of this name works over a whole split.
        ValueError: A column does not hold numbers, or not of every row.
    """
    rows = np.array(columns["row"], dtype=np.int64)
    name = next((one for one in ("value", "counts") if one in columns), "found")
    kind = np.int64 if name == "found" and metric in CLASSES else float
    found = np.array(columns[name], dtype=kind)
    right = np.array(columns["right"], dtype=kind) if name == "found" else None
    for side in (found, right):
        if side is not None and (len(side) != len(rows) or not np.isfinite(side).all()):
            raise ValueError(f"{len(side)} values of {len(rows)} rows, or values that are no numbers")
    if name == "value":
        return Observations(rows, found)
    if kind is np.int64 and not (np.isin(found, range(NEITHER + 1)).all() and np.isin(columns["right"], (0, 1)).all()):
        raise ValueError("a class that is none")
    return Observations(rows, found, right, MEASURES[metric])


def metric_value(metric: MetricName, said: Sequence[str], examples: Sequence[Example]) -> Score:
    """What texts score.

    Args:
        metric: accuracy (exact match with the right option, or with any answer of an open task, of a text that nothing
            constrained), exact_match and token_f1 (SQuAD's), trivia_em, trivia_f1, drop_em, drop_f1 (those of TriviaQA
            and DROP), rouge1, rouge2, rougeL (no stemming), bleu (13a tokens), chrf (chrF2), number (the last one in
            the text), s1 (CLUES', of lists that semicolons part), f1 (class 1 positive), matthews, pearson and spearman
            (the first number in the text).
        said: What the model said of each example.
        examples: What is right.

    Raises:
        MetalmError: There is no example, or the metric does not fit them.
    """
    if not examples:
        raise MetalmError(f"there is nothing to score with {metric}")
    check_metric(metric, examples)
    counts: dict[str, int] = {}
    seen = observations(metric, columns_by_example(metric, said, examples))
    error = standard_error(seen.found) if seen.measure is None else corpus_error(seen)
    if metric in CLASSES:
        counts["neither"] = int((seen.found == NEITHER).sum())
    if metric in NUMBERS:
        counts["unread"] = sum(text_metrics.first_number(one) is None for one in said)
    return Score(metric, 100 * _value(metric, seen), None if error is None else 100 * error, len(examples), counts)


def extra_metrics(card: Card, said: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Further columns that fit a task: what its card names, and what stands beside its metric (:data:`ALSO`).

    Args:
        card: The card.
        said: What the model said of each example, at least one.
        examples: What is right.

    Returns:
        0 to 100 by metric (correlations -100 to 100), without those that do not fit the examples.
    """
    names = dict.fromkeys([*ALSO.get(card.metric.name, ()), *card.metric.also])
    names.pop(card.metric.name, None)
    return {
        name: 100 * _value(name, observations(name, columns_by_example(name, said, examples)))
        for name in names
        if not any(_misfit(name, example) for example in examples)
    }


def _class(said: str, example: Example) -> int:
    return next((at for at, option in enumerate(example.options) if text_metrics.same(said, option)), NEITHER)


def _value(metric: MetricName, seen: Observations) -> float:
    """A score, 0 to 1 (correlations from -1); of classes it is scikit-learn's."""
    if metric not in CLASSES or seen.right is None:
        return seen.value
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == "f1":
        return float(f1_score(seen.right == 1, seen.found == 1, zero_division=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # One class alone, everywhere: the correlation is 0, and that is meant.
        return float(matthews_corrcoef(seen.right, seen.found))


def _table(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How often each class was said of each. ``[..., right, found]``"""
    size = NEITHER + 1
    cells = found + size * right
    counts = np.stack([(cells == cell).sum(axis=-1) for cell in range(size * size)], axis=-1)
    return counts.reshape(*cells.shape[:-1], size, size).astype(float)


def f1(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """F1 of class 1 in each row, as scikit-learn's; 0 where it is neither there nor found.

    Args:
        found: Classes said; :data:`NEITHER` is not class 1. ``[..., n]``
        right: Classes. ``[..., n]``
    """
    table = _table(found, right)
    total = table[..., 1, :].sum(axis=-1) + table[..., :, 1].sum(axis=-1)
    return np.divide(2 * table[..., 1, 1], total, out=np.zeros_like(total), where=total > 0)


def matthews(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matthews' correlation in each row, as scikit-learn's; a text of neither class is a third; 0: a side is constant.

    Source: Gorodkin 2004 (two classes: Matthews 1975).
    """
    table = _table(found, right)
    truth, said, n = table.sum(axis=-1), table.sum(axis=-2), table.sum(axis=(-1, -2))
    above = np.trace(table, axis1=-2, axis2=-1) * n - (truth * said).sum(axis=-1)
    below = np.sqrt((n * n - (said * said).sum(axis=-1)) * (n * n - (truth * truth).sum(axis=-1)))
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)


def pearson(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pearson's correlation in each row, scipy's; 0 where one side is constant."""
    from scipy.stats import pearsonr

    if found.shape[-1] < 2:
        return np.zeros(found.shape[:-1])
    scale = np.maximum(np.abs(found).max(axis=-1, keepdims=True), 1.0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        value = np.asarray(pearsonr(found / scale, right, axis=-1).statistic)
    constant = (np.ptp(found, axis=-1) == 0) | (np.ptp(right, axis=-1) == 0)
    return np.where(constant, 0.0, np.nan_to_num(value))


def spearman(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Spearman's correlation in each row: Pearson's of the ranks, equal values sharing theirs; scipy's."""
    from scipy.stats import rankdata

    return pearson(rankdata(found, axis=-1), rankdata(right, axis=-1))


@cache
def _sacrebleu(metric: str, sentence: bool = False) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=sentence, force=True) if metric == "bleu" else CHRF()


def _corpus(counts: np.ndarray, right: np.ndarray, metric: str) -> np.ndarray:
    """BLEU or chrF from counts of sentences ``[..., n, k]``, sacrebleu's."""
    sums = counts.sum(axis=-2)
    scorer = _sacrebleu(metric)
    flat = [scorer._compute_score_from_stats(one).score / 100 for one in sums.reshape(-1, sums.shape[-1]).tolist()]
    return np.array(flat).reshape(sums.shape[:-1])


MEASURES: dict[str, Measure] = {
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "bleu": partial(_corpus, metric="bleu"),
    "chrf": partial(_corpus, metric="chrf"),
}
"""Metrics over a whole split, 0 to 1 (correlations from -1), along the last axis: resamples are scored at once."""


def chance(metric: MetricName, examples: Sequence[Example]) -> ChanceLevel:
    """The chance level of examples with options.

    Args:
        metric: For accuracy and exact_match the expected share of right answers; for f1 with guesses half positive,
            and all positive; 0 for correlations; else none.
        examples: What is scored.
    """
    if metric == "matthews" or metric in NUMBERS:
        return ChanceLevel(0.0, 0.0)
    if not examples or any(one.label is None or not one.options for one in examples):
        return ChanceLevel()
    if metric == "f1":
        share = sum(one.label == 1 for one in examples) / len(examples)
        return ChanceLevel(100 * share / (share + 0.5), 100 * 2 * share / (share + 1))
    if metric not in ("accuracy", "exact_match", "trivia_em"):
        return ChanceLevel()
    uniform = 100 * sum(1 / len(one.options) for one in examples) / len(examples)
    if len({one.options for one in examples}) > 1:
        return ChanceLevel(uniform)
    most = Counter(one.label for one in examples).most_common(1)[0][1]
    return ChanceLevel(uniform, 100 * most / len(examples))
