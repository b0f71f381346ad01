"""Rates of tasks, against closed forms and published figures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from metalm_cli.config.schema.tasks import Mixture, MixtureGroup
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
    mixture = Mixture(cap_examples=None, **options)  # type: ignore[arg-type]
    return {task: round(rate, 4) for task, rate in mixing_rates(GLUE, mixture, {}).items()}


def test_a_maximum_rate_makes_large_sets_alike() -> None:
    found = rates(max_rate=3000)
    assert found.pop("rte") == 0.1060
    assert set(found.values()) == {0.1277}


def test_the_rates_of_t5_at_a_maximum_of_two_to_the_17() -> None:
    found = rates(max_rate=2**17)
    assert (found["qqp"], found["mnli"], found["qnli"], found["rte"]) == (0.2883, 0.2883, 0.2304, 0.0055)


def test_a_temperature_flattens() -> None:
    found = rates(max_rate=2**21, temperature=2.0)
    assert (found["mnli"], found["rte"]) == (0.2996, 0.0239)


def test_the_maximum_comes_before_the_temperature() -> None:
    found = rates(max_rate=2**17, temperature=2.0)
    expected = {"cola": 0.0583, "sst2": 0.1636, "qqp": 0.2283, "mnli": 0.2283, "qnli": 0.2041, "rte": 0.0315}
    assert {task: found[task] for task in expected} == expected


def test_flan_draws_three_thousand_to_five_hundred() -> None:
    examples = {f"task{at}": 10_000 for at in range(58)} | {"large": 1_000_000, "small": 500}
    found = mixing_rates(examples, Mixture(cap_examples=30_000, max_rate=3000), {})
    assert found["large"] / found["small"] == pytest.approx(3000 / 500)


def test_the_cap_on_examples_also_bounds_the_rate() -> None:
    found = mixing_rates({"a": 100_000, "b": 30_000}, Mixture(cap_examples=30_000), {})
    assert found == {"a": 0.5, "b": 0.5}


def test_equal_and_explicit_rates() -> None:
    assert mixing_rates({"a": 10, "b": 1000}, Mixture(strategy="equal"), {}) == {"a": 0.5, "b": 0.5}
    explicit = Mixture(strategy="explicit", weights={"a": 1, "b": 3})
    assert mixing_rates({"a": 10, "b": 1000, "c": 5}, explicit, {}) == {"a": 0.25, "b": 0.75}


def test_groups_have_their_shares_whatever_is_in_them() -> None:
    mixture = Mixture(
        cap_examples=None,
        groups=[
            MixtureGroup(tasks=["nli"], weight=1),
            MixtureGroup(tasks=["sst2", "cola"], weight=3, strategy="equal"),
        ],
    )
    clusters = {"rte": "nli", "mnli": "nli", "sst2": "sentiment", "cola": "misc", "qqp": "paraphrase"}
    found = mixing_rates({task: GLUE[task] for task in clusters}, mixture, clusters)
    assert found["rte"] + found["mnli"] == pytest.approx(0.25)
    assert found["mnli"] / found["rte"] == pytest.approx(392_702 / 2_490)
    assert found["sst2"] == found["cola"] == pytest.approx(0.375)
    assert "qqp" not in found


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        (Mixture(strategy="explicit", weights={"typo": 1}), "typo"),
        (Mixture(groups=[MixtureGroup(tasks=["nothing"], weight=1)]), "is empty"),
        (Mixture(groups=[MixtureGroup(tasks=["a"], weight=1), MixtureGroup(tasks=["a"], weight=1)]), "holds a again"),
    ],
)
def test_weights_and_groups_that_name_nothing_are_refused(mixture: Mixture, said: str) -> None:
    with pytest.raises(MetalmError, match=said):
        mixing_rates({"a": 10, "b": 10}, mixture, {})


def test_what_is_drawn_has_the_rates() -> None:
    found = mixing_rates(GLUE, Mixture(max_rate=3000), {})
    plan = IndexPlan(list(found), list(found.values()), [GLUE[task] for task in found], seed=0)
    drawn = 100_000
    counts = Counter(plan.place(number).source for number in range(drawn))
    for at, rate in enumerate(found.values()):
        assert abs(counts[at] - rate * drawn) < 3 * np.sqrt(drawn * rate * (1 - rate))
