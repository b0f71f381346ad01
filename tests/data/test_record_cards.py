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
    assert not any(map(is_hub_id, ("rte", "cards/mine", "me/a.jsonl", "a/b/c", "./a", "/data/x")))


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


MESSAGES = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]} for n in range(9)
]


@pytest.mark.parametrize(
    ("name", "rows", "read_as", "pair"),
    [
        ("sums.csv", ALPACA, "Alpaca", ("Add 0 and 1.", "1")),
        ("sums.tsv", ALPACA, "Alpaca", ("Add 0 and 1.", "1")),
        ("sums.parquet", ALPACA, "Alpaca", ("Add 0 and 1.", "1")),
        ("chats.parquet", MESSAGES, "chat messages", ("0?", "0!")),
        ("saved", MESSAGES, "chat messages", ("0?", "0!")),
    ],
)
def test_table_files_of_a_known_format(
    tmp_path: Path, name: str, rows: list[Any], read_as: str, pair: tuple[str, str]
) -> None:
    path = tmp_path / "my" / name
    path.parent.mkdir()
    table = datasets.Dataset.from_list(rows)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix:
        table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    else:
        table.save_to_disk(path)
    options = TaskDataConfig(tasks=[f"./my/{name}"])
    corpus, selection = open_training_tasks(options, seed=0, offline=True, cache=tmp_path / "cache")
    (card,) = selection.cards
    assert (card.name, card.description) == (path.stem, f"{name}, read as {read_as}")
    validation = validation_examples(corpus, offline=True, cache=tmp_path / "cache")[0]
    assert 0 < len(validation) < len(rows) == len(validation) + corpus.tasks[0].row_count
    training = [corpus.tasks[0].example(row) for row in range(corpus.tasks[0].row_count)]
    pairs = {(example.fields["input"], example.answers[0]) for example in (*training, *validation) if example}
    assert pair in pairs
    assert len(pairs) == len(rows)
    evaluated = select_evaluated([f"my/{name}"], [], offline=True)
    assert [evaluated_card.name for evaluated_card in evaluated.selected] == [path.stem]


def test_a_table_of_unknown_columns_is_refused_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("question,reply\nWhy?,So.\n")
    with pytest.raises(MetalmError) as caught:
        load_cards(TaskDataConfig(tasks=["mine.csv"]), offline=True)
    assert caught.value.what == "data without a card have an unknown format"
    assert "its columns are question, reply" in caught.value.why
    assert "metalm tasks new mine.csv" in caught.value.remedy
