"""A MetaLM compared with its GPT twins: bits per byte on the same held-out positions at equal steps, and the costs.

For finished runs of `metalm pretrain` with the same validation objective (data.validation.objective): validation
curves, parameters, tokens read, and model FLOPs (`metalm_cli.training.planning.flops`, from the rows of a few steps).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import machine, make_row_slots
from metalm_cli.config.resolution import resolve
from metalm_cli.data import open_corpus
from metalm_cli.models.assembly import build_from_recipe
from metalm_cli.objectives import make_objective
from metalm_cli.runs.metrics_log import read_metrics
from metalm_cli.training.planning.flops import batch_flops

STEPS = 4
"""Number of steps whose FLOPs are counted."""


def run_facts(run: Path) -> dict[str, Any]:
    """Parameters, tokens, FLOPs and validation curve of a run."""
    recipe = resolve("pretrain", str(run.absolute() / "recipe.yaml")).recipe
    corpus = open_corpus(recipe.data, seed=recipe.train.seed)
    assembly = build_from_recipe(recipe, lambda count: corpus.sample(count, 0), tokenizers=run / "tokenizers")
    objective = make_objective(recipe, assembly)
    row_slots = make_row_slots(recipe, corpus, objective)
    batches = [objective.collate([slot.next_row() for slot in row_slots]) for _ in range(STEPS)]
    records, _ = read_metrics(run / "metrics.jsonl")
    train = [record for record in records if record["split"] == "train"][-1]
    curve = [
        (record["step"], round(record["bits_per_byte"], 4)) for record in records if record["split"] == "validation"
    ]
    parameters = {
        id(parameter): parameter for part in assembly.parts().values() for parameter in part.parameters()
    }.values()
    return {
        "run": run.name,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "steps": train["step"],
        "source tokens": train["tokens"],
        "trained tokens": train["trained_tokens"],
        "docked positions": train["docked_positions"],
        "model PFLOPs": sum(batch_flops(assembly.model, batch) for batch in batches) / STEPS * train["step"] / 1e15,
        "bits per byte": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", help="finished run folders")
    parser.add_argument("--quick", action="store_true", help="accepted for symmetry")
    options = parser.parse_args()
    if not options.runs:
        print("benchmarks/twins.py needs run folders")
        return
    print(json.dumps(machine()))
    for run in options.runs:
        print(json.dumps(run_facts(run)))


if __name__ == "__main__":
    main()
