"""Estimate of the memory that one process needs for a training step, and the error when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.dual_encoder.dual_encoder import DualEncoder
from metalm_cli.models.families.seq2seq_model import Seq2SeqModel
from metalm_cli.models.loss import chunk_elements
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import transformer_layers
from metalm_cli.sessions import ImageProcessor, Processor
from metalm_cli.training.compute.frozen_weights import COMPUTE_DTYPE, frozen_weights

ADAM_MOMENTS = 2
"""State tensors of AdamW per trained tensor."""
WIDTH_FACTOR, FEED_FORWARD_FACTOR = 16, 4
"""A layer saves about 16 h + 4 f numbers per position for its backward pass (h: width, f: feed-forward width).
Measured: 0.8 of that (Llama), 0.95 (ELECTRA), 1.3 (GPT-2, whose GELU is composed of several operations)."""
ACTIVATION_BYTES = {"fp32": 4, "bf16": 3}
"""Mean bytes per saved number: under autocast, norms and residuals stay in fp32."""
ACTIVATION_FORMULA = "layers x rows x length x (16 width + 4 feed-forward) x bytes, mask and head chunk"


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one process in bytes.

    Args:
        weights: Parameters and buffers; frozen weights in the dtype of :mod:`.compute.frozen_weights`. Exact.
        gradients: Gradients of the trained parameters. Exact.
        optimizer: State of the optimiser. Exact.
        activations: Saved activations for full rows with docks at every position. An estimate.
        shards: Processes that weights, gradients and optimizer are sharded over; the sizes are one process's share.
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
        parts = [f"{name} {human_bytes(size)}" for name, size in vars(self).items() if name != "shards"]
        sharded = f", sharded over {self.shards} processes" if self.shards > 1 else ""
        return f"{human_bytes(self.total)} ({', '.join(parts)}{sharded})"


def human_bytes(size: float) -> str:
    """Format a size with a binary unit.

    >>> human_bytes(1536), human_bytes(3 * 2**30)
    ('1.5 KiB', '3.0 GiB')
    """
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    index = 0
    while size >= 1024 and index < len(units) - 1:
        size, index = size / 1024, index + 1
    return f"{size:.0f} {units[index]}" if index == 0 else f"{size:.1f} {units[index]}"


def estimate_memory(
    recipe: Recipe,
    assembly: Assembly,
    extra_parts: Mapping[str, nn.Module] | None = None,
    num_processes: int = 1,
    shards: int = 1,
) -> MemoryEstimate:
    """Estimate the memory of a training step.

    Args:
        recipe: The recipe.
        assembly: The model.
        extra_parts: Modules that the objective trains besides the model.
        num_processes: Processes that share a batch.
        shards: Processes that the model is sharded over.
    """
    modules = [assembly.model, *(extra_parts or {}).values()]
    parameters = list({id(parameter): parameter for module in modules for parameter in module.parameters()}.values())
    buffers = {id(buffer): buffer for module in modules for buffer in module.buffers()}
    trained_bytes = sum(
        parameter.numel() * parameter.element_size() for parameter in parameters if parameter.requires_grad
    )
    held = {id(parameter): parameter for parameter in frozen_weights(recipe, assembly.parts(), shards)}
    weight_bytes = sum(
        tensor.numel() * (COMPUTE_DTYPE.itemsize if id(tensor) in held else tensor.element_size())
        for tensor in [*parameters, *buffers.values()]
    )
    cast = [weight for weight in parameters if id(weight) not in held and weight.dtype != COMPUTE_DTYPE]
    activations = _activations(recipe, assembly, modules, rows_per_micro_batch(recipe, num_processes), cast)
    return MemoryEstimate(
        weight_bytes // shards, trained_bytes // shards, ADAM_MOMENTS * trained_bytes // shards, activations, shards
    )


def rows_per_micro_batch(recipe: Recipe, num_processes: int) -> int:
    """Maximum rows of one forward pass in one process."""
    rows_per_process = -(-recipe.train.batch_size // num_processes)
    return min(recipe.train.micro_batch_size or rows_per_process, rows_per_process)


def _activations(
    recipe: Recipe, assembly: Assembly, modules: list[nn.Module], rows: int, cast: list[nn.Parameter]
) -> int:
    length, is_bf16 = recipe.data.sequence_length, recipe.train.precision == "bf16"
    number_bytes = ACTIVATION_BYTES[recipe.train.precision]
    positions = rows * length
    total = 0.0
    for stack, saved_layers, tokens in _stacks(assembly, modules, rows, length):
        hidden, inner, layers = _shape(stack)
        layer_bytes = tokens * (WIDTH_FACTOR * hidden + FEED_FORWARD_FACTOR * inner) * number_bytes
        if recipe.train.checkpoint_activations:
            total += tokens * hidden * 4 * saved_layers + layer_bytes
        else:
            total += layer_bytes * saved_layers + (layer_bytes / max(1, layers) if not saved_layers else 0)
    if recipe.data.isolate_documents and not isinstance(assembly.model, DualEncoder):
        total += rows * length * length * (4 + 1)  # the mask, and the booleans that it is computed from
    if is_bf16:
        total += sum(2 * parameter.numel() for parameter in cast if parameter.dim() >= 2)  # autocast's copies
    total += teacher_bytes(recipe, assembly, positions)
    return round(total + _head(assembly, modules, positions))


def teacher_bytes(recipe: Recipe, assembly: Assembly, positions: int) -> float:
    """Memory of a teacher's pass without gradient: a layer of one slice, and its states at the trained tokens.

    Args:
        recipe: The recipe.
        assembly: The model.
        positions: Decoder positions of a forward pass.
    """
    model = assembly.model
    if recipe.train.distill is None or not isinstance(model, MetaLM):
        return 0.0
    hidden, inner, _ = _shape(model.decoder)
    slice_positions = model.pass_positions(model.device) or positions
    layer = slice_positions * (WIDTH_FACTOR * hidden + FEED_FORWARD_FACTOR * inner)
    return float(ACTIVATION_BYTES[recipe.train.precision] * layer + 4 * positions * hidden)


def _stacks(assembly: Assembly, modules: list[nn.Module], rows: int, length: int) -> Iterator[tuple[Any, int, int]]:
    """(model, number of layers whose activations are saved, positions) of every stack."""
    model, positions = assembly.model, rows * length
    if isinstance(model, Seq2SeqModel):
        for stack in (model.seq2seq.get_encoder(), model.seq2seq.get_decoder()):
            yield stack, len(transformer_layers(stack)), positions
        return
    if isinstance(model, DualEncoder):
        for name, encoder in model.encoders.items():
            yield (
                encoder,
                _layers_above_lowest_trained(encoder),
                rows * _longest_input(assembly.processors[name], length),
            )
        return
    if not isinstance(model, MetaLM):
        for module in modules:
            yield module, len(transformer_layers(module)), positions
        return
    encoders_trained = any(_is_trained(part) for part in (*model.encoders.values(), *model.connectors.values()))
    yield (
        model.decoder,
        len(transformer_layers(model.decoder)) if encoders_trained else _layers_above_lowest_trained(model.decoder),
        positions,
    )
    for name, encoder in model.encoders.items():
        # Documents contain no images, so an image encoder gets no positions.
        processor = assembly.processors[name]
        tokens = 0 if isinstance(processor, ImageProcessor) else positions
        compression, longest = model.compressions[name], getattr(processor, "max_length", None)
        if compression is not None and longest is not None:
            tokens = tokens * longest // compression.positions(longest)
        yield encoder, _layers_above_lowest_trained(encoder), tokens


def _longest_input(processor: Processor, length: int) -> int:
    """Return the positions that an encoder reads of an image, or of the longest text."""
    if isinstance(processor, ImageProcessor):
        return len(processor.output_positions)
    return min(length, getattr(processor, "max_length", length))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _layers_above_lowest_trained(model: nn.Module) -> int:
    """Number of layers from the lowest trained layer up: the backward pass stops there."""
    layers = transformer_layers(model)
    layer_parameters = {id(parameter) for layer in layers for parameter in layer.parameters()}
    if any(parameter.requires_grad and id(parameter) not in layer_parameters for parameter in model.parameters()):
        return len(layers)
    lowest = next((index for index, layer in enumerate(layers) if _is_trained(layer)), len(layers))
    return len(layers) - lowest


def _shape(model: Any) -> tuple[int, int, int]:
    """Width, feed-forward width and number of layers of a stack."""
    config = model.config
    hidden = _first_attribute(config, ("hidden_size", "n_embd", "d_model", "dim"), 0)
    inner = _first_attribute(config, ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim"), 4 * hidden)
    return hidden, inner, len(transformer_layers(model))


def _first_attribute(config: Any, names: tuple[str, ...], default: int) -> int:
    values = (getattr(config, name, None) for name in names)
    return next((int(value) for value in values if value), default)


def _head(assembly: Assembly, modules: list[nn.Module], positions: int) -> float:
    """Bytes of the logits and their gradients (one chunk if the head is known), and of the head's new gradient."""
    model = assembly.model
    if isinstance(model, DualEncoder):
        return 0.0
    embeddings: Any = model.get_input_embeddings()
    vocabulary, hidden = embeddings.weight.shape
    traits = model.traits if isinstance(model, MetaLM | Seq2SeqModel) else None
    if traits is not None and not traits.has_known_head:
        return 3.0 * 4 * positions * vocabulary
    is_trained = any(parameter.requires_grad for module in modules for parameter in module.parameters())
    return 3.0 * 4 * chunk_elements(torch.cuda.is_available()) + (4.0 * vocabulary * hidden if is_trained else 0.0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the device or the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text)


def first_words_of(error: BaseException) -> str:
    """First line of an exception's message, truncated to 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "memory ran out"


def out_of_memory_error(
    recipe: Recipe,
    cause: str,
    memory: MemoryEstimate,
    num_processes: int,
    *,
    message: str = "one micro-batch of full rows does not fit into memory",
    exit_code: Exit = Exit.USAGE,
) -> MetalmError:
    """Make the error for lack of memory, with the keys that reduce it.

    Args:
        recipe: The recipe.
        cause: Message of the device or the host.
        memory: The estimate.
        num_processes: Processes that share a batch.
        message: Message of the error.
        exit_code: ``USAGE`` before training, ``FAILED`` during training.
    """
    train, rows = recipe.train, rows_per_micro_batch(recipe, num_processes)
    advice = []
    if rows > 1:
        advice.append(f"train.micro_batch_size={max(1, rows // 2)} (now {train.micro_batch_size or rows})")
    else:
        advice.append("train.micro_batch_size (now 1, the minimum)")
    advice.append(f"data.sequence_length (now {recipe.data.sequence_length})")
    for key, value, smaller_value in (
        ("checkpoint_activations", train.checkpoint_activations, True),
        ("precision", train.precision, "bf16"),
    ):
        value_text = str(value).lower()
        advice.append(
            f"train.{key} (now {value_text})"
            if value == smaller_value
            else f"train.{key}={str(smaller_value).lower()} (now {value_text})"
        )
    return MetalmError(
        message,
        where=f"train.micro_batch_size: {rows} rows of data.sequence_length: {recipe.data.sequence_length}",
        why=f"{cause}; estimated need: {memory}",
        remedy="change one of these: " + ", ".join(advice),
        exit_code=exit_code,
    )


@contextmanager
def explain_out_of_memory(
    recipe: Recipe, num_processes: int, describe: Callable[[], tuple[MemoryEstimate, str]]
) -> Iterator[None]:
    """Context manager that explains lack of memory while training, which the probe cannot fully predict.

    Args:
        recipe: The recipe.
        num_processes: Processes that share a batch.
        describe: Returns the estimate, and a hint how to continue.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        memory, hint = describe()
        message = f"memory ran out while training{hint}"
        raise out_of_memory_error(
            recipe, first_words_of(error), memory, num_processes, message=message, exit_code=Exit.FAILED
        ) from error
