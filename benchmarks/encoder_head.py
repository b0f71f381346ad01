"""MiniLM with mean pooling and a linear head on a task of two or three labels: a loop over transformers alone.

    METALM_DATA=DIR python benchmarks/encoder_head.py --tasks sst2,mnli --steps 100 --batch 32 --seeds 0,1,2

The study encoder-only is judged beside these scores. Prints the accuracy with the encoder trained and frozen, and that
of the most frequent label of the training rows, on the validation rows of ``metalm evaluate --limit 400``.
``--cut`` trains on the first 80% of the training rows and scores 400 of the others, to choose settings.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from head_loop import accuracy, fit, mean_pooled
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from metalm_cli.common.checkpoints.find import model_folder

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
FIELDS = {
    "sst2": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "rte": ("sentence1", "sentence2"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
}
TRAINED_ROWS, SCORED_ROWS = 2000, 400

Row = dict[str, Any]


def read_rows(task: str, split: str) -> list[Row]:
    """Rows of a split in the order of its file."""
    folder = Path(os.environ["METALM_DATA"]) / task
    name = "validation_matched" if task == "mnli" and split == "validation" else split
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def split_rows(task: str, seed: int, cut: bool) -> tuple[list[Row], list[Row]]:
    """Training rows drawn by the seed, and the scored rows, which are the same for all seeds."""
    rows = read_rows(task, "train")
    bound = len(rows) * 4 // 5
    train, held_out = (rows[:bound], rows[bound:]) if cut else (rows, read_rows(task, "validation"))
    order = np.random.default_rng(0).permutation(len(held_out))[:SCORED_ROWS]
    return random.Random(seed).sample(train, min(TRAINED_ROWS, len(train))), [held_out[index] for index in order]


class Classifier(nn.Module):
    """The encoder with mean pooling over a text or a pair of texts, and a linear head."""

    def __init__(self, fields: tuple[str, ...], labels: int, frozen: bool) -> None:
        super().__init__()
        folder = model_folder(ENCODER, offline=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder).requires_grad_(not frozen)
        self.head = nn.Linear(self.encoder.config.hidden_size, labels)
        self.fields = fields

    def forward(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Logits ``[b, labels]`` and labels ``[b]`` of rows."""
        columns = [[row[field] for row in rows] for field in self.fields]
        inputs = self.tokenizer(*columns, padding=True, truncation=True, max_length=128, return_tensors="pt")
        return self.head(mean_pooled(self.encoder, inputs)), torch.tensor([row["label"] for row in rows])


def train(task: str, train_rows: list[Row], held_out: list[Row], frozen: bool, options: argparse.Namespace) -> float:
    """Train on a task, and return the accuracy on the scored rows, 0 to 1."""
    classes = len({row["label"] for row in train_rows})
    model = Classifier(FIELDS[task], classes, frozen)
    groups: list[dict[str, Any]] = [{"params": model.head.parameters(), "lr": options.head_rate}]
    if not frozen:
        groups.append({"params": model.encoder.parameters(), "lr": options.encoder_rate})
    model.train(not frozen)
    fit(model, groups, _batches(train_rows, options.batch, options.steps), options.steps)
    return accuracy(model, held_out)


def _batches(rows: list[Row], size: int, steps: int) -> Iterator[list[Row]]:
    """Rows of each step: every row once before any is drawn again."""
    order: list[Row] = []
    for _ in range(steps):
        while len(order) < size:
            order += random.sample(rows, len(rows))
        batch, order = order[:size], order[size:]
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(FIELDS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--encoder-rate", type=float, default=1e-4)
    parser.add_argument("--head-rate", type=float, default=1e-3)
    parser.add_argument("--cut", action="store_true")
    options = parser.parse_args()
    for task in options.tasks.split(","):
        for seed in map(int, options.seeds.split(",")):
            started = time.perf_counter()
            train_rows, held_out = split_rows(task, seed, options.cut)
            scores = []
            for frozen in (False, True):
                torch.manual_seed(seed)
                random.seed(seed)
                scores.append(100 * train(task, train_rows, held_out, frozen, options))
            frequent = Counter(row["label"] for row in train_rows).most_common(1)[0][0]
            constant = 100 * sum(row["label"] == frequent for row in held_out) / len(held_out)
            print(
                f"{task:5} seed {seed}: trained {scores[0]:.1f}, frozen {scores[1]:.1f}, most frequent {constant:.1f}"
                f" (n {len(held_out)}, {time.perf_counter() - started:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
