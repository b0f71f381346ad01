"""MiniLM with mean pooling and a linear head on each lexical task alone: a bare loop, beside which the demo is judged.

    python benchmarks/lexical_head.py --steps 100 --batch 16

Labels that a row does not offer as options are masked. Prints accuracy on the validation rows, whose words are held
out, with its standard error.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import torch
from head_loop import accuracy, fit, mean_pooled
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from metalm_cli.common.checkpoints.find import model_folder
from metalm_cli.miniworld.tasks import task_rows

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS: dict[str, Any] = {
    "lexical_sentiment": lambda row: row["text"],
    "lexical_topics": lambda row: row["text"],
    "lexical_kinds": lambda row: f"What is {row['thing']}?",
    "lexical_purposes": lambda row: f"What do people use {row['thing']} for?",
    "lexical_entailment": lambda row: (row["premise"], row["hypothesis"]),
    "lexical_paraphrase": lambda row: (row["sentence1"], row["sentence2"]),
    "lexical_uses": lambda row: row["question"],
}
"""Text, or pair of texts, that the encoder reads of a row."""


class Classifier(nn.Module):
    """The encoder with mean pooling and a linear head.

    Args:
        task: Name of the task.
        classes: Labels of all rows.
    """

    def __init__(self, task: str, classes: list[Any]) -> None:
        super().__init__()
        folder = model_folder(ENCODER, offline=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder)
        self.head = nn.Linear(self.encoder.config.hidden_size, len(classes))
        self.text, self.index = TEXTS[task], {label: index for index, label in enumerate(classes)}

    def forward(self, rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Logits ``[b, c]`` and labels ``[b]`` of rows."""
        texts = [self.text(row) for row in rows]
        columns = list(zip(*texts, strict=True)) if isinstance(texts[0], tuple) else [texts]
        inputs = self.tokenizer(*map(list, columns), padding=True, return_tensors="pt")
        logits = self.head(mean_pooled(self.encoder, inputs))
        if "options" in rows[0]:
            offered = torch.zeros_like(logits, dtype=torch.bool)
            for number, row in enumerate(rows):
                offered[number, [self.index[option] for option in row["options"]]] = True
            logits = logits.masked_fill(~offered, -torch.inf)
        return logits, torch.tensor([self.index[label_of(row)] for row in rows])


def label_of(row: dict[str, Any]) -> Any:
    return row["options"][row["index"]] if "options" in row else row["label"]


def train(task: str, steps: int, batch: int, seed: int) -> float:
    """Train on a task, and return the accuracy on its validation rows, 0 to 1."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    rows, held_out = task_rows.rows(task, "train"), task_rows.rows(task, "validation")
    model = Classifier(task, sorted({label_of(row) for row in rows}))
    groups = [{"params": model.encoder.parameters(), "lr": 1e-4}, {"params": model.head.parameters(), "lr": 1e-3}]
    model.train()
    fit(model, groups, (rng.sample(rows, batch) for _ in range(steps)), steps)
    return accuracy(model, held_out, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for task in TEXTS:
        started = time.perf_counter()
        score = train(task, options.steps, options.batch, options.seed)
        error = (score * (1 - score) / len(task_rows.rows(task, "validation"))) ** 0.5
        print(f"{task:20} {100 * score:5.1f} ±{100 * error:.1f}  {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
