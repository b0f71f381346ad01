"""Shared code of the benchmarks: options, machine description, timing, reports, and a small model."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import torch

from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.data import Corpus, open_corpus
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.models.assembly import Assembly, build_metalm
from metalm_cli.objectives import DocumentObjective, make_objective


def arguments(description: str, **extra: Any) -> argparse.Namespace:
    """Parse the options that every benchmark has, and extra ones (name to the arguments of ``add_argument``)."""
    parser = argparse.ArgumentParser(description=description)
    for name, settings in extra.items():
        parser.add_argument(f"--{name}", **settings)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for a first look")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def machine() -> dict[str, Any]:
    """Describe the machine: device, cores, threads, torch version, date."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def report(title: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print figures, and write them to ``--json``."""
    print(f"\n{title}  ({', '.join(f'{key} {value}' for key, value in machine().items())})")
    for name, value in figures.items():
        print(f"  {name:<58} {value:>12,.3f}" if isinstance(value, float) else f"  {name:<58} {value!s:>12}")
    if options.json:
        options.json.write_text(json.dumps({"title": title, "machine": machine(), **figures}, indent=2) + "\n")


def alternate(
    functions: dict[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time functions in turn, so that a change of the machine's speed affects all of them.

    Returns:
        Seconds of each repetition, by the function's name.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repetition in range(warmup + repeats):
        for name, function in functions.items():
            start = clock()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repetition >= warmup:
                times[name].append(clock() - start)
    return times


def ratio(times: dict[str, list[float]], ours: str, peer: str) -> tuple[float, float, float]:
    """Speed-up of ``ours`` over ``peer``: median of the paired ratios, and the bounds of their middle half."""
    pairs = sorted(b / a for a, b in zip(times[ours], times[peer], strict=True))
    quarter = len(pairs) // 4
    return statistics.median(pairs), pairs[quarter], pairs[-1 - quarter]


def interval(ratios: list[float]) -> tuple[float, float]:
    """95% interval of the median: order statistics whose ranks have that coverage under the binomial distribution."""
    ordered, count = sorted(ratios), len(ratios)
    tail, rank = 0.5**count, 0
    while rank + 1 < count / 2 and tail + comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        tail += comb(count, rank) * 0.5**count
    return ordered[rank], ordered[-1 - rank]


def corpus_source() -> dict[str, Any]:
    """Data source: real text if METALM_DATA holds a Pile sample, else the miniature world."""
    root = os.environ.get("METALM_DATA")
    if root and (Path(root) / "pile_sample" / "train").is_dir():
        return {"name": "pile_sample", "path": "pile_sample/train"}
    return {"name": "world", "world": {"documents": 20_000}}


def small_recipe(**changes: Any) -> PretrainRecipe:
    """Recipe of a GPT-2-shaped decoder (14 million parameters) and an ELECTRA-shaped encoder (4 million)."""
    recipe: dict[str, Any] = {
        "model": {
            "decoder": {
                "config": {
                    "model_type": "gpt2",
                    "n_embd": 384,
                    "n_layer": 6,
                    "n_head": 6,
                    "n_positions": 1024,
                    "resid_pdrop": 0.0,
                    "embd_pdrop": 0.0,
                    "attn_pdrop": 0.0,
                },
                "tokenizer": {"new": {"vocab_size": 8192, "documents": 500}},
            },
            "encoders": {
                "text": {
                    "config": {
                        "model_type": "electra",
                        "embedding_size": 128,
                        "hidden_size": 256,
                        "num_hidden_layers": 4,
                        "num_attention_heads": 4,
                        "intermediate_size": 1024,
                    },
                    "tokenizer": {"new": {"vocab_size": 8192, "documents": 500}},
                    "dropout": 0.0,
                }
            },
        },
        "data": {
            "sources": [corpus_source()],
            "sequence_length": 512,
            "validation": {"documents": 0},
        },
        "objective": {"name": "semi_causal"},
        "train": {"steps": 1000, "batch_size": 4, "precision": "fp32", "learning_rate": 1e-4},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        recipe[section][name] = value
    return PretrainRecipe.model_validate(recipe)


def build(recipe: PretrainRecipe) -> tuple[Corpus, Assembly, DocumentObjective]:
    """Open the corpus of a recipe, and build its model and objective."""
    corpus = open_corpus(recipe.data, seed=0)
    assembly = build_metalm(recipe.model, seed=0, sample=lambda count: corpus.sample(count, 0))
    return corpus, assembly, make_objective(recipe, assembly)


def optimiser_step(trainer: Any, rows: Any, meter: Any, bad: torch.Tensor) -> tuple[list[Any], torch.Tensor]:
    """Run one optimiser step as the training loop does.

    Args:
        trainer: Trainer of the program.
        rows: Rows of the step (``StepRows``).
        meter: Step metrics.
        bad: The first step with a value that was not finite; see ``Trainer.update``.

    Returns:
        The micro-batches, and ``bad`` after the step.
    """
    batches = trainer.micro_batches(rows)
    counts, used, passes, _ = trainer.reduce_counts(batches, False)
    return batches, trainer.update(trainer.step(batches, counts, used, passes, meter), bad)


def make_row_slots(recipe: PretrainRecipe, corpus: Corpus, objective: DocumentObjective) -> list[RowSlot]:
    """Row slots of a recipe's batch, all in this process."""
    count = recipe.train.batch_size
    reader = corpus.reader(lambda _: True)
    writer = objective.writer(recipe.data, 0)
    return [RowSlot(index, count, reader, writer) for index in range(count)]
