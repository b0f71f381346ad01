"""What trains and what does not, and OPT-IML's levels of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from metalm_cli.config.schema.tasks import TaskData
from metalm_cli.data.examples.task_selection import select_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.generalization_levels import LEVELS, describe_levels, generalization_levels
from metalm_cli.tasks import CLUSTERS, Cards


def chosen_levels(hold_out: list[str], tasks: Iterable[str] = ("core",), seen: Iterable[str] = ()) -> dict[str, str]:
    cards = Cards()
    chosen = select_tasks(TaskData(tasks=list(tasks), hold_out=hold_out), cards)
    return dict(generalization_levels(cards.all(), [*(card.name for card in chosen.cards), *seen]))


def test_every_task_has_exactly_one_level() -> None:
    for hold_out in ([], ["nli"], ["rte"], ["reading", "sst2"], ["qnli"]):
        found = chosen_levels(hold_out)
        assert set(found) == set(Cards().names)
        assert set(found.values()) <= set(LEVELS)


def test_a_held_out_cluster_is_a_held_out_category_and_so_is_its_partner_by_effect() -> None:
    found = chosen_levels(["nli"])
    assert found["rte"] == found["anli_r1"] == "held_out_category"
    assert found["mrpc"] == "held_out_category", "paraphrase leaks into nli and is left out with it"
    assert found["sst2"] == "held_out_instances"


def test_a_held_out_task_of_a_seen_category() -> None:
    found = chosen_levels(["rte", "sst2"])
    assert found["rte"] == found["sst2"] == "held_out_task"
    assert found["mnli"] == found["imdb"] == "held_out_instances"


def test_a_task_that_is_dropped_with_its_sibling_is_held_out_by_effect() -> None:
    found = chosen_levels(["squad"])
    assert found["squad"] == found["squad_v2"] == "held_out_task"
    assert found["boolq"] == "held_out_instances"


def test_what_trained_tasks_leak_into_is_no_evidence() -> None:
    found = chosen_levels([], tasks=["squad", "mnli"])
    assert found["squad_v2"] == "leaked", "a sibling trains"
    assert found["qnli"] == "leaked", "it shares data with squad"
    assert found["mrpc"] == "leaked", "nli leaks into paraphrase"
    assert found["rte"] == found["boolq"] == "held_out_task"
    assert found["sst2"] == "held_out_category"


def test_what_the_base_has_seen_counts() -> None:
    assert chosen_levels(["nli"], tasks=["sentiment"])["boolq"] == "held_out_category"
    found = chosen_levels(["nli"], tasks=["sentiment"], seen=["drop", "no_longer_known"])
    assert (found["boolq"], found["drop"]) == ("held_out_task", "held_out_instances")


def test_levels_are_said_by_clusters_and_tasks() -> None:
    said = describe_levels(
        {"rte": "held_out_category", "cb": "held_out_category", "sst2": "held_out_task", "imdb": "held_out_instances"},
        {"rte": "nli", "cb": "nli", "sst2": "sentiment", "imdb": "sentiment"},
    )
    assert said == (
        "levels: held-out categories: nli; held-out tasks of seen categories: sst2; "
        "held-out instances of seen tasks: imdb"
    )


@pytest.mark.parametrize(("name", "near"), [("nly", "nli"), ("closed_book", "closed_book_qa"), ("sst_2", "sst2")])
def test_what_is_no_cluster_and_no_task_cannot_be_held_out(name: str, near: str) -> None:
    with pytest.raises(MetalmError, match=f"no cluster or task is named {name}") as caught:
        select_tasks(TaskData(tasks=["core"], hold_out=[name]))
    assert caught.value.remedy == f"did you mean {near}?"


def test_holding_everything_out_leaves_nothing() -> None:
    with pytest.raises(MetalmError, match="no task is left to train on") as caught:
        select_tasks(TaskData(tasks=["core"], hold_out=list(CLUSTERS)))
    assert caught.value.why.count("held out") == 1, "tasks are named by reason"
    assert caught.value.exit_code == 2


def test_a_cluster_that_leaves_nothing_to_train_on() -> None:
    with pytest.raises(MetalmError, match="no task is left to train on") as caught:
        select_tasks(TaskData(tasks=["paraphrase"], hold_out=["nli"]))
    assert caught.value.why.endswith("its cluster leaks into nli")
    assert "mrpc" in caught.value.why
