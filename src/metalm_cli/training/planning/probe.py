"""Memory and speed probe: runs one worst-case micro-batch forward and backward before a run starts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from metalm_cli.config.schema.recipes import PretrainRecipe, Recipe
from metalm_cli.objectives import DocumentObjective, Objective
from metalm_cli.sessions import (
    Batch,
)
from metalm_cli.training.optim import trained_parts
from metalm_cli.training.planning.memory import (
    ADAM_MOMENTS,
    estimate_memory,
    first_words_of,
    human_bytes,
    out_of_memory,
    out_of_memory_error,
)


@dataclass(frozen=True)
class ProbeResult:
    """Time and memory of one worst-case micro-batch.

    Args:
        seconds: Time of forward and backward; None if the batch did not fit unsharded, but may fit sharded.
        peak_bytes: Peak memory of the device without the optimiser's state; None on a CPU.
        notes: Notes for the user.
    """

    seconds: float | None
    peak_bytes: int | None
    notes: tuple[str, ...] = ()


def probe(
    objective: Objective,
    root: nn.Module,
    recipe: Recipe,
    device: torch.device | str,
    make_batch: Callable[[], Batch],
    *,
    num_processes: int = 1,
    shards: int = 1,
) -> ProbeResult:
    """Run a micro-batch of the longest rows forward and backward, and restore the previous state.

    Parameters, buffers, gradients, modes and all random states are the same afterwards.

    Args:
        objective: The objective.
        root: Its step module, unwrapped. It is moved to the device, and back again if it will be sharded.
        recipe: The recipe.
        device: Training device.
        make_batch: Makes the micro-batch.
        num_processes: Processes that share a batch.
        shards: Processes that the model will be sharded over. The probe runs it unsharded, so lack of memory is then
            a note and not an error.

    Raises:
        MetalmError: Memory runs out in the probe, or would with the optimiser's state.
    """
    device, original_device = torch.device(device), next(root.parameters()).device
    memory = estimate_memory(recipe, objective.assembly, objective.extra_parts(root), num_processes, shards)
    seconds, peak_bytes, loss_is_finite = None, None, True
    try:
        seconds, peak_bytes, loss_is_finite = _measure(objective, root, recipe, device, make_batch)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        lack_of_memory: str | None = first_words_of(error)
    else:
        lack_of_memory = _explain_lack_of_memory(objective, root, peak_bytes, device, shards)
    finally:
        if shards > 1:
            root.to(original_device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    notes = [] if loss_is_finite else ["the loss of the probe's random tokens is not finite"]
    if lack_of_memory is not None and shards == 1:
        raise out_of_memory_error(recipe, lack_of_memory, memory, num_processes)
    if lack_of_memory is not None:
        notes.append(
            f"unsharded, a micro-batch of full rows does not fit into memory: {lack_of_memory}; "
            f"it may fit when sharded over {shards} processes (estimated need: {memory})"
        )
    return ProbeResult(seconds, peak_bytes, tuple(notes))


def _measure(
    objective: Objective,
    root: nn.Module,
    recipe: Recipe,
    device: torch.device,
    make_batch: Callable[[], Batch],
) -> tuple[float, int | None, bool]:
    """Seconds, peak bytes of a CUDA device, and whether the loss is finite."""
    on_cuda = device.type == "cuda"
    root.to(device)
    with _restore_afterwards(root, device):
        batch = make_batch().to(device)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        start = time.monotonic()
        loss_is_finite = _forward_and_backward(objective, root, batch, recipe.train.precision == "bf16")
        if on_cuda:
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - start
        return seconds, torch.cuda.max_memory_allocated(device) if on_cuda else None, loss_is_finite


def _forward_and_backward(objective: Objective, root: nn.Module, batch: Batch, is_bf16: bool) -> bool:
    """Run one forward and backward pass; return whether the loss is finite."""
    device = next(root.parameters()).device.type
    counts = objective.counts(batch)
    with torch.autocast(device, torch.bfloat16, enabled=is_bf16):
        terms = root(replace(batch, step_counts=counts))
    loss = sum(term.sum * (term.coefficient / max(1, counts[name])) for name, term in terms.items())
    if loss.requires_grad:  # not if the decoder is frozen and the rows dock nothing
        loss.backward()
    return bool(torch.isfinite(loss.detach()))


def _explain_lack_of_memory(
    objective: Objective, root: nn.Module, peak_bytes: int | None, device: torch.device, shards: int = 1
) -> str | None:
    """Explain why a step with the optimiser's state would not fit into memory; None if it fits."""
    if peak_bytes is None:
        return None
    parts, _ = trained_parts(objective, root)
    trained = {
        id(parameter): parameter
        for part in parts.values()
        for parameter in part.parameters()
        if parameter.requires_grad
    }
    state_bytes = (
        ADAM_MOMENTS * sum(parameter.numel() * parameter.element_size() for parameter in trained.values()) // shards
    )
    device_bytes = torch.cuda.get_device_properties(device).total_memory
    if peak_bytes + state_bytes <= device_bytes:
        return None
    need = f"{human_bytes(peak_bytes)} for a step and {human_bytes(state_bytes)} for the optimizer's state"
    return f"{need}; the device has {human_bytes(device_bytes)}"


# -- restoring the state ----------------------------------------------------------------------------------------------


@contextmanager
def _restore_afterwards(root: nn.Module, device: torch.device) -> Iterator[None]:
    """Enable training mode; restore modes, buffers, gradients and random states on exit."""
    modes = [(module, module.training) for module in root.modules()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in root.modules()
        for name, buffer in module._buffers.items()
    ]
    gradients = [(parameter, parameter.grad) for parameter in root.parameters()]
    random_states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            root.train()
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    if buffer is not None and value is not None:
                        buffer.copy_(value)
                    module._buffers[name] = buffer
            random.setstate(random_states[0])
            np.random.set_state(random_states[1])


def probe_batch(objective: DocumentObjective, recipe: PretrainRecipe, rows: int) -> Batch:
    """Make a batch of the rows that take the most memory.

    Args:
        objective: The objective.
        recipe: The recipe.
        rows: Rows of the batch.
    """
    return objective.collate(objective.longest_rows(recipe.data, rows), recipe.data.sequence_length)
