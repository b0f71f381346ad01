"""The selection of training tasks, and the levels of generalisation of the others."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.task_selection import select_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.generalization_levels import LEVELS, describe_levels, generalization_levels
from metalm_cli.tasks import CLUSTERS, Cards


def levels_of(hold_out: list[str], tasks: Iterable[str] = ("core",), seen: Iterable[str] = ()) -> dict[str, str]:
    cards = Cards()
    selection = select_tasks(TaskDataConfig(tasks=list(tasks), hold_out=hold_out), cards)
    return dict(generalization_levels(cards.all(), [*(card.name for card in selection.cards), *seen]))


def test_every_task_has_exactly_one_level() -> None:
    for hold_out in ([], ["nli"], ["rte"], ["reading", "sst2"], ["qnli"]):
        levels = levels_of(hold_out)
        assert set(levels) == set(Cards().names)
        assert set(levels.values()) <= set(LEVELS)


def test_a_held_out_cluster_is_a_held_out_category_and_so_is_its_partner_by_effect() -> None:
    levels = levels_of(["nli"])
    assert levels["rte"] == levels["anli_r1"] == "held_out_category"
    assert levels["mrpc"] == "held_out_category", "paraphrase leaks into nli and is dropped with it"
    assert levels["sst2"] == "held_out_instances"


def test_a_held_out_task_of_a_seen_category() -> None:
    levels = levels_of(["rte", "sst2"])
    assert levels["rte"] == levels["sst2"] == "held_out_task"
    assert levels["mnli"] == levels["imdb"] == "held_out_instances"


def test_a_task_that_is_dropped_with_its_sibling_is_held_out_by_effect() -> None:
    levels = levels_of(["squad"])
    assert levels["squad"] == levels["squad_v2"] == "held_out_task"
    assert levels["boolq"] == "held_out_instances"


def test_tasks_that_trained_tasks_leak_into_are_leaked() -> None:
    levels = levels_of([], tasks=["squad", "mnli"])
    assert levels["squad_v2"] == "leaked", "a sibling trains"
    assert levels["qnli"] == "leaked", "it shares data with squad"
    assert levels["mrpc"] == "leaked", "nli leaks into paraphrase"
    assert levels["rte"] == levels["boolq"] == "held_out_task"
    assert levels["sst2"] == "held_out_category"


def test_what_the_base_has_seen_counts() -> None:
    assert levels_of(["nli"], tasks=["sentiment"])["boolq"] == "held_out_category"
    levels = levels_of(["nli"], tasks=["sentiment"], seen=["drop", "no_longer_known"])
    assert (levels["boolq"], levels["drop"]) == ("held_out_task", "held_out_instances")


def test_levels_are_described_by_clusters_and_tasks() -> None:
    line = describe_levels(
        {"rte": "held_out_category", "cb": "held_out_category", "sst2": "held_out_task", "imdb": "held_out_instances"},
        {"rte": "nli", "cb": "nli", "sst2": "sentiment", "imdb": "sentiment"},
    )
    assert line == (
        "levels: held-out categories: nli; held-out tasks of seen categories: sst2; "
        "held-out instances of seen tasks: imdb"
    )


@pytest.mark.parametrize(("name", "match"), [("nly", "nli"), ("closed_book", "closed_book_qa"), ("sst_2", "sst2")])
def test_an_unknown_cluster_or_task_cannot_be_held_out(name: str, match: str) -> None:
    with pytest.raises(MetalmError, match=f"no cluster or task is named {name}") as caught:
        select_tasks(TaskDataConfig(tasks=["core"], hold_out=[name]))
    assert caught.value.remedy == f"did you mean {match}?"


def test_holding_everything_out_leaves_nothing() -> None:
    with pytest.raises(MetalmError, match="no task is left to train on") as caught:
        select_tasks(TaskDataConfig(tasks=["core"], hold_out=list(CLUSTERS)))
    assert caught.value.why.count("held out") == 1, "tasks are grouped by reason"
    assert caught.value.exit_code == 2


def test_a_cluster_that_leaves_nothing_to_train_on() -> None:
    with pytest.raises(MetalmError, match="no task is left to train on") as caught:
        select_tasks(TaskDataConfig(tasks=["paraphrase"], hold_out=["nli"]))
    assert caught.value.why.endswith("its cluster leaks into nli")
    assert "mrpc" in caught.value.why
