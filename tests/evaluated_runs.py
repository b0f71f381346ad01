"""A finetuning recipe that evaluates tasks during training, and the tasks, for tests."""

from __future__ import annotations

from pathlib import Path

import tiny_runs as micro
from task_fixtures import write_task

RECIPE = (
    "command: finetune\n"
    + micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")
    + """data:
  tasks: [FOLDER/parity.yaml, FOLDER/other.yaml, FOLDER/long.yaml]
  cards: [FOLDER/more]
  templates: {collection: FOLDER/words, template_sampling: index}
  sequence_length: 128
  validation: {examples: 4}
train:
  steps: 6
  batch_size: 8
  warmup_steps: 1
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 0
"""
)
STEPS = 6
FAST = ["train.learning_rate=0.05", "data.row_packing=pad"]
"""So high a learning rate that scores change within a few steps."""
EVALUATE = (
    "train.evaluate={tasks: [parity, other, held], every: 2, shots: [0, 1], best_by: mean@0, protocol: in_context}"
)
DROPOUT = [
    "model.decoder.dropout=0.1",
    "model.encoders.text.dropout=0.1",
    "train.sample_continuations=0",
    "model.trains.encoders=last_1",
]


def write_recipe_and_tasks(folder: Path) -> Path:
    """Write four tasks, one of which the recipe does not train on, and the recipe; return the folder."""
    write_task(folder, "parity", 24, cluster="nli")
    write_task(folder, "other", 12, cluster="misc", words=1)
    write_task(folder, "long", 16, cluster="misc", words=30)
    write_task(folder / "more", "held", 16, cluster="sentiment")
    (folder / "more" / "words" / "held.yaml").rename(folder / "words" / "held.yaml")
    micro.write_recipe(folder, RECIPE.replace("FOLDER", str(folder)))
    return folder
