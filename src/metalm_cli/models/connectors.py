"""Connectors: from an encoder's outputs to the decoder's input vectors (section 2 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Connector(nn.Sequential):
    """A linear projection, or a feed-forward network with GELU between its layers.

    Args:
        kind: ``linear`` or ``mlp``.
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings, which is also that of an mlp's inner layers.
        layers: Layers of an mlp; ignored for ``linear``.

    Shape:
        ``[..., width]`` to ``[..., target]``.
    """

    def __init__(self, kind: str, width: int, target: int, layers: int = 3) -> None:
        count = 1 if kind == "linear" else layers
        parts: list[nn.Module] = []
        for index in range(count):
            if index:
                parts.append(nn.GELU())
            parts.append(nn.Linear(width if index == 0 else target, target))
        super().__init__(*parts)
        self.reset()

    def reset(self) -> None:
        """Fresh weights: variance-preserving matrices, biases 0."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def rescale(self, outputs: Tensor, scale: float) -> None:
        """Give the connector's outputs a root mean square of ``scale`` on encoder outputs like these.

        Args:
            outputs: Encoder outputs. ``[t, width]``
            scale: Root mean square of the decoder's token embeddings.
        """
        found = root_mean_square(self(outputs))
        last = [layer for layer in self if isinstance(layer, nn.Linear)][-1]
        if found > 0:
            last.weight.mul_(scale / found)


def root_mean_square(values: Tensor) -> float:
    return float(values.float().square().mean().sqrt())
