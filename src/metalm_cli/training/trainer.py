"""The training loop.

Rows come in, the sum of each loss term is divided by its count over the whole optimiser step (micro-batches and
processes), gradients are clipped, the optimiser steps. Everything that is random in a step depends on the seed and the
step alone, so that a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from metalm_cli.common.signals import StopSignals
from metalm_cli.config.schema.training import Training
from metalm_cli.data.sampling.lanes import SlotState
from metalm_cli.data.sampling.loader import StepRows
from metalm_cli.data.sampling.micro_batching import micro_batches_of_step
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.trainable import TrainPolicy, transformer_layers
from metalm_cli.objectives import Objective
from metalm_cli.sessions import Batch
from metalm_cli.training.distributed.collectives import Collectives, scalar
from metalm_cli.training.distributed.state_dict import gather_state, restore_state
from metalm_cli.training.optim import gate, make_optimizer, schedule, set_learning_rate
from metalm_cli.training.step_metrics import StepMetrics

NAMED = 12
"""Documents that are named when something is not finite."""


@dataclass
class TrainerState:
    """What a run knows of itself beside its tensors: a checkpoint's ``state.json``."""

    step: int = 0
    lanes: dict[int, SlotState] = field(default_factory=dict)
    meter: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None
    best_loss: float | None = None
    stale: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "lanes": {str(lane): list(state) for lane, state in self.lanes.items()}}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> TrainerState:
        lanes = {int(lane): SlotState(*at) for lane, at in state["lanes"].items()}
        return cls(**{**state, "lanes": lanes})


@dataclass
class TrainerCallbacks:
    """What the loop tells others; each is called at the steps that the recipe asks for.

    Args:
        log: A training record.
        validate: Gives validation metrics, given the prepared module and its device.
        validated: A validation record.
        save: Writes a checkpoint; given its tensors (no more than the groups' names but in the first process) and
            its state.
        where: Names the document at a number of the index plan.
        advance: A step is done.
    """

    log: Callable[[dict[str, Any]], None]
    validate: Callable[[nn.Module, torch.device], dict[str, float]]
    validated: Callable[[dict[str, Any]], None]
    save: Callable[[dict[str, dict[str, torch.Tensor]], dict[str, Any]], None]
    where: Callable[[int], str]
    advance: Callable[[int], None]


class Trainer:
    """Trains one objective.

    Args:
        options: The recipe's ``train``.
        steps: Optimiser steps in all.
        objective: What is trained.
        root: The objective's step module.
        accelerator: Accelerate's.
        length: Positions that rows are padded to, or None for the longest of each micro-batch.
    """

    def __init__(
        self,
        options: Training,
        steps: int,
        objective: Objective,
        root: Any,
        accelerator: Any,
        length: int | None = None,
    ) -> None:
        self.options, self.steps, self.objective = options, steps, objective
        self.accelerator, self.length = accelerator, length
        self.control = Collectives(accelerator)
        self.device: torch.device = accelerator.device
        self.root = root
        self.patience: int | None = getattr(options, "patience", None)
        self.keep_best = getattr(options, "final", "last") == "best"
        if torch.distributed.is_initialized() and hasattr(root, "touch_unused"):
            root.touch_unused = True  # a launched process is wrapped even if it is the only one
        parts, policy = trained_parts(objective, root)
        root._no_split_modules = layer_classes(parts)
        optimizer = make_optimizer(parts, policy, options)
        root.train()
        self.module, self.optimizer = accelerator.prepare(root, optimizer)
        self.encoders: dict[str, Any] = dict(getattr(root.model, "encoders", {}) or {})
        self.state = TrainerState()
        self.started = time.monotonic()
        # The device is asked at least as often as something is logged, and tells of the steps since.
        self.recent: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=options.log_every)

    # -- state --------------------------------------------------------------------------------------------------------

    def restore(self, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        restore_state(self.root, self.optimizer, tensors)
        self.state = TrainerState.from_json(state)

    def save(self, hooks: TrainerCallbacks, meter: StepMetrics) -> None:
        """Write a checkpoint of the step just done."""
        lanes: dict[int, SlotState] = {}
        for share in self.control.collect(self.state.lanes):
            lanes.update(share)
        self.state.meter = meter.state()
        state = TrainerState(**{**vars(self.state), "lanes": lanes})
        state.seconds += time.monotonic() - self.started
        hooks.save(gather_state(self.root, self.optimizer, keep=self.control.rank == 0), state.to_json())
        self.control.wait()

    @property
    def totals(self) -> dict[str, int]:
        """Counters of all processes since the beginning, as of the last checkpoint."""
        return dict(self.state.meter.get("totals", {}))

    # -- one step -----------------------------------------------------------------------------------------------------

    def micro_batches(self, made: StepRows) -> list[Batch]:
        """The step's rows of this process as batches on the device."""
        parts = micro_batches_of_step(made.rows, self.options.micro_batch_size, self.device.type == "cpu")
        batches = [self.objective.collate(part, self.length) for part in parts]
        if self.device.type == "cuda":  # from pinned memory, copies run while the device works
            batches = [batch.pin_memory() for batch in batches]
        return [batch.to(self.device) for batch in batches]

    def agree(self, batches: list[Batch], stop: bool) -> tuple[dict[str, int], set[str], int, bool]:
        """What all processes count in this step: each term, the encoders in use, passes, and whether to stop."""
        counts: dict[str, int] = {}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        used = [sum(name in batch.docks for batch in batches) for name in self.encoders]
        passes = [len(batches) if rank == self.control.rank else 0 for rank in range(self.control.world)]
        totals = self.control.total([*counts.values(), *used, *passes, int(stop)])
        flags = totals[len(counts) : len(counts) + len(used)]
        in_use = {name for name, flag in zip(self.encoders, flags, strict=True) if flag}
        counted = dict(zip(counts, totals, strict=False))
        for batch in batches:
            batch.totals = counted
        return counted, in_use, max(totals[-1 - len(passes) : -1]), bool(totals[-1])

    def step(
        self, batches: list[Batch], counts: dict[str, int], used: set[str], passes: int, meter: StepMetrics
    ) -> torch.Tensor:
        """Forward and backward; returns the gradient norm on the device.

        Args:
            batches: Micro-batches of this process.
            counts: From :meth:`agree`, as the next two.
            used: Encoders in use.
            passes: Forward passes of the process that has most; sharded models need as many of all.
            meter: Counts.
        """
        done = self.state.step
        for index in range(passes):
            batch = batches[min(index, len(batches) - 1)]
            real, last = index < len(batches), index == passes - 1
            torch.manual_seed(step_seed(self.options.seed, done, self.control.rank, index))
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
                terms = self.module(batch)
                # Wrappers average gradients over processes; the counts are sums over them.
                loss = sum(
                    term.sum * (real * term.coefficient * self.control.world / max(1, counts[name]))
                    for name, term in terms.items()
                )
                self.accelerator.backward(loss)
            if real:
                meter.add(terms, batch)
        meter.divide(counts)
        for name in set(self.encoders) - used:
            # Zero gradients would still move an unused encoder, by momentum and decay.
            for part in (self.encoders[name], self.root.model.connectors[name]):
                for parameter in part.parameters():
                    parameter.grad = None
        limit = self.options.gradient_clip if self.options.gradient_clip is not None else float("inf")
        norm = self.accelerator.clip_grad_norm_(self.root.parameters(), limit)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def update(self, norm: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        """The optimiser's step, unless something in this or an earlier one was not finite.

        Args:
            norm: The gradient's norm.
            bad: The first step in which something was not finite, counted from 1; 0: none. A float64 scalar on the
                device.

        Returns:
            The same after this step.
        """
        here = (~torch.isfinite(norm)).double() * (self.state.step + 1)
        bad = torch.where(bad > 0, bad, here)
        gate(self.optimizer, (bad > 0).float())
        set_learning_rate(self.optimizer, schedule(self.options, self.state.step, self.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return bad

    def check(self, bad: torch.Tensor, hooks: TrainerCallbacks) -> None:
        """Stop if something was not finite. Waits for the device."""
        step = int(scalar(bad))
        if not step:
            return
        shares = self.control.collect([number for at, numbers in self.recent if at == step for number in numbers])
        numbers = sorted({number for share in shares for number in share})
        named = [hooks.where(number) for number in numbers[:NAMED]]
        more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
        raise MetalmError(
            f"a loss or gradient was not finite in step {step}; neither its update nor a later one was applied",
            where=", ".join(named) + more,
            why="these are the documents of that step",
            remedy="look at them; resume, which starts at the last checkpoint, with precision: fp32, or begin anew "
            "with a lower learning rate",
            exit_code=Exit.FAILED,
        )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, rows: Iterator[StepRows], hooks: TrainerCallbacks, signals: StopSignals) -> Exit:
        """Train to the end, or until a signal or the time limit.

        Args:
            rows: From the loader, at the state's lanes.
            hooks: Whom to tell.
            signals: Looked at once a step.

        Returns:
            ``DONE``, or ``STOPPED`` with a checkpoint written.

        Raises:
            MetalmError: Something was not finite, or a checkpoint could not be written.
        """
        options, state = self.options, self.state
        meter = StepMetrics(self.control, state.meter)
        if state.step >= self.steps or (self.patience is not None and state.stale >= self.patience):
            return Exit.DONE
        limit = to_seconds(options.max_time)
        bad = torch.zeros((), device=self.device, dtype=torch.float64)
        while state.step < self.steps:
            made = next(rows)
            batches = self.micro_batches(made)
            self.recent.append((state.step + 1, tuple(n for batch in batches for n in batch.numbers)))
            late = limit is not None and time.monotonic() - self.started > limit
            counts, used, passes, stop = self.agree(batches, signals.pending is not None or late)
            norm = self.step(batches, counts, used, passes, meter)
            bad = self.update(norm, bad)
            state.step += 1
            state.lanes.update(made.states)
            last = state.step == self.steps
            tired = False
            hooks.advance(state.step)
            if self.device.type == "cpu":
                self.check(bad, hooks)
            if is_due(options.log_every, state.step) or last:
                self.check(bad, hooks)
                rate = options.learning_rate * schedule(options, state.step - 1, self.steps)
                hooks.log({"step": state.step, "split": "train", **meter.read(), "lr": rate, "grad_norm": scalar(norm)})
            best = False
            if is_due(options.validate_every, state.step) or last:
                self.check(bad, hooks)
                with meter.exclude_time():
                    best = self._validate(hooks)
                tired = self.patience is not None and state.stale >= self.patience
            wanted = best and (options.checkpoint_every or self.keep_best)
            if is_due(options.checkpoint_every, state.step) or last or stop or tired or wanted:
                self.check(bad, hooks)
                with meter.exclude_time():
                    self.save(hooks, meter)
            if tired:
                return Exit.DONE
            if stop and not last:
                return Exit.STOPPED
        return Exit.DONE

    def _validate(self, hooks: TrainerCallbacks) -> bool:
        """Whether this validation is the best so far; one that is not finite never is."""
        found = hooks.validate(self.module, self.device)
        if not found:
            return False
        loss, state = found["loss"], self.state
        best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
        state.stale = 0 if best else state.stale + 1
        if best:
            state.best_loss, state.best_step = loss, state.step
        hooks.validated({"step": state.step, "split": "validation", **found})
        return best


def trained_parts(objective: Objective, root: Any) -> tuple[dict[str, nn.Module], dict[str, TrainPolicy]]:
    """The parts that an optimiser steps, and their policies; a generator trains beside its encoder."""
    parts, policy = objective.assembly.parts(), dict(objective.assembly.policy)
    if hasattr(root, "generator"):
        parts["generator"], policy["generator"] = root.generator, TrainPolicy()
    return parts, policy


def layer_classes(parts: dict[str, nn.Module]) -> list[str]:
    """Names of the classes of all stacks' layers: what sharding gathers, and frees, at once."""
    stacks = [part for name, part in parts.items() if not name.startswith("connectors.")]
    return sorted({type(layer).__name__ for stack in stacks for layer in transformer_layers(stack)})


def is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def step_seed(seed: int, step: int, rank: int, micro: int) -> int:
    """Seed of a micro-batch's dropout: different for each, the same whenever the run is repeated."""
    mixed = 0
    for value in (seed, step, rank, micro):
        mixed = (mixed * 1_000_003 + value + 1) & 0x7FFF_FFFF_FFFF_FFFF
    return mixed


def to_seconds(limit: str | None) -> float | None:
    """A time limit of a recipe (``90s``, ``30m``, ``2h``) in seconds."""
    if limit is None:
        return None
    return float(limit[:-1]) * {"s": 1, "m": 60, "h": 3600}[limit[-1]]
