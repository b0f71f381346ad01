"""Rows of WebDataset shards: what is read, by row number, without copies, and what is left out and counted."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from card_fixtures import read_card_file, write_card
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.open_examples import Examples, is_available, open_examples
from metalm_cli.data.examples.task_selection import load_cards, open_training_tasks
from metalm_cli.data.sources import jsonl
from metalm_cli.data.sources.file_tables import open_prepared, open_table
from metalm_cli.errors import MetalmError
from shard_fixtures import captions, error_of, picture, write_shard

CAPTIONS = """\
fields: {}
images: {image: png}
answer: {text: txt}
metric: {name: exact_match, source: us}
"""


def examples_of(folder: Path, file: str, body: str = CAPTIONS, splits: str = "{train: rows}") -> Examples:
    path = write_card(folder, body, file=file, splits=splits)
    return open_examples(read_card_file(path), "train", cache=folder / "cache", card_path=path)


def test_the_members_of_a_key_are_the_columns_of_a_row(tmp_path: Path, rows_of: Any) -> None:
    members = {
        "./a/0.PNG": picture(1),
        "./a/0.txt": "\ufeffA cat.\n",
        "./a/0.json": '{"width": 1.10, "tags": ["x"]}',
        "./a/0.cls": "7\n",
        "./a/0.npy": b"ignored",
        "b.left.png": picture(2),
        "b.right.png": picture(3),
        "b.cls": "cat",
        "__MACOSX/._b.txt": "hidden",
        "README": "no column",
    }
    first, second = rows_of(write_shard(tmp_path / "s.tar", members))
    assert list(first) == ["__key__", "png", "txt", "json", "cls"]
    assert (first["__key__"], first["txt"], first["cls"]) == ("a/0", "A cat.\n", 7)
    assert str(first["json"]["width"]) == "1.10"
    assert first["png"] == {"bytes": picture(1), "path": "s.tar/a/0.png"}
    assert (second["__key__"], second["cls"]) == ("b", "cat")
    assert second["right.png"]["bytes"] == picture(3)


def test_shards_of_a_folder_a_pattern_and_a_split(tmp_path: Path, rows_of: Any) -> None:
    for number in range(12):
        write_shard(tmp_path / "s" / f"train-{number:02}.tar", captions(10 * number, 1))
    write_shard(tmp_path / "s" / "val-00.tar", captions(500, 2))
    write_shard(tmp_path / "deep" / "test" / "0.tar", captions(900, 3))
    write_shard(tmp_path / "deep" / "0.tar", captions(0, 1))

    def keys(path: str, split: str = "rows") -> list[int]:
        table, facts = open_table(tmp_path / path, tmp_path / "cache", split)
        assert [Path(fact.path).suffix for fact in facts] == [".tar"] * len(facts)
        return [int(row["__key__"]) for row in table.scan(range(table.rows))]

    tens = list(range(0, 120, 10))
    assert keys("s") == [*tens, 500, 501]
    assert keys("s", "train") == tens
    assert keys("s", "val") == [500, 501]
    assert keys("s/train-{09..11}.tar") == [90, 100, 110]
    assert keys("s/{val,train}-00.tar") == [500, 501, 0]
    assert keys("s/*-00.tar") == [0, 500, 501]
    assert keys("deep", "test") == [900, 901, 902]
    assert keys("deep") == [0]
    for path, split, words in [
        ("s", "test", ["no shards of the split test", "test: rows"]),
        ("s", "tra", ["no shards of the split tra"]),
        ("s/train-{09..14}.tar", "rows", ["3 of 6 shards are missing", "train-12.tar"]),
        ("s/train-{9..x}.tar", "rows", ["{9..x} is not a range of numbers"]),
        ("s/train-{5..2}.tar", "rows", ["{5..2} is empty"]),
        ("s/train-{0..9999999}.tar", "rows", ["more than 1,000,000"]),
        ("gone.tar", "rows", ["a data file cannot be read", "gone.tar"]),
    ]:
        message = str(error_of(lambda path=path, split=split: keys(path, split)))
        assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.tar"])
def test_compressed_shards_are_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    shard = write_shard(tmp_path / "plain.tar", captions(0, 2))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(gzip.compress(shard.read_bytes()))
    for path in (tmp_path / "d" / name, tmp_path / "d"):
        error = error_of(lambda path=path: open_table(path, tmp_path / "cache", "rows"))
        assert error.what == "a compressed tar file is not read"
        assert name in error.where
        assert "gunzip" in error.remedy


def test_a_row_is_found_without_the_shards_before_it_and_nothing_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = os.urandom(300_000)
    paths = [
        write_shard(tmp_path / f"{number}.tar", {"a.txt": f"{number}", "a.png": big, "b.txt": "b", "b.png": big})
        for number in range(3)
    ]
    table, _ = open_prepared(paths, tmp_path / "cache")
    assert table.rows == 6
    copied = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert copied < 10_000

    def fail(_path: Path) -> Iterator[bytes]:
        raise AssertionError("a shard that is in the cache is listed again")

    monkeypatch.setattr(jsonl, "list_rows", fail)
    reopened, _ = open_prepared(paths, tmp_path / "cache")
    assert reopened.identity == table.identity
    reopened.load(1)
    travelled = pickle.loads(pickle.dumps(reopened))
    for path in paths[:2]:
        path.unlink()
    row = travelled.load(4)
    assert (row["__key__"], row["txt"], row["png"]["bytes"]) == ("a", "2", big)
    assert travelled.where(5) == f"{paths[2]}, key b"
    assert error_of(lambda: travelled.load(0)).what == "a data file is missing"


def test_a_changed_shard_is_listed_again_and_a_shard_that_changes_during_a_run_is_an_error(
    tmp_path: Path, rows_of: Any
) -> None:
    path = write_shard(tmp_path / "s.tar", captions(0, 3))
    table, _ = open_prepared([path], tmp_path / "cache")
    assert len(rows_of(path)) == 3
    write_shard(path, captions(0, 40))
    assert [row["txt"] for row in rows_of(path)] == [f"Picture number {number}." for number in range(40)]
    assert error_of(lambda: table.load(0)).what == "a data file was changed while it was read"


# -- tasks and documents ----------------------------------------------------------------------------------------------


def members_with_gaps() -> dict[str, bytes | str]:
    """Members of twelve rows: of three an image or a text is missing, the image of one is broken."""
    members = captions(0, 12)
    del members["0001.png"]
    del members["0002.txt"]
    return members | {"0003.txt": " \n", "0004.png": b"no image"}


def test_rows_without_an_image_or_a_text_are_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "s.tar", members_with_gaps())
    examples = examples_of(tmp_path, "s.tar")
    usable = examples.usable_rows(tmp_path / "cache")
    assert usable.left_out == {"image missing": 1, "text missing": 2, "image broken": 1}
    assert usable.named == {"image broken": ["s.tar/0004.png"]}
    assert usable.array().tolist() == [0, *range(5, 12)]
    assert [examples[row] is None for row in range(5)] == [False, True, True, True, False]
    monkeypatch.setattr(type(examples.table), "load", lambda *_: pytest.fail("a pass whose result is cached"))
    again = examples.usable_rows(tmp_path / "cache")
    assert (again.left_out, again.named) == (usable.left_out, usable.named)
    assert again.array().tolist() == usable.array().tolist()


def test_a_card_that_needs_no_text_or_no_image_uses_such_rows(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", {"cat/0.png": picture(0), "dog/0.png": picture(1), "dog/1.txt": "a"})
    by_key = "fields: {}\nimages: {image: png}\nanswer: {text: \"__key__.split('/')[0]\"}\n"
    metric = "metric: {name: exact_match, source: us}\n"
    usable = examples_of(tmp_path, "s.tar", by_key + metric).usable_rows(tmp_path / "cache")
    assert (usable.count, usable.left_out) == (2, {"image missing": 1})
    texts_only = "fields: {}\nanswer: {text: txt}\noptional_fields: [image]\nimages: {image: png}\n" + metric
    usable = examples_of(tmp_path, "s.tar", texts_only).usable_rows(tmp_path / "cache")
    assert usable.left_out == {"text missing": 2}


def test_a_misspelled_column_is_an_error_and_not_a_reason(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", captions(0, 4))
    with pytest.raises(MetalmError, match="'caption' is undefined"):
        list(examples_of(tmp_path, "s.tar", CAPTIONS.replace("txt", "caption")))


def test_shards_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METALM_DATA", raising=False)
    write_shard(tmp_path / "birds" / "train-0.tar", {"z.json": "{}"} | captions(0, 20))
    write_shard(tmp_path / "birds" / "val-0.tar", captions(50, 5))
    write_shard(tmp_path / "one.tar", captions(0, 40) | {"x.png": picture(7), "x.json": "{}", "y.txt": "no image"})
    options = TaskDataConfig(tasks=["birds/", "one.tar"])
    cards = load_cards(options, offline=True)
    corpus, selection = open_training_tasks(options, seed=0, offline=True, cache=tmp_path / "cache", cards=cards)
    assert [(card.name, card.cluster, card.metric.name) for card in selection.cards] == [
        ("birds", "captioning", "cider"),
        ("one", "captioning", "cider"),
    ]
    birds, pictures = (task.examples for task in corpus.tasks)
    assert (len(birds), birds.card.splits) == (21, {"train": "train", "validation": "val"})
    validation = open_examples(pictures.card, "validation", cache=tmp_path / "cache")
    assert 0 < len(validation) == 42 - len(pictures)
    left_out = [task.rows.usable.left_out for task in corpus.tasks]
    assert left_out == [{"image missing": 1}, {"image missing": 1, "text missing": 1}]
    example = birds[1]
    assert (example.fields["input"], example.answers, example.images["image"][0].data) == (
        "<image>",
        ("Picture number 0.",),
        picture(0),
    )
    assert is_available(birds.card, "validation")
    assert not is_available(birds.card.model_copy(update={"splits": {"test": "test"}}), "test")


def test_documents_of_shards_are_those_of_json_lines(write: Any, corpus: Any, read: Any, tmp_path: Path) -> None:
    texts = [f"Document {number} of the shelf." for number in range(30)]
    write("a.jsonl", [{"text": text} for text in texts])
    for shard in range(3):
        members = {f"{number}.txt": texts[number] for number in range(10 * shard, 10 * shard + 10)}
        write_shard(tmp_path / "s" / f"{shard}.tar", members | {f"{shard}x.png": picture(shard)})
    opened = corpus({"path": str(tmp_path / "s"), "text": "txt"})
    (info,) = opened.sources
    assert (info.usable, info.left_out) == (30, {"text missing": 3})
    assert sorted(read(opened, 30)) == sorted(texts)
    assert read(opened, 60, 25) == read(corpus({"path": str(tmp_path / "s/{0..2}.tar"), "text": "txt"}), 60, 25)
    with pytest.raises(MetalmError, match="cannot be streamed"):
        corpus({"path": str(tmp_path / "s"), "text": "txt", "streaming": True, "weight": 1.0})
    nested = write_shard(tmp_path / "n.tar", {"0.json": json.dumps({"caption": "A cat."}), "1.png": picture(0)})
    assert read(corpus({"path": str(nested), "text": "json.caption"}), 2) == ["A cat.", "A cat."]


def test_a_column_that_no_row_has_is_one_error_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "s.tar", captions(0, 4))
    write_card(tmp_path, CAPTIONS.replace("txt", "text"), file="s.tar")
    options = TaskDataConfig(tasks=["./mine.yaml"], templates={"collection": "plain"})
    error = error_of(lambda: open_training_tasks(options, seed=0, offline=True, cache=tmp_path / "cache"))
    assert error.what == "task mine has no usable training example"
    assert error.why == "of 4 rows, 4 text missing"


def test_an_image_that_is_too_large_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalm_cli.data.sources.tar_rows.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("metalm_cli.sessions.images.MAX_FILE_BYTES", 1000)
    write_shard(tmp_path / "i.tar", captions(0, 2) | {"9.png": bytes(5000), "9.txt": "large"})
    table, _ = open_table(tmp_path / "i.tar", tmp_path / "cache", "rows")
    assert len(table.load(2)["png"]["bytes"]) == 1001
    usable = examples_of(tmp_path, "i.tar").usable_rows(tmp_path / "cache")
    assert usable.left_out == {"image too large": 1}
