"""Tasks with images through the real commands: a model that sees only a picture learns its colour."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import tiny_runs as micro
from card_fixtures import write_rows
from image_task_fixtures import CARD, RECIPE, TEMPLATES, save_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures of one colour each, of which one is missing and one is damaged behind its header."""
    folder = tmp_path_factory.mktemp("colours")
    rows = []
    for number in range(24):
        name = ("red", "blue")[number % 2]
        shade = 150 + 4 * number
        Image.new("RGB", (40, 30), (shade, 0, 0) if name == "red" else (0, 0, shade)).save(folder / f"{number}.png")
        rows.append({"question": "Which colour?", "image": f"{number}.png", "colour": name})
    (folder / "3.png").unlink()
    damaged = bytearray((folder / "4.png").read_bytes())
    damaged[45:60] = bytes(15)
    (folder / "4.png").write_bytes(damaged)
    save_encoder(folder / "encoder")
    write_rows(folder / "colours.jsonl", rows)
    (folder / "colours.yaml").write_text(CARD)
    (folder / "templates").mkdir()
    (folder / "templates" / "colours.yaml").write_text(TEMPLATES)
    micro.write_recipe(folder, RECIPE.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert micro.metalm("finetune", folder / "micro.yaml", "--out", folder / "run") == 0
    return folder / "run"


def test_a_picture_is_learned_and_broken_ones_are_counted(folder: Path, run: Path) -> None:
    assert micro.metalm("evaluate", run, "--task", "colours", "--protocol", "in_context") == 0
    (path,) = (run / "results").glob("*.json")
    (setting,) = json.loads(path.read_text())["tasks"]["colours"]["settings"]
    (template,) = setting["templates"]
    assert (setting["score"], template["chance"]["uniform"]) == (100, 50)
    sources = json.loads((run / "data.json").read_text())["sources"]
    assert sources[0]["left_out"] == {"image missing": 1}
    assert sources[0]["usable"] == 15
    assert micro.records(run)[-1]["broken_images"] > 0


def test_the_plan_names_what_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert micro.metalm("finetune", folder / "micro.yaml", "--dry-run", "--out", folder / "planned") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 rows of colours are not trained on: 1 image missing (3.png)" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.broken_images=fail"], ["image missing", "colours.jsonl:4", "3.png", "data.broken_images=skip"]),
        (["data.templates.input_route=template"], ["'text' that the model does not have", "its encoders: vision"]),
        (["data.sequence_length=16", "data.tasks=[FOLDER/two.yaml]"], ["do not fit into 16 positions"]),
        (["data.tasks=[FOLDER/texts.yaml]"], ["the encoder 'text' reads text, got image"]),
    ],
)
def test_what_cannot_be_trained_is_one_error(
    folder: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    two = CARD.replace("name: colours", "name: two").replace(
        "image: image", 'image: "[image, image, image, image, image, image]"'
    )
    (folder / "two.yaml").write_text(two)
    (folder / "texts.yaml").write_text(CARD.replace("name: colours", "name: texts"))
    (folder / "templates" / "two.yaml").write_text(TEMPLATES)
    (folder / "templates" / "texts.yaml").write_text(
        TEMPLATES.replace("image: image", "image: image\n        image_encoder: text")
    )
    arguments = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    if "texts.yaml" in arguments[0]:
        arguments += ["model.encoders.text={config: {model_type: bert, hidden_size: 32, num_hidden_layers: 1, "]
        arguments[-1] += (
            "num_attention_heads: 2, intermediate_size: 48}, tokenizer: {new: {vocab_size: 400, documents: 100}}}"
        )
    assert micro.metalm("finetune", folder / "micro.yaml", *arguments, "--out", folder / "refused") == 2
    printed = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in printed
