"""A task of pictures of one colour, and a recipe and an encoder that learn it."""

from __future__ import annotations

from pathlib import Path

import torch

import tiny_runs as micro

CARD = """
name: colours
cluster: visual_qa
description: A task of the tests
file: colours.jsonl
splits: {train: "rows[:16]", validation: "rows[16:]"}
fields: {question: question}
images: {image: image}
answer: {label: colour, class_names: [red, blue], verbalizers: {red: "red", blue: "blue"}}
metric: {name: accuracy, source: the tests}
licence: Apache-2.0
citation: the tests
"""
TEMPLATES = """
templates:
  - name: ask
    parts:
      - image: image
      - text: "{{ question }}"
"""
RECIPE = (
    "command: finetune\n"
    + micro.MODEL.split("  encoders:")[0]
    + """  encoders:
    vision: {checkpoint: FOLDER/encoder}
data:
  tasks: [FOLDER/colours.yaml]
  templates: {collection: FOLDER/templates, input_route: decoder}
  sequence_length: 48
  validation: {examples: 4}
train:
  steps: 24
  batch_size: 8
  learning_rate: 1e-2
  warmup_steps: 1
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 0
"""
)


def save_encoder(folder: Path) -> None:
    """Save a tiny vision transformer of four patches, with its image processor."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
