"""Finetuning methods that train on the same sessions step by step: the program's, and hand-written loops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100
BETAS = (0.9, 0.98)
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class BenchmarkSetup:
    """Model, sessions and settings, shared by all methods.

    Args:
        model: Folder of the model to train.
        recipe: The program's recipe, as a dict.
        steps: Sessions of each step: token ids, and the index of the first trained token.
        device: Device to train on.
        precision: ``bf16`` (autocast) or ``fp32``.
        attention: Attention implementation of all methods.
        width: Positions of a packed row.
        threads: CPU threads.
        processor_time: Measure processor time instead of wall-clock time.
    """

    model: Path
    recipe: dict[str, Any]
    steps: list[list[tuple[list[int], int]]]
    device: str
    precision: str
    attention: str
    width: int
    threads: int
    processor_time: bool = False


Step = Callable[[int], float]
"""Runs step n and returns its loss: the mean over the step's trained tokens, in nats."""


# -- the program ------------------------------------------------------------------------------------------------------


def ours(setup: BenchmarkSetup, **changes: Any) -> Step:
    """Step of the program: objects of a real run; sessions are built beforehand, as for the other methods."""
    from common import optimiser_step
    from metalm_cli.config.schema.recipes import FinetuneRecipe
    from metalm_cli.training.finetuning import Finetuning, RunCallbacks, RunOptions
    from metalm_cli.training.step_metrics import StepMetrics
    from metalm_cli.training.trainer import Trainer

    recipe = {**setup.recipe, "data": {**setup.recipe["data"], **changes}}
    if setup.device == "cuda" and changes["row_packing"] != "pad" and setup.attention == "sdpa":
        # flex_attention skips blocks that are masked completely; sdpa would read a dense mask.
        decoder = {**setup.recipe["model"]["decoder"], "attention": "flex_attention"}
        recipe["model"] = {"decoder": decoder}
    callbacks = RunCallbacks(lambda *_: None, lambda *_: [], lambda _: None)
    run = Finetuning(FinetuneRecipe.model_validate(recipe), "", RunOptions("benchmark", offline=True), callbacks)
    run.prepare()
    if run.packing.pack == (changes["row_packing"] == "pad"):
        raise SystemExit("the program chose another row packing than this method is named after")
    trainer = Trainer(run.recipe.train, len(setup.steps), run.objective, run.root, run.accelerator, run.padded_length)
    dataset = run.make_dataset(trainer)
    step_rows = dataset.steps(dataset.slot_indices)
    rows = [dataset.join(next(step_rows)) for _ in setup.steps]
    meter = StepMetrics(trainer.collectives)
    bad = torch.zeros((), device=trainer.device, dtype=torch.float64)

    def step(number: int) -> float:
        optimiser_step(trainer, rows[number], meter, bad)
        trainer.state.step += 1
        return float(meter.pop_record()["loss"])

    return step


# -- plain loops ------------------------------------------------------------------------------------------------------


Sessions = Sequence[tuple[list[int], int]]


def padded(sessions: Sessions, device: str) -> dict[str, torch.Tensor]:
    """Batch with one session per row: ids, labels and an attention mask."""
    size = max(len(ids) for ids, _ in sessions)
    batch = {name: torch.zeros(len(sessions), size, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((len(sessions), size), IGNORED)
    for row, (ids, first) in enumerate(sessions):
        batch["input_ids"][row, : len(ids)] = torch.tensor(ids)
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, first : len(ids)] = torch.tensor(ids[first:])
    return {name: tensor.to(device) for name, tensor in batch.items()}


def packed(sessions: Sessions, width: int, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Batch with several sessions per row (first fit, longest first), separated by a dense additive mask."""
    rows: list[list[tuple[list[int], int]]] = []
    for session in sorted(sessions, key=lambda session: -len(session[0])):
        fits = (row for row in rows if sum(len(ids) for ids, _ in row) + len(session[0]) <= width)
        row = next(fits, None)
        if row is None:
            rows.append(row := [])
        row.append(session)
    size = max(sum(len(ids) for ids, _ in row) for row in rows)
    ids, positions = (torch.zeros(len(rows), size, dtype=torch.long) for _ in range(2))
    labels, segments = torch.full((len(rows), size), IGNORED), torch.full((len(rows), size), -1)
    for index, row in enumerate(rows):
        begin = 0
        for number, (session_ids, first) in enumerate(row):
            end = begin + len(session_ids)
            ids[index, begin:end], positions[index, begin:end] = (
                torch.tensor(session_ids),
                torch.arange(len(session_ids)),
            )
            labels[index, begin + first : end] = torch.tensor(session_ids[first:])
            segments[index, begin:end] = number
            begin = end
    visible = (segments[:, :, None] == segments[:, None, :]) & torch.ones(size, size, dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
    batch = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def full_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed cross-entropy from the logits of every position."""
    labels = batch["labels"]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits.float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def compact_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed cross-entropy from the logits of trained positions only."""
    labels = batch["labels"][:, 1:]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    trained = labels != IGNORED
    logits = model.get_output_embeddings()(hidden[trained])
    return cross_entropy(logits.float(), labels[trained], reduction="sum")


def plain(setup: BenchmarkSetup, loss_of: Any, size: int | None = None, width: int | None = None) -> Step:
    """Step of a hand-written loop.

    Args:
        setup: Model, sessions and settings, shared by all methods.
        loss_of: Summed loss of a batch.
        size: Sessions per pass, sorted by length; None: the whole step in one pass, in its given order.
        width: Positions of a packed row; None: padded rows.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(setup.model, attn_implementation=setup.attention)
    model.to(setup.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    autocast = setup.precision == "bf16"

    def batches(sessions: Sessions) -> list[dict[str, torch.Tensor]]:
        if width is not None:
            return [packed(sessions, width, setup.device, torch.float32)]
        if size is None:
            return [padded(sessions, setup.device)]
        ordered = sorted(sessions, key=lambda session: -len(session[0]))
        return [padded(ordered[start : start + size], setup.device) for start in range(0, len(ordered), size)]

    def step(number: int) -> float:
        sessions = setup.steps[number]
        count = sum(len(ids) - first for ids, first in sessions)
        total = torch.zeros((), device=setup.device)
        for batch in batches(sessions):
            with torch.autocast(torch.device(setup.device).type, torch.bfloat16, enabled=autocast):
                loss = loss_of(model, batch) / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    return step


# -- a process for each method ----------------------------------------------------------------------------------------


class Memory:
    """Peak memory since the creation of the object, above the memory then, in MiB: resident, or GPU tensors."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.begin = torch.cuda.memory_allocated() / 2**20
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            self.begin = self._resident("VmRSS")

    def peak(self) -> float:
        now = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else self._resident("VmHWM")
        return now - self.begin

    @staticmethod
    def _resident(field: str) -> float:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return float("nan")
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))
