"""Model FLOPs of a training step, independent of the implementation.

Counted in the forward pass: matrix products of layers, connectors and output head (2 FLOPs per weight and position),
and attention scores and values (half of them with causal attention). Backward: the same again for the gradient of the
inputs, if a part below is trained, and for the gradient of the trained weights. Not counted: embeddings, norms and
recomputation of activations. Padding of encoder inputs is counted.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from metalm_cli.models.compressing_connectors import connector_flops
from metalm_cli.models.encoders import patches_of
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import attention_flops, matrix_weights, transformer_layers
from metalm_cli.sessions import Batch
from metalm_cli.sessions.compression import Grid


def stack_flops(
    module: nn.Module, width: int, positions: int, length: int, *, causal: bool, input_needs_gradient: bool
) -> float:
    """Forward and backward FLOPs of a stack of layers.

    Args:
        module: The stack.
        width: Hidden width.
        positions: Number of input positions.
        length: Positions of one row, over which attention runs.
        causal: Count only half of the attention.
        input_needs_gradient: A trained part precedes the stack.
    """
    total, needs_gradient = 0.0, input_needs_gradient
    attention = attention_flops(length, width, causal=causal)
    for layer in transformer_layers(module):
        weights, trained = matrix_weights(layer), matrix_weights(layer, trained_only=True)
        layer_is_trained = any(parameter.requires_grad for parameter in layer.parameters())
        total += positions * (2.0 * weights + attention)
        if needs_gradient or layer_is_trained:
            total += positions * attention * 2
            total += positions * 2.0 * (weights * int(needs_gradient) + trained)
        needs_gradient = needs_gradient or layer_is_trained
    return total


def batch_flops(model: MetaLM, batch: Batch) -> float:
    """Model FLOPs of one training step on a batch.

    Args:
        model: The model; ``requires_grad`` of its parameters decides what is trained.
        batch: The rows, padding included.
    """
    stream = batch.decoder
    batch_size, row_length = stream.input_ids.shape
    total, input_needs_gradient = 0.0, is_trained(model.decoder.get_input_embeddings())
    for name, docks in batch.docks.items():
        encoder, connector = model.encoders[name], model.connectors[name]
        width = model.encoder_ios[name].width(encoder.config)
        num_inputs, length = _shape(docks.inputs, patches_of(model.encoder_ios[name], encoder.config))
        encoder_is_trained = is_trained(encoder)
        total += stack_flops(encoder, width, num_inputs * length, length, causal=False, input_needs_gradient=False)
        vectors = len(docks.rows) if docks.groups is None else len(docks.groups.rows)
        forward = connector_flops(connector, len(docks.rows), vectors)
        total += forward * (1 + int(encoder_is_trained) + int(is_trained(connector)))
        input_needs_gradient = input_needs_gradient or encoder_is_trained or is_trained(connector)
    config: Any = model.decoder.config
    total += stack_flops(
        model.decoder,
        config.hidden_size,
        batch_size * row_length,
        row_length,
        causal=True,
        input_needs_gradient=input_needs_gradient,
    )
    head = model.decoder.get_output_embeddings().weight
    # The head runs only on trained positions; the decoder below needs the gradient of its input.
    return total + 2.0 * head.numel() * len(stream.targets) * (2 + int(head.requires_grad))


def _shape(inputs: dict[str, Any], grid: Grid | None) -> tuple[int, int]:
    """Return the number of contents, and the positions of each: tokens and patches."""
    tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return len(next(iter(inputs.values()))), tokens + (0 if grid is None else grid[0] * grid[1])


def is_trained(module: nn.Module) -> bool:
    """Whether any parameter of a module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())
