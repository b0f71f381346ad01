"""Standard errors, intervals and paired tests against scipy, known values, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metalm_cli.evaluation.metrics.bootstrap import (
    Observations,
    common_rows,
    corpus_error,
    corpus_interval,
    interval,
    mcnemar,
    mean_of,
    mean_samples,
    paired,
    percentiles,
    resampled_means,
    standard_error,
    task_samples,
    two_sided_p,
)
from metalm_cli.evaluation.metrics.task_metrics import MEASURES

RIGHT = np.array([1.0] * 30 + [0.0] * 70)
LENGTHS = np.random.default_rng(0).gamma(2.0, 1.0, 200)


def means(values: object, rows: object = None) -> Observations:
    found = np.array(values, dtype=float)
    return Observations(np.arange(len(found)) if rows is None else np.array(rows), found)


def test_the_standard_error_is_scipys() -> None:
    assert standard_error(LENGTHS) == pytest.approx(stats.sem(LENGTHS))
    assert standard_error(np.array([0.5])) is None


@pytest.mark.parametrize("values", [RIGHT, LENGTHS], ids=["few values", "many values"])
def test_the_interval_of_a_mean_is_scipys_percentile_bootstrap(values) -> None:
    wanted = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = wanted.high - wanted.low
    found = interval(values, resamples=20_000)
    assert found == pytest.approx((wanted.low, wanted.high), abs=0.03 * width)
    assert interval(values) == pytest.approx((wanted.low, wanted.high), abs=0.12 * width)


def test_intervals_are_seeded() -> None:
    assert interval(LENGTHS) == interval(LENGTHS) != interval(LENGTHS, seed=1)
    assert interval(RIGHT) == interval(RIGHT[::-1]), "few values: their order does not matter"


def test_intervals_cover_what_they_promise() -> None:
    random = np.random.default_rng(4)
    samples = random.random((400, 120)) < 0.7
    hits = sum(low <= 0.7 <= high for low, high in map(interval, samples.astype(float)))
    assert 0.91 <= hits / 400 <= 0.98


def test_both_ways_to_draw_means_are_the_same_distribution() -> None:
    few = resampled_means(RIGHT, resamples=20_000)
    rows = means(RIGHT).resampled(resamples=20_000)
    assert few.mean() == pytest.approx(rows.mean(), abs=0.002)
    assert few.std() == pytest.approx(rows.std(), rel=0.03)
    assert few.std() == pytest.approx(math.sqrt(0.3 * 0.7 / 100), rel=0.03)


def test_one_value_and_none() -> None:
    assert interval(np.array([0.25])) == (0.25, 0.25)
    assert interval(np.ones(9)) == (1.0, 1.0)
    with pytest.raises(ValueError):
        interval(np.array([]))
    with pytest.raises(ValueError):
        corpus_interval(MEASURES["f1"], np.array([]), np.array([]))


def test_the_interval_of_a_correlation_is_near_fishers() -> None:
    random = np.random.default_rng(7)
    right = random.normal(size=500)
    found = 0.8 * right + 0.6 * random.normal(size=500)
    low, high = corpus_interval(MEASURES["pearson"], found, right, resamples=1_500)
    wanted = stats.pearsonr(found, right).confidence_interval(0.95)
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.012)


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_scores_of_many_resamples_at_once_are_those_of_one_by_one(name) -> None:
    random = np.random.default_rng(8)
    right = random.integers(0, 2, 70)
    found = np.where(random.random(70) < 0.7, right, random.integers(0, 3, 70))
    whole = Observations(np.arange(70), found, right, MEASURES[name])
    at_once = whole.resampled(resamples=200)
    assert corpus_interval(MEASURES[name], found, right, resamples=200) == pytest.approx(percentiles(at_once))
    assert corpus_error(whole, resamples=200) == pytest.approx(at_once.std(ddof=1))
    assert whole.value == pytest.approx(float(MEASURES[name](found, right)))


def test_corpus_intervals_take_a_measure_of_several_columns() -> None:
    found = np.stack([RIGHT, 1 - RIGHT], axis=1)
    low, high = corpus_interval(lambda said, right: float((said[:, 0] == right).mean()), found, RIGHT)
    assert (low, high) == (1.0, 1.0)


def test_mcnemars_exact_p() -> None:
    # 12 differences, 10 to 2: twice the binomial tail, 2 (1 + 12 + 66) / 4096.
    first = np.array([1] * 10 + [0] * 2 + [1] * 50 + [0] * 30)
    second = np.array([0] * 10 + [1] * 2 + [1] * 50 + [0] * 30)
    assert mcnemar(first, second) == pytest.approx(2 * 79 / 4096)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1


def test_a_paired_difference_is_that_of_a_paired_t_test() -> None:
    random = np.random.default_rng(11)
    hard = random.normal(size=400)
    one, other = hard + 0.2 * random.normal(size=400) + 0.02, hard + 0.2 * random.normal(size=400)
    found = paired([means(one)], [means(other)])
    assert found is not None
    test = stats.ttest_rel(one, other)
    ends = test.confidence_interval(0.95)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    assert found.interval == pytest.approx((ends.low, ends.high), abs=0.004)
    assert found.p == pytest.approx(test.pvalue, abs=0.03)
    assert found.mcnemar is None
    alone = math.hypot(standard_error(one) or 0, standard_error(other) or 0)
    assert found.interval[1] - found.interval[0] < alone, "what is hard for both cancels"


def test_rows_are_matched_by_their_number() -> None:
    random = np.random.default_rng(12)
    one, other = (random.random(90) < 0.8).astype(float), (random.random(90) < 0.5).astype(float)
    plain = paired([means(one)], [means(other)])
    order = random.permutation(90)
    shuffled = paired([means(one)], [means(other[order], order)])
    assert plain == shuffled
    assert plain is not None
    assert (plain.winner, plain.both, plain.only) == (1, 90, (0, 0))
    assert plain.mcnemar == mcnemar(one, other)
    swapped = paired([means(other)], [means(one)])
    assert swapped is not None
    assert (swapped.winner, swapped.difference) == (2, -plain.difference)
    part = paired([means(one)], [means(other[30:], np.arange(30, 90))])
    assert part is not None
    assert (part.both, part.only, part.first) == (60, (30, 0), pytest.approx(one[30:].mean()))
    assert paired([means(one)], [means(other, np.arange(90, 180))]) is None
    assert common_rows([means(one), means(one[:5])], [means(other[3:], np.arange(3, 90))]).tolist() == [3, 4]
    with pytest.raises(KeyError):
        means(one).at(np.array([91]))


def test_equal_models_are_no_different() -> None:
    found = paired([means(RIGHT)], [means(RIGHT)])
    assert found is not None
    assert (found.difference, found.interval, found.p, found.mcnemar, found.winner) == (0, (0, 0), 1, 1, 0)


def test_differences_are_found_by_chance_as_often_as_promised() -> None:
    random = np.random.default_rng(13)
    called = 0
    for _ in range(300):
        sides = (random.random((2, 150)) < 0.6).astype(float)
        found = paired([means(sides[0])], [means(sides[1])], resamples=1_000)
        assert found is not None
        assert (found.p < 0.05) == (found.winner != 0) or 0.03 < found.p < 0.07
        called += found.winner != 0
    assert 0.015 <= called / 300 <= 0.09


def test_scores_of_whole_splits_are_paired_too() -> None:
    random = np.random.default_rng(14)
    right = random.integers(0, 2, 300)
    good, bad = (np.where(random.random(300) < share, right, 1 - right) for share in (0.9, 0.6))
    sides = [Observations(np.arange(300), said, right, MEASURES["f1"]) for said in (good, bad)]
    found = paired([sides[0]], [sides[1]], resamples=500)
    assert found is not None
    assert found.difference == pytest.approx(float(MEASURES["f1"](good, right) - MEASURES["f1"](bad, right)))
    assert (found.winner, found.mcnemar) == (1, None)
    assert found.p == pytest.approx(2 / 501)


def test_several_wordings_are_averaged_by_example() -> None:
    one, other = RIGHT, 1 - RIGHT
    found = paired([means(one), means(other)], [means(one)])
    assert found is not None
    assert found.first == 0.5
    assert found.difference == pytest.approx(0.2)
    assert found.mcnemar is None
    # The mean of the two wordings is a half for each example: resampling changes nothing in it.
    assert np.ptp(task_samples([means(one), means(other)])) == pytest.approx(0)


def test_p_counts_both_sides_and_is_never_zero() -> None:
    assert two_sided_p(np.full(999, 0.5)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.zeros(99)) == 1
    assert two_sided_p(np.array([-1.0] * 10 + [1.0] * 89)) == pytest.approx(2 * 11 / 100)


def test_means_over_tasks() -> None:
    random = np.random.default_rng(15)
    tasks = [(random.random(n) < share).astype(float) for n, share in ((100, 0.3), (400, 0.6), (100, 0.9))]
    found = mean_of([[means(one)] for one in tasks], resamples=8_000)
    assert found.value == pytest.approx(np.mean([one.mean() for one in tasks]))
    wanted = math.hypot(*(standard_error(one) or 0 for one in tasks)) / 3
    assert found.error == pytest.approx(wanted, rel=0.03)
    assert found.interval == pytest.approx((found.value - 1.96 * wanted, found.value + 1.96 * wanted), abs=0.005)


def test_tasks_of_one_size_are_drawn_apart() -> None:
    both = mean_samples([[means(LENGTHS)], [means(LENGTHS)]], resamples=8_000)
    alone = mean_samples([[means(LENGTHS)]], resamples=8_000)
    assert both is not None
    assert alone is not None
    assert both.std() == pytest.approx(alone.std() / math.sqrt(2), rel=0.05)


def test_too_few_examples_have_a_mean_alone() -> None:
    found = mean_of([[means([1.0])], [means(RIGHT)]])
    assert (found.value, found.error, found.interval) == (0.65, None, None)
    assert mean_samples([[]]) is None
    assert corpus_error(Observations(np.zeros(1), np.zeros(1), np.zeros(1), MEASURES["f1"])) is None
