"""Metrics of classes over a whole split, batched over leading axes for resamples: F1, Matthews' correlation, MultiRC.

Legend of shapes: ``n`` examples, ``q`` questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metalm_cli.evaluation.metrics.text_metrics import equal_text
from metalm_cli.tasks import Example

NEITHER = 2
"""Class of a text that equals neither of the two options."""
NO_CLASS = -1
"""Class of a text that equals none of the options, in metrics of any number of classes."""
QUESTION_FIELDS = ("passage", "question")
"""Fields that the candidate answers to a question of MultiRC share."""


def _confusion_counts(predicted: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Count the predicted classes for each reference class. ``[..., reference, predicted]``"""
    size = NEITHER + 1
    cells = predicted + size * references
    counts = np.stack([(cells == cell).sum(axis=-1) for cell in range(size * size)], axis=-1)
    return counts.reshape(*cells.shape[:-1], size, size).astype(float)


def f1(predicted: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the F1 of class 1 in each row, equal to scikit-learn's; 0 if it occurs on neither side.

    Args:
        predicted: Predicted classes; :data:`NEITHER` is not class 1. ``[..., n]``
        references: Reference classes. ``[..., n]``
    """
    table = _confusion_counts(predicted, references)
    total = table[..., 1, :].sum(axis=-1) + table[..., :, 1].sum(axis=-1)
    return np.divide(2 * table[..., 1, 1], total, out=np.zeros_like(total), where=total > 0)


def matthews(predicted: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation in each row, equal to scikit-learn's; 0 if one side is constant.

    Texts of neither class are a third class.

    Source: Gorodkin 2004 (two classes: Matthews 1975).
    """
    table = _confusion_counts(predicted, references)
    reference_totals, predicted_totals, n = table.sum(axis=-1), table.sum(axis=-2), table.sum(axis=(-1, -2))
    numerator = np.trace(table, axis1=-2, axis2=-1) * n - (reference_totals * predicted_totals).sum(axis=-1)
    denominator = np.sqrt(
        (n * n - (predicted_totals * predicted_totals).sum(axis=-1))
        * (n * n - (reference_totals * reference_totals).sum(axis=-1))
    )
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def macro_f1(predicted: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the mean over classes of their F1 in each row, equal to scikit-learn's.

    A class that occurs on neither side is left out; a text of no class is wrong, and no class of its own.

    Args:
        predicted: Predicted classes, or :data:`NO_CLASS`. ``[..., n]``
        references: Reference classes. ``[..., n]``

    Source: Wang et al. 2019 (SuperGLUE), for CommitmentBank.
    """
    count = int(max(predicted.max(initial=0), references.max(initial=0))) + 1
    scores, present = [], []
    for label in range(count):
        right = ((predicted == label) & (references == label)).sum(axis=-1)
        total = (predicted == label).sum(axis=-1) + (references == label).sum(axis=-1)
        scores.append(np.divide(2.0 * right, total, out=np.zeros(np.shape(right)), where=total > 0))
        present.append(total > 0)
    return np.asarray(np.sum(scores, axis=0) / np.maximum(np.sum(present, axis=0), 1))


def multirc_counts(predictions: Sequence[str], examples: Sequence[Example]) -> tuple[list[int], list[list[int]]]:
    """Count the decisions on the candidate answers to each question; class 1 is a right answer.

    Args:
        predictions: Text for each candidate.
        examples: Examples, each a candidate; those with equal :data:`QUESTION_FIELDS` are of the same question.

    Returns:
        The first row of each question ``[q]``, and its numbers of candidates that are rightly accepted, wrongly
        accepted, wrongly rejected, and otherwise wrong ``[q, 4]``.
    """
    rows: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], list[int]] = {}
    for prediction, example in zip(predictions, examples, strict=True):
        question = tuple(example.fields[name] for name in QUESTION_FIELDS)
        rows.setdefault(question, example.row)
        cells = counts.setdefault(question, [0, 0, 0, 0])
        accepts, rejects = (equal_text(prediction, example.options[label]) for label in (1, 0))
        if example.label == 1:
            cells[0 if accepts else 2] += 1
        elif accepts:
            cells[1] += 1
        elif not rejects:
            cells[3] += 1
    return list(rows.values()), list(counts.values())


def multirc_f1(counts: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the F1 of right answers over the candidates of all questions (F1a) in each row.

    Args:
        counts: From :func:`multirc_counts`. ``[..., q, 4]``
        references: Not used.

    Source: Khashabi et al. 2018 (MultiRC).
    """
    right, accepted, rejected = (counts[..., cell].sum(axis=-1) for cell in range(3))
    total = 2 * right + accepted + rejected
    return np.divide(2.0 * right, total, out=np.zeros(np.shape(right)), where=total > 0)


def multirc_em(counts: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the share of questions whose candidates are all decided rightly in each row.

    Args:
        counts: From :func:`multirc_counts`. ``[..., q, 4]``
        references: Not used.

    Source: Wang et al. 2019 (SuperGLUE).
    """
    return np.asarray((counts[..., 1:] == 0).all(axis=-1).mean(axis=-1))
