"""The training loop.

The sum of each loss term is divided by its count over the whole optimiser step (micro-batches and processes), gradients
are clipped, and the optimiser steps. All randomness of a step depends only on the seed and the step, so that a resumed
run repeats an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from metalm_cli.common.heap import HeapLimit
from metalm_cli.common.signals import StopSignals
from metalm_cli.config.schema.training import TrainingConfig
from metalm_cli.data.sampling.loader import StepRows
from metalm_cli.data.sampling.micro_batching import micro_batches_of_step
from metalm_cli.data.sampling.row_slots import SlotState
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.objectives import Objective
from metalm_cli.sessions import Batch
from metalm_cli.training.compute.fast_layers import fuse_activations
from metalm_cli.training.compute.step_casts import backward, casts_of_step
from metalm_cli.training.distributed.collectives import Collectives, scalar
from metalm_cli.training.distributed.state_dict import gather_state, restore_state
from metalm_cli.training.optim import (
    gate_update,
    is_due,
    layer_classes,
    logged_rates,
    make_optimizer,
    schedule,
    set_learning_rate,
    step_seed,
    to_seconds,
    trained_parts,
)
from metalm_cli.training.step_metrics import StepMetrics
from metalm_cli.training.trainer_callbacks import TrainerCallbacks

MAX_LISTED = 12
"""Documents listed in the error about a non-finite loss or gradient."""


@dataclass
class TrainerState:
    """Trainer state that is not a tensor; saved as ``state.json`` in each checkpoint.

    ``lanes`` has the states of the slots that the step does not determine: those of documents. ``best_step`` is that of
    ``best_score`` if a score selects the best model, else that of ``best_loss``.
    """

    step: int = 0
    lanes: dict[int, SlotState] = field(default_factory=dict)
    meter: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None
    best_loss: float | None = None
    best_score: float | None = None
    stale: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "lanes": {str(slot): list(state) for slot, state in self.lanes.items()}}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> TrainerState:
        """Read a saved state.

        Raises:
            MetalmError: The state has other fields or types, as another version may write it.
        """
        try:
            slot_states = {int(slot): SlotState(*slot_state) for slot, slot_state in state["lanes"].items()}
            return cls(**{**state, "lanes": slot_states})
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise MetalmError(
                "the state of the checkpoint cannot be read",
                where="state.json",
                why=f"{type(error).__name__}: {error}",
                remedy="resume with the version of metalm that wrote it, or start a new run",
            ) from error


class Trainer:
    """Training loop of one objective.

    Args:
        options: The recipe's ``train``.
        steps: Total number of optimiser steps.
        objective: The objective.
        root: The objective's step module.
        accelerator: Accelerate's accelerator.
        length: Padded length of rows, or None for the longest row of each micro-batch.
        collectives: The processes of the run; default: those of the accelerator.
    """

    def __init__(
        self,
        options: TrainingConfig,
        steps: int,
        objective: Objective,
        root: Any,
        accelerator: Any,
        length: int | None = None,
        collectives: Collectives | None = None,
    ) -> None:
        self.options, self.steps, self.objective = options, steps, objective
        self.accelerator, self.length = accelerator, length
        self.collectives = collectives or Collectives(accelerator)
        self.device: torch.device = accelerator.device
        self.root = root
        self.patience, self.keep_best = options.max_stale_validations, options.keeps_best
        if torch.distributed.is_initialized():
            root.touch_unused = True  # Accelerate wraps a launched process even if it is the only one
            if accelerator.distributed_type == "FSDP":  # equally many forward passes of each layer in all processes
                root.model.encoder_positions = None
        parts, policy = trained_parts(objective, root)
        root._no_split_modules = layer_classes(parts)
        optimizer = make_optimizer(parts, policy, options)
        fuse_activations(root)
        root.train()
        self.module, self.optimizer = accelerator.prepare(root, optimizer)
        self.encoders: dict[str, Any] = dict(getattr(root.model, "encoders", {}) or {})
        self.state = TrainerState()
        self.heap = HeapLimit() if self.device.type == "cpu" else None
        self.steps_taken = 0
        self.start_time = time.monotonic()
        # The check for non-finite values runs at least at every logged step, and covers the steps since then.
        self.recent_numbers: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=options.log_every)

    # -- state --------------------------------------------------------------------------------------------------------

    def restore(self, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        restore_state(self.root, self.optimizer, tensors)
        self.state = TrainerState.from_json(state)

    def save(self, callbacks: TrainerCallbacks, step_metrics: StepMetrics) -> None:
        """Write a checkpoint of the last completed step."""
        slot_states: dict[int, SlotState] = {}
        for process_states in self.collectives.gather_objects(self.state.lanes):
            slot_states.update(process_states)
        self.state.meter = step_metrics.state()
        state = TrainerState(**{**vars(self.state), "lanes": slot_states})
        state.seconds += time.monotonic() - self.start_time
        callbacks.save(gather_state(self.root, self.optimizer, keep=self.collectives.rank == 0), state.to_json())

    @property
    def totals(self) -> dict[str, int]:
        """Counters of all processes since the start, as of the last checkpoint."""
        return dict(self.state.meter.get("totals", {}))

    # -- one step -----------------------------------------------------------------------------------------------------

    def micro_batches(self, step_rows: StepRows) -> list[Batch]:
        """Collate this process's rows of a step into batches on the device."""
        row_lists = micro_batches_of_step(step_rows.rows, self.options.micro_batch_size, self.device.type == "cpu")
        batches = [self.objective.collate(rows, self.length) for rows in row_lists]
        if self.device.type == "cuda":  # copies from pinned memory overlap with computation
            batches = [batch.pin_memory() for batch in batches]
        return [batch.to(self.device) for batch in batches]

    def reduce_counts(self, batches: list[Batch], stop: bool) -> tuple[dict[str, int], set[str], int, bool]:
        """Reduce a step's counts over all processes.

        Returns:
            Count of each term, encoders in use, forward passes of the process that has most, and whether to stop.
        """
        counts: dict[str, int] = {}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        encoder_uses = [sum(name in batch.docks for batch in batches) for name in self.encoders]
        passes = [
            len(batches) if rank == self.collectives.rank else 0 for rank in range(self.collectives.num_processes)
        ]
        totals = self.collectives.sum_ints([*counts.values(), *encoder_uses, *passes, int(stop)])
        total_uses = totals[len(counts) : len(counts) + len(encoder_uses)]
        used_encoders = {name for name, uses in zip(self.encoders, total_uses, strict=True) if uses}
        total_counts = dict(zip(counts, totals, strict=False))
        return total_counts, used_encoders, max(totals[-1 - len(passes) : -1]), bool(totals[-1])

    def step(
        self,
        batches: list[Batch],
        counts: dict[str, int],
        used_encoders: set[str],
        passes: int,
        step_metrics: StepMetrics,
    ) -> torch.Tensor:
        """Run forward and backward passes; return the gradient norm on the device.

        Args:
            batches: Micro-batches of this process.
            counts: Count of each term, from :meth:`reduce_counts`.
            used_encoders: Encoders in use, from :meth:`reduce_counts`.
            passes: Forward passes of the process that has most, from :meth:`reduce_counts`; sharded models need the
                same number in all processes.
            step_metrics: Accumulates terms and counts.
        """
        with casts_of_step(self.accelerator):
            for index in range(passes):
                self._run_pass(batches, index, counts, passes, step_metrics)
        step_metrics.add_denominators(counts)
        for name in set(self.encoders) - used_encoders:
            # With zero gradients, momentum and weight decay would still change an unused encoder.
            for part in (self.encoders[name], self.root.model.connectors[name]):
                for parameter in part.parameters():
                    parameter.grad = None
        limit = self.options.gradient_clip if self.options.gradient_clip is not None else float("inf")
        grad_norm = self.accelerator.clip_grad_norm_(self.root.parameters(), limit)
        return grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm

    def _run_pass(
        self, batches: list[Batch], index: int, counts: dict[str, int], passes: int, step_metrics: StepMetrics
    ) -> None:
        """Run one forward and backward pass of a step; arguments as :meth:`step`."""
        batch = batches[min(index, len(batches) - 1)]
        is_real, is_last = index < len(batches), index == passes - 1
        torch.manual_seed(step_seed(self.options.seed, self.state.step, self.collectives.rank, index))
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.module):
            terms = self.module(replace(batch, step_counts=counts))
            # Wrappers average gradients over processes, but the counts are sums over processes.
            loss = sum(
                term.sum * (is_real * term.coefficient * self.collectives.num_processes / max(1, counts[name]))
                for name, term in terms.items()
            )
            if loss.requires_grad:  # not if the decoder is frozen and the pass docks nothing
                backward(self.accelerator, loss)
        if is_real:
            step_metrics.add(terms, batch)
        if self.heap is not None:
            self.heap.after_pass()

    def update(self, grad_norm: torch.Tensor, bad_step: torch.Tensor) -> torch.Tensor:
        """Step the optimiser, unless a gradient of this or an earlier step was not finite.

        Args:
            grad_norm: The gradient norm.
            bad_step: The first step with a non-finite gradient, counted from 1; 0 if there is none. A float64 scalar
                on the device.

        Returns:
            The updated ``bad_step``.
        """
        bad_now = (~torch.isfinite(grad_norm)).double() * (self.state.step + 1)
        bad_step = torch.where(bad_step > 0, bad_step, bad_now)
        gate_update(self.optimizer, (bad_step > 0).float())
        set_learning_rate(self.optimizer, schedule(self.options, self.state.step, self.steps))
        self.optimizer.step()
        self.root.after_update()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_taken += 1
        if self.heap is not None:  # the first step has allocated the optimiser's state
            self.heap.after_step()
        return bad_step

    def check(self, bad_step: torch.Tensor, callbacks: TrainerCallbacks) -> None:
        """Raise an error if a gradient was not finite. Waits for the device."""
        step = int(scalar(bad_step))
        if not step:
            return
        gathered_numbers = self.collectives.gather_objects(
            [number for recent_step, numbers in self.recent_numbers if recent_step == step for number in numbers]
        )
        numbers = sorted({number for process_numbers in gathered_numbers for number in process_numbers})
        documents = [callbacks.locate_document(number) for number in numbers[:MAX_LISTED]]
        more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
        raise MetalmError(
            f"a loss or gradient was not finite in step {step}; neither its update nor a later one was applied",
            where=", ".join(documents) + more,
            why="these are the documents of that step",
            remedy="inspect these documents; resume from the last checkpoint with precision: fp32, or start a new run "
            "with a lower learning rate",
            exit_code=Exit.FAILED,
        )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, rows: Iterator[StepRows], callbacks: TrainerCallbacks, signals: StopSignals) -> Exit:
        """Train to the end, or until a signal or the time limit.

        Args:
            rows: Rows of the loader, from the state's lanes on.
            callbacks: Callbacks for logging, validation and checkpoints.
            signals: Signals, checked once per step.

        Returns:
            ``DONE``, or ``STOPPED`` with a checkpoint written.

        Raises:
            MetalmError: A loss or gradient was not finite, or a checkpoint could not be written.
        """
        options, state = self.options, self.state
        step_metrics = StepMetrics(self.collectives, state.meter)
        if state.step >= self.steps or (self.patience is not None and state.stale >= self.patience):
            return Exit.DONE
        limit = to_seconds(options.max_time)
        bad_step = torch.zeros((), device=self.device, dtype=torch.float64)
        while state.step < self.steps:
            step_rows = next(rows)
            batches = self.micro_batches(step_rows)
            self.recent_numbers.append((state.step + 1, tuple(number for batch in batches for number in batch.numbers)))
            over_time = limit is not None and time.monotonic() - self.start_time > limit
            counts, used_encoders, passes, stop = self.reduce_counts(batches, signals.pending is not None or over_time)
            grad_norm = self.step(batches, counts, used_encoders, passes, step_metrics)
            bad_step = self.update(grad_norm, bad_step)
            state.step += 1
            state.lanes = step_rows.states
            is_last = state.step == self.steps
            callbacks.advance(state.step)
            if self.device.type == "cpu":
                self.check(bad_step, callbacks)
            if is_due(options.log_every, state.step) or is_last:
                self.check(bad_step, callbacks)
                callbacks.log(
                    {
                        "step": state.step,
                        "split": "train",
                        **step_metrics.pop_record(),
                        **logged_rates(self.optimizer, options, schedule(options, state.step - 1, self.steps)),
                        "grad_norm": scalar(grad_norm),
                    }
                )
            is_best, out_of_patience = self._measure(callbacks, step_metrics, bad_step)
            save_best = is_best and (options.checkpoint_every or self.keep_best)
            if is_due(options.checkpoint_every, state.step) or is_last or stop or out_of_patience or save_best:
                self.check(bad_step, callbacks)
                with step_metrics.exclude_time():
                    self.save(callbacks, step_metrics)
            if out_of_patience:
                return Exit.DONE
            if stop and not is_last:
                return Exit.STOPPED
        return Exit.DONE

    def _measure(
        self, callbacks: TrainerCallbacks, step_metrics: StepMetrics, bad_step: torch.Tensor
    ) -> tuple[bool, bool]:
        """Validate and evaluate where due, and at the end of the training.

        Returns:
            Whether the model is the best so far, and whether training stops because it has not improved.
        """
        is_last, options = self.state.step == self.steps, self.options
        validates = is_due(options.validate_every, self.state.step) or is_last
        evaluates = options.evaluate is not None and (is_due(options.evaluate.every or 0, self.state.step) or is_last)
        if not (validates or evaluates):
            return False, False
        self.check(bad_step, callbacks)
        with step_metrics.exclude_time():
            is_best = (validates and self._validate(callbacks)) | (evaluates and self._evaluate(callbacks))
            stops = self.patience is not None and self.state.stale >= self.patience
            if stops and not validates:
                self._validate(callbacks)
            if stops and not evaluates and options.evaluate is not None:
                self._evaluate(callbacks)
        return is_best, stops

    def _validate(self, callbacks: TrainerCallbacks) -> bool:
        """Validate; return whether the loss selects the best model, is finite and the best so far."""
        metrics = callbacks.validate(self.module, self.device)
        if not metrics:
            return False
        loss, state = metrics["loss"], self.state
        is_best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
        if is_best:
            state.best_loss = loss
        if self.options.best_score is None:
            self._count(is_best)
        callbacks.log_validation({"step": state.step, "split": "validation", **metrics})
        return is_best and self.options.best_score is None

    def _evaluate(self, callbacks: TrainerCallbacks) -> bool:
        """Evaluate on tasks; return whether a score selects the best model, and is the best so far."""
        scores, state, name = callbacks.evaluate(), self.state, self.options.best_score
        if self.heap is not None:
            self.heap.trim()
        callbacks.log_evaluation({"step": state.step, "split": "evaluation", "scores": scores})
        if name is None:
            return False
        score = scores.get(name)
        is_best = score is not None and (state.best_score is None or score > state.best_score)
        state.best_score = score if is_best else state.best_score
        self._count(is_best)
        return is_best

    def _count(self, is_best: bool) -> None:
        """Record a measure that selects the best model: the best step, and measures since then."""
        self.state.stale = 0 if is_best else self.state.stale + 1
        if is_best:
            self.state.best_step = self.state.step
