"""Statistics of claims: intervals over examples and seeds against exact enumeration and loops, and the verdicts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from metalm_cli.evaluation.metrics.bootstrap import Observations
from metalm_cli.studies.claims import TaskScores, compare_models, verdict_of, verdict_of_each, weights_over


def observed(values, measure=None) -> Observations:
    numbers = np.asarray(values, dtype=float)
    return Observations(np.arange(len(numbers)), numbers, None, measure)


def model(*seeds) -> list[list[Observations]]:
    """Observations of a model with one template: the values of the examples for each seed."""
    return [[observed(values)] for values in seeds]


def exact_distribution(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences of all equally likely resamples of seeds and examples, in points; values are ``[seed, example]``."""
    seeds, examples = first.shape
    return np.array(
        [
            100 * (first - second)[np.ix_(drawn_seeds, drawn)].mean()
            for drawn_seeds in itertools.product(range(seeds), repeat=seeds)
            for drawn in itertools.product(range(examples), repeat=examples)
        ]
    )


def assert_ends_are_quantiles(interval, exact) -> None:
    """Check that 2.5% of an exact distribution are below the low end, and 2.5% above the high end, within 0.4%."""
    exact = np.asarray(exact)
    for end, values in ((interval[0], exact), (-interval[1], -exact)):
        assert (values < end - 1e-9).mean() <= 0.025 + 0.004
        assert (values <= end + 1e-9).mean() >= 0.025 - 0.004


def test_the_interval_is_that_of_all_resamples_of_seeds_and_examples():
    random = np.random.default_rng(5)
    first, second = random.random((3, 4)), random.random((3, 4))
    result = compare_models([TaskScores("a", "c", model(*first), model(*second))], [1.0], resamples=40_000)
    exact = exact_distribution(first, second)
    assert len(exact) == 3**3 * 4**4
    assert result.value == pytest.approx(100 * (first - second).mean())
    assert_ends_are_quantiles(result.interval, exact)
    assert result.by_seed == pytest.approx(100 * (first - second).mean(axis=1))
    # seeds matter: an interval over examples alone is another one
    alone = np.array([100 * (first - second)[:, list(d)].mean() for d in itertools.product(range(4), repeat=4)])
    assert abs(result.interval[0] - np.quantile(alone, 0.025)) > 2


def test_one_seed_gives_an_interval_over_examples():
    first, second = np.array([[1, 1, 0, 1, 0.5]]), np.array([[0, 1, 0, 0, 0.5]])
    result = compare_models([TaskScores("a", "c", model(*first), model(*second))], [1.0], resamples=40_000)
    assert result.interval == pytest.approx(np.quantile(exact_distribution(first, second), (0.025, 0.975)), abs=0.01)


def test_differences_that_all_examples_share_have_no_spread_over_examples():
    values = np.array([1.0, 0.0, 1.0, 0.0])
    result = compare_models([TaskScores("a", "c", model(values), model(values))], [1.0])
    assert result.is_zero
    assert result.interval == (0, 0)
    assert result.first_interval[0] < 50 < result.first_interval[1]
    shifted = compare_models([TaskScores("a", "c", model(values, values), model(values - 0.25, values - 0.25))], [1.0])
    assert shifted.interval == pytest.approx((25, 25))


def test_tasks_are_resampled_independently_and_seeds_together():
    random = np.random.default_rng(9)
    data = random.random((2, 2, 2, 3))  # task, model, seed, example
    tasks = [
        TaskScores(str(number), str(number), model(*sides[0]), model(*sides[1])) for number, sides in enumerate(data)
    ]
    result = compare_models(tasks, weights_over(tasks, "clusters"), resamples=40_000)
    differences = data[:, 0] - data[:, 1]
    exact = [
        100 * np.mean([differences[task][np.ix_(seeds, drawn[task])].mean() for task in (0, 1)])
        for seeds in itertools.product((0, 1), repeat=2)
        for drawn in itertools.product(itertools.product(range(3), repeat=3), repeat=2)
    ]
    assert len(exact) == 4 * 27 * 27
    assert_ends_are_quantiles(result.interval, exact)
    assert result.examples == 6


def test_a_score_of_whole_splits_equals_its_mean_by_example():
    def mean(predictions, references):
        return predictions.mean(axis=-1)

    random = np.random.default_rng(7)
    values = random.random((2, 2, 30))
    plain = TaskScores("a", "c", model(*values[0]), model(*values[1]))
    measured = TaskScores("a", "c", *([[observed(values[side, seed], mean)] for seed in (0, 1)] for side in (0, 1)))
    first, second = (compare_models([task], [1.0], resamples=20_000) for task in (plain, measured))
    assert second.value == pytest.approx(first.value)
    assert second.interval == pytest.approx(first.interval, abs=0.5)


def test_templates_are_averaged_and_only_common_examples_count():
    first = [[observed([1, 1, 0, 0]), observed([0, 1, 1, 0])]]
    second = [[Observations(np.array([1, 2]), np.array([0.0, 1.0]))]]
    result = compare_models([TaskScores("a", "c", first, second)], [1.0])
    assert (result.first, result.second, result.examples) == (75, 50, 2)
    with pytest.raises(ValueError, match="no example of a"):
        compare_models([TaskScores("a", "c", first, [[Observations(np.array([9]), np.array([1.0]))]])], [1.0])


def test_a_constant_has_no_interval():
    result = compare_models([TaskScores("a", "c", model([1, 1, 0, 1]), 0.5)], [1.0])
    assert (result.first, result.second) == (75, 50)
    assert result.second_interval == pytest.approx((50, 50))
    assert result.interval == pytest.approx((result.first_interval[0] - 50, result.first_interval[1] - 50))


def test_an_interval_without_width_is_wilsons():
    result = compare_models([TaskScores("a", "c", model([1] * 60), model([0] * 60))], [1.0])
    assert result.first_interval == pytest.approx((93.98, 100), abs=0.01)
    assert result.second_interval == pytest.approx((0, 6.02), abs=0.01)
    assert result.interval == pytest.approx((100 - 6.02 * 2**0.5, 100), abs=0.01)
    beside = compare_models([TaskScores("a", "c", model([1] * 60), 0.5)], [1.0])
    assert beside.second_interval == (50, 50)
    assert beside.interval == pytest.approx((43.98, 50), abs=0.01)


def test_weights():
    tasks = [TaskScores(name, cluster, [], 0.5) for name, cluster in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert weights_over(tasks, "clusters") == pytest.approx([0.25, 0.25, 0.5])
    assert weights_over(tasks, "tasks") == pytest.approx([1 / 3] * 3)


def test_the_interval_of_two_equal_models_covers_zero_about_as_often_as_stated():
    """With many seeds, models that are equal but for chance are called different in about one of twenty studies."""
    random = np.random.default_rng(8)
    clear = 0
    for _ in range(200):
        rates = random.normal(0, 0.05, (2, 8, 1))
        items = random.random((1, 1, 60))
        values = (random.random((2, 8, 60)) < np.clip(items + rates, 0, 1)).astype(float)
        result = compare_models([TaskScores("a", "c", model(*values[0]), model(*values[1]))], [1.0], resamples=500)
        clear += verdict_of(result.interval) != "undecided"
    assert 2 <= clear <= 30  # 5% of 200 is 10; eight seeds and the percentile method give somewhat more


@pytest.mark.parametrize(
    ("interval", "margin", "direction", "verdict"),
    [
        ((0.1, 5), 0, "above", "agrees"),
        ((0.0, 5), 0, "above", "undecided"),
        ((-5, -0.1), 0, "above", "disagrees"),
        ((-5, -0.1), 0, "below", "agrees"),
        ((0.1, 5), 0, "below", "disagrees"),
        ((-1.9, 1), 2, "above", "agrees"),
        ((-3, -2.5), 2, "above", "disagrees"),
        ((-3, -1), 2, "above", "undecided"),
        ((-1, 1.9), 2, "below", "agrees"),
        ((3, 5), -2, "above", "agrees"),
        ((1, 5), -2, "above", "undecided"),
    ],
)
def test_the_verdict(interval, margin, direction, verdict):
    assert verdict_of(interval, margin, direction) == verdict


@pytest.mark.parametrize(
    ("verdicts", "at_least", "verdict"),
    [
        ("aau", 2, "agrees"),
        ("auu", 2, "undecided"),
        ("add", 2, "disagrees"),
        ("ddu", 1, "undecided"),
        ("dd", 1, "disagrees"),
    ],
)
def test_the_verdict_on_several_tasks(verdicts, at_least, verdict):
    names = {"a": "agrees", "u": "undecided", "d": "disagrees"}
    assert verdict_of_each([names[letter] for letter in verdicts], at_least) == verdict
