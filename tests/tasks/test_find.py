"""Lookup of cards by name, by group, and in user folders and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from card_fixtures import write_card, write_rows
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.task_selection import select_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Cards, is_path, read_card

INSTRUCTIONS_TASK = {
    "Definition": ["Say it."],
    "Categories": ["Word Semantics"],
    "Instances": [{"input": "a", "output": ["b"]}] * 20,
}


def test_every_shipped_card_is_read() -> None:
    cards = Cards()
    assert [card.name for card in cards.all()] == cards.names
    assert len(set(cards.names)) == len(cards.names) >= 60


def test_groups() -> None:
    cards = Cards()
    core = cards.select(["core"])
    assert len(core) > 30
    assert all(card.core for card in core)
    nli = {card.name for card in cards.select(["nli"])}
    assert {"rte", "mnli"} <= nli
    assert "world_nli" not in nli
    paraphrase = {card.name for card in cards.select(["paraphrase"])}
    assert "stsb" not in paraphrase
    assert {card.name for card in cards.select(["paraphrase"], all_cards=True)} == paraphrase | {"stsb"}
    assert all(card.world is not None for card in cards.select(["world"]))
    vision = {card.name for card in cards.select(["vision"])}
    assert {"easy_vqa", "vqav2", "world_captions"} <= vision
    assert {card.name for card in cards.select(["all"])} == set(cards.names) - vision
    assert {card.name for card in cards.select(["visual_qa"])} == {"vqav2", "okvqa"}
    assert not vision & {card.name for card in cards.select(["core", "non_core", "world"])}
    assert [card.name for card in cards.select(["rte", "rte", "sst2"])] == ["rte", "sst2"]


@pytest.mark.parametrize(("name", "remedy"), [("rtee", "did you mean rte?"), ("zzzzzz", "metalm tasks list")])
def test_an_unknown_name(name: str, remedy: str) -> None:
    with pytest.raises(MetalmError) as caught:
        Cards().select([name])
    assert remedy in caught.value.remedy


def test_a_folder_of_cards_without_its_templates(tmp_path: Path) -> None:
    write_card(tmp_path / "mine", name="one")
    write_card(tmp_path / "mine" / "deeper", name="two")
    templates = tmp_path / "mine" / "templates"
    templates.mkdir()
    (templates / "one.yaml").write_text("templates: []\n")
    cards = Cards([tmp_path / "mine"])
    assert cards["one"].cluster == "nli"
    assert cards.names_in_path(str(tmp_path / "mine")) == ["two", "one"]
    assert templates / "one.yaml" not in cards.paths.values()


def test_a_users_card_replaces_the_shipped_one(tmp_path: Path) -> None:
    path = write_card(tmp_path, name="rte")
    cards = Cards([path])
    assert cards["rte"].description == "Does it follow?"
    assert Cards()["rte"].description != "Does it follow?"


def test_a_card_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    assert Cards([path])["mine"].splits == {"train": "rows"}
    write_card(tmp_path, splits="{train: 'rows[3:]'}")
    assert Cards([path])["mine"].splits == {"train": "rows[3:]"}


@pytest.mark.parametrize(
    ("path", "why"),
    [("nowhere", "no such file"), ("empty", "contains no .yaml and no task*.json"), ("a.csv", "is not a card")],
)
def test_no_cards_is_an_error(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(MetalmError) as caught:
        Cards([tmp_path / path])
    assert why in caught.value.why
    assert "metalm tasks new" in caught.value.remedy


def test_a_file_without_a_card_does_not_take_the_name_of_another_task(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rte.jsonl", [{"input": "a", "target": "b"}])
    with pytest.raises(MetalmError, match="two tasks are named rte"):
        Cards([path])
    assert Cards([write_rows(tmp_path / "x.jsonl", [{"input": "a", "target": "b"}])] * 2)["x"].cluster == "misc"


def test_is_path() -> None:
    assert all(map(is_path, ("a.yaml", "a.json", "a.jsonl.gz", "some/folder", "x.csv")))
    assert not any(map(is_path, ("rte", "nli", "core")))


def test_a_recipe_names_tasks_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "ni" / "tasks"
    folder.mkdir(parents=True)
    for name in ("task1_a", "task2_b", "other"):
        (folder / f"{name}.json").write_text(json.dumps(INSTRUCTIONS_TASK))
    splits = tmp_path / "ni" / "splits" / "default"
    splits.mkdir(parents=True)
    (splits / "test_tasks.txt").write_text("task2_b\n")
    pairs = write_rows(tmp_path / "my-pairs.jsonl", [{"input": "a", "target": "b"}] * 3)
    card = write_card(tmp_path)
    selection = select_tasks(TaskDataConfig(tasks=[str(tmp_path / "ni"), str(pairs), str(card), "sst2"]))
    assert [card.name for card in selection.cards] == ["task1_a", "my_pairs", "mine", "sst2"]
    assert selection.dropped == {"task2_b": "for evaluation only"}
    with pytest.raises(MetalmError, match="no task is left to train on"):
        select_tasks(TaskDataConfig(tasks=[str(pairs)], hold_out=["misc"]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'[{"input": "a", "target": "b"}]', "jq -c '.[]' FILE"),
        ('{"input": "a", "target": "b"}\n'.encode("utf-16"), "save the file as UTF-8"),
    ],
)
def test_a_file_in_another_format_is_named_with_its_remedy(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(MetalmError) as caught:
        read_card(tmp_path / "x.jsonl")
    assert words in caught.value.remedy
