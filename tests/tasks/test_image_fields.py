"""Image fields of cards: values of rows, folders that paths do not leave, rows that are left out."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from card_fixtures import read_card_file, write_card, write_rows
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.card_check import check_card
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.data.examples.task_selection import load_cards, open_training_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import UnreadableImageError
from metalm_cli.sessions.images import read_image
from metalm_cli.tasks import Cards
from metalm_cli.templates import TemplateCollection, render

BODY = """\
fields: {question: question}
images: {image: image}
answer: {text: answer}
metric: {name: exact_match, source: us}
"""
ROW = {"question": "Which colour?", "answer": "red"}


def png(colour: tuple[int, ...] = (200, 0, 0), mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, colour if len(colour) > 1 else colour[0]).save(data, "PNG")
    return data.getvalue()


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())


def examples_of(folder: Path, rows: list[dict[str, Any]], body: str = BODY) -> Any:
    path = write_card(folder, body)
    write_rows(folder / "rows.jsonl", [{**ROW, **row} for row in rows])
    return open_examples(read_card_file(path), "train", cache=folder / "cache", card_path=path)


def row_error(folder: Path, value: Any, body: str = BODY) -> MetalmError:
    with pytest.raises(MetalmError) as caught:
        list(examples_of(folder, [{"image": value}], body))
    return caught.value


def test_paths_and_lists_start_at_the_folder_of_the_data(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "deep/b.png")
    (tmp_path / "linked.png").symlink_to(tmp_path / "a.png")
    rows: list[Any] = [{"image": "a.png"}, {"image": {"bytes": None, "path": "deep/b.png"}}, {"image": ["a.png"] * 2}]
    rows += [{"image": str(tmp_path / "a.png")}, {"image": "linked.png"}]
    examples = list(examples_of(tmp_path, rows))
    assert [len(example.images["image"]) for example in examples] == [1, 1, 2, 1, 1]
    assert all(read_image(image).size == (8, 6) for example in examples for image in example.images["image"])
    assert examples[0].inputs != examples[1].inputs
    assert pickle.loads(pickle.dumps(examples[0])).images == examples[0].images


def test_bytes_of_an_arrow_table_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": png((0, 0, 255)), "path": "x.png"}, {"bytes": png((9,), "L"), "path": None}]
    table = pyarrow.Table.from_pylist([{**ROW, "image": image} for image in images])
    parquet.write_table(table, tmp_path / "rows.parquet")
    path = write_card(tmp_path, BODY, file="rows.parquet")
    examples = list(open_examples(read_card_file(path), "train", cache=tmp_path / "cache", card_path=path))
    pixels = [read_image(example.images["image"][0]).getpixel((0, 0)) for example in examples]
    assert pixels == [(0, 0, 255), (9, 9, 9)]


def test_another_folder_and_an_optional_image(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", "a.png")
    body = BODY + "image_folder: ../pictures\noptional_fields: [image]\n"
    examples = list(examples_of(tmp_path / "data", [{"image": "a.png"}, {}, {"image": None}], body))
    assert [len(example.images["image"]) for example in examples] == [1, 0, 0]
    assert read_image(examples[0].images["image"][0]).size == (8, 6)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "images.image: got 5, expected an image: a path, bytes, or {bytes, path}"),
        (None, "images.image: got None, expected an image"),
        ("What colour is it?\nRed.", "got the text 'What colour is it?\\nRed.', expected an image"),
        ("https://example.org/a.png", "images are read from files: download them first"),
        ([], "got an empty list, expected at least one image"),
        ({"url": "a.png"}, "expected an image"),
    ],
)
def test_a_column_that_holds_no_image(tmp_path: Path, value: Any, why: str) -> None:
    error = row_error(tmp_path, value)
    assert error.what == "a row does not match the card mine"
    assert why in error.why


@pytest.mark.parametrize("path", ["../secret.png", "{folder}/secret.png", "link.png", "links/secret.png"])
def test_a_path_that_leaves_the_folder_is_refused_by_name(tmp_path: Path, path: str) -> None:
    write_images(tmp_path, "secret.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "links").symlink_to(tmp_path)
    path = path.format(folder=tmp_path)
    examples = examples_of(data, [{"image": path}])
    with pytest.raises(UnreadableImageError, match="an image lies outside the folder") as caught:
        read_image(examples[0].images["image"][0])
    assert caught.value.where == path
    with pytest.raises(MetalmError, match="image outside its folder") as in_pass:
        examples.usable_rows(tmp_path / "cache", "skip")
    assert path in in_pass.value.why


def broken_rows(folder: Path) -> list[dict[str, Any]]:
    write_images(folder, "good.png", "other.png")
    (folder / "text.png").write_text("no image")
    Image.new("L", (1000, 2)).save(folder / "long.png")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    (folder / "bomb.png").write_bytes(png()[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png()[33:])
    (folder / "folder.png").mkdir(exist_ok=True)
    names = ["good.png", "gone.png", "text.png", "long.png", "bomb.png", "folder.png", "other.png", "gone.png"]
    return [{"image": name, "answer": name} for name in names]


def test_rows_are_left_out_and_counted_by_reason(tmp_path: Path) -> None:
    usable = examples_of(tmp_path, broken_rows(tmp_path)).usable_rows(tmp_path / "cache")
    assert usable.array().tolist() == [0, 6]
    assert usable.left_out == {"image missing": 2, "image broken": 2, "image too large": 2}
    assert usable.named["image missing"] == ["gone.png"]
    assert usable.named["image too large"] == ["long.png", "bomb.png"]
    write_images(tmp_path, "gone.png")
    assert len(examples_of(tmp_path, broken_rows(tmp_path)).usable_rows(tmp_path / "cache")) == 4


def test_a_check_of_the_card_lists_broken_images(tmp_path: Path) -> None:
    examples_of(tmp_path, broken_rows(tmp_path))
    path = tmp_path / "mine.yaml"
    (split,) = check_card(read_card_file(path), cache=tmp_path / "cache", card_path=path).splits
    assert (split.rows, split.wrong_rows) == (8, 6)
    assert [Path(problem.where).name for problem in split.problems[:3]] == ["gone.png", "text.png", "long.png"]


def test_broken_images_are_errors_if_asked(tmp_path: Path) -> None:
    examples = examples_of(tmp_path, broken_rows(tmp_path))
    with pytest.raises(MetalmError, match="image missing") as caught:
        examples.usable_rows(tmp_path / "cache", "fail")
    assert caught.value.where.endswith("rows.jsonl:2")
    assert "gone.png" in caught.value.why
    assert "data.broken_images=skip" in caught.value.remedy


def test_a_column_of_other_texts_is_one_error_before_training(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{**ROW, "image": f"What is it? {number}"} for number in range(5)])
    path = write_card(tmp_path, BODY)
    options = TaskDataConfig(tasks=[str(path)], templates={"collection": "plain"})
    with pytest.raises(MetalmError, match="no row with images that can be read") as caught:
        open_training_tasks(options, seed=0, cache=tmp_path / "cache", cards=load_cards(options))
    assert "5 image missing; image missing: 'What is it? 0'" in caught.value.why
    assert str(tmp_path) in caught.value.why


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("images: {question: image}", "question is both a text and an image"),
        ("images: {answer: image}", "reserved field name: answer"),
        ("images: {}\nimage_folder: pictures", "got a folder of images, but the card has no images"),
        ("images: {image: '{{ a'}", "is not a valid expression"),
    ],
)
def test_invalid_image_fields(tmp_path: Path, change: str, words: str) -> None:
    path = write_card(tmp_path, BODY.replace("images: {image: image}", change))
    with pytest.raises(MetalmError) as caught:
        Cards([path])["mine"]
    assert words in str(caught.value)


def test_validation_shares_know_images_apart(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{number}.png" for number in range(40)))
    path = write_card(tmp_path, BODY, splits="{train: rows, validation: rows}")
    path.write_text(path.read_text().replace("validation_share: 0", "validation_share: 0.3"))
    write_rows(tmp_path / "rows.jsonl", [{**ROW, "image": f"{number}.png"} for number in range(40)])
    card = read_card_file(path)
    roles = [open_examples(card, role, cache=tmp_path / "c", card_path=path) for role in ("train", "validation")]
    assert min(map(len, roles)) > 4
    assert sum(map(len, roles)) == 40


def test_conversations_of_llava_and_messages_with_images(tmp_path: Path) -> None:
    write_images(tmp_path, "coco/a.png", "b.png")
    answer = {"from": "gpt", "value": "A dog."}
    llava = [
        {"id": "1", "image": "coco/a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, answer]},
        {"id": "2", "conversations": [{"from": "human", "value": "Hello"}, answer]},
    ]
    question, reply = {"role": "user", "content": "<image><image> Same?"}, {"role": "assistant", "content": "Yes."}
    chat = [{"messages": [question, reply], "images": ["b.png", {"bytes": None, "path": "coco/a.png"}]}]
    for name, records, names in (
        ("llava", llava, [["coco/a.png"], []]),
        ("chat", chat, [["b.png", "coco/a.png"]]),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(records))
        card = Cards([path])[name].model_copy(update={"validation_share": 0.0})
        examples = list(open_examples(card, "train", cache=tmp_path / "cache", card_path=path))
        assert [[image.name for image in example.images["image"]] for example in examples] == names
        (template,) = TemplateCollection("flan").templates_for(card)
        kinds = [[type(part.content).__name__ for part in render(example, template).parts] for example in examples]
        assert kinds == [["ImageSource"] * len(images) + ["str"] for images in names]


def test_marks_without_images_name_the_record(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image><image> Same?"}, {"from": "gpt", "value": "Yes."}]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    with pytest.raises(MetalmError) as caught:
        Cards([path])["llava"]
    assert "it has 1 images and 2 marks <image>" in caught.value.why
