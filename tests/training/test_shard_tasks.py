"""Tasks from tar shards through the real commands: the runs of the same rows as JSON lines with image files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_runs as micro
from card_fixtures import write_rows
from image_task_fixtures import CARD, RECIPE, TEMPLATES, save_encoder
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.sessions.images import read_image
from metalm_cli.tasks import Cards
from shard_fixtures import picture, write_shard

SHARDS = 'file: "colours-{0..2}.tar"'
COLUMNS = {
    "file: colours.jsonl": SHARDS,
    "question: question": "question: txt",
    "image: image": "image: png",
    "label: colour": "label: cls",
}
SETTINGS = ["train.steps=6", "train.checkpoint_every=2", "train.keep_checkpoints=9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four rows as JSON lines with image files in ``files/``, and as three shards in ``shards/``."""
    folder = tmp_path_factory.mktemp("shards")
    rows = []
    for shard in range(3):
        members: dict[str, bytes | str] = {}
        for number in range(8 * shard, 8 * shard + 8):
            name, question = ("blue", "red")[number % 2], f"Which colour has picture {number}?"
            image = picture(230 if name == "red" else 10 + number, (40, 30))
            (folder / "files").mkdir(exist_ok=True)
            (folder / "files" / f"{number}.png").write_bytes(image)
            rows.append({"question": question, "image": f"{number}.png", "colour": name})
            members |= {f"{number:02}.png": image, f"{number:02}.txt": question, f"{number:02}.cls": name}
        write_shard(folder / "shards" / f"colours-{shard}.tar", members)
    write_rows(folder / "files" / "colours.jsonl", rows)
    save_encoder(folder / "encoder")
    (folder / "templates").mkdir()
    (folder / "templates" / "colours.yaml").write_text(TEMPLATES)
    card = CARD
    for old, new in COLUMNS.items():
        card = card.replace(old, new)
    for kind, text in (("files", CARD), ("shards", card)):
        (folder / kind / "colours.yaml").write_text(text)
        recipe = RECIPE.replace("FOLDER/colours.yaml", f"FOLDER/{kind}/colours.yaml")
        micro.write_recipe(folder, recipe.replace("FOLDER", str(folder)), f"{kind}.yaml")
    return folder


@pytest.fixture(scope="module")
def run_of_files(folder: Path) -> Path:
    assert micro.metalm("finetune", folder / "files.yaml", *SETTINGS, "--out", folder / "of-files") == 0
    return folder / "of-files"


@pytest.fixture(scope="module")
def run_of_shards(folder: Path) -> Path:
    assert micro.metalm("finetune", folder / "shards.yaml", *SETTINGS, "--out", folder / "of-shards") == 0
    return folder / "of-shards"


def test_shards_have_the_questions_and_the_pixels_of_the_files(folder: Path) -> None:
    examples = {}
    for kind in ("files", "shards"):
        path = folder / kind / "colours.yaml"
        card = Cards([path])["colours"]
        examples[kind] = list(open_examples(card, "train", cache=folder / "cache", card_path=path))
    assert len(examples["files"]) == len(examples["shards"]) == 16
    for of_files, of_shards in zip(examples["files"], examples["shards"], strict=True):
        assert (of_files.fields, of_files.answers, of_files.label) == (
            of_shards.fields,
            of_shards.answers,
            of_shards.label,
        )
        pixels = [read_image(example.images["image"][0]).tobytes() for example in (of_files, of_shards)]
        assert pixels[0] == pixels[1]


def test_a_run_on_shards_is_the_run_on_files(run_of_files: Path, run_of_shards: Path) -> None:
    assert len(set(micro.losses(run_of_files))) == 6
    assert micro.losses(run_of_shards) == micro.losses(run_of_files)
    weights = [micro.checkpoint(run, 6) for run in (run_of_files, run_of_shards)]
    assert micro.difference(*(saved["model"] for saved in weights)) == 0
    (source,) = json.loads((run_of_shards / "data.json").read_text())["sources"]
    assert [file["name"] for file in source["files"]] == [f"colours-{shard}.tar" for shard in range(3)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_resumed_run_on_shards_is_the_uninterrupted_one(folder: Path, run_of_shards: Path, workers: int) -> None:
    copy = micro.interrupted_copy(run_of_shards, folder / f"resumed-{workers}", 4)
    arguments = [*SETTINGS, f"data.workers={workers}", "--out", copy, "--resume"]
    assert micro.metalm("finetune", folder / "shards.yaml", *arguments) == 0
    micro.assert_same_run(run_of_shards, copy, 6, same_settings=workers == 0)


def test_a_run_with_other_shards_is_not_resumed(
    folder: Path, run_of_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = micro.interrupted_copy(run_of_shards, folder / "changed", 4)
    shard = folder / "shards" / "colours-1.tar"
    whole = shard.read_bytes()
    write_shard(shard, {"08.png": picture(10), "08.txt": "Which colour?", "08.cls": "blue"})
    try:
        code = micro.metalm("finetune", folder / "shards.yaml", *SETTINGS, "--out", copy, "--resume")
    finally:
        shard.write_bytes(whole)
    assert code == 2
    assert "colours-1.tar" in capsys.readouterr().err


def test_an_evaluation_reads_shards(folder: Path, run_of_shards: Path) -> None:
    assert micro.metalm("evaluate", run_of_shards, "--task", folder / "shards" / "colours.yaml") == 0
    (path,) = (run_of_shards / "results").glob("*.json")
    assert json.loads(path.read_text())["tasks"]["colours"]["examples"] == 8
