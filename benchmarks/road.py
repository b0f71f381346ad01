"""Data pipeline on one core, up to the batch: read, tokenise, draw spans, re-tokenise, pack, collate.

Its rate is compared with the training rate of a 14-million-parameter model (with a 4-million encoder) on this machine
in the same run, and with the rate at which an H200 would consume text for the paper's model. Resident memory is
measured over streamed steps.
"""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from common import arguments, build, corpus_source, make_row_slots, optimiser_step, report, small_recipe
from metalm_cli.data.sampling.loader import StepRows
from metalm_cli.training.step_metrics import StepMetrics
from metalm_cli.training.trainer import Trainer

GPU_FLOPS = 0.5 * 790e12
"""Half of an H200's measured bf16 matrix-product rate (the goal of benchmarks/gpu.py)."""
PAPER_FLOPS_PER_TOKEN = 6 * 1.3e9 + 2 * 0.25 * 366e6
"""Approximate FLOPs per source token of the paper's model: the whole decoder and little of the encoder train."""


def main() -> None:
    options = arguments(__doc__ or "")
    recipe = small_recipe()
    corpus, _, objective = build(recipe)
    row_slots = make_row_slots(recipe, corpus, objective)
    steps = 10 if options.quick else 50
    _steps(row_slots, objective, 3)
    start = time.perf_counter()
    batches = _steps(row_slots, objective, steps)
    tokens = sum(batch.counts["source_tokens"] for batch in batches)
    rate = tokens / (time.perf_counter() - start)
    figures: dict[str, Any] = {"road, one core: source tokens/s": rate}
    training_rate = _measure_training_rate(recipe, corpus, objective, 3 if options.quick else 10)
    figures["14M model with a 4M encoder trains at, source tokens/s"] = training_rate
    figures["road against that consumer (x; goal 5)"] = rate / training_rate
    gpu = GPU_FLOPS / PAPER_FLOPS_PER_TOKEN
    figures["an H200 at half its rate reads, source tokens/s of the paper's model"] = gpu
    figures["cores that the road needs for it"] = gpu / rate
    figures.update(_measure_memory(50 if options.quick else 1000))
    report("road up to the batch", figures, options)


def _steps(row_slots: list[Any], objective: Any, count: int) -> list[Any]:
    return [objective.collate([slot.next_row() for slot in row_slots]) for _ in range(count)]


def _measure_training_rate(recipe: Any, corpus: Any, objective: Any, steps: int) -> float:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    trainer = Trainer(recipe.train, 1000, objective, objective.step_module(), accelerator)
    meter, bad = StepMetrics(trainer.collectives), torch.zeros((), device=accelerator.device)
    row_slots = make_row_slots(recipe, corpus, objective)
    seconds, tokens = 0.0, 0
    for repetition in range(steps + 1):
        rows = StepRows([slot.next_row() for slot in row_slots], {})
        start = time.perf_counter()
        batches, _ = optimiser_step(trainer, rows, meter, bad)
        if repetition:
            seconds += time.perf_counter() - start
            tokens += sum(batch.counts["source_tokens"] for batch in batches)
    return tokens / seconds


def _measure_memory(steps: int) -> dict[str, Any]:
    """Measure resident memory while a stream is read."""
    recipe = small_recipe(data__sources=[{**corpus_source(), "streaming": True, "weight": 1.0}])
    if recipe.data.sources[0].world is not None:
        return {"memory over a stream": "needs METALM_DATA"}
    corpus, _, objective = build(recipe)
    row_slots = make_row_slots(recipe, corpus, objective)
    process = psutil.Process()
    _steps(row_slots, objective, max(1, steps // 10))
    first = process.memory_info().rss
    peak = first
    for _ in range(10):
        _steps(row_slots, objective, max(1, steps // 10))
        peak = max(peak, process.memory_info().rss)
    last = process.memory_info().rss
    return {
        f"stream, {steps} steps: resident MiB after the first tenth": first / 2**20,
        "... at the end": last / 2**20,
        "... most": peak / 2**20,
    }


if __name__ == "__main__":
    main()
