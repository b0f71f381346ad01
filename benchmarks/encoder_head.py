"""MiniLM with mean pooling and a linear head on a task of two or three labels: a loop over transformers alone.

    METALM_DATA=DIR python benchmarks/encoder_head.py --tasks sst2,mnli --steps 100 --batch 32 --seeds 0,1,2

    METALM_DATA=DIR python benchmarks/encoder_head.py --tasks imdb --steps 48 --bf16 --trained-only --seeds 0,1,2

The studies encoder-only and compress are judged beside these scores. Prints the accuracy with the encoder trained and
frozen, and that of the most frequent label of the training rows, on the rows of ``metalm evaluate --limit 400``.
``--cut`` trains on the first 80% of the training rows and scores 400 of the others, to choose settings. Of imdb, the
scored rows are those of ``metalm evaluate --split test``, and of a longer review the first 512 tokens are read.
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
    "imdb": ("text",),
}
SCORED_SPLIT = {"mnli": "validation_matched", "imdb": "test"}
"""Split that is scored, if it is not validation."""
MAX_LENGTH = {"imdb": 512}
"""Encoder tokens of a row, if not 128."""
TRAINED_ROWS, SCORED_ROWS = 2000, 400

Row = dict[str, Any]


def read_rows(task: str, split: str) -> list[Row]:
    """Rows of a split in the order of its file."""
    folder = Path(os.environ["METALM_DATA"]) / task
    name = SCORED_SPLIT.get(task, split) if split == "validation" else split
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line.replace("<br />", "\\n")) for line in lines]


def split_rows(task: str, seed: int, cut: bool) -> tuple[list[Row], list[Row]]:
    """Training rows drawn by the seed, and the scored rows, which are the same for all seeds."""
    rows = read_rows(task, "train")
    bound = len(rows) * 4 // 5
    train, held_out = (rows[:bound], rows[bound:]) if cut else (rows, read_rows(task, "validation"))
    order = np.random.default_rng(0).permutation(len(held_out))[:SCORED_ROWS]
    return random.Random(seed).sample(train, min(TRAINED_ROWS, len(train))), [held_out[index] for index in order]


class Classifier(nn.Module):
    """The encoder with mean pooling over a text or a pair of texts, and a linear head."""

    def __init__(self, task: str, labels: int, *, frozen: bool, bf16: bool) -> None:
        super().__init__()
        self.max_length, self.bf16 = MAX_LENGTH.get(task, 128), bf16
        folder = model_folder(ENCODER, offline=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder).requires_grad_(not frozen)
        self.head = nn.Linear(self.encoder.config.hidden_size, labels)
        self.fields = FIELDS[task]

    def forward(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Logits ``[b, labels]`` and labels ``[b]`` of rows."""
        columns = [[row[field] for row in rows] for field in self.fields]
        inputs = self.tokenizer(
            *columns, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            outputs = mean_pooled(self.encoder, inputs)
        return self.head(outputs.float()), torch.tensor([row["label"] for row in rows])


def train(task: str, train_rows: list[Row], held_out: list[Row], frozen: bool, options: argparse.Namespace) -> float:
    """Train on a task, and return the accuracy on the scored rows, 0 to 1."""
    classes = len({row["label"] for row in train_rows})
    model = Classifier(task, classes, frozen=frozen, bf16=options.bf16)
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
    parser.add_argument("--bf16", action="store_true", help="autocast of the encoder, fast on a CPU with AMX")
    parser.add_argument("--trained-only", action="store_true", help="leave out the frozen encoder")
    options = parser.parse_args()
    for task in options.tasks.split(","):
        for seed in map(int, options.seeds.split(",")):
            started = time.perf_counter()
            train_rows, held_out = split_rows(task, seed, options.cut)
            scores = []
            for frozen in (False,) if options.trained_only else (False, True):
                torch.manual_seed(seed)
                random.seed(seed)
                scores.append(100 * train(task, train_rows, held_out, frozen, options))
            frequent = Counter(row["label"] for row in train_rows).most_common(1)[0][0]
            constant = 100 * sum(row["label"] == frequent for row in held_out) / len(held_out)
            print(
                f"{task:5} seed {seed}: trained {scores[0]:.1f}, "
                + ("" if options.trained_only else f"frozen {scores[1]:.1f}, ")
                + f"most frequent {constant:.1f} (n {len(held_out)}, {time.perf_counter() - started:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
