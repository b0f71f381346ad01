"""Comparison of two result files: common rows, equal settings, and messages about differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.bootstrap import wilson_interval
from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS, Comparison, compare, record_cluster_means
from metalm_cli.evaluation.results.result_reader import parse_result
from result_fixtures import result_record, shot_record, task_record, template_record


def values(share: float, seed: int, n: int = 200) -> list[float]:
    return (np.random.default_rng(seed).random(n) < share).astype(float).tolist()


GOOD, BAD, SAME = values(0.9, 1), values(0.5, 2), values(0.7, 3)


def compare_records(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    return compare(parse_result(first, "a.json"), parse_result(second, "b.json"), resamples=2_000)


def single_task(scores: list[float], **changes: Any) -> dict[str, Any]:
    return result_record({"rte": task_record(shot_record(template_record(scores)))}, **changes)


def test_a_better_model_is_named_and_equal_ones_are_not() -> None:
    records = [
        result_record(
            {
                "rte": task_record(shot_record(template_record(scores))),
                "cb": task_record(shot_record(template_record(SAME))),
            }
        )
        for scores in (GOOD, BAD)
    ]
    comparison = compare_records(*records)
    rte, cb = comparison.tasks
    assert (rte.task, rte.winner, rte.obstacles) == ("rte", 1, ())
    assert rte.test is not None
    assert rte.test.difference == pytest.approx(np.mean(GOOD) - np.mean(BAD))
    assert (rte.first, rte.second) == (pytest.approx(100 * np.mean(GOOD)), pytest.approx(100 * np.mean(BAD)))
    assert rte.test.interval[0] > 0.25
    assert rte.test.mcnemar is not None
    assert rte.test.mcnemar < 1e-6
    assert cb.test is not None
    assert (cb.winner, cb.test.p, cb.test.interval) == (0, 1.0, (0, 0))
    assert compare_records(*records[::-1]).tasks[0].winner == 2


def test_means_are_of_clusters_and_over_them() -> None:
    records = [
        result_record(
            {
                "rte": task_record(shot_record(template_record(scores))),
                "cb": task_record(shot_record(template_record(SAME))),
                "sst2": task_record(shot_record(template_record(SAME)), cluster="sentiment"),
            }
        )
        for scores in (GOOD, BAD)
    ]
    nli, sentiment, over = compare_records(*records).means
    difference = 100 * (np.mean(GOOD) - np.mean(BAD))
    assert (nli.name, nli.of, nli.winner) == ("nli", ("rte", "cb"), 1)
    assert nli.first - nli.second == pytest.approx(difference / 2)
    assert nli.interval[0] < difference / 2 < nli.interval[1]
    assert (sentiment.first, sentiment.interval, sentiment.winner) == (sentiment.second, (0, 0), 0)
    assert (over.name, over.of) == (OVER_CLUSTERS, ("nli", "sentiment"))
    assert over.first - over.second == pytest.approx(difference / 4)
    assert over.interval == pytest.approx((nli.interval[0] / 2, nli.interval[1] / 2))


def test_means_take_core_tasks_and_all_where_none_is() -> None:
    def make_record(core: bool) -> dict[str, Any]:
        extra = task_record(shot_record(template_record(BAD)), core=False)
        return result_record({"rte": task_record(shot_record(template_record(GOOD)), core=core), "mine": extra})

    assert compare_records(make_record(True), make_record(True)).means[0].of == ("rte",)
    assert compare_records(make_record(False), make_record(False)).means[0].of == ("rte", "mine")


def test_only_rows_that_both_have_are_compared() -> None:
    full, partial = (
        single_task(GOOD),
        result_record({"rte": task_record(shot_record(template_record(BAD[50:], rows=list(range(50, 200)))))}),
    )
    test = compare_records(full, partial).tasks[0].test
    assert test is not None
    assert (test.common, test.exclusive, test.first) == (150, (50, 0), pytest.approx(np.mean(GOOD[50:])))
    disjoint = result_record({"rte": task_record(shot_record(template_record(BAD, rows=list(range(500, 700)))))})
    task = compare_records(full, disjoint).tasks[0]
    assert (task.test, task.obstacles, task.winner) == (None, ("the files have no rows in common",), 0)


def settings(**changes: Any) -> dict[str, Any]:
    return {"settings": {**single_task(BAD)["settings"], **changes}}


@pytest.mark.parametrize(
    ("changes", "task_changes", "why"),
    [
        ({"protocol": "instruct"}, {}, "the protocols differ: in_context, instruct"),
        (settings(limit=100), {}, "limit differs: all, 100"),
        (settings(sequence_length=512), {}, "sequence_length differs"),
        (settings(normalise=True), {}, "normalise differs"),
        (settings(template="5"), {}, "template differs: first, 5"),
        (settings(style={"options": False, "layout": "docks"}), {}, "style differs: options True and False"),
        ({}, {"card_sha256": "f" * 64}, "the task cards differ: cccccccccccc, ffffffffffff"),
        ({}, {"templates_sha256": "f" * 64}, "the template files differ"),
        ({}, {"split": "test"}, "the splits differ: validation, test"),
        ({}, {"files": [{"sha256": "f" * 64}]}, "the rows differ: eeeeeeeeeeee, ffffffffffff"),
        ({}, {"metric": "exact_match"}, "the metrics differ: accuracy, exact_match"),
        ({}, {"settings": [shot_record(template_record(BAD, "third"))]}, "the templates differ: first, third"),
        (
            {},
            {"settings": [shot_record(template_record(BAD, "first"), template_record(BAD, "third"))]},
            "the templates differ: first; first, third",
        ),
    ],
)
def test_differing_settings_are_named_and_have_no_winner(
    changes: dict[str, Any], task_changes: dict[str, Any], why: str
) -> None:
    changed = result_record({"rte": task_record(shot_record(template_record(BAD))) | task_changes}, **changes)
    comparison = compare_records(single_task(GOOD), changed)
    assert any(obstacle.startswith(why) for obstacle in comparison.tasks[0].obstacles), comparison.tasks[0].obstacles
    assert comparison.tasks[0].winner == 0
    assert comparison.means == (), "tasks that are not comparable are in no mean"
    assert [names for obstacle, names in comparison.obstacles.items() if obstacle.startswith(why)] == [["rte (0-shot)"]]


def test_settings_that_change_nothing_may_differ() -> None:
    assert (
        compare_records(single_task(GOOD), single_task(BAD, **settings(batch_size=1, seed=3))).tasks[0].obstacles == ()
    )
    files: dict[str, Any] = {"files": [], "revision": None}
    assert (
        compare_records(
            single_task(GOOD), result_record({"rte": task_record(shot_record(template_record(BAD))) | files})
        )
        .tasks[0]
        .obstacles
        == ()
    )


def test_seeds_matter_where_demonstrations_are_drawn() -> None:
    records = [
        result_record(
            {"rte": task_record(shot_record(template_record(GOOD), shots=1))}, **settings(seed=seed, shots=[1])
        )
        for seed in (0, 1)
    ]
    assert compare_records(*records).tasks[0].obstacles == ("seed differs: 0, 1",)


def test_shots_are_compared_with_the_same_shots() -> None:
    first = result_record(
        {"rte": task_record(shot_record(template_record(GOOD)), shot_record(template_record(BAD), shots=4))}
    )
    second = result_record(
        {"rte": task_record(shot_record(template_record(GOOD))), "cb": task_record(shot_record(template_record(SAME)))}
    )
    comparison = compare_records(first, second)
    assert [(task.task, task.shots) for task in comparison.tasks] == [("rte", 0)]
    assert (comparison.only_first, comparison.only_second) == (("rte (4-shot)",), ("cb (0-shot)",))


def test_nothing_in_common_is_an_error() -> None:
    second = result_record({"cb": task_record(shot_record(template_record(SAME), shots=1))})
    with pytest.raises(MetalmError, match="no task in common") as caught:
        compare_records(single_task(GOOD), second)
    assert "rte (0-shot)" in caught.value.why
    assert "cb (1-shot)" in caught.value.why


def test_a_task_without_a_score_is_not_comparable() -> None:
    no_score = {"score": None, "error": None, "each": {"row": [], "value": []}, "n": 0}
    empty = result_record({"rte": task_record(shot_record(template_record(SAME) | no_score))})
    task = compare_records(single_task(GOOD), empty).tasks[0]
    assert (task.test, task.second, task.obstacles) == (None, None, ("B has no score",))


def test_scores_of_whole_splits_are_compared() -> None:
    references = [int(value) for value in values(0.5, 5)]
    predictions = [1 - reference if index % 3 == 0 else reference for index, reference in enumerate(references)]

    def make_record(predictions: list[int]) -> dict[str, Any]:
        columns = {"row": list(range(200)), "found": predictions, "right": references}
        return result_record({"mrpc": task_record(shot_record(template_record(SAME) | {"each": columns}), metric="f1")})

    test = compare_records(make_record(references), make_record(predictions)).tasks[0].test
    assert test is not None
    assert (test.first, test.winner, test.mcnemar) == (1.0, 1, None)


def with_wilson_interval(scores: list[float]) -> dict[str, Any]:
    bounds = wilson_interval(float(np.mean(scores)), len(scores))
    return shot_record(template_record(scores)) | {"interval": [100 * bound for bound in bounds]}


def test_cluster_means_of_one_file_have_intervals() -> None:
    tasks = {
        "rte": task_record(with_wilson_interval(GOOD)),
        "cb": task_record(with_wilson_interval(BAD)),
        "sst2": task_record(with_wilson_interval(SAME), cluster="sentiment"),
    }
    means = record_cluster_means(parse_result(result_record(tasks), "a.json"), 0)
    nli, members = means["nli"]
    assert members == ("rte", "cb")
    error = 100 * np.hypot(np.std(GOOD), np.std(BAD)) / np.sqrt(200) / 2
    assert nli.interval == pytest.approx((nli.value - 1.96 * error, nli.value + 1.96 * error), abs=0.6)
    assert means[OVER_CLUSTERS][1] == ("nli", "sentiment")
    over = means[OVER_CLUSTERS][0]
    assert over.interval is not None
    assert over.interval[0] < over.value < over.interval[1]
    assert OVER_CLUSTERS not in record_cluster_means(parse_result(single_task(GOOD), "a.json"), 0)
    assert record_cluster_means(parse_result(single_task(GOOD), "a.json"), 9) == {}
