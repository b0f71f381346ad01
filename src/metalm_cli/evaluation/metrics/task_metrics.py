"""Task metrics: scores of generated texts by the metric of a card, with standard errors and chance levels.

All values are in 0 to 100 (correlations in -100 to 100). Metrics come from maintained libraries where these have them:
rouge-score, sacrebleu, scikit-learn, scipy.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import caption_metrics, corpus_metrics, text_metrics
from metalm_cli.evaluation.metrics.bootstrap import Observations, corpus_error, standard_error
from metalm_cli.evaluation.metrics.class_metrics import NEITHER, NO_CLASS, QUESTION_FIELDS, multirc_counts
from metalm_cli.evaluation.metrics.example_metrics import example_score
from metalm_cli.tasks import Card, Example
from metalm_cli.tasks.card import MetricName

NO_NUMBER = -1.0
"""Value of a text without a number in correlations (Raffel et al. 2020)."""

CLASS_METRICS = ("f1", "matthews")
"""Metrics over a whole split with two classes; class 1 is the positive one."""
QUESTION_METRICS = ("multirc_f1", "multirc_em")
"""Metrics over a whole split with two classes, whose unit is the question: all candidates of a passage and question."""
NUMBER_METRICS = ("pearson", "spearman")
"""Metrics over a whole split with numbers as answers."""
CORPUS_METRICS = ("bleu", "chrf")
"""Metrics over a whole split of texts, computed from counts by sentence."""
COCO_BLEU = "coco_bleu4"
"""The metric of captions that is computed from such counts."""
CIDER = "cider"
"""Metric whose value of an example depends on the references of all examples; a split has their mean, 0 to 1,000."""
SPLIT_METRICS = (*CLASS_METRICS, *QUESTION_METRICS, "macro_f1", *NUMBER_METRICS, *CORPUS_METRICS, COCO_BLEU)
"""Metrics over a whole split: each is registered as a function of predictions and references, 0 to 1 (correlations from
-1), batched over leading axes for resamples. All others are means over examples (:mod:`example_metrics`)."""
CHOICE_METRICS = ("accuracy", "exact_match", "squad_em", "trivia_em")
"""Metrics of metalm that have a chance level if the examples have options."""
ADDITIONAL_METRICS: dict[str, tuple[MetricName, ...]] = {
    "exact_match": ("token_f1",),
    "token_f1": ("exact_match",),
    "squad_em": ("squad_f1",),
    "squad_f1": ("squad_em",),
    "squad_v2_em": ("squad_v2_f1",),
    "squad_v2_f1": ("squad_v2_em",),
    "super_ni_em": ("super_ni_rougeL",),
    "super_ni_rougeL": ("super_ni_em",),
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
    "macro_f1": ("accuracy",),
    "multirc_f1": ("multirc_em",),
    "multirc_em": ("multirc_f1",),
    "matthews": ("accuracy",),
    "vqa_accuracy": ("exact_match",),
    "cider": ("coco_bleu4", "coco_rougeL"),
    "pearson": ("spearman",),
    "spearman": ("pearson",),
}
"""Metrics that are reported in addition to a metric, for all cards; cards name more (``metric.also``)."""


@dataclass(frozen=True)
class Score:
    """Score of a split by one metric.

    Args:
        metric: Name of the metric.
        value: The score, 0 to 100.
        error: Standard error: of the mean over examples, or by bootstrap (1,000 samples, seeded) for metrics over a
            whole split. None for fewer than two examples.
        n: Number of examples.
        counts: Numbers of invalid texts: ``unread`` (without a number), ``neither`` (equal to neither class).
    """

    metric: str
    value: float
    error: float | None
    n: int
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ChanceLevel:
    """Chance level: expected score without reading the input, 0 to 100; None where it is not defined.

    Args:
        uniform: Score of a uniform random choice among the options.
        majority: Score of the best constant answer on these examples, among options that all examples share.
    """

    uniform: float | None = None
    majority: float | None = None


def check_metric(metric: MetricName, examples: Sequence[Example]) -> None:
    """Check that a metric can be computed on these examples.

    Raises:
        MetalmError: Metrics of classes without two classes (macro_f1: without classes); multirc_f1 or multirc_em
            without passage and question; pearson, spearman or number without numbers as answers.
    """
    for example in examples:
        reason = _misfit(metric, example)
        if reason:
            raise MetalmError(
                f"the metric {metric} does not fit {example.task}",
                where=f"{example.task} row {example.row}",
                why=reason,
                remedy="correct metric.name of the card",
            )


def _misfit(metric: MetricName, example: Example) -> str:
    if metric in QUESTION_METRICS and not set(QUESTION_FIELDS) <= set(example.fields):
        return f"the fields {' and '.join(QUESTION_FIELDS)} are needed, got {', '.join(example.fields)}"
    if metric == "macro_f1" and (example.label is None or not example.options):
        return "classes are needed, got none"
    if metric in (*CLASS_METRICS, *QUESTION_METRICS) and (example.label not in (0, 1) or len(example.options) != 2):
        return f"two classes are needed, got {len(example.options) or 'no'} options"
    if metric in NUMBER_METRICS and text_metrics.first_number(example.answers[0]) is None:
        return f"a number is needed as the answer, got {example.answers[0]!r:.40}"
    if metric == "number" and all(text_metrics.last_number(answer) is None for answer in example.answers):
        return f"a number is needed in the answer, got {example.answers[0]!r:.40}"
    return ""


def score_of_example(metric: MetricName, prediction: str, example: Example) -> float | None:
    """Return the score of one text, 0 to 1; None for correlations of numbers, which are undefined for one example.

    Args:
        metric: The metric; for metrics of classes: whether the text is the right class; for bleu and chrf: the value of
            this sentence alone (bleu over its available orders). The split score is not the mean of these values.
        prediction: The generated text.
        example: The example with its reference answers.
    """
    if metric in (*NUMBER_METRICS, CIDER):
        return None
    if metric in (*CLASS_METRICS, *QUESTION_METRICS, "macro_f1"):
        return text_metrics.equal_text(prediction, example.answers[0])
    if metric == COCO_BLEU:
        return float(caption_metrics.bleu4(np.array([_bleu4_counts(prediction, example)], dtype=float), np.zeros(1)))
    if metric in CORPUS_METRICS:
        return corpus_metrics.sentence_score(metric, prediction, example.answers, example.language)
    references = example.answers[:1] if metric == "accuracy" and example.options else example.answers
    if metric == "squad_v2_em" or metric == "squad_v2_f1":
        references = text_metrics.squad_v2_references(references)
    return example_score(metric, prediction, references, example.language)


def columns_by_example(
    metric: MetricName, predictions: Sequence[str], examples: Sequence[Example]
) -> dict[str, list[Any]]:
    """Return the values by example that a result file stores for comparisons: columns of equal length.

    Returns:
        ``row`` and ``value`` (0 to 1); for metrics over a whole split ``found`` and ``right`` (classes or numbers);
        ``counts`` for bleu and chrf (by sentence) and for metrics of questions (by question). :func:`observations`
        reads these columns.
    """
    rows = [example.row for example in examples]
    if metric in QUESTION_METRICS:
        questions, cells = multirc_counts(predictions, examples)
        return {"row": questions, "counts": cells}
    if metric in (*CLASS_METRICS, "macro_f1"):
        neither = NEITHER if metric in CLASS_METRICS else NO_CLASS
        classes = [
            _class(prediction, example, neither) for prediction, example in zip(predictions, examples, strict=True)
        ]
        return {"row": rows, "found": classes, "right": [example.label for example in examples]}
    if metric in NUMBER_METRICS:
        numbers = [text_metrics.first_number(prediction) for prediction in predictions]
        references = [text_metrics.first_number(example.answers[0]) for example in examples]
        return {
            "row": rows,
            "found": [NO_NUMBER if number is None else number for number in numbers],
            "right": references,
        }
    if metric == CIDER:
        texts = [caption_metrics.caption_tokens(prediction) for prediction in predictions]
        captions = [list(map(caption_metrics.caption_tokens, example.answers)) for example in examples]
        return {"row": rows, "value": caption_metrics.cider(texts, captions)}
    if metric == COCO_BLEU:
        return {"row": rows, "counts": list(map(_bleu4_counts, predictions, examples))}
    if metric in CORPUS_METRICS:
        answers = [example.answers for example in examples]
        counts = corpus_metrics.counts_by_sentence(metric, predictions, answers, examples[0].language)
        return {"row": rows, "counts": counts}
    values = [
        score_of_example(metric, prediction, example) for prediction, example in zip(predictions, examples, strict=True)
    ]
    return {"row": rows, "value": values}


def _bleu4_counts(prediction: str, example: Example) -> list[int]:
    tokens = caption_metrics.caption_tokens
    return caption_metrics.bleu_counts(tokens(prediction), list(map(tokens, example.answers)))


def observations(metric: str, columns: Mapping[str, Sequence[Any]]) -> Observations:
    """Read the observations in the columns of :func:`columns_by_example`.

    Raises:
        KeyError: A column is missing, or there is no metric of this name over a whole split.
        ValueError: A column has values that are not numbers, or lacks values for some rows.
    """
    rows = np.array(columns["row"], dtype=np.int64)
    value_column = next((name for name in ("value", "counts") if name in columns), "found")
    dtype = np.int64 if value_column == "found" and metric in CLASS_METRICS else float
    values = np.array(columns[value_column], dtype=dtype)
    references = np.array(columns["right"], dtype=dtype) if value_column == "found" else None
    for column in (values, references):
        if column is not None and (len(column) != len(rows) or not np.isfinite(column).all()):
            raise ValueError(f"{len(column)} values of {len(rows)} rows, or values that are not numbers")
    if value_column == "value":
        return Observations(rows, values)
    if dtype is np.int64 and not (
        np.isin(values, range(NEITHER + 1)).all() and np.isin(columns["right"], (0, 1)).all()
    ):
        raise ValueError("a value is not a class")
    if metric not in SPLIT_METRICS:
        raise KeyError(metric)
    return Observations(rows, values, references, registry.metrics.load(metric))


def metric_value(
    metric: MetricName,
    predictions: Sequence[str],
    examples: Sequence[Example],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Score:
    """Return the score of generated texts.

    Args:
        metric: accuracy (exact match of an unconstrained text with the right option, or with any answer of an open
            task), exact_match and token_f1 (words, with signs and symbols), squad_*, squad_v2_*, trivia_*, drop_* and
            super_ni_* (the official scripts), multirc_* (by question), rouge1, rouge2, rougeL (no stemming), bleu,
            chrf (chrF2), number (last number in the text), s1 (CLUES, lists separated by semicolons), f1 (class 1
            positive), vqa_accuracy, coco_bleu4, coco_rougeL, cider (the evaluation of COCO
            captions), macro_f1, matthews, pearson and spearman (first number in the text).
        predictions: Generated text for each example.
        examples: Examples with their reference answers.
        columns: Their :func:`columns_by_example`, if they have been computed.

    Raises:
        MetalmError: There are no examples, or the metric does not fit them.
    """
    if not examples:
        raise MetalmError(f"there are no examples to score with {metric}")
    check_metric(metric, examples)
    counts: dict[str, int] = {}
    split_observations = observations(metric, columns or columns_by_example(metric, predictions, examples))
    error = (
        standard_error(split_observations.values)
        if split_observations.measure is None
        else corpus_error(split_observations)
    )
    if metric in CLASS_METRICS:
        counts["neither"] = int((split_observations.values == NEITHER).sum())
    if metric in NUMBER_METRICS:
        counts["unread"] = sum(text_metrics.first_number(prediction) is None for prediction in predictions)
    return Score(
        metric,
        100 * _split_score(metric, split_observations),
        None if error is None else 100 * error,
        len(examples),
        counts,
    )


def extra_metrics(card: Card, predictions: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return scores of the additional metrics of a task: those of its card, and :data:`ADDITIONAL_METRICS`.

    Args:
        card: The card.
        predictions: Generated text for each example, at least one.
        examples: Examples with their reference answers.

    Returns:
        Score by metric, 0 to 100 (correlations -100 to 100), without metrics that do not fit the examples.
    """
    names = dict.fromkeys([*ADDITIONAL_METRICS.get(card.metric.name, ()), *card.metric.also])
    names.pop(card.metric.name, None)
    return {
        name: 100 * _split_score(name, observations(name, columns_by_example(name, predictions, examples)))
        for name in names
        if not any(_misfit(name, example) for example in examples)
    }


def _class(prediction: str, example: Example, neither: int) -> int:
    return next(
        (index for index, option in enumerate(example.options) if text_metrics.equal_text(prediction, option)), neither
    )


def _split_score(metric: MetricName, split_observations: Observations) -> float:
    """Return the score of a split, 0 to 1 (correlations from -1); class metrics are scikit-learn's."""
    if metric not in CLASS_METRICS or split_observations.references is None:
        return split_observations.score
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == "f1":
        return float(f1_score(split_observations.references == 1, split_observations.values == 1, zero_division=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # With a single class throughout, the correlation is 0, as intended.
        return float(matthews_corrcoef(split_observations.references, split_observations.values))


def pearson(predicted: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation in each row, by scipy; 0 if one side is constant."""
    from scipy.stats import pearsonr

    if predicted.shape[-1] < 2:
        return np.zeros(predicted.shape[:-1])
    scale = np.maximum(np.abs(predicted).max(axis=-1, keepdims=True), 1.0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        value = np.asarray(pearsonr(predicted / scale, references, axis=-1).statistic)
    constant = (np.ptp(predicted, axis=-1) == 0) | (np.ptp(references, axis=-1) == 0)
    return np.where(constant, 0.0, np.nan_to_num(value))


def spearman(predicted: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation in each row: Pearson's of the ranks (scipy's), with tied ranks averaged."""
    from scipy.stats import rankdata

    return pearson(rankdata(predicted, axis=-1), rankdata(references, axis=-1))


def chance(metric: MetricName, examples: Sequence[Example]) -> ChanceLevel:
    """Return the chance level of examples with options.

    Args:
        metric: For accuracy and exact matches, the expected share of right answers; for f1, the scores of random
            guesses (half positive) and of all-positive guesses; 0 for correlations; for metrics of plug-ins, the
            scores that the options themselves have; else none.
        examples: The scored examples.
    """
    if metric == "matthews" or metric in NUMBER_METRICS:
        return ChanceLevel(0.0, 0.0)
    if not examples or any(example.label is None or not example.options for example in examples):
        return ChanceLevel()
    if metric in ("f1", "multirc_f1"):
        share = sum(example.label == 1 for example in examples) / len(examples)
        return ChanceLevel(100 * share / (share + 0.5), 100 * 2 * share / (share + 1))
    if metric in CHOICE_METRICS:
        shares = [[float(index == example.label) for index in range(len(example.options))] for example in examples]
    elif registry.metrics.entry(metric).origin != registry.BUILT_IN:
        shares = [
            [score_of_example(metric, option, example) or 0.0 for option in example.options] for example in examples
        ]
    else:
        return ChanceLevel()
    uniform = 100 * sum(sum(scores) / len(scores) for scores in shares) / len(examples)
    if len({example.options for example in examples}) > 1:
        return ChanceLevel(uniform)
    return ChanceLevel(uniform, 100 * max(map(sum, zip(*shares, strict=True))) / len(examples))
