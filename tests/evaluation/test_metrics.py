"""Metrics against values worked out by hand."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import metrics, texts
from metalm_cli.evaluation.metrics import chance, each, score
from metalm_cli.tasks import Example


def question(*answers: str, options: tuple[str, ...] = (), label: int | None = None, row: int = 0) -> Example:
    return Example("task", row, {}, answers, options, label)


def classes(*labels: int) -> list[Example]:
    return [question(("no", "yes")[one], options=("no", "yes"), label=one) for one in labels]


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The  Cat's hat, a lie.", "cats hat lie"), ("An  answer!", "answer"), ("theatre", "theatre"), ("a the an", "")],
)
def test_squads_normalisation(text, normal) -> None:
    assert texts.normalised(text) == normal


@pytest.mark.parametrize(
    ("said", "right", "f1", "exact"),
    [
        ("the Broncos!", "Broncos", 1.0, 1.0),
        ("red ball", "a ball of red wool", 2 / 3, 0.0),
        ("red red", "red", 2 / 3, 0.0),
        ("blue", "red", 0.0, 0.0),
        ("", "red", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
        ("Unanswerable.", "unanswerable", 1.0, 1.0),
        ("unanswerable question", "unanswerable", 0.0, 0.0),
        ("unanswerable", "an unanswerable question", 0.0, 0.0),
    ],
)
def test_exact_match_and_token_f1(said, right, f1, exact) -> None:
    assert texts.token_f1(said, right) == pytest.approx(f1)
    assert texts.exact_match(said, right) == exact


def test_rouge_by_hand() -> None:
    # Lin 2004, section 3.1: S1 is the reference; S2 and S3 share 2 bigram-free orders of it.
    reference, second, third = "police killed the gunman", "police kill the gunman", "the gunman kill police"
    assert texts.rouge_l(second, reference) == pytest.approx(3 / 4)
    assert texts.rouge_l(third, reference) == pytest.approx(2 / 4)
    assert texts.rouge_n(second, reference, 2) == texts.rouge_n(third, reference, 2) == pytest.approx(1 / 3)
    # 3 of 4 words said are among 6: precision 3/4, recall 3/6.
    assert texts.rouge_n("The cat, the hat", "the CAT sat on the mat", 1) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert texts.rouge_l("the hat the cat", "the cat sat on the mat") == pytest.approx(2 * 2 / 10)
    for empty, other in (("", "word"), ("word", ""), ("", ""), ("…", "word"), ("one", "one")):
        assert texts.rouge_n(empty, other, 2) == 0
    assert texts.rouge_n("one", "one", 1) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 7 - 4 = 3, or $1,234.50.", "1234.50"),
        ("it is -5", "-5"),
        ("5-3", "3"),
        ("x = \u221212", "-12"),
        ("1,234,567 people", "1234567"),
        ("choose 1,2", "2"),
        (".5 litres", ".5"),
        ("18.", "18"),
        ("none", None),
    ],
)
def test_the_last_number(text, number) -> None:
    assert texts.last_number(text) == (None if number is None else Decimal(number))


def test_numbers_are_equal_as_numbers() -> None:
    examples = [question("#### 1,200"), question("3.50"), question("7"), question("7")]
    found = score("number", ["so it is 1200.", "3.5", "7 or 8", "seven"], examples)
    assert (found.value, found.n) == (50.0, 4)
    assert texts.first_number("9" * 400) is None


def test_accuracy_is_the_right_option_said_exactly() -> None:
    examples = classes(1, 1, 1, 0)
    found = score("accuracy", [" yes\n", "Yes", "yes, it does", "no"], examples)
    assert found.value == 50.0
    assert found.error == pytest.approx(100 * math.sqrt(0.25 / 3))
    other = question("B", "A", options=("A", "B"), label=1)
    assert (each("accuracy", "A", other), each("accuracy", "A", question("B", "A"))) == (0.0, 1.0)


def test_the_best_reference_counts() -> None:
    assert each("token_f1", "blue ball", question("red", "ball", "blue ball")) == 1.0
    assert each("rougeL", "a b c d", question("x", "a b c d e f")) == pytest.approx(0.8)


def test_one_example_has_no_error_and_none_no_score() -> None:
    assert score("exact_match", ["x"], [question("x")]).error is None
    with pytest.raises(MetalmError, match="nothing to score"):
        score("accuracy", [], [])


def test_f1_is_of_the_second_class() -> None:
    said = ["yes", "yes", "no", "dunno", "yes", "no"]
    found = score("f1", said, classes(1, 1, 1, 1, 0, 0))
    assert found.value == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert found.counts == {"neither": 1}
    assert score("f1", ["no", "no"], classes(0, 0)).value == 0


def test_matthews_is_pearsons_correlation_of_two_classes() -> None:
    rng = np.random.default_rng(1)
    right, found = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    found[:40] = right[:40]
    said = [("no", "yes")[one] for one in found]
    value = score("matthews", said, classes(*right.tolist())).value
    assert value == pytest.approx(100 * np.corrcoef(found, right)[0, 1])
    worse = score("matthews", ["what?", "what?", *said[2:]], classes(*right.tolist()))
    assert worse.value < value
    assert worse.counts == {"neither": 2}
    assert score("matthews", ["yes"] * 60, classes(*right.tolist())).value == 0


def test_matthews_with_a_third_class_by_hand() -> None:
    # Gorodkin's R: rows truth (no, yes, neither), columns said; trace 2 of 4; truth 2, 2, 0; said 1, 2, 1.
    value = score("matthews", ["no", "dunno", "yes", "yes"], classes(0, 0, 1, 1)).value
    assert value == pytest.approx(100 * (3 * 4 - 6) / math.sqrt((16 - 6) * (16 - 8)))


def test_pearson_counts_what_it_cannot_read() -> None:
    right = [0.0, 1.0, 2.5, 4.0, 5.0]
    examples = [question(str(one)) for one in right]
    found = score("pearson", ["0.1", "about 2", "2.0", "no idea", "4.6"], examples)
    assert found.value == pytest.approx(100 * np.corrcoef([0.1, 2, 2, -1, 4.6], right)[0, 1])
    assert found.counts == {"unread": 1}
    assert score("pearson", ["3"] * 5, examples).value == 0
    assert each("pearson", "3", examples[0]) is None


def test_bootstrap_errors_are_those_of_resampling() -> None:
    rng = np.random.default_rng(3)
    right = rng.normal(size=400)
    said = right + rng.normal(size=400)
    examples = [question(f"{one:.6f}") for one in right]
    found = score("pearson", [f"{one:.6f}" for one in said], examples)
    rho = found.value / 100
    assert found.error == pytest.approx(100 * (1 - rho**2) / math.sqrt(400), rel=0.2)
    assert found == score("pearson", [f"{one:.6f}" for one in said], examples)


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
        score(metric, ["x"], [example])
    assert caught.value.why
    assert caught.value.remedy


def test_chance_levels() -> None:
    found = chance("accuracy", classes(1, 1, 1, 0))
    assert (found.uniform, found.majority) == (50.0, 75.0)
    own = [question("a", options=("a", "b"), label=0), question("c", options=("c", "d", "e", "f"), label=0)]
    assert (chance("accuracy", own).uniform, chance("accuracy", own).majority) == (37.5, None)
    three = chance("f1", classes(1, 1, 1, 0))
    assert three.uniform == pytest.approx(100 * 0.75 / 1.25)
    assert three.majority == pytest.approx(score("f1", ["yes"] * 4, classes(1, 1, 1, 0)).value)
    assert chance("matthews", classes(0, 1)) == metrics.Chance(0.0, 0.0)
    assert chance("token_f1", [question("x")]) == metrics.Chance() == chance("accuracy", [])


def test_the_uniform_level_is_what_guessing_scores() -> None:
    rng = np.random.default_rng(0)
    examples = classes(*([1] * 700 + [0] * 300)) * 10
    for metric in ("accuracy", "f1", "matthews"):
        said = [("no", "yes")[one] for one in rng.integers(0, 2, len(examples))]
        wanted = chance(metric, examples).uniform
        assert score(metric, said, examples).value == pytest.approx(wanted, abs=2)
