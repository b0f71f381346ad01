"""Linear probe: logistic regression on the features of images (CLIP, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.embeddings.read_pairs import read_examples
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.inference.embeddings.image_text_model import ImageTextModel
from metalm_cli.sessions.processors import DockInput
from metalm_cli.templates import PromptStyle

INVERSE_REGULARISATION = 0.316
"""Inverse of the strength of L2 regularisation: that of CLIP's example."""
MAX_ITERATIONS = 1000
"""Maximum steps of L-BFGS."""
NEVER = -1e3
"""Log-probability of a class that no training image has."""


def probe_classes(
    model: ImageTextModel, task: EvaluatedTask, images: Sequence[DockInput], style: PromptStyle
) -> list[list[float]]:
    """Classify images by a probe that is fitted on the training split of their task.

    The features are the pooled outputs of the image encoder, before the projection.

    Args:
        model: The model.
        task: The task, with its training split.
        images: Inputs of the image encoder.
        style: Prompt format.

    Returns:
        Log-probability of each class, for each image.

    Raises:
        MetalmError: The options of the task are not classes, or its training split has fewer than two of them.
    """
    assert task.pool is not None, "tasks are opened with their training split"
    options = task.examples[0].options
    rows = [example for index in range(len(task.pool)) if (example := task.pool[index]) is not None]
    if not options or any(example.options != options or example.label is None for example in (*task.examples, *rows)):
        raise MetalmError(
            f"the options of {task.card.name} are not classes",
            where="--protocol linear_probe",
            why="a probe needs the same options for all examples",
            remedy="use zero_shot, or a task with class_names",
        )
    read = read_examples(model, task, rows, style, texts=False)
    labels = np.array([each.example.label for each in read.examples])
    if len(set(labels.tolist())) < 2:
        raise MetalmError(
            f"the training split of {task.card.name} has images of {len(set(labels.tolist()))} classes, expected 2",
            where=task.pool.location,
            remedy="add examples of other classes",
        )
    features = model.pool([each.image for each in read.examples]).cpu().numpy()
    return fit_and_predict(features, labels, model.pool(images).cpu().numpy(), len(options))


def fit_and_predict(features: np.ndarray, labels: np.ndarray, evaluated: np.ndarray, classes: int) -> list[list[float]]:
    """Fit a logistic regression, and return the log-probability of each class for other features.

    Args:
        features: Features of the training images. ``[n, width]``
        labels: Their classes. ``[n]`` int
        evaluated: Features to classify. ``[m, width]``
        classes: Number of classes.

    Returns:
        ``[m][classes]``
    """
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=MAX_ITERATIONS)
    regression.fit(features, labels)
    log_probabilities = np.full((len(evaluated), classes), NEVER)
    log_probabilities[:, regression.classes_] = np.maximum(regression.predict_log_proba(evaluated), NEVER)
    return log_probabilities.tolist()
