"""Tasks named by a hub id: data sets of a known format need no card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from card_fixtures import write_rows
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.data.examples.task_selection import load_cards, open_training_tasks, select_tasks, validation_examples
from metalm_cli.data.sources import hub
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.select_tasks import select_tasks as select_evaluated
from metalm_cli.tasks import is_hub_id

ALPACA = [{"instruction": f"Add {n} and 1.", "input": "", "output": str(n + 1)} for n in range(80)]
COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METALM_DATA", raising=False)


def test_hub_ids(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    assert is_hub_id("tatsu-lab/alpaca")
    assert not any(map(is_hub_id, ("rte", "cards/mine", "me/a.jsonl", "a/b/c", "./a", "/tmp/x")))


def test_a_local_copy_in_the_data_root(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "alpaca" / "train.jsonl", ALPACA)
    options = TaskDataConfig(tasks=["tatsu-lab/alpaca"])
    cards = load_cards(options, tmp_path / "data", offline=True)
    corpus, selection = open_training_tasks(
        options, seed=0, data_root=tmp_path / "data", offline=True, cache=tmp_path / "cache", cards=cards
    )
    (card,) = selection.cards
    assert (card.name, card.description) == ("alpaca", "tatsu-lab/alpaca, read as Alpaca")
    validation = validation_examples(corpus, data_root=tmp_path / "data", offline=True, cache=tmp_path / "cache")[0]
    assert len(validation) + corpus.tasks[0].row_count == 80
    assert corpus.get(0).example.fields["input"].startswith("Add ")
    evaluated = select_evaluated(["tatsu-lab/alpaca"], [], data_root=tmp_path / "data", offline=True)
    assert [evaluated_card.name for evaluated_card in evaluated.selected] == ["alpaca"]


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": ALPACA, "dev": ALPACA[:5]}

    def open_hub(source: Any, *, offline: bool) -> tuple[Any, str]:
        dataset = datasets.Dataset.from_list(parts[source.split])
        dataset.info.splits = datasets.SplitDict({name: datasets.SplitInfo(name) for name in parts})
        return hub.HubTable(hub.HubSplit(source.hub, None, source.split, COMMIT), dataset), COMMIT

    monkeypatch.setattr(hub, "open_hub", open_hub)
    cards = load_cards(TaskDataConfig(tasks=["me/data"]))
    (card,) = select_tasks(TaskDataConfig(tasks=["me/data"]), cards).cards
    assert card.splits == {"train": "train", "validation": "dev"}
    sizes = [len(open_examples(card, role, cache=tmp_path / "cache")) for role in card.splits]
    assert sizes == [80, 5]


def test_records_of_an_unknown_format_and_missing_data(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "odd" / "train.jsonl", [{"text": "a"}])
    with pytest.raises(MetalmError) as caught:
        load_cards(TaskDataConfig(tasks=["me/odd"]), tmp_path / "data", offline=True)
    assert "its columns are text" in str(caught.value)
    with pytest.raises(MetalmError, match="me/gone"):
        load_cards(TaskDataConfig(tasks=["me/gone"]), tmp_path / "data", offline=True)
