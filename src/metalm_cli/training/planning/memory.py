"""An estimate of the memory that one process needs for a training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.loss import chunk_elements
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import transformer_layers
from metalm_cli.sessions import ImageProcessor

MOMENTS = 2
"""Tensors that AdamW keeps for every trained one."""
WIDTHS, INNER = 16, 4
"""A layer keeps about 16 h + 4 f numbers a position for its backward pass; h: width, f: feed-forward width. Measured:
0.8 of it (Llama), 0.95 (ELECTRA), 1.3 (GPT-2, whose GELU is written out)."""
NUMBER = {"fp32": 4, "bf16": 3}
"""Bytes of one: under autocast norms and residuals stay in fp32."""
FORMULA = "layers x rows x length x (16 width + 4 feed-forward) x bytes, mask and head chunk"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process.

    Args:
        weights: Parameters and buffers. Exact.
        gradients: Of what trains. Exact.
        optimizer: The optimiser's state. Exact.
        activations: What the backward pass needs, for rows that are full, docks at every position. An estimate.
        shards: Processes that weights, gradients and optimizer are sharded over; this is one's share of them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    shards: int = 1

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        named = [f"{name} {human_bytes(size)}" for name, size in vars(self).items() if name != "shards"]
        sharded = f", sharded over {self.shards} processes" if self.shards > 1 else ""
        return f"{human_bytes(self.total)} ({', '.join(named)}{sharded})"


def human_bytes(size: float) -> str:
    """A size that people read.

    >>> human_bytes(1536), human_bytes(3 * 2**30)
    ('1.5 KiB', '3.0 GiB')
    """
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    at = 0
    while size >= 1024 and at < len(units) - 1:
        size, at = size / 1024, at + 1
    return f"{size:.0f} {units[at]}" if at == 0 else f"{size:.1f} {units[at]}"


def estimate_memory(
    recipe: Recipe, assembly: Assembly, generator: Any = None, world: int = 1, shards: int = 1
) -> MemoryEstimate:
    """Memory of a training step.

    Args:
        recipe: The recipe.
        assembly: The model.
        generator: Of replaced token detection.
        world: Processes that share a batch.
        shards: Processes that the model is sharded over.
    """
    modules = [assembly.model, *([generator] if generator is not None else [])]
    parameters = list({id(one): one for module in modules for one in module.parameters()}.values())
    buffers = {id(one): one for module in modules for one in module.buffers()}
    trained = sum(one.numel() * one.element_size() for one in parameters if one.requires_grad)
    weights = sum(one.numel() * one.element_size() for one in [*parameters, *buffers.values()])
    activations = _activations(recipe, assembly, modules, rows_per_micro_batch(recipe, world), parameters)
    return MemoryEstimate(weights // shards, trained // shards, MOMENTS * trained // shards, activations, shards)


def rows_per_micro_batch(recipe: Recipe, world: int) -> int:
    """Rows of one forward pass in one process, at most."""
    own = -(-recipe.train.batch_size // world)
    return min(recipe.train.micro_batch_size or own, own)


def _activations(
    recipe: Recipe, assembly: Assembly, modules: list[nn.Module], rows: int, parameters: list[nn.Parameter]
) -> int:
    length, half = recipe.data.sequence_length, recipe.train.precision == "bf16"
    width = NUMBER[recipe.train.precision]
    positions = rows * length
    total = 0.0
    for stack, kept, tokens in _stacks(assembly, modules, positions):
        hidden, inner, layers = _shape(stack)
        one = tokens * (WIDTHS * hidden + INNER * inner) * width
        if recipe.train.checkpoint_activations:
            total += tokens * hidden * 4 * kept + one
        else:
            total += one * kept + (one / max(1, layers) if not kept else 0)
    if recipe.data.isolate_documents:
        total += rows * length * length * (4 + 1)  # the mask, and the booleans that it is made of
    if half:
        total += sum(2 * one.numel() for one in parameters if one.dim() >= 2)  # autocast's copies
    return round(total + _head(assembly, modules, positions))


def _stacks(assembly: Assembly, modules: list[nn.Module], positions: int) -> Iterator[tuple[Any, int, int]]:
    """(model, layers whose activations are kept, positions) of every stack."""
    model = assembly.model
    if not isinstance(model, MetaLM):
        for module in modules:
            yield module, len(transformer_layers(module)), positions
        return
    above = any(_trains(part) for part in (*model.encoders.values(), *model.connectors.values()))
    yield model.decoder, len(transformer_layers(model.decoder)) if above else _from_the_lowest(model.decoder), positions
    for name, encoder in model.encoders.items():
        # Documents dock text; an image encoder gets none of their positions.
        tokens = 0 if isinstance(assembly.processors[name], ImageProcessor) else positions
        yield encoder, _from_the_lowest(encoder), tokens


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _from_the_lowest(model: nn.Module) -> int:
    """Layers from the lowest that trains up: the backward pass goes no deeper."""
    layers = transformer_layers(model)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    if any(one.requires_grad and id(one) not in inside for one in model.parameters()):
        return len(layers)
    lowest = next((at for at, layer in enumerate(layers) if _trains(layer)), len(layers))
    return len(layers) - lowest


def _shape(model: Any) -> tuple[int, int, int]:
    """Width, feed-forward width and layers of a stack."""
    config = model.config
    hidden = _first(config, ("hidden_size", "n_embd", "d_model", "dim"), 0)
    inner = _first(config, ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim"), 4 * hidden)
    return hidden, inner, len(transformer_layers(model))


def _first(config: Any, names: tuple[str, ...], default: int) -> int:
    values = (getattr(config, name, None) for name in names)
    return next((int(value) for value in values if value), default)


def _head(assembly: Assembly, modules: list[nn.Module], positions: int) -> float:
    """Logits and their gradients, a chunk at a time where the head is known; the head's gradient before it is added."""
    model = assembly.model
    table: Any = model.get_input_embeddings()
    rows, hidden = table.weight.shape
    traits = model.traits if isinstance(model, MetaLM) else None
    if traits is not None and not traits.own_head:
        return 3.0 * 4 * positions * rows
    trains = any(one.requires_grad for module in modules for one in module.parameters())
    return 3.0 * 4 * chunk_elements(torch.cuda.is_available()) + (4.0 * rows * hidden if trains else 0.0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: the device's, or the host's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text)


def first_words_of(error: BaseException) -> str:
    """What an exception says first, for a message of one line."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "memory ran out"


def out_of_memory_error(
    recipe: Recipe,
    full: str,
    memory: MemoryEstimate,
    world: int,
    *,
    what: str = "one micro-batch of full rows does not fit into memory",
    exit_code: Exit = Exit.USAGE,
) -> MetalmError:
    """The message for memory that runs out, with the keys to turn.

    Args:
        recipe: The recipe.
        full: What the device or the host said.
        memory: The estimate.
        world: Processes that share a batch.
        what: What went wrong.
        exit_code: Before work began, or while it ran.
    """
    train, rows = recipe.train, rows_per_micro_batch(recipe, world)
    turn = []
    if rows > 1:
        turn.append(f"train.micro_batch_size={max(1, rows // 2)} (now {train.micro_batch_size or rows})")
    else:
        turn.append("train.micro_batch_size (now 1: it cannot go lower)")
    turn.append(f"data.sequence_length (now {recipe.data.sequence_length})")
    for key, value, other in (
        ("checkpoint_activations", train.checkpoint_activations, True),
        ("precision", train.precision, "bf16"),
    ):
        shown = str(value).lower()
        turn.append(
            f"train.{key} (now {shown})" if value == other else f"train.{key}={str(other).lower()} (now {shown})"
        )
    return MetalmError(
        what,
        where=f"train.micro_batch_size: {rows} rows of data.sequence_length: {recipe.data.sequence_length}",
        why=f"{full}; estimated need: {memory}",
        remedy="turn one of these: " + ", ".join(turn),
        exit_code=exit_code,
    )
