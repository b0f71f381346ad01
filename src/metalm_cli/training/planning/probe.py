"""The probe: one worst-case micro-batch, forward and backward, before a run begins; it changes nothing."""

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
from metalm_cli.data.sampling.lanes import RowSegment
from metalm_cli.objectives import Objective
from metalm_cli.objectives.masked_lm import EncoderObjective
from metalm_cli.sessions import (
    DOCKED,
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
    MOMENTS,
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
    """What one worst-case micro-batch took.

    Args:
        seconds: Forward and backward; None where it did not fit, and may fit once it is sharded.
        peak_bytes: Most memory of the device at once, the optimiser's state not among it; None on a CPU.
        notes: What a user should know.
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
    world: int = 1,
    shards: int = 1,
) -> ProbeResult:
    """Run a micro-batch of the longest rows forward and backward, and put everything back.

    Parameters, buffers, gradients, modes and the state of every random generator are afterwards what they were.

    Args:
        objective: What is trained.
        root: Its step module, not wrapped. It is moved to the device, where the run needs it; if it will be sharded
            it goes back to where it was.
        recipe: The recipe.
        device: Where the run trains.
        make_batch: Gives the micro-batch; default :func:`probe_batch`.
        world: Processes that share a batch.
        shards: Processes that the model will be sharded over. The probe holds it whole, so that what does not fit is
            then a note and no error.

    Raises:
        MetalmError: Memory runs out, here or as soon as the optimiser has its state.
    """
    device, home = torch.device(device), next(root.parameters()).device
    memory = estimate_memory(recipe, objective.assembly, getattr(root, "generator", None), world, shards)
    seconds, peak, finite = None, None, True
    if make_batch is None:
        assert isinstance(recipe, PretrainRecipe), "finetuning gives its own batch"
        make_batch = partial(probe_batch, objective, recipe, rows_per_micro_batch(recipe, world))
    try:
        seconds, peak, finite = _measured(objective, root, recipe, device, make_batch)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        full: str | None = first_words_of(error)
    else:
        full = _too_tight(objective, root, peak, device, shards)
    finally:
        if shards > 1:
            root.to(home)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    notes = [] if finite else ["the loss of the probe's random tokens is not finite"]
    if full is not None and shards == 1:
        raise out_of_memory_error(recipe, full, memory, world)
    if full is not None:
        notes.append(
            f"unsharded, a micro-batch of full rows does not fit into memory: {full}; whether it fits sharded over "
            f"{shards} processes will show (estimated need: {memory})"
        )
    return ProbeResult(seconds, peak, tuple(notes))


def _measured(
    objective: Objective,
    root: nn.Module,
    recipe: Recipe,
    device: torch.device,
    make_batch: Callable[[], Batch],
) -> tuple[float, int | None, bool]:
    """Seconds, peak bytes of a CUDA device, and whether the loss is finite."""
    cuda = device.type == "cuda"
    root.to(device)
    with _unchanged(root, device):
        batch = make_batch().to(device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        start = time.monotonic()
        finite = _forward_and_backward(objective, root, batch, recipe.train.precision == "bf16")
        if cuda:
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - start
        return seconds, torch.cuda.max_memory_allocated(device) if cuda else None, finite


def _forward_and_backward(objective: Objective, root: nn.Module, batch: Batch, half: bool) -> bool:
    """Whether the loss is finite."""
    device = next(root.parameters()).device.type
    counts = batch.totals = objective.counts(batch)
    with torch.autocast(device, torch.bfloat16, enabled=half):
        terms = root(batch)
    loss = sum(term.sum * (term.coefficient / max(1, counts[name])) for name, term in terms.items())
    loss.backward()
    return bool(torch.isfinite(loss.detach()))


def _too_tight(
    objective: Objective, root: nn.Module, peak: int | None, device: torch.device, shards: int = 1
) -> str | None:
    """Why the next step would not fit, once the optimiser has its state; None if it would."""
    if peak is None:
        return None
    parts, _ = trained_parts(objective, root)
    trained = {id(one): one for part in parts.values() for one in part.parameters() if one.requires_grad}
    state = MOMENTS * sum(one.numel() * one.element_size() for one in trained.values()) // shards
    has = torch.cuda.get_device_properties(device).total_memory
    if peak + state <= has:
        return None
    need = f"{human_bytes(peak)} for a step and {human_bytes(state)} for the optimizer's state"
    return f"{need}; the device has {human_bytes(has)}"


# -- nothing changes --------------------------------------------------------------------------------------------------


@contextmanager
def _unchanged(root: nn.Module, device: torch.device) -> Iterator[None]:
    """Training mode inside; modes, buffers, gradients and random states as before, outside."""
    modes = [(module, module.training) for module in root.modules()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in root.modules()
        for name, buffer in module._buffers.items()
    ]
    gradients = [(parameter, parameter.grad) for parameter in root.parameters()]
    states = random.getstate(), np.random.get_state()
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
            random.setstate(states[0])
            np.random.set_state(states[1])


# -- the worst case ---------------------------------------------------------------------------------------------------


def probe_batch(objective: Objective, recipe: PretrainRecipe, rows: int) -> Batch:
    """Full rows of random tokens, the same every time: as many of the longest docks as fit, or masked.

    Args:
        objective: What is trained.
        recipe: The recipe.
        rows: Rows of the batch.
    """
    rng = np.random.default_rng(0)
    length = recipe.data.sequence_length
    if isinstance(objective, EncoderObjective):
        made = [_masked_row(objective, recipe, rng, number) for number in range(rows)]
    else:
        made = [_docked_row(objective, recipe, rng) for _ in range(rows)]
    return objective.collate(made, length)


def _masked_row(objective: EncoderObjective, recipe: PretrainRecipe, rng: np.random.Generator, number: int) -> Row:
    writer = objective.writer(recipe.data, 0)
    ids = rng.integers(0, len(objective.processor.tokenizer), size=writer.length)
    ends = np.arange(1, writer.length + 1)
    document = TokenisedDocument("", ids, ends - 1, ends)
    pieces: list[RowSegment] = []
    counts, room = Counter[str](), writer.length
    sizes = [room // 2, room - room // 2] if writer.isolate and writer.packs else [room]
    for size in sizes:
        piece = writer.take(document, 0, size, not pieces)
        if piece is not None:
            pieces.append(piece)
            counts.update(piece.counts)
    return writer.write(pieces, counts, [number])


def _docked_row(objective: Any, recipe: PretrainRecipe, rng: np.random.Generator) -> Row:
    data, assembly = recipe.data, objective.assembly
    longest = _longest_span(recipe, objective.processor)
    packed = data.isolate_documents and assembly.model.traits.packs
    room = data.sequence_length
    sizes = [room // 2, room - room // 2] if packed else [room]
    vocabulary = len(assembly.decoder_tokenizer.tokenizer)
    sessions = [_session(size, longest, objective.processor, vocabulary, rng) for size in sizes]
    counts = {"source_tokens": room}
    return build_row(sessions, counts=counts)


def _longest_span(recipe: PretrainRecipe, processor: Processor | None) -> int:
    """Tokens of the longest span; 0 where nothing is docked."""
    options = recipe.objective
    if processor is None:
        return 0
    if isinstance(options, SemiCausal):
        return options.span_length[1]
    return options.prefix_length[1] if isinstance(options, PrefixLM) else 0


def _session(
    size: int, longest: int, processor: Processor | None, vocabulary: int, rng: np.random.Generator
) -> TokenisedSession:
    """Docks with one trained token after each, then trained tokens up to the size."""
    ids = rng.integers(0, vocabulary, size=size)
    trained = np.ones(size, dtype=bool)
    docks, at = [], 0
    while longest and processor is not None:
        dock = _dock(processor, min(longest, size - at - 1), rng)
        if dock is None or at + dock.positions + 1 > size:
            break
        docks.append((at, dock))
        ids[at : at + dock.positions] = DOCKED
        trained[at : at + dock.positions] = False
        at += dock.positions + 1
    return TokenisedSession(ids, trained, tuple(docks))


def _dock(processor: Processor, tokens: int, rng: np.random.Generator) -> DockInput | None:
    """A dock of random content, unlike any other: equal ones would be encoded once."""
    if isinstance(processor, TextProcessor):
        one = processor.prepare("a")
        ids, around = one.arrays["input_ids"], 0 if processor.keep_special else len(one.docked)
        first = int(one.docked[0]) if around else int(np.argmax(~_special(processor, ids)))
        extra = len(ids) - 1 if not around else len(ids) - around
        content = min(tokens - (extra if not around else 0), processor.max_length - extra)
        if content < 1:
            return None
        middle = rng.integers(0, len(processor.tokenizer), size=content)
        made = np.concatenate([ids[:first], middle, ids[len(ids) - extra + first :]])
        docked = np.arange(len(made)) if processor.keep_special else first + np.arange(content)
        arrays = {"input_ids": made}
        return DockInput(processor.encoder, arrays, docked, digest("probe", made), {"text": len(made)})
    one = processor.dummy()
    noise = {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in one.arrays.items()}
    return DockInput(one.encoder, noise, one.docked, digest("probe", *noise.values()), one.cost)


def _special(processor: TextProcessor, ids: np.ndarray) -> np.ndarray:
    return np.isin(ids, processor.tokenizer.all_special_ids)
