"""Model FLOPs: the arithmetic that a training step needs, whatever way it is computed.

Counted: matrix products of layers, connectors and output head, 2 per weight and position forward, and attention scores
and values, of which causal attention needs half. Backward: as much again for the gradient of what is read, where
something that trains lies below, and as much for the gradient of the weights that train. Not counted: embeddings,
norms, recomputation of activations, padding of encoders' inputs counts as read.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import transformer_layers
from metalm_cli.sessions import Batch


def matrix_weights(module: nn.Module, *, trained: bool = False) -> int:
    """Weights of a module that take part in matrix products with every position; those alone that train."""
    tables = {id(one.weight) for one in module.modules() if isinstance(one, nn.Embedding)}
    return sum(
        one.numel()
        for one in module.parameters()
        if one.dim() >= 2 and id(one) not in tables and (one.requires_grad or not trained)
    )


def stack_flops(module: nn.Module, width: int, positions: int, length: int, *, causal: bool, below: bool) -> float:
    """Forward and backward FLOPs of a stack of layers.

    Args:
        module: The stack.
        width: Its hidden width.
        positions: Positions that it reads.
        length: Positions of one row, which attention spans.
        causal: Half of the attention is needed.
        below: Something that trains lies below the stack's input.
    """
    total, lower = 0.0, below
    for layer in transformer_layers(module):
        weights, trained = matrix_weights(layer), matrix_weights(layer, trained=True)
        attention = 4.0 * length * width * (0.5 if causal else 1.0)
        forward = positions * (2.0 * weights + attention)
        trains = any(one.requires_grad for one in layer.parameters())
        total += forward
        if lower or trains:
            total += positions * attention * 2
            total += positions * 2.0 * (weights * int(lower) + trained)
        lower = lower or trains
    return total


def batch_flops(model: MetaLM, batch: Batch) -> float:
    """Model FLOPs of one training step on a batch.

    Args:
        model: What trains is read off its parameters.
        batch: Rows as they are computed, padding included.
    """
    stream = batch.decoder
    b, s = stream.input_ids.shape
    total, below = 0.0, trains(model.decoder.get_input_embeddings())
    for name, table in batch.docks.items():
        encoder, connector = model.encoders[name], model.connectors[name]
        width = model.adapters[name].width(encoder.config)
        u, length = _shape(table.inputs, encoder)
        flows = trains(encoder)
        total += stack_flops(encoder, width, u * length, length, causal=False, below=False)
        total += 2.0 * matrix_weights(connector) * len(table.rows) * (1 + int(flows) + int(trains(connector)))
        below = below or flows or trains(connector)
    config: Any = model.decoder.config
    total += stack_flops(model.decoder, config.hidden_size, b * s, s, causal=True, below=below)
    head = model.decoder.get_output_embeddings().weight
    # The head reads trained positions alone; everything below it needs its gradient.
    return total + 2.0 * head.numel() * len(stream.targets) * (2 + int(head.requires_grad))


def _shape(inputs: dict[str, Any], encoder: Any) -> tuple[int, int]:
    if "input_ids" in inputs:
        u, length = inputs["input_ids"].shape
        return u, length
    size, patch = encoder.config.image_size, encoder.config.patch_size
    side = size if isinstance(size, int) else size[0]
    return inputs["pixel_values"].shape[0], (side // (patch if isinstance(patch, int) else patch[0])) ** 2


def trains(module: nn.Module) -> bool:
    """Whether any parameter of a module trains."""
    return any(one.requires_grad for one in module.parameters())
