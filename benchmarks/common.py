"""What the benchmarks share: the machine, a real assembly, and a way to print ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.data import Corpus, open_corpus
from metalm_cli.data.sampling.lanes import RowSlot
from metalm_cli.models.assembly import Assembly, build_metalm
from metalm_cli.objectives import Objective, make_objective


def arguments(description: str, **more: Any) -> argparse.Namespace:
    """The options that every benchmark takes, and more of one, by name: what argparse is to know of each."""
    parser = argparse.ArgumentParser(description=description)
    for name, known in more.items():
        parser.add_argument(f"--{name}", **known)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for a first look")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def report(title: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print figures, and write them where asked."""
    print(f"\n{title}  ({', '.join(f'{key} {value}' for key, value in machine().items())})")
    for name, value in figures.items():
        print(f"  {name:<58} {value:>12,.3f}" if isinstance(value, float) else f"  {name:<58} {value!s:>12}")
    if options.json:
        options.json.write_text(json.dumps({"title": title, "machine": machine(), **figures}, indent=2) + "\n")


def alternate(ways: dict[str, Callable[[], Any]], repeats: int, warm: int = 2) -> dict[str, list[float]]:
    """Time several ways in turn, so that a change of the machine's speed meets all of them.

    Returns:
        Seconds of each repetition, by way.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm + repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm:
                times[name].append(time.perf_counter() - began)
    return times


def ratio(times: dict[str, list[float]], ours: str, peer: str) -> tuple[float, float, float]:
    """How many times faster ours is: median of the paired ratios, and the middle half's ends."""
    pairs = sorted(b / a for a, b in zip(times[ours], times[peer], strict=True))
    quarter = len(pairs) // 4
    return statistics.median(pairs), pairs[quarter], pairs[-1 - quarter]


def corpus_source() -> dict[str, Any]:
    """Real text if METALM_DATA holds a Pile sample, else the miniature world."""
    root = os.environ.get("METALM_DATA")
    if root and (Path(root) / "pile_sample" / "train").is_dir():
        return {"name": "pile_sample", "path": "pile_sample/train"}
    return {"name": "world", "world": {"documents": 20_000}}


def small_recipe(**changes: Any) -> PretrainRecipe:
    """A GPT-2-shaped decoder of 14 million parameters and an ELECTRA-shaped encoder of 4 million."""
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


def build(recipe: PretrainRecipe) -> tuple[Corpus, Assembly, Objective]:
    """Open and assemble a recipe."""
    corpus = open_corpus(recipe.data, seed=0)
    made = build_metalm(recipe.model, seed=0, sample=lambda count: corpus.sample(count, 0))
    return corpus, made, make_objective(recipe, made)


def optimiser_step(trainer: Any, rows: Any, meter: Any, bad: torch.Tensor) -> tuple[list[Any], torch.Tensor]:
    """One optimiser step as the training loop takes it.

    Args:
        trainer: The program's.
        rows: Of the step (``StepRows``).
        meter: Counts.
        bad: The first step in which something was not finite; see ``Trainer.update``.

    Returns:
        The micro-batches, and ``bad`` after the step.
    """
    batches = trainer.micro_batches(rows)
    counts, used, passes, _ = trainer.reduce_counts(batches, False)
    return batches, trainer.update(trainer.step(batches, counts, used, passes, meter), bad)


def lanes(recipe: PretrainRecipe, corpus: Corpus, objective: Objective) -> list[RowSlot]:
    """The recipe's lanes, all in this process."""
    count = recipe.train.batch_size
    reader = corpus.reader(lambda _: True)
    writer = objective.writer(recipe.data, 0)
    return [RowSlot(lane, count, reader, writer) for lane in range(count)]
