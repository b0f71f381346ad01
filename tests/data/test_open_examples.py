"""Opening a card's split: slices, row filters, CSV, mirrors and other copies, class names, missing data."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from card_fixtures import CLASSES_BODY, read_card_file, sentence_pair, write_card, write_rows
from metalm_cli.data.examples.open_examples import FEATURES, Examples, is_available, open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card

HUB = """\
name: mine
cluster: nli
description: Does it follow?
hub: {id: me/pairs}
local: {name: copy, splits: {validation: "train[2:]"}}
splits: {train: "train[:2]", validation: dev}
licence: none
citation: none
"""


@pytest.fixture
def open_split(tmp_path: Path) -> Any:
    def opened(path: Path, role: str = "train", **options: Any) -> Examples:
        return open_examples(
            read_card_file(path), role, card_path=path, cache=tmp_path / "cache", offline=True, **options
        )

    return opened


def labels(examples: Examples) -> list[int | None]:
    return [example.label for example in examples]


def hub_card(folder: Path, head: str = HUB) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(head + CLASSES_BODY)
    return folder / "mine.yaml"


def test_slices_count_rows_of_the_file(tmp_path: Path, open_split: Any) -> None:
    write_rows(tmp_path / "rows.jsonl", [sentence_pair(index % 2, premise=f"p {index}") for index in range(6)])
    path = write_card(tmp_path, splits="{train: 'rows[:-2]', validation: 'rows[-2:]'}")
    train, validation = open_split(path), open_split(path, "validation")
    assert [example.fields["premise"] for example in train] == ["p 0", "p 1", "p 2", "p 3"]
    assert [(example.row, example.fields["premise"]) for example in validation] == [(4, "p 4"), (5, "p 5")]
    assert validation.where(1) == f"{tmp_path / 'rows.jsonl'}:6"
    copy = pickle.loads(pickle.dumps(validation))
    assert list(copy) == list(validation)
    assert validation.files[0].size == (tmp_path / "rows.jsonl").stat().st_size


def test_rows_that_a_card_leaves_out(tmp_path: Path, open_split: Any) -> None:
    write_rows(tmp_path / "rows.jsonl", [sentence_pair(-1), sentence_pair(0), sentence_pair(-1), sentence_pair(1)])
    opened = open_split(write_card(tmp_path, CLASSES_BODY + "row_filter: label >= 0\n"))
    assert (len(opened), [opened[index] is None for index in range(4)]) == (4, [True, False, True, False])
    assert [(example.row, example.label) for example in opened] == [(1, 0), (3, 1)]


def test_csv(tmp_path: Path, open_split: Any) -> None:
    text = '\ufeffpremise,hypothesis,label\nIt rains.,"It is,\nwell, wet.",entailment\n"A ""b""",c,1\nd,e,0\n'
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    body = CLASSES_BODY.replace("label: label", "label: \"label | int if label in '01' else label\"")
    path = write_card(tmp_path, body, file="rows.csv")
    opened = open_split(path)
    assert [example.fields["hypothesis"] for example in opened] == ["It is,\nwell, wet.", "c", "e"]
    assert labels(opened) == [0, 1, 0]
    assert [opened.where(index).rpartition(":")[2] for index in range(3)] == ["2", "4", "5"]
    assert list(pickle.loads(pickle.dumps(opened))) == list(opened)
    assert len(opened.files[0].sha256) == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("premise,hypothesis,label\na,b\n", ["fewer values", ":2", "the header has 3"]),
        ("premise,hypothesis,label\na,b,0\na,b,0,d\n", ["more values", ":3"]),
        ("premise,hypothesis,label\n", ["has no rows"]),
        ("", ["has no rows"]),
        ("a,b\n1,2\n", []),
    ],
)
def test_wrong_csv(tmp_path: Path, open_split: Any, text: str, words: list[str]) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(MetalmError) as caught:
        list(open_split(write_card(tmp_path, file="rows.csv")))
    for word in [*words, "rows.csv"]:
        assert word in str(caught.value)


def test_a_csv_with_two_columns_of_the_same_name(tmp_path: Path, open_split: Any) -> None:
    (tmp_path / "rows.csv").write_text("premise,label,premise\na,0,b\n")
    with pytest.raises(MetalmError, match="two columns of a CSV file have the same name"):
        open_split(write_card(tmp_path, file="rows.csv"))


def test_a_csv_value_may_be_long(tmp_path: Path, open_split: Any) -> None:
    text = "word " * 40_000
    (tmp_path / "rows.csv").write_text(f"premise,hypothesis,label\n{text},b,entailment\n")
    (example,) = open_split(write_card(tmp_path, file="rows.csv"))
    assert example.fields["premise"] == text.strip()


def test_a_csv_that_is_not_text(tmp_path: Path, open_split: Any) -> None:
    (tmp_path / "rows.csv").write_bytes(b"premise,label\n\xff\xfe,1\n")
    with pytest.raises(MetalmError, match="a CSV file is not UTF-8 text"):
        open_split(write_card(tmp_path, file="rows.csv"))


def test_another_copy_has_the_cards_local_splits(tmp_path: Path, open_split: Any) -> None:
    root = tmp_path / "data"
    write_rows(root / "copy" / "train.jsonl", [sentence_pair(0), sentence_pair(0), sentence_pair(1)])
    path = hub_card(tmp_path / "cards")
    assert labels(open_split(path, data_root=root)) == [0, 0]
    assert labels(open_split(path, "validation", data_root=root)) == [1]


def test_a_mirror_has_the_hubs_splits(tmp_path: Path, open_split: Any) -> None:
    root = tmp_path / "data"
    write_rows(root / "copy" / "train.jsonl", [sentence_pair(0), sentence_pair(0), sentence_pair(1)])
    (root / "copy" / FEATURES).write_text("{}")
    path = hub_card(tmp_path / "cards")
    card = read_card_file(path)
    assert labels(open_split(path, data_root=root)) == [0, 0]
    assert (is_available(card, "train", root), is_available(card, "validation", root)) == (True, False)
    with pytest.raises(MetalmError, match="no data found"):
        open_split(path, "validation", data_root=root)
    write_rows(root / "copy" / "dev.jsonl", [sentence_pair(1), sentence_pair(1)])
    assert is_available(card, "validation", root)
    assert labels(open_split(path, "validation", data_root=root)) == [1, 1]


def test_compressed_files_and_folders_of_shards(tmp_path: Path, open_split: Any) -> None:
    root = tmp_path / "data"
    (root / "copy" / "train").mkdir(parents=True)
    for number in range(2):
        data = (json.dumps(sentence_pair(number)) + "\n").encode()
        (root / "copy" / "train" / f"{number}.jsonl.gz").write_bytes(gzip.compress(data))
    assert labels(open_split(hub_card(tmp_path / "cards"), data_root=root)) == [0, 1]


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["entailment", "not_entailment"], True),
        (["not_entailment", "entailment"], False),
        (["yes", "no"], False),
        (["entailment", "neutral", "contradiction"], False),
    ],
)
def test_class_names_of_a_mirror(tmp_path: Path, open_split: Any, names: list[str], fits: bool) -> None:
    root = tmp_path / "data"
    write_rows(root / "copy" / "train.jsonl", [sentence_pair(0), sentence_pair(0)])
    (root / "copy" / FEATURES).write_text(json.dumps({"label": names, "other": ["a"]}))
    path = hub_card(tmp_path / "cards")
    if fits:
        assert labels(open_split(path, data_root=root)) == [0, 0]
        return
    with pytest.raises(MetalmError) as caught:
        open_split(path, data_root=root)
    assert caught.value.what == "the classes of mine differ from those of its card"
    assert f"the data has {', '.join(names)}" in caught.value.why


def test_broken_class_names(tmp_path: Path, open_split: Any) -> None:
    root = tmp_path / "data"
    write_rows(root / "copy" / "train.jsonl", [sentence_pair(0)])
    (root / "copy" / FEATURES).write_text("[")
    with pytest.raises(MetalmError, match="class names of mirrored data"):
        open_split(hub_card(tmp_path / "cards"), data_root=root)


def test_a_split_that_the_card_does_not_have(tmp_path: Path, open_split: Any) -> None:
    with pytest.raises(MetalmError) as caught:
        open_split(write_card(tmp_path), "test")
    assert (caught.value.what, caught.value.why) == ("task mine has no test split", "the splits of its card are train")


def test_empty_splits(tmp_path: Path, open_split: Any) -> None:
    write_rows(tmp_path / "rows.jsonl", [])
    with pytest.raises(MetalmError, match="the train split of mine has no rows"):
        open_split(write_card(tmp_path))
    write_rows(tmp_path / "rows.jsonl", [sentence_pair()])
    with pytest.raises(MetalmError, match="the train split of sliced has no rows"):
        open_split(write_card(tmp_path, name="sliced", splits="{train: 'rows[5:]'}"))


def test_files_that_are_not_there(tmp_path: Path, open_split: Any) -> None:
    path = write_card(tmp_path)
    assert not is_available(read_card_file(path), "train", card_path=path)
    with pytest.raises(MetalmError) as caught:
        open_split(path)
    assert str(tmp_path / "rows.jsonl") in caught.value.where
    write_rows(tmp_path / "rows.jsonl", [sentence_pair()])
    assert is_available(read_card_file(path), "train", card_path=path)


def test_rows_that_are_not_available(tmp_path: Path, open_split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("METALM_DATA", raising=False)
    path = hub_card(tmp_path / "cards", HUB.replace("me/pairs", "me/pairs-that-do-not-exist"))
    with pytest.raises(MetalmError) as caught:
        open_split(path)
    assert "no data found for the train split of mine" in caught.value.what
    assert "no --data-root is given" in caught.value.why
    with pytest.raises(MetalmError) as caught:
        open_split(path, data_root=tmp_path)
    assert f"{tmp_path} has no copy" in caught.value.why


def test_the_miniature_world_is_always_available() -> None:
    from metalm_cli.tasks import Cards

    card: Card = Cards()["world_nli"]
    assert all(is_available(card, role) for role in card.splits)
    assert len(open_examples(card, "validation")) > 100
