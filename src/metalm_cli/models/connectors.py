"""Connectors: map an encoder's outputs to the decoder's input vectors (section 2 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Connector(nn.Sequential):
    """Linear projection, or feed-forward network with GELU between its layers.

    Args:
        kind: ``linear`` or ``mlp``.
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings, also used for the inner layers of an mlp.
        layers: Number of layers of an mlp; ignored for ``linear``.

    Shape:
        ``[..., width]`` to ``[..., target]``.
    """

    def __init__(self, kind: str, width: int, target: int, layers: int = 3) -> None:
        layer_count = 1 if kind == "linear" else layers
        modules: list[nn.Module] = []
        for index in range(layer_count):
            if index:
                modules.append(nn.GELU())
            modules.append(nn.Linear(width if index == 0 else target, target))
        super().__init__(*modules)
        self.reset()

    def reset(self) -> None:
        """Initialise the weights: variance-preserving matrices, zero biases."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def rescale(self, outputs: Tensor, scale: float) -> None:
        """Scale the last layer so that these encoder outputs give a root mean square of ``scale``.

        Args:
            outputs: Encoder outputs. ``[t, width]``
            scale: Root mean square of the decoder's token embeddings.
        """
        current = root_mean_square(self(outputs))
        last_layer = [layer for layer in self if isinstance(layer, nn.Linear)][-1]
        if current > 0:
            last_layer.weight.mul_(scale / current)


def root_mean_square(values: Tensor) -> float:
    return float(values.float().square().mean().sqrt())
