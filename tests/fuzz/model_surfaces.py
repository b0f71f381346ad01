"""Fuzzed inputs that a model reads or that commands wrote: checkpoints, images, results, runs, inputs to generate."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzz.data_surfaces import SHORT, Case
from fuzz.mutations import hostile, mutate_bytes, mutate_value, to_json
from fuzz.workspace import Workspace

CONFIG_VALUES: list[tuple[str, Any]] = [
    ("num_attention_heads", 0),
    ("num_hidden_layers", 1_000_000),
    ("hidden_size", -1),
    ("vocab_size", 10**12),
    ("torch_dtype", "evil"),
    ("pad_token_id", 1_000_000_000),
    ("eos_token_id", [5_000]),
    ("quantization_config", {"quant_method": "gptq"}),
    ("auto_map", 5),
    ("auto_map", {"AutoConfig": "evil.Evil"}),
    ("_attn_implementation", "kernels-community/flash-attn"),
    ("rope_theta", "x"),
    ("metalm", 5),
    ("architectures", ["Evil"]),
    ("model_type", "evil"),
]


def checkpoints(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Model folders with a changed, damaged, missing or exchanged file."""
    source = rng.choice([workspace.run / "model", workspace.vision])
    model = folder / "model"
    shutil.copytree(source, model)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    path = rng.choice(files)
    action = rng.randrange(6)
    if action == 0:
        path.unlink()
    elif action == 1:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    elif action == 2 and path.suffix == ".safetensors":
        _damage_header(rng, path)
    else:
        path = rng.choice([file for file in files if file.suffix == ".json"])
        values = json.loads(path.read_text(encoding="utf-8"))
        if rng.random() < 0.4 and isinstance(values, dict):
            key, value = rng.choice(CONFIG_VALUES)
            target = values if rng.random() < 0.5 else values.get("decoder_config", values)
            target[key] = value
        else:
            values = mutate_value(rng, values) if rng.random() < 0.9 else hostile(rng)
        path.write_text(to_json(values), encoding="utf-8", errors="surrogatepass")
    out = str(folder / "out")
    commands = [
        ["generate", str(model), "It rains.", "--as", "causal", *SHORT],
        [
            "evaluate",
            str(model),
            "--task",
            "mine",
            "--cards",
            str(workspace.cards),
            "--limit",
            "2",
            "--offline",
            "--out",
            out,
        ],
        ["export", str(model), "--out", out, "--offline"],
        ["show", _finetune(workspace, folder), "--model", str(model), "--offline"],
    ]
    return Case(rng.choice(commands))


def _damage_header(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = to_json(mutate_value(rng, json.loads(data[8 : 8 + length]))).encode("utf-8", "replace")
    size = struct.pack("<Q", rng.choice([len(header), len(header), 2**62, 0]))
    path.write_bytes(size + header + data[8 + length :])


def _finetune(workspace: Workspace, folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(workspace.finetune_recipe()), encoding="utf-8")
    return str(path)


def images(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Pictures of odd modes and sizes, damaged ones, and other files under a picture's name."""
    path = folder / f"picture.{rng.choice(['png', 'jpg', 'gif', 'tiff', 'webp', 'bmp'])}"
    action = rng.randrange(5)
    if action == 0:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    elif action == 1:
        mode = rng.choice(["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
        size = rng.choice([(1, 1), (8, 8), (1, 400), (300, 1), (12_000, 12_000) if mode == "1" else (64, 64)])
        data = io.BytesIO()
        image = Image.new("L" if mode == "I;16" else mode, size)
        image = Image.fromarray(np.zeros(size[::-1], np.uint16)) if mode == "I;16" else image
        image.save(data, rng.choice(["TIFF"] if mode in ("F", "I", "CMYK") else ["PNG", "TIFF"]))
        path.write_bytes(data.getvalue())
    else:
        source = workspace.root / f"picture.{rng.choice(['png', 'jpg', 'gif', 'tiff', 'webp', 'bmp'])}"
        path.write_bytes(mutate_bytes(rng, source.read_bytes()))
    if rng.random() < 0.6:
        return Case(["generate", str(workspace.vision), "--image", str(path), *SHORT], garbage=action == 0)
    lines = [{"session": [{"docked": "vision", "image": str(path)}]}, {"image": str(path), "text": ""}]
    (folder / "in.jsonl").write_text(json.dumps(rng.choice(lines)) + "\n", encoding="utf-8")
    files = ["--input", str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl")]
    return Case(["generate", str(workspace.vision), *files, *SHORT])


def results(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Result files that are changed."""
    source = next(workspace.results.glob("*.json"))
    path = folder / "results.json"
    if rng.random() < 0.3:
        path.write_bytes(mutate_bytes(rng, source.read_bytes()))
    else:
        values = mutate_value(rng, json.loads(source.read_text(encoding="utf-8")))
        path.write_text(to_json(values), encoding="utf-8", errors="surrogatepass")
    if rng.random() < 0.3:
        shutil.copytree(workspace.run, folder / "run", symlinks=True)
        shutil.copy(path, folder / "run" / "results" / source.name)
        return Case(["report", str(folder / "run"), *rng.choice([[], ["--card"], ["--terminal"]])])
    commands = [["results", "show", str(path)], ["results", "compare", str(path), str(source)]]
    return Case(rng.choice(commands))


def run_folders(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Run folders with a changed, damaged, missing or exchanged file."""
    run = folder / "run"
    shutil.copytree(workspace.run, run, symlinks=True)
    for _ in range(rng.choice([1, 1, 2])):
        files = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix != ".html")
        path = rng.choice(files)
        action = rng.randrange(5)
        if action == 0:
            path.unlink()
        elif action == 1:
            path.unlink()
            path.mkdir()
        elif action == 2 and path.suffix == ".json" and (text := _json_text(path)) is not None:
            values = mutate_value(rng, json.loads(text))
            path.write_text(to_json(values), encoding="utf-8", errors="surrogatepass")
        else:
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    commands = [
        ["pretrain", "--out", str(run), "--resume"],
        ["report", str(run)],
        ["report", str(run), "--terminal"],
        ["generate", str(run), "It rains.", *SHORT],
        ["evaluate", str(run), "--task", "mine", "--cards", str(workspace.cards), "--limit", "2", "--offline"],
        ["export", str(run), "--out", str(folder / "export"), "--offline"],
        [
            "finetune",
            _finetune(workspace, folder),
            f"model.checkpoint={run}",
            "--dry-run",
            "--out",
            str(folder / "new"),
        ],
    ]
    return Case(rng.choice(commands))


def _json_text(path: Path) -> str | None:
    """The text of a JSON file; None if an earlier mutation has damaged it."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except ValueError:
        return None
    return text


def generate_inputs(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Lines and options of ``generate``, and texts from standard input."""
    model = str(rng.choice([workspace.run, workspace.vision]))
    if rng.random() < 0.4:
        option = rng.choice(["--prompt", "--stop", "--beams", "--temperature", "--top-p", "--length-penalty", "--seed"])
        value = hostile(rng)
        text = (value if isinstance(value, str) else to_json(value)).replace("\x00", "")
        text = text.encode("utf-8", "replace").decode()
        sample = ["--sample"] if option in ("--temperature", "--top-p", "--seed") else []
        return Case(["generate", model, "-", *SHORT, *sample, f"{option}={text}"], reads="It rains.\n")
    if rng.random() < 0.3:
        text = str(hostile(rng)).encode("utf-8", "replace").decode()
        return Case(["generate", model, "-", "--as", rng.choice(["docked", "causal"]), *SHORT], reads=text)
    lines: list[Any] = [
        {"id": 1, "text": "It rains."},
        {"session": [{"docked": "It rains."}, {"causal": "So"}]},
        {"id": "two", "text": "It rains.", "image": str(workspace.root / "picture.png")},
    ]
    number = rng.randrange(len(lines))
    lines[number] = mutate_value(rng, lines[number])
    data = "\n".join(map(to_json, lines)).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        data = mutate_bytes(rng, data)
    (folder / "in.jsonl").write_bytes(data)
    files = ["--input", str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl")]
    return Case(["generate", model, *files, *SHORT])
