"""Quality of an encoder trained by masked language modelling, on held-out text.

For a run of `metalm pretrain encoder-mlm`: the cross-entropy of masked tokens, the same with a shuffled context
(unmasked tokens are permuted within their row), and the cross-entropy of a unigram model (token frequencies of
training documents). The first must be far below the other two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import metalm_cli.models  # noqa: F401  (registers the paper's stacks)
from common import machine
from metalm_cli.config.resolution import resolve
from metalm_cli.data import open_corpus
from metalm_cli.data.documents.masked_rows import EncoderWriter
from metalm_cli.models.capabilities import measure_masked_head
from metalm_cli.objectives.masked_lm import masked_loss
from metalm_cli.sessions import Row, TextProcessor, collate


def loss_of(model: Any, rows: list[Row], compact: bool) -> float:
    """Mean cross-entropy of the masked tokens, in nats."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), 32):
            stream = collate(rows[start : start + 32], {}, stream="text").streams["text"]
            total += float(masked_loss(model, stream, compact)[0])
            count += len(stream.targets)
    return total / count


def shuffle_context(row: Row, seed: int) -> Row:
    """Return the row with its context permuted; masked positions and their targets are unchanged."""
    rng = np.random.default_rng(seed)
    unmasked = np.setdiff1d(np.arange(1, len(row) - 1), row.predict_at)
    ids = row.ids.copy()
    ids[unmasked] = ids[rng.permutation(unmasked)]
    return Row(**{**vars(row), "ids": ids})


def unigram(rows: list[Row], texts: list[str], writer: EncoderWriter, vocabulary: int) -> float:
    """Cross-entropy of the masked tokens under training frequencies, with add-one smoothing."""
    counts = np.ones(vocabulary)
    for text in texts:
        np.add.at(counts, writer.read(text, 0).ids, 1)
    log_frequencies = np.log(counts / counts.sum())
    targets = np.concatenate([row.targets for row in rows])
    return float(-log_frequencies[targets].mean())


def entropy(documents: list[np.ndarray]) -> float:
    """Entropy of the tokens' own frequencies, in nats: a lower bound for any model without context."""
    _, counts = np.unique(np.concatenate(documents), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="a finished run folder")
    parser.add_argument("--mask-rate", type=float, default=0.15)
    parser.add_argument("--quick", action="store_true", help="accepted for symmetry")
    options = parser.parse_args()
    if options.run is None:
        print("benchmarks/encoder_quality.py needs a run folder of metalm pretrain encoder-mlm")
        return
    recipe = resolve("pretrain", str(options.run.absolute() / "recipe.yaml")).recipe
    corpus = open_corpus(recipe.data, seed=recipe.train.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.run / "model")
    model = AutoModelForMaskedLM.from_pretrained(options.run / "model").eval()
    processor = TextProcessor("text", tokenizer, 512)
    held_out = [document.text for document in corpus.validation()]
    writer = EncoderWriter(processor, recipe.data.sequence_length, mask_rate=options.mask_rate)
    rows = writer.validation_rows(held_out)
    mixed_rows = EncoderWriter(
        processor, recipe.data.sequence_length, mask_rate=options.mask_rate, keep_rate=0.1, random_rate=0.1
    ).validation_rows(held_out)
    compact = measure_masked_head(model)
    figures = {
        "rows": len(rows),
        "masked tokens": sum(len(row.targets) for row in rows),
        "loss": loss_of(model, rows, compact),
        "loss, 80% masked, 10% random, 10% kept": loss_of(model, mixed_rows, compact),
        "loss, context shuffled": loss_of(
            model, [shuffle_context(row, seed) for seed, row in enumerate(rows)], compact
        ),
        "unigram cross-entropy, training frequencies": unigram(
            rows, list(corpus.sample(2000, 1)), writer, len(tokenizer)
        ),
        "unigram entropy of the held-out tokens": entropy([writer.read(text, 0).ids for text in held_out]),
    }
    print(json.dumps({**machine(), **figures}, indent=2))


if __name__ == "__main__":
    main()
