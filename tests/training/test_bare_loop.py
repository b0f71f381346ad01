"""A finetuning run learns exactly as fast as a bare PyTorch loop over the same modules with a rate for each part."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_runs as micro
from task_fixtures import write_task

STEPS, BATCH, WARMUP = 50, 4, 5
RATES = {"decoder": 2e-3, "encoders.text": 4e-4, "connectors.text": 6e-3}
WEIGHT_DECAY, CLIP, BETAS, EPSILON = 0.1, 0.5, (0.9, 0.98), 1e-8
RECIPE = (
    "command: finetune\n"
    + micro.MODEL.replace("n_positions: 64", "n_positions: 128, initializer_range: 0.3").replace(
        "embeddings: 64", "embeddings: 96"
    )
    + f"""  trains: TRAINS
data:
  tasks: [FOLDER/parity.yaml, FOLDER/long.yaml]
  templates: {{collection: FOLDER/words, template_sampling: index}}
  sequence_length: 128
  validation: {{examples: 0}}
train:
  steps: {STEPS}
  batch_size: {BATCH}
  learning_rate: 1e-3
  weight_decay: {WEIGHT_DECAY}
  gradient_clip: {CLIP}
  betas: [{BETAS[0]}, {BETAS[1]}]
  warmup_steps: {WARMUP}
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 0
"""
)


def bare_example_loss(model: Any, row: Any) -> Tensor:
    """Sum of the cross-entropy of an example's trained tokens, from the parts alone."""
    vectors = model.decoder.transformer.wte(torch.from_numpy(row.ids)[None])
    for first, dock in row.docks:
        inputs = {name: torch.from_numpy(array)[None] for name, array in dock.arrays.items()}
        outputs = model.encoders["text"](**inputs).last_hidden_state[0, torch.from_numpy(dock.output_positions)]
        (linear,) = model.connectors["text"]
        docked = outputs @ linear.weight.T + linear.bias
        vectors = torch.cat([vectors[:, :first], docked[None], vectors[:, first + len(docked) :]], dim=1)
    logits = model.decoder(inputs_embeds=vectors).logits[0, torch.from_numpy(row.predict_at)]
    return nn.functional.cross_entropy(logits, torch.from_numpy(row.targets), reduction="sum")


def bare_losses(model: Any, rows: list[Any], frozen: set[str]) -> list[float]:
    """Loss of each step of a plain loop: AdamW with a rate per part, clipping, linear warm-up and decay."""
    parts = {"decoder": model.decoder, "encoders.text": model.encoders["text"], "connectors.text": model.connectors}
    groups = []
    for name, part in parts.items():
        part.requires_grad_(name not in frozen)
        for key, parameter in part.named_parameters():
            is_embedding = "embedding" in key.lower() and "LayerNorm" not in key and "project" not in key
            is_matrix = parameter.dim() == 2 and not is_embedding and ".wte." not in key and ".wpe." not in key
            decay = WEIGHT_DECAY if is_matrix else 0.0
            groups.append({"params": [parameter], "lr": RATES[name], "peak": RATES[name], "weight_decay": decay})
    trained = [group for group in groups if group["params"][0].requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=BETAS, eps=EPSILON)
    losses = []
    for step in range(STEPS):
        examples = rows[step * BATCH : (step + 1) * BATCH]
        loss = sum(bare_example_loss(model, row) for row in examples) / sum(len(row.targets) for row in examples)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([group["params"][0] for group in trained], CLIP)
        factor = (step + 1) / WARMUP if step < WARMUP else (STEPS - step) / (STEPS - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("frozen", [set(), {"decoder"}], ids=["all trained", "decoder frozen"])
def test_a_run_learns_as_fast_as_a_bare_loop(frozen: set[str], tmp_path: Path) -> None:
    from metalm_cli.config import resolve
    from metalm_cli.training.first_rows import first_examples

    write_task(tmp_path, "parity", 40, cluster="nli")
    write_task(tmp_path, "long", 24, words=20)
    trains = "{decoder: " + ("none" if "decoder" in frozen else "all") + ", encoders: all, connectors: all}"
    recipe = micro.write_recipe(tmp_path, RECIPE.replace("FOLDER", str(tmp_path)).replace("TRAINS", trains))
    rates = [
        *([] if frozen else [f"model.decoder.learning_rate={RATES['decoder']}"]),
        f"model.encoders.text.learning_rate={RATES['encoders.text']}",
        f"model.connector.learning_rate={RATES['connectors.text']}",
    ]
    assert micro.metalm("finetune", recipe, *rates, "--out", tmp_path / "run") == 0
    _, assembly, rows = first_examples(resolve("finetune", str(recipe)).recipe, None, True, STEPS * BATCH)
    assert all(row.docks for row in rows)
    expected = bare_losses(assembly.model.train(), rows, frozen)
    assert micro.losses(tmp_path / "run") == pytest.approx(expected, abs=1e-4)
    assert math.fsum(expected[-5:]) < 0.7 * math.fsum(expected[:5]), "both learn"
