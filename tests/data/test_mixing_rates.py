"""Mixing rates of tasks, compared with closed forms and published numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from metalm_cli.config.schema.tasks import MixtureConfig, MixtureGroup
from metalm_cli.data.sampling.index_plan import IndexPlan
from metalm_cli.data.sampling.mixing_rates import mixing_rates
from metalm_cli.errors import MetalmError

GLUE = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "qqp": 363_849,
    "stsb": 5_749,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
}


def rates(**options: object) -> dict[str, float]:
    mixture = MixtureConfig(cap_examples=None, **options)  # type: ignore[arg-type]
    return {task: round(rate, 4) for task, rate in mixing_rates(GLUE, mixture, {}).items()}


def test_a_maximum_rate_makes_large_sets_alike() -> None:
    shares = rates(max_rate=3000)
    assert shares.pop("rte") == 0.1060
    assert set(shares.values()) == {0.1277}


def test_the_rates_of_t5_at_a_maximum_of_two_to_the_17() -> None:
    shares = rates(max_rate=2**17)
    assert (shares["qqp"], shares["mnli"], shares["qnli"], shares["rte"]) == (0.2883, 0.2883, 0.2304, 0.0055)


def test_a_temperature_flattens() -> None:
    shares = rates(max_rate=2**21, temperature=2.0)
    assert (shares["mnli"], shares["rte"]) == (0.2996, 0.0239)


def test_the_maximum_comes_before_the_temperature() -> None:
    shares = rates(max_rate=2**17, temperature=2.0)
    expected = {"cola": 0.0583, "sst2": 0.1636, "qqp": 0.2283, "mnli": 0.2283, "qnli": 0.2041, "rte": 0.0315}
    assert {task: shares[task] for task in expected} == expected


def test_flan_draws_three_thousand_to_five_hundred() -> None:
    examples = {f"task{index}": 10_000 for index in range(58)} | {"large": 1_000_000, "small": 500}
    shares = mixing_rates(examples, MixtureConfig(cap_examples=30_000, max_rate=3000), {})
    assert shares["large"] / shares["small"] == pytest.approx(3000 / 500)


def test_the_cap_on_examples_also_bounds_the_rate() -> None:
    shares = mixing_rates({"a": 100_000, "b": 30_000}, MixtureConfig(cap_examples=30_000), {})
    assert shares == {"a": 0.5, "b": 0.5}


def test_equal_and_explicit_rates() -> None:
    assert mixing_rates({"a": 10, "b": 1000}, MixtureConfig(strategy="equal"), {}) == {"a": 0.5, "b": 0.5}
    explicit = MixtureConfig(strategy="explicit", weights={"a": 1, "b": 3})
    assert mixing_rates({"a": 10, "b": 1000, "c": 5}, explicit, {}) == {"a": 0.25, "b": 0.75}


def test_groups_have_their_shares_whatever_is_in_them() -> None:
    mixture = MixtureConfig(
        cap_examples=None,
        groups=[
            MixtureGroup(tasks=["nli"], weight=1),
            MixtureGroup(tasks=["sst2", "cola"], weight=3, strategy="equal"),
        ],
    )
    clusters = {"rte": "nli", "mnli": "nli", "sst2": "sentiment", "cola": "misc", "qqp": "paraphrase"}
    shares = mixing_rates({task: GLUE[task] for task in clusters}, mixture, clusters)
    assert shares["rte"] + shares["mnli"] == pytest.approx(0.25)
    assert shares["mnli"] / shares["rte"] == pytest.approx(392_702 / 2_490)
    assert shares["sst2"] == shares["cola"] == pytest.approx(0.375)
    assert "qqp" not in shares


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (MixtureConfig(strategy="explicit", weights={"typo": 1}), "typo"),
        (MixtureConfig(groups=[MixtureGroup(tasks=["nothing"], weight=1)]), "is empty"),
        (
            MixtureConfig(groups=[MixtureGroup(tasks=["a"], weight=1), MixtureGroup(tasks=["a"], weight=1)]),
            "contains a again",
        ),
    ],
)
def test_weights_and_groups_of_unknown_tasks_are_rejected(mixture: MixtureConfig, message: str) -> None:
    with pytest.raises(MetalmError, match=message):
        mixing_rates({"a": 10, "b": 10}, mixture, {})


def test_drawn_examples_follow_the_rates() -> None:
    shares = mixing_rates(GLUE, MixtureConfig(max_rate=3000), {})
    plan = IndexPlan(list(shares), list(shares.values()), [GLUE[task] for task in shares], seed=0)
    drawn = 100_000
    counts = Counter(plan.planned_row(number).source for number in range(drawn))
    for index, rate in enumerate(shares.values()):
        assert abs(counts[index] - rate * drawn) < 3 * np.sqrt(drawn * rate * (1 - rate))
