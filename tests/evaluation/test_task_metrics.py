"""Task metrics against values computed by hand and by libraries."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import class_metrics, task_metrics, text_metrics
from metalm_cli.evaluation.metrics.task_metrics import (
    chance,
    columns_by_example,
    extra_metrics,
    metric_value,
    observations,
    score_of_example,
)
from metalm_cli.tasks import Cards, Example
from metalm_cli.tasks.card import MetricName


def question(*answers: str, options: tuple[str, ...] = (), label: int | None = None, row: int = 0) -> Example:
    return Example("task", row, {}, answers, options, label)


def classes(*labels: int) -> list[Example]:
    return [question(("no", "yes")[label], options=("no", "yes"), label=label) for label in labels]


def test_numbers_are_equal_as_numbers() -> None:
    examples = [question("#### 1,200"), question("3.50"), question("7"), question("7")]
    score = metric_value("number", ["so it is 1200.", "3.5", "7 or 8", "seven"], examples)
    assert (score.value, score.n) == (50.0, 4)
    assert text_metrics.first_number("9" * 400) is None


def test_accuracy_is_an_exact_match_with_the_right_option() -> None:
    examples = classes(1, 1, 1, 0)
    score = metric_value("accuracy", [" yes\n", "Yes", "yes, it does", "no"], examples)
    assert score.value == 50.0
    assert score.error == pytest.approx(100 * math.sqrt(0.25 / 3))
    other = question("B", "A", options=("A", "B"), label=1)
    assert (score_of_example("accuracy", "A", other), score_of_example("accuracy", "A", question("B", "A"))) == (
        0.0,
        1.0,
    )


def test_the_best_reference_counts() -> None:
    assert score_of_example("token_f1", "blue ball", question("red", "ball", "blue ball")) == 1.0
    assert score_of_example("rougeL", "a b c d", question("x", "a b c d e f")) == pytest.approx(0.8)


def test_one_example_has_no_error_and_none_no_score() -> None:
    assert metric_value("exact_match", ["x"], [question("x")]).error is None
    with pytest.raises(MetalmError, match="no examples to score"):
        metric_value("accuracy", [], [])


def test_f1_is_of_the_second_class() -> None:
    predictions = ["yes", "yes", "no", "dunno", "yes", "no"]
    score = metric_value("f1", predictions, classes(1, 1, 1, 1, 0, 0))
    assert score.value == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert score.counts == {"neither": 1}
    assert metric_value("f1", ["no", "no"], classes(0, 0)).value == 0


def test_matthews_is_pearsons_correlation_of_two_classes() -> None:
    rng = np.random.default_rng(1)
    references, predicted = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    predicted[:40] = references[:40]
    predictions = [("no", "yes")[label] for label in predicted]
    value = metric_value("matthews", predictions, classes(*references.tolist())).value
    assert value == pytest.approx(100 * np.corrcoef(predicted, references)[0, 1])
    with_neither = metric_value("matthews", ["what?", "what?", *predictions[2:]], classes(*references.tolist()))
    assert with_neither.value < value
    assert with_neither.counts == {"neither": 2}
    assert metric_value("matthews", ["yes"] * 60, classes(*references.tolist())).value == 0


def test_matthews_with_a_third_class_by_hand() -> None:
    # Gorodkin's R: rows references (no, yes, neither), columns predictions; trace 2 of 4; totals 2, 2, 0 and 1, 2, 1.
    value = metric_value("matthews", ["no", "dunno", "yes", "yes"], classes(0, 0, 1, 1)).value
    assert value == pytest.approx(100 * (3 * 4 - 6) / math.sqrt((16 - 6) * (16 - 8)))


def test_pearson_counts_texts_without_a_number() -> None:
    references = [0.0, 1.0, 2.5, 4.0, 5.0]
    examples = [question(str(reference)) for reference in references]
    score = metric_value("pearson", ["0.1", "about 2", "2.0", "no idea", "4.6"], examples)
    assert score.value == pytest.approx(100 * np.corrcoef([0.1, 2, 2, -1, 4.6], references)[0, 1])
    assert score.counts == {"unread": 1}
    assert metric_value("pearson", ["3"] * 5, examples).value == 0
    assert score_of_example("pearson", "3", examples[0]) is None


def test_bootstrap_errors_are_those_of_resampling() -> None:
    rng = np.random.default_rng(3)
    references = rng.normal(size=400)
    predictions = references + rng.normal(size=400)
    examples = [question(f"{reference:.6f}") for reference in references]
    score = metric_value("pearson", [f"{prediction:.6f}" for prediction in predictions], examples)
    rho = score.value / 100
    assert score.error == pytest.approx(100 * (1 - rho**2) / math.sqrt(400), rel=0.2)
    assert score == metric_value("pearson", [f"{prediction:.6f}" for prediction in predictions], examples)


def sentences() -> tuple[list[str], list[Example]]:
    rng = np.random.default_rng(5)
    words = ["a", "dog", "runs", "after", "the", "red", "ball", "in", "park", "today"]
    references = [[" ".join(rng.choice(words, 8)) + "." for _ in range(rng.integers(1, 4))] for _ in range(40)]
    predictions = [" ".join(rng.permutation(texts[0].split())[: rng.integers(3, 9)]) for texts in references]
    return [*predictions[:-1], ""], [question(*texts, row=row) for row, texts in enumerate(references)]


@pytest.mark.parametrize("metric", task_metrics.CORPUS_METRICS)
def test_bleu_and_chrf_are_sacrebleus(metric) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    predictions, examples = sentences()
    streams = [
        [example.answers[index] if index < len(example.answers) else None for example in examples] for index in range(3)
    ]
    score = metric_value(metric, predictions, examples)
    library = {"bleu": BLEU, "chrf": CHRF}[metric]
    assert score.value == pytest.approx(library().corpus_score(predictions, streams).score)
    # Its texts have all orders, so that the effective order of BLEU changes nothing.
    sentence_scorer = BLEU(effective_order=True) if metric == "bleu" else CHRF()
    assert score_of_example(metric, predictions[0], examples[0]) == pytest.approx(
        sentence_scorer.sentence_score(predictions[0], list(examples[0].answers)).score / 100
    )
    observed = observations(metric, columns_by_example(metric, predictions, examples))
    draws = np.random.default_rng(0).integers(0, 40, (3, 40))
    expected = [
        library().corpus_score([predictions[index] for index in d], [[s[index] for index in d] for s in streams]).score
        for d in draws
    ]
    assert 100 * registry.metrics.load(metric)(observed.values[draws], draws) == pytest.approx(expected)


@pytest.mark.parametrize("metric", task_metrics.CORPUS_METRICS)
@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ["New York", "yes"]),
        ("zh", ["猫在屋顶上睡觉", "狗"]),
        ("ja", ["猫は屋根で寝ている"]),
        ("th", ["แมวนอนบนหลังคา"]),
        ("ru", ["Кошка спит"]),
    ],
)
def test_texts_equal_to_their_references_score_100(metric, language, texts) -> None:
    examples = [replace(question(text, row=row), language=language) for row, text in enumerate(texts)]
    assert metric_value(metric, texts, examples).value == pytest.approx(100)
    assert metric_value(metric, [""] * len(texts), examples).value == 0
    assert [score_of_example(metric, text, example) for text, example in zip(texts, examples, strict=True)] == (
        pytest.approx([1] * len(texts))
    )


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("zh", "zh"), ("chinese", "zh"), ("ja", "char"), ("th", "char"), ("en", "char"), ("ru", "13a")],
)
def test_bleu_in_languages_without_spaces(language, tokenizer) -> None:
    from sacrebleu.metrics import BLEU

    text, reference = "猫は屋根で寝ていた", "猫は屋根で寝ている"
    example = replace(question(reference), language=language)
    value = metric_value("bleu", [text], [example]).value
    library = BLEU(tokenize=tokenizer, effective_order=True)
    assert value == pytest.approx(library.corpus_score([text], [[reference]]).score)


def test_measures_of_rows_are_the_libraries() -> None:
    rng = np.random.default_rng(2)
    references = rng.integers(0, 2, (50, 30))
    predicted = np.where(rng.random((50, 30)) < 0.6, references, rng.integers(0, 3, (50, 30)))
    predicted[0], references[1], predicted[2], references[2] = 0, 1, 0, 0
    positive = [f1_score(t == 1, f == 1, zero_division=0) for f, t in zip(predicted, references, strict=True)]
    assert class_metrics.f1(predicted, references) == pytest.approx(positive)
    pairs = list(zip(predicted, references, strict=True))[3:]
    assert class_metrics.matthews(predicted, references)[3:] == pytest.approx(
        [matthews_corrcoef(t, f) for f, t in pairs]
    )
    assert class_metrics.matthews(predicted, references)[[0, 1, 2]].tolist() == [0, 0, 0]
    numbers, targets = rng.normal(size=(20, 12)).round(1), rng.integers(0, 6, (20, 12)).astype(float)
    numbers[0, 0], numbers[1] = 1e200, 3.0
    for measure, library in ((task_metrics.pearson, stats.pearsonr), (task_metrics.spearman, stats.spearmanr)):
        expected = [library(f, t).statistic for f, t in list(zip(numbers, targets, strict=True))[2:]]
        assert measure(numbers, targets)[2:] == pytest.approx(expected)
        assert measure(numbers, targets)[1] == 0
        assert abs(measure(numbers, targets)[0]) <= 1
        assert measure(numbers[:, :1], targets[:, :1]).tolist() == [0] * 20


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_saved_columns_give_the_score(metric) -> None:
    if metric in (*task_metrics.CLASS_METRICS, *task_metrics.QUESTION_METRICS, "macro_f1"):
        examples, predictions = classes(1, 0, 1, 0, 1, 1), ["yes", "no", "no", "yes", "what", "yes"]
        examples = [
            replace(example, row=7 * n, fields={"passage": "p", "question": str(n)})
            for n, example in enumerate(examples)
        ]
    else:
        examples = [question(f"{n}.5 red balls", f"{n} balls; a dog", row=7 * n) for n in range(6)]
        predictions = ["0.5 red balls", "1 ball", "a dog; 2 balls", "3.5", "none", "5.5 balls"]
    columns = json.loads(json.dumps(columns_by_example(metric, predictions, examples)))
    assert columns["row"] == [example.row for example in examples]
    assert 100 * observations(metric, columns).score == pytest.approx(metric_value(metric, predictions, examples).value)
    columns[next(name for name in ("value", "counts", "found") if name in columns)][0] = float("nan")
    with pytest.raises(ValueError):
        observations(metric, columns)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("f1", {"row": [0, 1], "found": [0, 3], "right": [0, 1]}),
        ("f1", {"row": [0, 1], "found": [0], "right": [0, 1]}),
        ("accuracy", {"row": [0, 1], "value": [0.5]}),
        ("accuracy", {"row": [0, 1], "found": [0, 1], "right": [0, 1]}),
        ("pearson", {"row": [0, 1]}),
    ],
)
def test_invalid_columns_are_errors(name, columns) -> None:
    with pytest.raises((ValueError, KeyError)):
        observations(name, columns)


def test_extra_metrics_that_fit() -> None:
    cards = Cards(())

    def names(card: str, predictions: list[str], examples: list[Example]) -> set[str]:
        return set(extra_metrics(cards[card], predictions, examples))

    text = [question("the red ball", row=0), question("a dog", row=1)]
    assert names("squad", ["red ball", "cat"], text) == {"squad_em"}
    assert names("common_gen", ["red ball", "cat"], text) == {"rouge1", "rouge2", "bleu", "chrf"}
    assert names("xsum", ["red ball", "cat"], text) == {"rouge1", "rouge2"}
    assert names("drop", ["red ball", "cat"], text) == {"drop_em"}
    assert names("trivia_qa", ["red ball", "cat"], text) == {"trivia_f1"}
    assert names("mrpc", ["yes", "no"], classes(1, 0)) == {"f1"}
    assert names("multirc", ["yes", "no"], classes(1, 0)) == {"accuracy"}
    assert names("rte", ["yes", "no"], classes(1, 0)) == set()
    assert names("mrpc", ["red ball", "cat"], text) == set(), "f1 does not fit open answers"
    numbers = [question(str(number)) for number in (1.0, 2.0, 4.0)]
    extra = extra_metrics(cards["stsb"], ["1.2", "3", "8"], numbers)
    assert extra == {"spearman": pytest.approx(100)}


def test_every_card_names_metrics_that_exist() -> None:
    cards = Cards(())
    for name in cards.paths:
        metric = cards[name].metric
        assert metric.name not in metric.also
        assert not set(metric.also) & set(task_metrics.ADDITIONAL_METRICS.get(metric.name, ())), f"{name}: named twice"


@pytest.mark.parametrize(
    ("metric", "example"),
    [
        ("f1", question("a")),
        ("matthews", question("a", options=("a", "b", "c"), label=0)),
        ("pearson", question("a")),
        ("number", question("none")),
    ],
)
def test_a_metric_that_does_not_fit_is_an_error(metric, example) -> None:
    with pytest.raises(MetalmError, match=f"the metric {metric} does not fit task") as caught:
        metric_value(metric, ["x"], [example])
    assert caught.value.why
    assert caught.value.remedy


def test_chance_levels() -> None:
    level = chance("accuracy", classes(1, 1, 1, 0))
    assert (level.uniform, level.majority) == (50.0, 75.0)
    different_options = [
        question("a", options=("a", "b"), label=0),
        question("c", options=("c", "d", "e", "f"), label=0),
    ]
    assert (chance("accuracy", different_options).uniform, chance("accuracy", different_options).majority) == (
        37.5,
        None,
    )
    f1_level = chance("f1", classes(1, 1, 1, 0))
    assert f1_level.uniform == pytest.approx(100 * 0.75 / 1.25)
    assert f1_level.majority == pytest.approx(metric_value("f1", ["yes"] * 4, classes(1, 1, 1, 0)).value)
    assert chance("matthews", classes(0, 1)) == task_metrics.ChanceLevel(0.0, 0.0)
    assert chance("token_f1", [question("x")]) == task_metrics.ChanceLevel() == chance("accuracy", [])


def test_the_uniform_level_is_what_guessing_scores() -> None:
    rng = np.random.default_rng(0)
    examples = classes(*([1] * 700 + [0] * 300)) * 10
    for metric in ("accuracy", "f1", "matthews"):
        predictions = [("no", "yes")[label] for label in rng.integers(0, 2, len(examples))]
        expected = chance(metric, examples).uniform
        assert metric_value(metric, predictions, examples).value == pytest.approx(expected, abs=2)
