"""Probe of memory and speed: one worst-case micro-batch, forward and backward, before a run starts."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from metalm_cli.config.schema.objectives import PrefixLM, SemiCausal
from metalm_cli.config.schema.recipes import PretrainRecipe, Recipe
from metalm_cli.data.sampling.row_slots import RowSegment
from metalm_cli.objectives import Objective
from metalm_cli.objectives.masked_lm import EncoderObjective
from metalm_cli.sessions import (
    DOCKED_ID,
    Batch,
    DockInput,
    Processor,
    Row,
    TextProcessor,
    TokenisedDocument,
    TokenisedSession,
    build_row,
)
from metalm_cli.sessions.processors import digest
from metalm_cli.training.planning.memory import (
    ADAM_MOMENTS,
    estimate_memory,
    first_words_of,
    human_bytes,
    out_of_memory,
    out_of_memory_error,
    rows_per_micro_batch,
)
from metalm_cli.training.trainer import trained_parts


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
    make_batch: Callable[[], Batch] | None = None,
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
        make_batch: Makes the micro-batch; default: :func:`probe_batch`.
        num_processes: Processes that share a batch.
        shards: Processes that the model will be sharded over. The probe runs it unsharded, so lack of memory is then
            a note and not an error.

    Raises:
        MetalmError: Memory runs out in the probe, or would with the optimiser's state.
    """
    device, original_device = torch.device(device), next(root.parameters()).device
    memory = estimate_memory(recipe, objective.assembly, getattr(root, "generator", None), num_processes, shards)
    seconds, peak_bytes, loss_is_finite = None, None, True
    if make_batch is None:
        assert isinstance(recipe, PretrainRecipe), "finetuning passes make_batch"
        make_batch = partial(probe_batch, objective, recipe, rows_per_micro_batch(recipe, num_processes))
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
    counts = batch.totals = objective.counts(batch)
    with torch.autocast(device, torch.bfloat16, enabled=is_bf16):
        terms = root(batch)
    loss = sum(term.sum * (term.coefficient / max(1, counts[name])) for name, term in terms.items())
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


# -- the worst case ---------------------------------------------------------------------------------------------------


def probe_batch(objective: Objective, recipe: PretrainRecipe, rows: int) -> Batch:
    """Make a deterministic batch of full rows of random tokens, with as many longest docks as fit, or masks.

    Args:
        objective: The objective.
        recipe: The recipe.
        rows: Rows of the batch.
    """
    rng = np.random.default_rng(0)
    length = recipe.data.sequence_length
    if isinstance(objective, EncoderObjective):
        row_list = [_masked_row(objective, recipe, rng, number) for number in range(rows)]
    else:
        row_list = [_docked_row(objective, recipe, rng) for _ in range(rows)]
    return objective.collate(row_list, length)


def _masked_row(objective: EncoderObjective, recipe: PretrainRecipe, rng: np.random.Generator, number: int) -> Row:
    writer = objective.writer(recipe.data, 0)
    ids = rng.integers(0, len(objective.processor.tokenizer), size=writer.length)
    ends = np.arange(1, writer.length + 1)
    document = TokenisedDocument("", ids, ends - 1, ends)
    segments: list[RowSegment] = []
    counts, length = Counter[str](), writer.length
    sizes = [length // 2, length - length // 2] if writer.isolate and writer.packs else [length]
    for size in sizes:
        segment = writer.take(document, 0, size, not segments)
        if segment is not None:
            segments.append(segment)
            counts.update(segment.counts)
    return writer.write(segments, counts, [number])


def _docked_row(objective: Any, recipe: PretrainRecipe, rng: np.random.Generator) -> Row:
    data, assembly = recipe.data, objective.assembly
    longest = _longest_span(recipe, objective.processor)
    is_packed = data.isolate_documents and assembly.model.traits.supports_packing
    length = data.sequence_length
    sizes = [length // 2, length - length // 2] if is_packed else [length]
    vocabulary = len(assembly.decoder_tokenizer.tokenizer)
    sessions = [_docked_session(size, longest, objective.processor, vocabulary, rng) for size in sizes]
    counts = {"source_tokens": length}
    return build_row(sessions, counts=counts)


def _longest_span(recipe: PretrainRecipe, processor: Processor | None) -> int:
    """Tokens of the longest span; 0 if nothing is docked."""
    options = recipe.objective
    if processor is None:
        return 0
    if isinstance(options, SemiCausal):
        return options.span_length[1]
    return options.prefix_length[1] if isinstance(options, PrefixLM) else 0


def _docked_session(
    size: int, longest: int, processor: Processor | None, vocabulary: int, rng: np.random.Generator
) -> TokenisedSession:
    """Make a session of docks with one trained token after each, then trained tokens up to the size."""
    ids = rng.integers(0, vocabulary, size=size)
    trained = np.ones(size, dtype=bool)
    docks, position = [], 0
    while longest and processor is not None:
        dock = _random_dock(processor, min(longest, size - position - 1), rng)
        if dock is None or position + dock.positions + 1 > size:
            break
        docks.append((position, dock))
        ids[position : position + dock.positions] = DOCKED_ID
        trained[position : position + dock.positions] = False
        position += dock.positions + 1
    return TokenisedSession(ids, trained, tuple(docks))


def _random_dock(processor: Processor, tokens: int, rng: np.random.Generator) -> DockInput | None:
    """Make a dock of random content, distinct from all others, because equal docks are encoded only once."""
    if isinstance(processor, TextProcessor):
        template = processor.prepare("a")
        ids, docked_length = (
            template.arrays["input_ids"],
            0 if processor.keep_special else len(template.output_positions),
        )
        content_start = (
            int(template.output_positions[0]) if docked_length else int(np.argmax(~_is_special(processor, ids)))
        )
        num_special = len(ids) - 1 if not docked_length else len(ids) - docked_length
        content_length = min(tokens - (num_special if not docked_length else 0), processor.max_length - num_special)
        if content_length < 1:
            return None
        content_ids = rng.integers(0, len(processor.tokenizer), size=content_length)
        input_ids = np.concatenate([ids[:content_start], content_ids, ids[len(ids) - num_special + content_start :]])
        docked = np.arange(len(input_ids)) if processor.keep_special else content_start + np.arange(content_length)
        arrays = {"input_ids": input_ids}
        return DockInput(processor.encoder, arrays, docked, digest("probe", input_ids), {"text": len(input_ids)})
    template = processor.dummy()
    noise = {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in template.arrays.items()}
    return DockInput(
        template.encoder, noise, template.output_positions, digest("probe", *noise.values()), template.cost
    )


def _is_special(processor: TextProcessor, ids: np.ndarray) -> np.ndarray:
    return np.isin(ids, processor.tokenizer.all_special_ids)
