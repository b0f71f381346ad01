"""Contrastive training by the real command: resumed, in two processes, saved and loaded, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import contrastive_fixtures as pairs
import tiny_runs as micro
from metalm_cli.inference import load
from metalm_cli.inference.embeddings.image_text_model import ImageTextModel
from metalm_cli.models.dual_encoder import dual_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    pairs.write_pairs(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert micro.metalm("finetune", folder / "micro.yaml", "--out", folder / "run") == 0
    return folder / "run"


def test_the_records_have_the_loss_and_the_scale(run: Path) -> None:
    first = micro.records(run)[0]
    assert first["loss"] == pytest.approx(math.log(8), abs=2.5)
    assert first["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    last = micro.records(run, "validation")[-1]
    assert 0 < last["loss"] < 10
    assert 0 <= last["right_text"] <= 1
    assert last["logit_scale"] != pytest.approx(1 / 0.07, rel=1e-6), "the scale trains"


def test_resumed_equals_uninterrupted(run: Path, tmp_path: Path) -> None:
    resumed = micro.interrupted_copy(run, tmp_path / "resumed", 3)
    assert micro.metalm("finetune", "--resume", "--out", resumed) == 0
    micro.assert_same_run(resumed, run, 6)


def test_two_processes_train_as_one(folder: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["finetune", folder / "micro.yaml", "--out", tmp_path / "run"]
    codes, printed = micro.run_processes(arguments, tmp_path)
    assert codes == [0, 0], "\n".join(printed)
    assert micro.losses(tmp_path / "run") == pytest.approx(micro.losses(run), abs=1e-5)
    first, second = micro.checkpoint(run, 6), micro.checkpoint(tmp_path / "run", 6)
    # Adam divides by the size of a gradient, so that rounding moves parameters whose gradients are near zero.
    assert micro.difference(first["model"], second["model"]) < 5e-5
    own, other = (micro.records(each, "validation")[-1] for each in (run, tmp_path / "run"))
    # Captions occur twice among the validation pairs, so that rounding decides which of them is the most similar.
    for name in ("loss", "logit_scale"):
        assert other[name] == pytest.approx(own[name], abs=1e-4)
    assert other.keys() == own.keys()


def test_the_scale_is_clipped_after_a_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual_encoder, "START_TEMPERATURE", 1 / 500)
    arguments = ["train.warmup_steps=0", "train.steps=2", "train.validate_every=0", "--out", tmp_path / "run"]
    assert micro.metalm("finetune", folder / "micro.yaml", *arguments) == 0
    first, second = (record["logit_scale"] for record in micro.records(tmp_path / "run"))
    assert first == pytest.approx(500, rel=1e-4)
    assert second == pytest.approx(100, rel=1e-4)
    (log_scale,) = (
        value for name, value in micro.checkpoint(tmp_path / "run", 2)["model"].items() if name.endswith("log_scale")
    )
    assert float(log_scale) <= math.log(100) + 1e-6


def test_saved_and_loaded_it_embeds_as_it_validated(folder: Path, run: Path) -> None:
    model = load(run)
    assert isinstance(model, ImageTextModel)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()][-20:]
    images = model.embed_images([folder / row["image"] for row in rows])
    texts = model.embed_texts([row["captions"][0] for row in rows])
    assert torch.allclose(images.norm(dim=-1), torch.ones(20), atol=1e-6)
    logits = float(model.model.logit_scale().detach()) * images @ texts.T
    right = torch.arange(20)
    loss = torch.nn.functional.cross_entropy(logits, right) + torch.nn.functional.cross_entropy(logits.T, right)
    assert float(loss) / 2 == pytest.approx(micro.records(run, "validation")[-1]["loss"], abs=1e-4)


def test_its_lineage_card_and_continued_training(run: Path, folder: Path, tmp_path: Path) -> None:
    lineage = json.loads((run / "model" / "lineage.json").read_text())
    assert lineage["tasks"] == ["pairs"]
    assert "embed_images" in (run / "model" / "README.md").read_text()
    recipe = micro.with_sections((folder / "micro.yaml").read_text(), model={"checkpoint": str(run)})
    path = micro.write_recipe(tmp_path, recipe)
    arguments = ["model.encoders.vision.trains=none", "train.steps=1", "train.warmup_steps=0"]
    assert micro.metalm("finetune", path, *arguments, "--out", tmp_path / "more") == 0
    before, after = micro.checkpoint(run, 6)["model"], micro.checkpoint(tmp_path / "more", 1)["model"]
    moved = {
        name.split(".")[2] for name in before if "encoders." in name and not torch.equal(before[name], after[name])
    }
    assert moved == {"text"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.projection_dim", "8"),
        ("model.encoders.text.pooling", "class"),
        ("model.encoders.vision.pooling", "class"),
        ("model.trains.logit_scale", "none"),
        ("model.learning_rates.logit_scale", "1e-2"),
        ("model.encoders.text.trains", "none"),
        ("data.answer_sampling", "index"),
    ],
)
def test_a_key_acts(folder: Path, tmp_path: Path, key: str, value: str) -> None:
    ends = []
    for name, setting in (("usual", []), ("changed", [f"{key}={value}"])):
        arguments = [*setting, "train.steps=2", "train.warmup_steps=0", "train.validate_every=0"]
        arguments += ["train.checkpoint_every=0", "--out", tmp_path / name]
        assert micro.metalm("finetune", folder / "micro.yaml", *arguments) == 0
        ends.append(
            {**micro.checkpoint(tmp_path / name, 2)["model"], "losses": torch.tensor(micro.losses(tmp_path / name))}
        )
    assert any(
        ends[0][part].shape != ends[1][part].shape or bool((ends[0][part] != ends[1][part]).any()) for part in ends[0]
    )
    if key == "model.trains.logit_scale":
        (scale,) = (tensor for part, tensor in ends[1].items() if part.endswith("log_scale"))
        assert float(scale) == pytest.approx(math.log(1 / 0.07))


def test_a_part_is_exported_as_a_model_of_its_own(run: Path, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    assert micro.metalm("export", run, "--part", "encoders.vision", "--out", tmp_path / "tower") == 0
    tower, processor = (auto.from_pretrained(tmp_path / "tower") for auto in (AutoModel, AutoImageProcessor))
    image = Image.open(folder / "3.png").convert("RGB")
    with torch.no_grad():
        patches = tower(**processor(images=image, return_tensors="pt")).last_hidden_state[0, 1:]
    model = load(run)
    pooled = model.pool([model.processors["vision"].prepare(folder / "3.png")])[0]
    assert torch.allclose(patches.mean(0), pooled, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.micro_batch_size=4"], ["train.micro_batch_size", "compares all pairs of a batch in one pass"]),
        (["train.batch_size=1"], ["train.batch_size", "at least 2"]),
        (["model.encoders.text=null"], ["model.encoders", "one of images and one of texts"]),
        (["objective.name=answers"], ["model.decoder"]),
        (["model.connector={kind: stack, factor: 2}"], ["model.connector.kind", "linear or mlp"]),
        (["model.encoders.text.pooling=pooler"], ["no pooled output of its own", "mean or class"]),
        (
            ["model.encoders.text={checkpoint: FOLDER/encoder}"],
            ["one encoder of images and one of texts", "vision: vision, text: vision"],
        ),
        (["data.templates.collection=FOLDER/words"], ["has 0 images, expected one"]),
    ],
)
def test_what_cannot_be_trained_is_one_error(
    folder: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "words").mkdir(exist_ok=True)
    (folder / "words" / "pairs.yaml").write_text("templates:\n  - name: words\n    input: What is it?\n")
    arguments = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    assert micro.metalm("finetune", folder / "micro.yaml", *arguments, "--out", folder / "refused") == 2
    printed = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in printed
    assert not (folder / "refused").exists()


def test_a_dual_encoder_continues_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert micro.metalm("generate", run, "Hello") == 2
    assert "a dual encoder continues no texts" in " ".join(capsys.readouterr().err.split())
