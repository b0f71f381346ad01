"""Fuzzed inputs that have no valid reading: binary noise, empty files and cut weights where a file is required."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from fuzz.data_surfaces import SHORT, Case, _copy_task, _recipe_file, _text_data
from fuzz.model_surfaces import _finetune
from fuzz.workspace import Workspace

IMAGE_ENDINGS = ["png", "jpg", "gif", "tiff", "webp", "bmp"]


def garbage(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """A file of noise, or an empty one, in place of a recipe, data, a card, a template, an image or a model's file."""
    command = rng.choice(
        [_recipe, _documents, _lines, _table, _card, _templates, _image, _results, _weights, _json_file]
    )
    return Case(command(rng, workspace, folder), garbage=True)


def noise(rng: random.Random) -> bytes:
    """Bytes that are neither text in any UTF encoding, nor JSON, YAML, an image or safetensors; or no bytes."""
    if rng.random() < 0.25:
        return rng.choice([b"", b"", b"\n", b"\xef\xbb\xbf"])
    tail = bytes(rng.randrange(256) for _ in range(rng.choice([7, 64, 1_000, 20_000])))
    return b"\x00\xc3\xff\x01\x80" + tail + b"\xff"


def _recipe(rng: random.Random, _workspace: Workspace, folder: Path) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_bytes(noise(rng))
    out = ["--out", str(folder / "run")]
    return rng.choice([["recipe", "check", str(path)], ["recipe", "show", str(path)], ["pretrain", str(path), *out]])


def _documents(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    path = folder / rng.choice(["text.jsonl", "text.jsonl.gz", "text.jsonl.zst"])
    path.write_bytes(noise(rng))
    recipe = _recipe_file(folder, workspace.pretrain_recipe() | {"data": _text_data(workspace, path)})
    return rng.choice([["pretrain", recipe, "--out", str(folder / "run")], ["show", recipe]])


def _lines(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    path = folder / "in.jsonl"
    path.write_bytes(noise(rng))
    return ["generate", str(workspace.run), "--input", str(path), "--out", str(folder / "out.jsonl"), *SHORT]


def _table(rng: random.Random, _workspace: Workspace, folder: Path) -> list[str]:
    path = folder / rng.choice(["table.csv", "table.jsonl", "table.jsonl.gz"])
    path.write_bytes(noise(rng))
    return ["tasks", "new", str(path), "--out", str(folder / "draft")]


def _card(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    _copy_task(workspace, folder)
    cards = folder / "cards"
    (cards / rng.choice(["mine.yaml", "rows.jsonl"])).write_bytes(noise(rng))
    evaluation = ["evaluate", str(workspace.run), "--cards", str(cards), "--task", "mine", "--offline"]
    return rng.choice(
        [["tasks", "check", "mine", "--cards", str(cards)], [*evaluation, "--out", str(folder / "r.json")]]
    )


def _templates(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    _copy_task(workspace, folder)
    words = folder / "words"
    (words / "mine.yaml").write_bytes(noise(rng))
    cards = ["--cards", str(folder / "cards")]
    return rng.choice(
        [
            ["templates", "show", "mine", *cards, "--collection", str(words)],
            ["templates", "lint", str(words), *cards],
        ]
    )


def _image(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    path = folder / f"picture.{rng.choice(IMAGE_ENDINGS)}"
    path.write_bytes(noise(rng))
    return ["generate", str(workspace.vision), "--image", str(path), *SHORT]


def _results(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    path = folder / "results.json"
    path.write_bytes(noise(rng))
    source = next(workspace.results.glob("*.json"))
    return rng.choice([["results", "show", str(path)], ["results", "compare", str(path), str(source)]])


def _weights(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    """Safetensors of noise, or cut anywhere: their header states more bytes than there are."""
    model = _copied_model(rng, workspace, folder)
    path = rng.choice(sorted(model.glob("*.safetensors")))
    whole = path.read_bytes()
    length = rng.choice([8, 9, len(whole) // 2, len(whole) - 1, rng.randrange(len(whole))])
    path.write_bytes(noise(rng) if rng.random() < 0.4 else whole[:length])
    return _model_command(rng, workspace, folder, model)


def _json_file(rng: random.Random, workspace: Workspace, folder: Path) -> list[str]:
    """Noise in a file that a model cannot be loaded without."""
    model = _copied_model(rng, workspace, folder)
    (model / rng.choice(["config.json", "tokenizer.json"])).write_bytes(noise(rng))
    return _model_command(rng, workspace, folder, model)


def _copied_model(rng: random.Random, workspace: Workspace, folder: Path) -> Path:
    return Path(shutil.copytree(rng.choice([workspace.run / "model", workspace.vision]), folder / "model"))


def _model_command(rng: random.Random, workspace: Workspace, folder: Path, model: Path) -> list[str]:
    evaluation = ["--task", "mine", "--cards", str(workspace.cards), "--limit", "2", "--offline"]
    return rng.choice(
        [
            ["generate", str(model), "It rains.", "--as", "causal", *SHORT],
            ["evaluate", str(model), *evaluation, "--out", str(folder / "results.json")],
            ["show", _finetune(workspace, folder), "--model", str(model), "--offline"],
            [
                "finetune",
                _finetune(workspace, folder),
                "--model",
                str(model),
                "--offline",
                "--out",
                str(folder / "run"),
            ],
        ]
    )
