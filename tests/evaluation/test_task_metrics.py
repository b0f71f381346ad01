"""Metrics against values worked out by hand."""

from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import task_metrics, text_metrics
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
    return [question(("no", "yes")[one], options=("no", "yes"), label=one) for one in labels]


def test_numbers_are_equal_as_numbers() -> None:
    examples = [question("#### 1,200"), question("3.50"), question("7"), question("7")]
    found = metric_value("number", ["so it is 1200.", "3.5", "7 or 8", "seven"], examples)
    assert (found.value, found.n) == (50.0, 4)
    assert text_metrics.first_number("9" * 400) is None


def test_accuracy_is_the_right_option_said_exactly() -> None:
    examples = classes(1, 1, 1, 0)
    found = metric_value("accuracy", [" yes\n", "Yes", "yes, it does", "no"], examples)
    assert found.value == 50.0
    assert found.error == pytest.approx(100 * math.sqrt(0.25 / 3))
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
    with pytest.raises(MetalmError, match="nothing to score"):
        metric_value("accuracy", [], [])


def test_f1_is_of_the_second_class() -> None:
    said = ["yes", "yes", "no", "dunno", "yes", "no"]
    found = metric_value("f1", said, classes(1, 1, 1, 1, 0, 0))
    assert found.value == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert found.counts == {"neither": 1}
    assert metric_value("f1", ["no", "no"], classes(0, 0)).value == 0


def test_matthews_is_pearsons_correlation_of_two_classes() -> None:
    rng = np.random.default_rng(1)
    right, found = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    found[:40] = right[:40]
    said = [("no", "yes")[one] for one in found]
    value = metric_value("matthews", said, classes(*right.tolist())).value
    assert value == pytest.approx(100 * np.corrcoef(found, right)[0, 1])
    worse = metric_value("matthews", ["what?", "what?", *said[2:]], classes(*right.tolist()))
    assert worse.value < value
    assert worse.counts == {"neither": 2}
    assert metric_value("matthews", ["yes"] * 60, classes(*right.tolist())).value == 0


def test_matthews_with_a_third_class_by_hand() -> None:
    # Gorodkin's R: rows truth (no, yes, neither), columns said; trace 2 of 4; truth 2, 2, 0; said 1, 2, 1.
    value = metric_value("matthews", ["no", "dunno", "yes", "yes"], classes(0, 0, 1, 1)).value
    assert value == pytest.approx(100 * (3 * 4 - 6) / math.sqrt((16 - 6) * (16 - 8)))


def test_pearson_counts_what_it_cannot_read() -> None:
    right = [0.0, 1.0, 2.5, 4.0, 5.0]
    examples = [question(str(one)) for one in right]
    found = metric_value("pearson", ["0.1", "about 2", "2.0", "no idea", "4.6"], examples)
    assert found.value == pytest.approx(100 * np.corrcoef([0.1, 2, 2, -1, 4.6], right)[0, 1])
    assert found.counts == {"unread": 1}
    assert metric_value("pearson", ["3"] * 5, examples).value == 0
    assert score_of_example("pearson", "3", examples[0]) is None


def test_bootstrap_errors_are_those_of_resampling() -> None:
    rng = np.random.default_rng(3)
    right = rng.normal(size=400)
    said = right + rng.normal(size=400)
    examples = [question(f"{one:.6f}") for one in right]
    found = metric_value("pearson", [f"{one:.6f}" for one in said], examples)
    rho = found.value / 100
    assert found.error == pytest.approx(100 * (1 - rho**2) / math.sqrt(400), rel=0.2)
    assert found == metric_value("pearson", [f"{one:.6f}" for one in said], examples)


def sentences() -> tuple[list[str], list[Example]]:
    rng = np.random.default_rng(5)
    words = ["a", "dog", "runs", "after", "the", "red", "ball", "in", "park", "today"]
    truth = [[" ".join(rng.choice(words, 8)) + "." for _ in range(rng.integers(1, 4))] for _ in range(40)]
    said = [" ".join(rng.permutation(one[0].split())[: rng.integers(3, 9)]) for one in truth]
    return [*said[:-1], ""], [question(*one, row=row) for row, one in enumerate(truth)]


@pytest.mark.parametrize("metric", task_metrics.CORPORA)
def test_bleu_and_chrf_are_sacrebleus(metric) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    said, examples = sentences()
    streams = [[one.answers[at] if at < len(one.answers) else None for one in examples] for at in range(3)]
    found = metric_value(metric, said, examples)
    whole = {"bleu": BLEU, "chrf": CHRF}[metric]
    assert found.value == pytest.approx(whole().corpus_score(said, streams).score)
    alone = BLEU(effective_order=True) if metric == "bleu" else CHRF()
    assert score_of_example(metric, said[0], examples[0]) == pytest.approx(
        alone.sentence_score(said[0], list(examples[0].answers)).score / 100
    )
    seen = observations(metric, columns_by_example(metric, said, examples))
    drawn = np.random.default_rng(0).integers(0, 40, (3, 40))
    again = [whole().corpus_score([said[at] for at in d], [[s[at] for at in d] for s in streams]).score for d in drawn]
    assert 100 * task_metrics.MEASURES[metric](seen.found[drawn], drawn) == pytest.approx(again)


def test_measures_of_rows_are_the_libraries() -> None:
    rng = np.random.default_rng(2)
    right = rng.integers(0, 2, (50, 30))
    found = np.where(rng.random((50, 30)) < 0.6, right, rng.integers(0, 3, (50, 30)))
    found[0], right[1], found[2], right[2] = 0, 1, 0, 0
    positive = [f1_score(t == 1, f == 1, zero_division=0) for f, t in zip(found, right, strict=True)]
    assert task_metrics.f1(found, right) == pytest.approx(positive)
    pairs = list(zip(found, right, strict=True))[3:]
    assert task_metrics.matthews(found, right)[3:] == pytest.approx([matthews_corrcoef(t, f) for f, t in pairs])
    assert task_metrics.matthews(found, right)[[0, 1, 2]].tolist() == [0, 0, 0]
    numbers, truth = rng.normal(size=(20, 12)).round(1), rng.integers(0, 6, (20, 12)).astype(float)
    numbers[0, 0], numbers[1] = 1e200, 3.0
    for measure, library in ((task_metrics.pearson, stats.pearsonr), (task_metrics.spearman, stats.spearmanr)):
        wanted = [library(f, t).statistic for f, t in list(zip(numbers, truth, strict=True))[2:]]
        assert measure(numbers, truth)[2:] == pytest.approx(wanted)
        assert measure(numbers, truth)[1] == 0
        assert abs(measure(numbers, truth)[0]) <= 1
        assert measure(numbers[:, :1], truth[:, :1]).tolist() == [0] * 20


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_what_a_file_keeps_of_each_example_gives_the_score(metric) -> None:
    if metric in task_metrics.CLASSES:
        examples, said = classes(1, 0, 1, 0, 1, 1), ["yes", "no", "no", "yes", "what", "yes"]
    else:
        examples = [question(f"{n}.5 red balls", f"{n} balls; a dog", row=7 * n) for n in range(6)]
        said = ["0.5 red balls", "1 ball", "a dog; 2 balls", "3.5", "none", "5.5 balls"]
    columns = json.loads(json.dumps(columns_by_example(metric, said, examples)))
    assert columns["row"] == [one.row for one in examples]
    assert 100 * observations(metric, columns).value == pytest.approx(metric_value(metric, said, examples).value)
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
def test_columns_that_are_wrong_are_refused(name, columns) -> None:
    with pytest.raises((ValueError, KeyError)):
        observations(name, columns)


def test_further_columns_that_fit() -> None:
    cards = Cards(())

    def names(card: str, said: list[str], examples: list[Example]) -> set[str]:
        return set(extra_metrics(cards[card], said, examples))

    text = [question("the red ball", row=0), question("a dog", row=1)]
    assert names("squad", ["red ball", "cat"], text) == {"exact_match"}
    assert names("common_gen", ["red ball", "cat"], text) == {"rouge1", "rouge2", "bleu", "chrf"}
    assert names("xsum", ["red ball", "cat"], text) == {"rouge1", "rouge2"}
    assert names("drop", ["red ball", "cat"], text) == {"drop_em"}
    assert names("trivia_qa", ["red ball", "cat"], text) == {"trivia_f1"}
    assert names("mrpc", ["yes", "no"], classes(1, 0)) == {"f1"}
    assert names("multirc", ["yes", "no"], classes(1, 0)) == {"accuracy"}
    assert names("rte", ["yes", "no"], classes(1, 0)) == set()
    assert names("mrpc", ["red ball", "cat"], text) == set(), "f1 does not fit open answers"
    numbers = [question(str(one)) for one in (1.0, 2.0, 4.0)]
    found = extra_metrics(cards["stsb"], ["1.2", "3", "8"], numbers)
    assert found == {"spearman": pytest.approx(100)}


def test_every_card_names_metrics_that_can_be_had() -> None:
    cards = Cards(())
    for name in cards.paths:
        metric = cards[name].metric
        assert metric.name not in metric.also
        assert not set(metric.also) & set(task_metrics.ALSO.get(metric.name, ())), f"{name}: named twice"


@pytest.mark.parametrize(
    ("metric", "example"),
    [
        ("f1", question("a")),
        ("matthews", question("a", options=("a", "b", "c"), label=0)),
        ("pearson", question("a")),
        ("number", question("none")),
    ],
)
def test_a_metric_that_does_not_fit_is_said(metric, example) -> None:
    with pytest.raises(MetalmError, match=f"the metric {metric} does not fit task") as caught:
        metric_value(metric, ["x"], [example])
    assert caught.value.why
    assert caught.value.remedy


def test_chance_levels() -> None:
    found = chance("accuracy", classes(1, 1, 1, 0))
    assert (found.uniform, found.majority) == (50.0, 75.0)
    own = [question("a", options=("a", "b"), label=0), question("c", options=("c", "d", "e", "f"), label=0)]
    assert (chance("accuracy", own).uniform, chance("accuracy", own).majority) == (37.5, None)
    three = chance("f1", classes(1, 1, 1, 0))
    assert three.uniform == pytest.approx(100 * 0.75 / 1.25)
    assert three.majority == pytest.approx(metric_value("f1", ["yes"] * 4, classes(1, 1, 1, 0)).value)
    assert chance("matthews", classes(0, 1)) == task_metrics.ChanceLevel(0.0, 0.0)
    assert chance("token_f1", [question("x")]) == task_metrics.ChanceLevel() == chance("accuracy", [])


def test_the_uniform_level_is_what_guessing_scores() -> None:
    rng = np.random.default_rng(0)
    examples = classes(*([1] * 700 + [0] * 300)) * 10
    for metric in ("accuracy", "f1", "matthews"):
        said = [("no", "yes")[one] for one in rng.integers(0, 2, len(examples))]
        wanted = chance(metric, examples).uniform
        assert metric_value(metric, said, examples).value == pytest.approx(wanted, abs=2)
