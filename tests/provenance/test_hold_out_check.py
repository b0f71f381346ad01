"""A base model that was trained on held-out tasks, or on tasks that leak into them, is rejected."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.task_selection import select_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.hold_out_check import reject_trained_on_held_out
from metalm_cli.provenance.lineage import ancestors_and_lineages
from metalm_cli.provenance.model_history import ModelHistory
from metalm_cli.tasks import Cards


def make_base(*tasks: str, clusters: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    lineage = {"command": "finetune", "recipe": "single", "tasks": list(tasks), "clusters": list(clusters)}
    return {"checkpoint": "runs/base", "lineage": {**lineage, "ancestors": [], **changes}}


def check(hold_out: list[str], *ancestors: dict[str, Any]) -> None:
    cards = Cards()
    held = select_tasks(TaskDataConfig(tasks=["core"], hold_out=hold_out), cards).held_out
    reject_trained_on_held_out(held, hold_out, ancestors, cards)


@pytest.mark.parametrize(
    ("hold_out", "task", "why"),
    [
        ("nli", "rte", "rte (cluster nli): held out"),
        ("nli", "mrpc", "mrpc (cluster paraphrase): its cluster leaks into nli"),
        ("nli", "squad", "squad (cluster reading): shares data with qnli"),
        ("rte", "rte", "rte (cluster nli): held out"),
        ("anli_r1", "anli_r2", "anli_r2 (cluster nli): is a sibling of anli_r1"),
        ("reading", "cosmos_qa", "cosmos_qa (cluster commonsense): reading_with_commonsense leaks into reading"),
    ],
)
def test_the_trained_task_is_named(hold_out: str, task: str, why: str) -> None:
    with pytest.raises(MetalmError) as caught:
        check([hold_out], make_base("sst2", task, clusters=("sentiment",)))
    text = str(caught.value)
    assert f"trained on held-out tasks ({hold_out})" in text
    assert "runs/base" in text
    assert f"finetune single trained on {why}" in text
    assert "sst2" not in text
    assert caught.value.exit_code == 2


def test_the_tasks_of_an_ancestor_count() -> None:
    old = {**make_base("rte"), "checkpoint": "runs/old"}
    with pytest.raises(MetalmError, match="trained on held-out tasks") as caught:
        check(["nli"], make_base("sst2", ancestors=[{"checkpoint": "runs/middle", "lineage": {"ancestors": [old]}}]))
    assert caught.value.where == "runs/old"


def test_tasks_that_no_card_describes_are_known_by_name_and_cluster() -> None:
    with pytest.raises(MetalmError, match="trained on held-out tasks") as caught:
        check(["nli"], make_base("my_inference", clusters=("nli",)))
    assert "tasks of cluster nli that no card describes: held out" in caught.value.why
    with pytest.raises(MetalmError) as caught:
        check(["nli"], make_base("my_doublets", clusters=("paraphrase",)))
    assert "its cluster leaks into nli" in caught.value.why
    check(["rte"], make_base("my_inference", clusters=("nli",)))


def test_a_base_without_held_out_tasks_passes() -> None:
    unrelated = make_base("sst2", "boolq", clusters=("sentiment", "reading"))
    related = make_base("mnli", "snli", clusters=("nli",))
    assert check(["nli"], unrelated, make_base()) is None
    assert check(["rte"], related) is None
    assert check([], make_base("rte")) is None
    for hold_out, bases in ((["nli"], [unrelated, related]), (["rte"], [make_base("rte")])):  # the same bases, rejected
        with pytest.raises(MetalmError, match="trained on held-out tasks"):
            check(hold_out, *bases)


def test_ancestors_without_a_lineage_are_listed() -> None:
    without_lineage = {"checkpoint": "bert", "lineage": None}
    ancestors = [
        without_lineage,
        make_base("sst2", ancestors=[{"checkpoint": "me/gpt", "lineage": None}, make_base("sst2", "rte")]),
    ]
    history = ModelHistory.of(ancestors)
    assert history.unknown_ancestors == ("bert", "me/gpt")
    assert list(history.tasks) == ["sst2", "rte"]
    assert [name for name, _ in ancestors_and_lineages(ancestors)] == ["bert", "runs/base", "me/gpt", "runs/base"]
    check(["nli"], without_lineage)
