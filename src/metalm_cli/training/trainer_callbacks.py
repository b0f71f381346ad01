"""Callbacks of the training loop: what a run logs, displays, measures and saves at the steps that the recipe sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metalm_cli.runs import checkpoint
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.metrics_log import log_to_trackers
from metalm_cli.runs.resume_check import recipe_record
from metalm_cli.training.parts.weight_changes import CHECK_STEP, unmoved_notes
from metalm_cli.training.progress import Progress, memory_bytes
from metalm_cli.training.run_start import RECIPE_KEY
from metalm_cli.training.validation.validator import Validator

if TYPE_CHECKING:
    from metalm_cli.training.run import Run


@dataclass
class TrainerCallbacks:
    """Callbacks of the training loop, each called at the steps that the recipe sets.

    Args:
        log: Logs a training record.
        validate: Computes validation metrics from the prepared module and its device.
        log_validation: Logs a validation record.
        save: Writes a checkpoint from its tensors (empty groups on all ranks but rank zero) and its state, and
            returns in all processes at once.
        locate_document: Describes the document at a number of the index plan.
        advance: Receives the number of completed steps.
        evaluate: Evaluates the model on tasks, and returns scores by name; all processes call it.
        log_evaluation: Logs an evaluation record.
    """

    log: Callable[[dict[str, Any]], None]
    validate: Callable[[nn.Module, torch.device], dict[str, Any]]
    log_validation: Callable[[dict[str, Any]], None]
    save: Callable[[dict[str, dict[str, torch.Tensor]], dict[str, Any]], None]
    locate_document: Callable[[int], str]
    advance: Callable[[int], None]
    evaluate: Callable[[], dict[str, float]] = dict
    log_evaluation: Callable[[dict[str, Any]], None] = lambda record: None


def make_trainer_callbacks(
    run: Run, folder: RunFolder, log: Any, progress: Progress, validator: Validator
) -> TrainerCallbacks:
    """Make the callbacks of a run.

    Args:
        run: The run.
        folder: Its folder.
        log: Metrics log, in rank zero.
        progress: Display.
        validator: Computes validation metrics.
    """

    def log_step(record: dict[str, Any]) -> None:
        record = {**record, "memory_bytes": memory_bytes()}
        log_to_trackers(run.accelerator, record)
        if run.is_main:
            progress.step(log.write(record))

    def log_validation(record: dict[str, Any]) -> None:
        log_to_trackers(run.accelerator, record)
        if run.is_main:
            progress.validation(log.write(record), _sample_continuations(run))

    def evaluate() -> dict[str, float]:
        assert run.task_evaluator is not None, "the recipe has train.evaluate"
        with run.frozen_weights.released():
            return run.task_evaluator(progress.activity)

    def log_evaluation(record: dict[str, Any]) -> None:
        log_to_trackers(run.accelerator, record)
        if run.is_main:
            progress.evaluation(log.write(record))

    def save_checkpoint(tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        folder.check_in_place()
        run.frozen_weights.put_originals(tensors["model"])
        path = checkpoint.save(
            folder.checkpoints, state["step"], tensors, {**state, RECIPE_KEY: recipe_record(run.recipe)}
        )
        checkpoint.remove_old(folder.checkpoints, run.recipe.train.keep_checkpoints, state["best_step"])
        progress.note(f"checkpoint: {path}")
        log.check_in_place()

    def save_in_rank_zero(tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        run.collectives.on_rank_zero(lambda: save_checkpoint(tensors, state))

    def advance(step: int) -> None:
        progress.advance(step)
        if step == CHECK_STEP:
            for note in unmoved_notes(run, folder):
                progress.note(note)

    return TrainerCallbacks(
        log_step,
        validator,
        log_validation,
        save_in_rank_zero,
        run.corpus.where,
        advance,
        evaluate,
        log_evaluation,
    )


def _sample_continuations(run: Run) -> list[tuple[str, str]]:
    count = run.recipe.train.sample_continuations
    if not count or not run.assembly.family.generates or run.num_processes > 1:
        return []
    with run.frozen_weights.released():
        return run.callbacks.sample_continuations(run.assembly, run.preview_texts()[:count])
