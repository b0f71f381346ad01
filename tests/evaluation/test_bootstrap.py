"""Standard errors, intervals and paired tests against scipy, known values, and nominal error rates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from metalm_cli.common import registry
from metalm_cli.evaluation.metrics.bootstrap import (
    Observations,
    common_rows,
    compare_paired,
    corpus_error,
    interval,
    interval_of_mean,
    mcnemar,
    percentiles,
    resampled_means,
    score_interval,
    standard_error,
    task_samples,
    two_sided_p,
    wilson_interval,
)

CORRECT = np.array([1.0] * 30 + [0.0] * 70)
LENGTHS = np.random.default_rng(0).gamma(2.0, 1.0, 200)


def observe(values: object, rows: object = None) -> Observations:
    array = np.array(values, dtype=float)
    return Observations(np.arange(len(array)) if rows is None else np.array(rows), array)


def test_the_standard_error_is_scipys() -> None:
    assert standard_error(LENGTHS) == pytest.approx(stats.sem(LENGTHS))
    assert standard_error(np.array([0.5])) is None


@pytest.mark.parametrize("values", [CORRECT, LENGTHS], ids=["few values", "many values"])
def test_the_interval_of_a_mean_is_scipys_percentile_bootstrap(values) -> None:
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = expected.high - expected.low
    actual = interval(values, resamples=20_000)
    assert actual == pytest.approx((expected.low, expected.high), abs=0.03 * width)
    assert interval(values) == pytest.approx((expected.low, expected.high), abs=0.12 * width)


def test_intervals_are_seeded() -> None:
    assert interval(LENGTHS) == interval(LENGTHS) != interval(LENGTHS, seed=1)
    assert interval(CORRECT) == interval(CORRECT[::-1]), "few values: their order does not matter"


def test_interval_coverage_is_nominal() -> None:
    random = np.random.default_rng(4)
    samples = random.random((400, 120)) < 0.7
    hits = sum(low <= 0.7 <= high for low, high in map(interval, samples.astype(float)))
    assert 0.91 <= hits / 400 <= 0.98


def test_both_ways_to_draw_means_are_the_same_distribution() -> None:
    from_counts = resampled_means(CORRECT, resamples=20_000)
    from_rows = observe(CORRECT).resample(resamples=20_000)
    assert from_counts.mean() == pytest.approx(from_rows.mean(), abs=0.002)
    assert from_counts.std() == pytest.approx(from_rows.std(), rel=0.03)
    assert from_counts.std() == pytest.approx(math.sqrt(0.3 * 0.7 / 100), rel=0.03)


def test_one_value_and_none() -> None:
    assert interval(np.array([0.25])) == (0.25, 0.25)
    assert interval(np.ones(9)) == (1.0, 1.0)
    with pytest.raises(ValueError):
        interval(np.array([]))


def test_the_interval_of_a_correlation_is_near_fishers() -> None:
    random = np.random.default_rng(7)
    references = random.normal(size=500)
    predictions = 0.8 * references + 0.6 * random.normal(size=500)
    observations = Observations(np.arange(500), predictions, references, registry.metrics.load("pearson"))
    low, high = percentiles(observations.resample(resamples=1_500))
    expected = stats.pearsonr(predictions, references).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.012)


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_batched_resamples_match_single_resamples(name) -> None:
    random = np.random.default_rng(8)
    references = random.integers(0, 2, 70)
    predictions = np.where(random.random(70) < 0.7, references, random.integers(0, 3, 70))
    observations = Observations(np.arange(70), predictions, references, registry.metrics.load(name))
    resampled = observations.resample(resamples=200)

    def measure_single(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
        return np.array([registry.metrics.load(name)(*draw) for draw in zip(predictions, references, strict=True)])

    single = replace(observations, measure=measure_single)
    assert single.resample(resamples=200) == pytest.approx(resampled, nan_ok=True)
    assert corpus_error(observations, resamples=200) == pytest.approx(resampled.std(ddof=1))
    assert observations.score == pytest.approx(float(registry.metrics.load(name)(predictions, references)))


def test_mcnemars_exact_p() -> None:
    # 12 differences, 10 to 2: twice the binomial tail, 2 (1 + 12 + 66) / 4096.
    first = np.array([1] * 10 + [0] * 2 + [1] * 50 + [0] * 30)
    second = np.array([0] * 10 + [1] * 2 + [1] * 50 + [0] * 30)
    assert mcnemar(first, second) == pytest.approx(2 * 79 / 4096)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1


def test_a_paired_difference_is_that_of_a_paired_t_test() -> None:
    random = np.random.default_rng(11)
    difficulty = random.normal(size=400)
    first, second = difficulty + 0.2 * random.normal(size=400) + 0.02, difficulty + 0.2 * random.normal(size=400)
    result = compare_paired([observe(first)], [observe(second)])
    assert result is not None
    test = stats.ttest_rel(first, second)
    expected = test.confidence_interval(0.95)
    assert result.difference == pytest.approx(first.mean() - second.mean())
    assert result.interval == pytest.approx((expected.low, expected.high), abs=0.004)
    assert result.p == pytest.approx(test.pvalue, abs=0.03)
    assert result.mcnemar is None
    unpaired_width = math.hypot(standard_error(first) or 0, standard_error(second) or 0)
    assert result.interval[1] - result.interval[0] < unpaired_width, "what is hard for both cancels"


def test_rows_are_matched_by_their_number() -> None:
    random = np.random.default_rng(12)
    first, second = (random.random(90) < 0.8).astype(float), (random.random(90) < 0.5).astype(float)
    ordered = compare_paired([observe(first)], [observe(second)])
    order = random.permutation(90)
    shuffled = compare_paired([observe(first)], [observe(second[order], order)])
    assert ordered == shuffled
    assert ordered is not None
    assert (ordered.winner, ordered.common, ordered.exclusive) == (1, 90, (0, 0))
    assert ordered.mcnemar == mcnemar(first, second)
    swapped = compare_paired([observe(second)], [observe(first)])
    assert swapped is not None
    assert (swapped.winner, swapped.difference) == (2, -ordered.difference)
    partial = compare_paired([observe(first)], [observe(second[30:], np.arange(30, 90))])
    assert partial is not None
    assert (partial.common, partial.exclusive, partial.first) == (60, (30, 0), pytest.approx(first[30:].mean()))
    assert compare_paired([observe(first)], [observe(second, np.arange(90, 180))]) is None
    assert common_rows([observe(first), observe(first[:5])], [observe(second[3:], np.arange(3, 90))]).tolist() == [3, 4]
    with pytest.raises(KeyError):
        observe(first).select(np.array([91]))


def test_equal_models_have_no_difference() -> None:
    result = compare_paired([observe(CORRECT)], [observe(CORRECT)])
    assert result is not None
    assert (result.difference, result.interval, result.p, result.mcnemar, result.winner) == (0, (0, 0), 1, 1, 0)


def test_the_false_positive_rate_is_nominal() -> None:
    random = np.random.default_rng(13)
    significant = 0
    for _ in range(300):
        models = (random.random((2, 150)) < 0.6).astype(float)
        result = compare_paired([observe(models[0])], [observe(models[1])], resamples=1_000)
        assert result is not None
        assert (result.p < 0.05) == (result.winner != 0) or 0.03 < result.p < 0.07
        significant += result.winner != 0
    assert 0.015 <= significant / 300 <= 0.09


def test_scores_of_whole_splits_are_paired() -> None:
    random = np.random.default_rng(14)
    references = random.integers(0, 2, 300)
    good, bad = (np.where(random.random(300) < share, references, 1 - references) for share in (0.9, 0.6))
    models = [
        Observations(np.arange(300), predictions, references, registry.metrics.load("f1"))
        for predictions in (good, bad)
    ]
    result = compare_paired([models[0]], [models[1]], resamples=500)
    assert result is not None
    assert result.difference == pytest.approx(
        float(registry.metrics.load("f1")(good, references) - registry.metrics.load("f1")(bad, references))
    )
    assert (result.winner, result.mcnemar) == (1, None)
    assert result.p == pytest.approx(2 / 501)


def test_several_templates_are_averaged_by_example() -> None:
    correct, wrong = CORRECT, 1 - CORRECT
    result = compare_paired([observe(correct), observe(wrong)], [observe(correct)])
    assert result is not None
    assert result.first == 0.5
    assert result.difference == pytest.approx(0.2)
    assert result.mcnemar is None
    # The mean over the two templates is 0.5 for each example, so resampling does not change it.
    assert np.ptp(task_samples([observe(correct), observe(wrong)])) == pytest.approx(0)


def test_p_counts_both_sides_and_is_never_zero() -> None:
    assert two_sided_p(np.full(999, 0.5)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.zeros(99)) == 1
    assert two_sided_p(np.array([-1.0] * 10 + [1.0] * 89)) == pytest.approx(2 * 11 / 100)


@pytest.mark.parametrize(("right", "n"), [(0, 60), (1, 60), (30, 100), (60, 60), (2, 2)])
def test_wilson_is_scipys(right: int, n: int) -> None:
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    values = [1.0] * right + [0.0] * (n - right)
    assert score_interval([observe(values)]) == wilson_interval(right / n, n), "an accuracy"


def test_an_interval_has_a_width_or_is_none() -> None:
    correct = observe([1.0] * 60)
    assert score_interval([correct, correct]) == wilson_interval(1.0, 60), "two templates, always right"
    graded = observe([0.25, 0.75] * 30)
    assert score_interval([graded]) == percentiles(task_samples([graded])), "graded values"
    assert score_interval([observe([0.5] * 60)]) == wilson_interval(0.5, 60), "all the same"
    of_split = Observations(np.arange(60), np.ones(60), np.ones(60), registry.metrics.load("macro_f1"))
    assert of_split.score == 1
    assert score_interval([of_split]) is None
    assert score_interval([observe([1.0])]) is None
    assert score_interval([]) is None


def test_the_interval_of_a_mean_is_that_of_resampled_tasks() -> None:
    random = np.random.default_rng(15)
    tasks = [(random.random(n) < share).astype(float) for n, share in ((100, 0.3), (400, 0.6), (100, 0.9))]
    values = [float(task.mean()) for task in tasks]
    actual = interval_of_mean(values, [wilson_interval(task.mean(), len(task)) for task in tasks])
    resamples = [resampled_means(task, seed=seed, resamples=20_000) for seed, task in enumerate(tasks)]
    assert actual == pytest.approx(percentiles(np.mean(resamples, axis=0)), abs=0.006)
    assert interval_of_mean([1.0], [(0.94, 1.0)]) == pytest.approx((0.94, 1.0)), "of one score: its own"
    low, high = interval_of_mean([1.0, 1.0], [(0.94, 1.0)] * 2) or (0, 0)
    assert (low, high) == (pytest.approx(1 - 0.06 / math.sqrt(2)), 1.0)
    assert interval_of_mean([1.0, 0.5], [(0.94, 1.0), None]) is None
