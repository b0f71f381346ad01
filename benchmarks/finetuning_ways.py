"""Ways to finetune on the same sessions, a step at a time: the program's, and loops that one would write by hand."""

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
class Given:
    """What every way gets.

    Args:
        model: Folder of the model to begin from.
        recipe: The program's recipe, as a dict.
        steps: The sessions of each step: token ids, and the first that trains.
        device: Where to train.
        precision: ``bf16`` (autocast) or ``fp32``.
        attention: Attention implementation, of peers too.
        width: Positions of a packed row.
        threads: CPU threads.
        processor_time: Count the processor's seconds in place of the clock's.
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
"""Takes step n and returns its loss: the mean over the step's trained tokens, in nats."""


# -- the program ------------------------------------------------------------------------------------------------------


def ours(given: Given, **changes: Any) -> Step:
    """The real run's objects and its loop's step; sessions are made before, as the peers' are."""
    from common import optimiser_step
    from metalm_cli.config.schema.recipes import FinetuneRecipe
    from metalm_cli.training.finetuning import Finetuning, RunCallbacks, RunOptions
    from metalm_cli.training.step_metrics import StepMetrics
    from metalm_cli.training.trainer import Trainer

    recipe = {**given.recipe, "data": {**given.recipe["data"], **changes}}
    if given.device == "cuda" and changes["row_packing"] != "pad" and given.attention == "sdpa":
        # Blocks that no position sees are skipped; sdpa would read a dense mask.
        decoder = {**given.recipe["model"]["decoder"], "attention": "flex_attention"}
        recipe["model"] = {"decoder": decoder}
    views = RunCallbacks(lambda *_: None, lambda *_: [], lambda _: None)
    run = Finetuning(FinetuneRecipe.model_validate(recipe), "", RunOptions("benchmark", offline=True), views)
    run.prepare()
    if run.layout.pack == (changes["row_packing"] == "pad"):
        raise SystemExit("the program chose another layout than this way is named after")
    trainer = Trainer(run.recipe.train, len(given.steps), run.objective, run.root, run.accelerator, run.padded_length)
    stream = run.stream(trainer)
    made = stream.steps(stream.lanes)
    rows = [stream.join(next(made)) for _ in given.steps]
    meter = StepMetrics(trainer.control)
    bad = torch.zeros((), device=trainer.device, dtype=torch.float64)

    def step(number: int) -> float:
        optimiser_step(trainer, rows[number], meter, bad)
        trainer.state.step += 1
        return float(meter.read()["loss"])

    return step


# -- plain loops ------------------------------------------------------------------------------------------------------


Sessions = Sequence[tuple[list[int], int]]


def padded(sessions: Sessions, device: str) -> dict[str, torch.Tensor]:
    """One session a row: ids, labels and a mask of what is real."""
    size = max(len(ids) for ids, _ in sessions)
    made = {name: torch.zeros(len(sessions), size, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    made["labels"] = torch.full((len(sessions), size), IGNORED)
    for row, (ids, first) in enumerate(sessions):
        made["input_ids"][row, : len(ids)] = torch.tensor(ids)
        made["attention_mask"][row, : len(ids)] = 1
        made["labels"][row, first : len(ids)] = torch.tensor(ids[first:])
    return {name: tensor.to(device) for name, tensor in made.items()}


def packed(sessions: Sessions, width: int, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Several sessions a row, first fit, the longest first, kept apart by a dense additive mask."""
    rows: list[list[tuple[list[int], int]]] = []
    for one in sorted(sessions, key=lambda one: -len(one[0])):
        fits = (row for row in rows if sum(len(ids) for ids, _ in row) + len(one[0]) <= width)
        row = next(fits, None)
        if row is None:
            rows.append(row := [])
        row.append(one)
    size = max(sum(len(ids) for ids, _ in row) for row in rows)
    ids, positions = (torch.zeros(len(rows), size, dtype=torch.long) for _ in range(2))
    labels, segments = torch.full((len(rows), size), IGNORED), torch.full((len(rows), size), -1)
    for at, row in enumerate(rows):
        begin = 0
        for number, (session, first) in enumerate(row):
            end = begin + len(session)
            ids[at, begin:end], positions[at, begin:end] = torch.tensor(session), torch.arange(len(session))
            labels[at, begin + first : end] = torch.tensor(session[first:])
            segments[at, begin:end] = number
            begin = end
    seen = (segments[:, :, None] == segments[:, None, :]) & torch.ones(size, size, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
    made = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in made.items()}


def full_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed cross-entropy from the logits of every position."""
    labels = batch["labels"]
    inputs = {name: one for name, one in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits.float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def compact_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same from the logits of trained positions alone."""
    labels = batch["labels"][:, 1:]
    inputs = {name: one for name, one in batch.items() if name != "labels"}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    trained = labels != IGNORED
    logits = model.get_output_embeddings()(hidden[trained])
    return cross_entropy(logits.float(), labels[trained], reduction="sum")


def plain(given: Given, loss_of: Any, size: int | None = None, width: int | None = None) -> Step:
    """A loop written by hand.

    Args:
        given: What every way gets.
        loss_of: Summed loss of a batch.
        size: Sessions of a pass, sorted by length; None: the whole step in one pass, as it comes.
        width: Positions of a packed row; None: padded.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given.model, attn_implementation=given.attention)
    model.to(given.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    autocast = given.precision == "bf16"

    def batches(sessions: Sessions) -> list[dict[str, torch.Tensor]]:
        if width is not None:
            return [packed(sessions, width, given.device, torch.float32)]
        if size is None:
            return [padded(sessions, given.device)]
        ordered = sorted(sessions, key=lambda one: -len(one[0]))
        return [padded(ordered[at : at + size], given.device) for at in range(0, len(ordered), size)]

    def step(number: int) -> float:
        sessions = given.steps[number]
        count = sum(len(ids) - first for ids, first in sessions)
        total = torch.zeros((), device=given.device)
        for batch in batches(sessions):
            with torch.autocast(torch.device(given.device).type, torch.bfloat16, enabled=autocast):
                loss = loss_of(model, batch) / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    return step


# -- a process for each way -------------------------------------------------------------------------------------------


class Memory:
    """The most memory since the beginning, above what stood then, in MiB: resident, or of the GPU's tensors."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.begin = torch.cuda.memory_allocated() / 2**20
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
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
