"""Metrics of several classes, and of questions with several candidates, against libraries and slow code."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import class_metrics, task_metrics
from metalm_cli.evaluation.metrics.task_metrics import chance, columns_by_example, metric_value, observations
from metalm_cli.tasks import Example

WORDS = ("yes", "no", "it's impossible to say")


def entailments(labels: list[int]) -> list[Example]:
    return [Example("cb", row, {}, (WORDS[label],), WORDS, label) for row, label in enumerate(labels)]


def test_macro_f1_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        labels, predicted = random.integers(0, 3, (2, 12)).tolist()
        score = metric_value("macro_f1", [WORDS[label] for label in predicted], entailments(labels))
        assert score.value == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    predicted, references = random.integers(0, 3, (2, 7, 12))
    assert class_metrics.macro_f1(predicted, references) == pytest.approx(
        [f1_score(right, row, average="macro") for right, row in zip(references, predicted, strict=True)]
    )


def test_a_text_of_no_class_is_wrong_and_no_class_of_its_own() -> None:
    labels = [0, 0, 1, 2]
    score = metric_value("macro_f1", ["yes", "maybe", "no", "it's impossible to say"], entailments(labels))
    assert score.value == pytest.approx(100 * (2 / 3 + 1 + 1) / 3)
    assert columns_by_example("macro_f1", ["maybe"], entailments([2])) == {"row": [0], "found": [-1], "right": [2]}


def candidates(decisions: list[tuple[str, int, str]]) -> tuple[list[str], list[Example]]:
    """Texts and examples from question, label and text."""
    examples = [
        Example("multirc", row, {"passage": "p", "question": q, "candidate": str(row)}, (("no", "yes")[label],),
                ("no", "yes"), label)
        for row, (q, label, _) in enumerate(decisions)
    ]  # fmt: skip
    return [text for _, _, text in decisions], examples


def slow_multirc(decisions: list[tuple[str, int, str]]) -> tuple[float, float]:
    """F1 over all candidates by scikit-learn, and the share of questions with all candidates right."""
    f1 = f1_score([label for _, label, _ in decisions], [text == "yes" for _, _, text in decisions], zero_division=0.0)
    questions = {q for q, _, _ in decisions}
    right = [
        all(text == ("no", "yes")[label] for q, label, text in decisions if q == question) for question in questions
    ]
    return 100 * f1, 100 * float(np.mean(right))


def test_multirc_is_scored_over_candidates_and_by_question() -> None:
    random = np.random.default_rng(1)
    for _ in range(30):
        texts = np.array(["no", "yes", "perhaps"])[random.choice(3, 14, p=[0.45, 0.45, 0.1])].tolist()
        decisions = [(str(random.integers(4)), int(random.integers(2)), text) for text in texts]
        texts, examples = candidates(decisions)
        scores = [metric_value(metric, texts, examples).value for metric in ("multirc_f1", "multirc_em")]
        assert scores == pytest.approx(slow_multirc(decisions))


def test_multirc_is_resampled_by_question() -> None:
    decisions = [("a", 1, "yes"), ("a", 0, "no"), ("b", 1, "no"), ("b", 0, "no"), ("b", 0, "yes"), ("c", 0, "perhaps")]
    texts, examples = candidates(decisions)
    columns = columns_by_example("multirc_f1", texts, examples)
    assert columns == {"row": [0, 2, 5], "counts": [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]}
    assert columns_by_example("multirc_em", texts, examples) == columns
    samples = observations("multirc_em", columns).resample(resamples=200)
    assert set(np.round(3 * samples).astype(int)) == {0, 1, 2, 3}, "three questions are drawn"


def test_metrics_of_questions_need_questions() -> None:
    _, examples = candidates([("a", 1, "yes")])
    task_metrics.check_metric("multirc_f1", examples)
    plain = [Example("rte", 0, {"premise": "p"}, ("yes",), ("no", "yes"), 1)]
    with pytest.raises(MetalmError, match="the metric multirc_em does not fit rte") as caught:
        task_metrics.check_metric("multirc_em", plain)
    assert caught.value.why == "the fields passage and question are needed, got premise"
    with pytest.raises(MetalmError, match="the metric macro_f1 does not fit"):
        task_metrics.check_metric("macro_f1", [Example("open", 0, {}, ("x",))])


def test_chance_of_multirc_is_that_of_f1() -> None:
    _, examples = candidates([("a", 1, ""), ("a", 0, ""), ("b", 0, ""), ("b", 0, "")])
    assert chance("multirc_f1", examples) == chance("f1", examples)
    assert chance("multirc_em", examples).uniform is None
