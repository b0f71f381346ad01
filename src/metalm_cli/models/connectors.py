"""Connectors: map an encoder's outputs to the decoder's input vectors (section 2 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError


def make_connector(record: Mapping[str, Any], width: int, target: int) -> nn.Module:
    """Make the connector that a model's config records.

    Args:
        record: ``kind``, a registered connector, and its settings as further keys.
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings.

    Returns:
        A module that maps ``[..., width]`` to ``[..., target]``.

    Raises:
        MetalmError: The kind is unknown, or a plug-in's connector cannot be imported or refuses its settings.
    """
    kind = str(record["kind"])
    factory = registry.connectors.load(kind, where="connectors (config.json of the model)")
    settings = {key: value for key, value in record.items() if key != "kind"}
    entry = registry.connectors.entry(kind)
    if entry.origin == registry.BUILT_IN:
        return factory(width, target, **settings)
    try:
        schema = registry.connectors.load_settings(kind)
        return factory(width, target, **(schema.model_validate(settings).model_dump() if schema else settings))
    except MetalmError:
        raise
    except Exception as error:
        raise MetalmError(
            f"the connector {kind} of {entry.origin} cannot be made",
            where=f"model.connector.{kind}",
            why=f"{type(error).__name__}: {error}",
            remedy="correct its settings, or use the version of the plug-in that the model was made with",
        ) from error


def check_connector(kind: str, vectors: Any, shape: tuple[int, int]) -> None:
    """Check what a plug-in's connector computes; those of metalm are correct by construction.

    Args:
        kind: The registered connector.
        vectors: Its outputs.
        shape: Number of encoder outputs, and width of the decoder's token embeddings.

    Raises:
        MetalmError: The outputs are not finite values of this shape.
    """
    origin = registry.connectors.entry(kind).origin
    if origin == registry.BUILT_IN:
        return
    if not isinstance(vectors, Tensor) or vectors.shape != shape or not vectors.isfinite().all():
        got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise MetalmError(
            f"the connector {kind} does not give one finite vector for each encoder output",
            where="model.connector.kind",
            why=f"got {got}, expected finite values of shape {shape}",
            remedy=f"correct the plug-in, {origin}",
        )


def linear_connector(width: int, target: int, **_settings: Any) -> Connector:
    """Make a single projection."""
    return Connector(width, target, 1)


def mlp_connector(width: int, target: int, layers: int = 3) -> Connector:
    """Make a feed-forward network with GELU between its layers."""
    return Connector(width, target, layers)


class Connector(nn.Sequential):
    """Linear projection, or feed-forward network with GELU between its layers.

    Args:
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings, also used for the inner layers.
        layers: Number of layers.

    Shape:
        ``[..., width]`` to ``[..., target]``.
    """

    def __init__(self, width: int, target: int, layers: int) -> None:
        modules: list[nn.Module] = []
        for index in range(layers):
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
