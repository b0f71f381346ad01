"""Connectors: map an encoder's outputs to the decoder's input vectors (section 2 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import DockTable, Processor
from metalm_cli.sessions.compression import Compression, Grid, compression_of


def check_record(record: Mapping[str, Any], target: int, grid: Grid | None, where: str) -> Compression | None:
    """Check the settings of a connector of metalm, and return its compression.

    Args:
        record: ``kind`` and the settings, as a model's config records them.
        target: Width of the decoder's token embeddings.
        grid: Rows and columns of the encoder's patches; None for other encoders.
        where: Key of the connector, for messages.

    Returns:
        None for a connector that gives one vector for each output.

    Raises:
        MetalmError: The kind is unknown, or a setting is not valid.
    """
    compression = compression_of(record, grid, where)
    heads = record.get("heads", 1) if record["kind"] == "queries" else 1
    if target % heads:
        divisors = [number for number in range(1, heads) if target % number == 0]
        raise MetalmError(
            f"{heads} attention heads do not divide the width of the decoder, {target}",
            where=f"{where}.heads",
            remedy=f"set it to {divisors[-1]}, or another divisor of {target}",
        )
    return compression


def set_compression(processor: Processor, compression: Compression | None, where: str) -> None:
    """Set the compression of a processor, by which it knows the number of positions of a content.

    Args:
        processor: The processor.
        compression: The compression; None: one position for each output.
        where: Key of the connector, for the message.

    Raises:
        MetalmError: The processor of a plug-in does not apply it.
    """
    if compression is None:
        return
    processor.compression = compression
    dummy = processor.dummy()
    if dummy.compressed != compression.positions(len(dummy.output_positions)):
        raise MetalmError(
            f"the encoder {processor.encoder!r} does not work with a connector of kind {compression.kind}",
            where=f"{where}.kind",
            why=f"{type(processor).__name__} does not apply its compression to the number of positions",
            remedy="set a connector with one position for each output (linear, mlp), or correct the encoder adapter",
        )


def make_connector(record: Mapping[str, Any], width: int, target: int) -> nn.Module:
    """Make the connector that a model's config records.

    Args:
        record: ``kind``, a registered connector, and its settings as further keys.
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings.

    Returns:
        A module that maps ``[..., width]`` to ``[..., target]``; for a kind with a compression, one that maps
        ``[u, l, width]``, ``[u, l]`` and the grid to ``[u, p, target]``
        (:mod:`metalm_cli.models.compressing_connectors`).

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


def check_connector(kind: str, vectors: Any, shape: tuple[int, ...]) -> None:
    """Check what a plug-in's connector computes; those of metalm are correct by construction.

    Args:
        kind: The registered connector.
        vectors: Its outputs.
        shape: Their expected shape: number of vectors, and width of the decoder's token embeddings.

    Raises:
        MetalmError: The outputs are not finite values of this shape.
    """
    origin = registry.connectors.entry(kind).origin
    if origin == registry.BUILT_IN:
        return
    if not isinstance(vectors, Tensor) or vectors.shape != shape or not vectors.isfinite().all():
        unit = "encoder output" if registry.connectors.load_positions(kind) is None else "position"
        got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise MetalmError(
            f"the connector {kind} does not give one finite vector for each {unit}",
            where="model.connector.kind",
            why=f"got {got}, expected finite values of shape {shape}",
            remedy=f"correct the plug-in, {origin}",
        )


def connected(model: Any, name: str, outputs: Tensor, table: DockTable) -> Tensor:
    """Compute the vectors of the docked outputs of an encoder.

    Args:
        model: The MetaLM.
        name: Name of the encoder.
        outputs: Docked outputs. ``[t, width]``
        table: Table of the docks.

    Returns:
        ``[v, d]``

    Raises:
        MetalmError: The connector does not give the number of vectors that the table has positions for.
    """
    connector, compression, groups = model.connectors[name], model.compressions[name], table.groups
    if compression is None and groups is None:
        vectors = connector(outputs)
        if vectors.shape[:-1] != outputs.shape[:-1]:
            raise _other_positions(name, model, f"{len(outputs)} outputs have {len(outputs)} positions", vectors)
        return vectors
    if compression is None or groups is None:
        expected = "the docks were tokenised " + ("with" if groups is not None else "without") + " a compression"
        raise _other_positions(name, model, expected, None)
    contents = len(next(iter(table.inputs.values())))
    padded = outputs.new_zeros(contents, groups.outputs, outputs.shape[-1])
    padded = padded.index_put((table.rows, groups.slots), outputs)
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool, device=outputs.device)
    mask[table.rows, groups.slots] = True
    vectors = connector(padded, mask, compression.grid)
    if vectors.shape[:2] != (contents, groups.vectors):
        expected = f"{contents} contents of up to {groups.outputs} outputs have up to {groups.vectors} positions each"
        raise _other_positions(name, model, expected, vectors)
    return vectors_of_docks(vectors, table)


def vectors_of_docks(vectors: Tensor, table: DockTable) -> Tensor:
    """Return a connector's output without the padding of contents. ``[v, d]``

    Args:
        vectors: ``[v, d]``; with a compression ``[u, p, d]``, padded.
        table: Table of the docks.
    """
    return vectors if table.groups is None else vectors[table.groups.rows, table.groups.columns]


def _other_positions(name: str, model: Any, expected: str, vectors: Tensor | None) -> MetalmError:
    kind = model.config.connectors[name]["kind"]
    got = "" if vectors is None else f", but the connector gives vectors of shape {tuple(vectors.shape)}"
    return MetalmError(
        f"the connector {kind} does not give one vector for each position of the docks of encoder {name!r}",
        where=f"connectors.{name}",
        why=expected + got,
        remedy="tokenise the docks with the processors of this model, or correct the plug-in of the connector",
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
    def rescale(self, outputs: Tensor, scale: float, *layout: Any) -> None:
        """Scale the last layer so that these encoder outputs give a root mean square of ``scale``.

        Args:
            outputs: Encoder outputs. ``[t, width]``
            scale: Root mean square of the decoder's token embeddings.
            layout: Further arguments of :meth:`forward`.
        """
        current = root_mean_square(self(outputs, *layout))
        last_layer = [layer for layer in self if isinstance(layer, nn.Linear)][-1]
        if current > 0:
            last_layer.weight.mul_(scale / current)


def root_mean_square(values: Tensor) -> float:
    return float(values.float().square().mean().sqrt())
