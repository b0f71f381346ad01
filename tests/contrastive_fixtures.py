"""Tiny pairs of pictures and captions, and a recipe of a dual encoder that trains on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import tiny_runs as micro
from card_fixtures import write_rows

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 50, 220),
    "white": (240, 240, 240),
    "black": (15, 15, 15),
}
PLACES = {"left": (0, 0), "right": (0, 1)}
CARD = """
name: NAME
cluster: captioning
description: A task of the tests
file: pairs.jsonl
splits: {train: "rows[:-20]", validation: "rows[-20:]"}
fields: {}
images: {image: image}
answer: {text: captions}
metric: {name: exact_match, source: the tests}
licence: Apache-2.0
citation: the tests
"""
TEMPLATES = """
templates:
  - name: image
    parts:
      - image: image
  - name: asked
    parts:
      - image: image
      - text: "What is it?"
"""
RECIPE = """command: finetune
model:
  encoders:
    vision: {checkpoint: FOLDER/encoder}
    text:
      config: {model_type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 48}
      tokenizer: {new: {vocab_size: 300, documents: 100}}
      max_length: 24
      dropout: 0.0
  projection_dim: 16
objective: {name: contrastive}
data:
  tasks: [FOLDER/pairs.yaml]
  templates: {collection: FOLDER/templates}
  validation: {examples: 20}
train:
  steps: 6
  batch_size: 8
  learning_rate: 3e-3
  warmup_steps: 2
  precision: fp32
  log_every: 1
  validate_every: 3
  checkpoint_every: 3
  keep_checkpoints: 4
"""


def picture(colour: str, place: str, seed: int) -> Image.Image:
    """Draw a square of a colour on grey, in the left or the right half, with noise of a seed."""
    noise = np.random.default_rng(seed).integers(-15, 16, (16, 16, 3))
    pixels = np.full((16, 16, 3), 128) + noise
    begin = 8 * PLACES[place][1]
    pixels[4:12, begin : begin + 8] = np.array(COLOURS[colour]) + noise[4:12, begin : begin + 8]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def caption(colour: str, place: str) -> str:
    return f"a {colour} square on the {place}"


def save_encoder(folder: Path) -> None:
    """Save a tiny vision transformer of four patches, with its image processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)


def write_pairs(
    folder: Path, count: int = 60, *, shuffled: bool = False, without: tuple[str, str] | None = None
) -> None:
    """Write pictures with their captions, a card, templates, and an encoder of images.

    Args:
        folder: The folder.
        count: Number of pairs; the last 20 validate.
        shuffled: The captions are those of other pictures.
        without: A colour and a place that no pair has together.
    """
    rng = np.random.default_rng(0)
    all_kinds = [(colour, place) for colour in COLOURS for place in PLACES if (colour, place) != without]
    kinds = [all_kinds[index] for index in rng.integers(len(all_kinds), size=count)]
    captions = [caption(*kind) for kind in kinds]
    if shuffled:
        captions = [captions[index] for index in rng.permutation(count)]
    rows = []
    for number, kind in enumerate(kinds):
        picture(*kind, number).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": [captions[number], f"{captions[number]} of a field"]})
    write_rows(folder / "pairs.jsonl", rows)
    (folder / "pairs.yaml").write_text(CARD.replace("NAME", "pairs"))
    (folder / "templates").mkdir(exist_ok=True)
    (folder / "templates" / "pairs.yaml").write_text(TEMPLATES)
    save_encoder(folder / "encoder")
    micro.write_recipe(folder, RECIPE.replace("FOLDER", str(folder)))
