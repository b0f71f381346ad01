"""Data files in other formats than JSON lines: CSV variants, Parquet, folders of save_to_disk, and plain texts."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from card_fixtures import CLASSES_BODY, sentence_pair, write_card
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.data.sources.file_tables import open_table
from metalm_cli.data.sources.row_tables import divide_text
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import read_card

PAIRS = [sentence_pair(number % 2, f"Price {number},50; it rains.\tYes", "It is wet.") for number in range(300)]
TEXTS = [f"Document {number} of the collection." for number in range(600)]


def rows_of(path: Path, split: str = "train") -> list[Any]:
    table, files = open_table(path, path.parent / "cache", split)
    rows = list(table.scan(range(table.rows)))
    assert [table.load(row) for row in range(table.rows)] == rows
    assert [pickle.loads(pickle.dumps(table)).load(row) for row in range(min(3, table.rows))] == rows[:3]
    assert all(len(file.sha256 or "") == 64 for file in files)
    return rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_encodings_of_csv(tmp_path: Path, delimiter: str, encoding: str) -> None:
    lines = [("name", "text", "label"), ("Zoë", f'"a{delimiter} b, c; d"', "1"), ("東京", "plain", "0")]
    text = "\r\n".join(delimiter.join(line) for line in lines) + "\r\n"
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(encoding))
    assert rows_of(path) == [
        {"name": "Zoë", "text": f"a{delimiter} b, c; d", "label": "1"},
        {"name": "東京", "text": "plain", "label": "0"},
    ]


def test_tsv_and_a_csv_of_one_column(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("text\tlabel\na, b; c\t1\n")
    (tmp_path / "y.csv").write_text("text\none; two\nthree\n")
    assert rows_of(tmp_path / "x.tsv") == [{"text": "a, b; c", "label": "1"}]
    assert [row["text"] for row in rows_of(tmp_path / "y.csv")] == ["one; two", "three"]


def test_a_utf_16_csv_that_ends_inside_a_character(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("a,b\n1,2\n".encode("utf-16")[:-1])
    with pytest.raises(MetalmError, match="a CSV file is not UTF-16 text"):
        rows_of(tmp_path / "x.csv")


def save_parquet(path: Path, rows: list[dict[str, Any]], group: int = 64) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_tasks_in_parquet_and_saved_folders(tmp_path: Path) -> None:
    save_parquet(tmp_path / "rows.parquet", PAIRS)
    saved = datasets.DatasetDict(
        train=datasets.Dataset.from_list(PAIRS), validation=datasets.Dataset.from_list(PAIRS[:7])
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    assert rows_of(tmp_path / "rows.parquet") == rows_of(tmp_path / "saved") == PAIRS
    assert rows_of(tmp_path / "saved", "validation") == PAIRS[:7]
    for file, splits, sizes in (
        ("rows.parquet", "{train: 'rows[:-9]', validation: 'rows[-9:]'}", (291, 9)),
        ("saved", "{train: train, validation: validation}", (300, 7)),
    ):
        path = write_card(tmp_path, CLASSES_BODY, file=file, splits=splits)
        opened = [
            open_examples(read_card(path), role, card_path=path, cache=tmp_path / "c")
            for role in ("train", "validation")
        ]
        assert tuple(map(len, opened)) == sizes
        assert [example.label for example in opened[0]][:4] == [0, 1, 0, 1]
    with pytest.raises(MetalmError) as caught:
        rows_of(tmp_path / "saved", "test")
    assert "its splits are train, validation" in str(caught.value)


def test_class_names_of_a_saved_folder_are_those_of_the_card(tmp_path: Path) -> None:
    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=["b", "a"]),
    )
    datasets.Dataset.from_list(PAIRS[:4], features=features).save_to_disk(str(tmp_path / "saved"))
    path = write_card(tmp_path, file="saved")
    with pytest.raises(MetalmError, match="the classes of mine differ from those of its card"):
        open_examples(read_card(path), "train", card_path=path, cache=tmp_path / "cache")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = save_parquet(tmp_path / "rows.parquet", PAIRS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MetalmError) as caught:
        rows_of(path)
    assert caught.value.what == "a Parquet file cannot be read"
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_pretraining_text_of_every_format(tmp_path: Path, corpus: Any) -> None:
    rows = [{"text": text, "id": number} for number, text in enumerate(TEXTS)]
    save_parquet(tmp_path / "a.parquet", rows[:300])
    save_parquet(tmp_path / "b.parquet", rows[300:])
    (tmp_path / "x.csv").write_text("id;text\n" + "".join(f"{row['id']};{row['text']}\n" for row in rows))
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:03}.txt").write_text(text)
    counts = set()
    for path in ("*.parquet", "x.csv", "saved", "texts", "texts/*.txt"):
        opened = corpus({"path": str(tmp_path / path)})
        (info,) = opened.sources
        assert info.rows == 600
        counts.add((info.usable, info.text_bytes))
    assert len(counts) == 1


def test_a_long_text_is_divided_after_blank_lines(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {number}.\nSecond line.\n\n" for number in range(9_000))
    path = tmp_path / "book.txt"
    path.write_text(text)
    rows = rows_of(path)
    assert "".join(row["text"] for row in rows) == text
    assert all(50_000 < len(row["text"]) <= 100_000 and row["text"].endswith("\n\n") for row in rows[:-1])
    table, _ = open_table(path, tmp_path / "cache", "train")
    line = int(table.where(1).rpartition(":")[2])
    assert rows[1]["text"].startswith(text.splitlines()[line - 1])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one\n\ntwo\nthree", ["one\n\n", "two\nthree"]),
        ("one\ntwo three four", ["one\n", "two three ", "four"]),
        ("abcdefghijklm", ["abcdefghij", "klm"]),
        ("\n\n\n\n\n\n\n\n\n\n\n\n", ["\n" * 9, "\n" * 3]),
        ("", []),
    ],
)
def test_divided_texts(text: str, parts: list[str]) -> None:
    assert [*divide_text(text, 10)] == parts


def test_only_json_lines_are_streamed(tmp_path: Path, corpus: Any) -> None:
    (tmp_path / "x.csv").write_text("text\na\n")
    with pytest.raises(MetalmError, match="cannot be streamed"):
        corpus({"path": str(tmp_path / "x.csv"), "streaming": True})


def test_a_text_file_that_is_not_text(tmp_path: Path, corpus: Any) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\x00\xd8")
    with pytest.raises(MetalmError, match="a text file is not UTF-8"):
        corpus({"path": str(tmp_path / "x.txt")})
