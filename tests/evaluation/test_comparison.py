"""Comparing two result files: the same rows, the same settings, and what is said where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.comparison import OVER, Comparison, compare, record_cluster_means
from metalm_cli.evaluation.results.result_reader import parse_result
from result_fixtures import record, setting, task, wording


def values(share: float, seed: int, n: int = 200) -> list[float]:
    return (np.random.default_rng(seed).random(n) < share).astype(float).tolist()


GOOD, BAD, SAME = values(0.9, 1), values(0.5, 2), values(0.7, 3)


def pair(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    return compare(parse_result(first, "a.json"), parse_result(second, "b.json"), resamples=2_000)


def one_task(found: list[float], **more: Any) -> dict[str, Any]:
    return record({"rte": task(setting(wording(found)))}, **more)


def test_a_better_model_is_named_and_equal_ones_are_not() -> None:
    sides = [record({"rte": task(setting(wording(one))), "cb": task(setting(wording(SAME)))}) for one in (GOOD, BAD)]
    found = pair(*sides)
    rte, cb = found.tasks
    assert (rte.task, rte.winner, rte.obstacles) == ("rte", 1, ())
    assert rte.test is not None
    assert rte.test.difference == pytest.approx(np.mean(GOOD) - np.mean(BAD))
    assert (rte.first, rte.second) == (pytest.approx(100 * np.mean(GOOD)), pytest.approx(100 * np.mean(BAD)))
    assert rte.test.interval[0] > 0.25
    assert rte.test.mcnemar is not None
    assert rte.test.mcnemar < 1e-6
    assert cb.test is not None
    assert (cb.winner, cb.test.p, cb.test.interval) == (0, 1.0, (0, 0))
    assert pair(*sides[::-1]).tasks[0].winner == 2


def test_means_are_of_clusters_and_over_them() -> None:
    sides = [
        record(
            {
                "rte": task(setting(wording(one))),
                "cb": task(setting(wording(SAME))),
                "sst2": task(setting(wording(SAME)), cluster="sentiment"),
            }
        )
        for one in (GOOD, BAD)
    ]
    nli, sentiment, over = pair(*sides).means
    apart = 100 * (np.mean(GOOD) - np.mean(BAD))
    assert (nli.name, nli.of, nli.winner) == ("nli", ("rte", "cb"), 1)
    assert nli.first - nli.second == pytest.approx(apart / 2)
    assert nli.interval[0] < apart / 2 < nli.interval[1]
    assert (sentiment.first, sentiment.interval, sentiment.winner) == (sentiment.second, (0, 0), 0)
    assert (over.name, over.of) == (OVER, ("nli", "sentiment"))
    assert over.first - over.second == pytest.approx(apart / 4)
    assert over.interval == pytest.approx((nli.interval[0] / 2, nli.interval[1] / 2))


def test_means_take_core_tasks_and_all_where_none_is() -> None:
    def side(core: bool) -> dict[str, Any]:
        extra = task(setting(wording(BAD)), core=False)
        return record({"rte": task(setting(wording(GOOD)), core=core), "mine": extra})

    assert pair(side(True), side(True)).means[0].of == ("rte",)
    assert pair(side(False), side(False)).means[0].of == ("rte", "mine")


def test_only_rows_that_both_have_are_compared() -> None:
    whole, part = one_task(GOOD), record({"rte": task(setting(wording(BAD[50:], rows=list(range(50, 200)))))})
    test = pair(whole, part).tasks[0].test
    assert test is not None
    assert (test.both, test.only, test.first) == (150, (50, 0), pytest.approx(np.mean(GOOD[50:])))
    other = record({"rte": task(setting(wording(BAD, rows=list(range(500, 700)))))})
    found = pair(whole, other).tasks[0]
    assert (found.test, found.obstacles, found.winner) == (None, ("they have no row in common",), 0)


def settings(**changes: Any) -> dict[str, Any]:
    return {"settings": {**one_task(BAD)["settings"], **changes}}


@pytest.mark.parametrize(
    ("whole", "inner", "why"),
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
        ({}, {"settings": [setting(wording(BAD, "third"))]}, "the templates differ: first, third"),
    ],
)
def test_scores_of_other_things_are_named_and_have_no_winner(
    whole: dict[str, Any], inner: dict[str, Any], why: str
) -> None:
    other = record({"rte": task(setting(wording(BAD))) | inner}, **whole)
    found = pair(one_task(GOOD), other)
    assert any(one.startswith(why) for one in found.tasks[0].obstacles), found.tasks[0].obstacles
    assert found.tasks[0].winner == 0
    assert found.means == (), "what cannot be compared is in no mean"
    assert [names for reason, names in found.obstacles.items() if reason.startswith(why)] == [["rte (0-shot)"]]


def test_settings_that_change_nothing_may_differ() -> None:
    assert pair(one_task(GOOD), one_task(BAD, **settings(batch_size=1, seed=3))).tasks[0].obstacles == ()
    files: dict[str, Any] = {"files": [], "revision": None}
    assert pair(one_task(GOOD), record({"rte": task(setting(wording(BAD))) | files})).tasks[0].obstacles == ()


def test_seeds_matter_where_demonstrations_are_drawn() -> None:
    sides = [
        record({"rte": task(setting(wording(GOOD), shots=1))}, **settings(seed=seed, shots=[1])) for seed in (0, 1)
    ]
    assert pair(*sides).tasks[0].obstacles == ("seed differs: 0, 1",)


def test_shots_are_compared_with_the_same_shots() -> None:
    first = record({"rte": task(setting(wording(GOOD)), setting(wording(BAD), shots=4))})
    second = record({"rte": task(setting(wording(GOOD))), "cb": task(setting(wording(SAME)))})
    found = pair(first, second)
    assert [(one.task, one.shots) for one in found.tasks] == [("rte", 0)]
    assert (found.only_first, found.only_second) == (("rte (4-shot)",), ("cb (0-shot)",))


def test_nothing_in_common_is_an_error() -> None:
    other = record({"cb": task(setting(wording(SAME), shots=1))})
    with pytest.raises(MetalmError, match="no task in common") as caught:
        pair(one_task(GOOD), other)
    assert "rte (0-shot)" in caught.value.why
    assert "cb (1-shot)" in caught.value.why


def test_a_task_without_a_score_is_said() -> None:
    nothing = {"score": None, "error": None, "each": {"row": [], "value": []}, "n": 0}
    empty = record({"rte": task(setting(wording(SAME) | nothing))})
    found = pair(one_task(GOOD), empty).tasks[0]
    assert (found.test, found.second, found.obstacles) == (None, None, ("B has no score",))


def test_scores_of_whole_splits_are_compared() -> None:
    right = [int(one) for one in values(0.5, 5)]
    wrong = [1 - one if at % 3 == 0 else one for at, one in enumerate(right)]

    def side(found: list[int]) -> dict[str, Any]:
        each = {"row": list(range(200)), "found": found, "right": right}
        return record({"mrpc": task(setting(wording(SAME) | {"each": each}), metric="f1")})

    test = pair(side(right), side(wrong)).tasks[0].test
    assert test is not None
    assert (test.first, test.winner, test.mcnemar) == (1.0, 1, None)


def test_cluster_means_of_one_file_have_intervals() -> None:
    tasks = {
        "rte": task(setting(wording(GOOD))),
        "cb": task(setting(wording(BAD))),
        "sst2": task(setting(wording(SAME)), cluster="sentiment"),
    }
    found = record_cluster_means(parse_result(record(tasks), "a.json"), 0)
    nli, of = found["nli"]
    assert of == ("rte", "cb")
    error = 100 * np.hypot(np.std(GOOD), np.std(BAD)) / np.sqrt(200) / 2
    assert nli.interval == pytest.approx((nli.value - 1.96 * error, nli.value + 1.96 * error), abs=0.6)
    assert found[OVER][1] == ("nli", "sentiment")
    over = found[OVER][0]
    assert over.interval is not None
    assert over.interval[0] < over.value < over.interval[1]
    assert OVER not in record_cluster_means(parse_result(one_task(GOOD), "a.json"), 0)
    assert record_cluster_means(parse_result(one_task(GOOD), "a.json"), 9) == {}
