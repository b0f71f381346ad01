"""Connectors that give fewer vectors than the encoder has outputs: ``stack``, ``mean`` and ``queries``.

Each reads the docked outputs of several contents at once, ``[u, l, width]`` with a mask, and returns
``[u, p, target]``. Of a content with n outputs, the first ``positions(n)`` vectors are docked
(:mod:`metalm_cli.sessions.compression`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalm_cli.models.connectors import Connector, root_mean_square
from metalm_cli.models.trainable import matrix_weights
from metalm_cli.sessions.compression import Grid, check_count, square_side

FEED_FORWARD_FACTOR = 4
"""Width of the inner layer of a feed-forward network of ``queries``, as a multiple of the decoder's width."""


def stack_connector(width: int, target: int, factor: int) -> GroupConnector:
    """Make a connector that joins neighbouring outputs and projects them."""
    return GroupConnector(width, target, factor, joins=True)


def mean_connector(width: int, target: int, factor: int) -> GroupConnector:
    """Make a connector that averages neighbouring outputs and projects them."""
    return GroupConnector(width, target, factor, joins=False)


def query_connector(width: int, target: int, length: int, layers: int = 3, heads: int = 8) -> QueryConnector:
    """Make a connector of learned vectors that attend to the outputs."""
    return QueryConnector(width, target, length, layers, heads)


class GroupConnector(Connector):
    """Projection of groups of neighbouring outputs, joined or averaged.

    Args:
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings.
        factor: Outputs of a group; of patches on a grid, the area of a square.
        joins: Join the outputs of a group; an incomplete group is filled up with zeros. Otherwise they are averaged,
            and the mean of an incomplete group is that of the outputs it has.

    Shape:
        ``[u, l, width]`` to ``[u, p, target]``.
    """

    def __init__(self, width: int, target: int, factor: int, *, joins: bool) -> None:
        check_count("factor", factor)
        super().__init__(width * factor if joins else width, target, 1)
        self.factor, self.joins = factor, joins

    def forward(self, outputs: Tensor, mask: Tensor, grid: Grid | None = None) -> Tensor:  # type: ignore[override]
        """Project the groups.

        Args:
            outputs: Docked outputs of u contents. ``[u, l, width]``
            mask: Whether there is an output. ``[u, l]`` bool.
            grid: Rows and columns of the last outputs, if they are patches.
        """
        present = mask[:, :, None].to(outputs.dtype)
        groups = grouped(outputs.masked_fill(~mask[:, :, None], 0.0), self.factor, grid)
        if self.joins:
            return super().forward(groups.flatten(2))
        return super().forward(groups.sum(2) / grouped(present, self.factor, grid).sum(2).clamp(min=1.0))


def grouped(values: Tensor, factor: int, grid: Grid | None) -> Tensor:
    """Divide outputs into groups of neighbours; missing members of a group are 0.

    Args:
        values: ``[u, l, w]``
        factor: Members of a group.
        grid: Rows and columns of the last outputs, whose groups are squares, row by row; None: all are in one line.

    Returns:
        ``[u, p, factor, w]``
    """
    if grid is None:
        return nn.functional.pad(values, (0, 0, 0, -values.shape[1] % factor)).unflatten(1, (-1, factor))
    rows, columns = grid
    side = square_side(factor)
    before, patches = values.split([values.shape[1] - rows * columns, rows * columns], 1)
    squares = nn.functional.pad(patches.unflatten(1, grid), (0, 0, 0, -columns % side, 0, -rows % side))
    squares = squares.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)  # [u, R, C, side, side, w]
    return torch.cat([grouped(before, factor, None), squares.flatten(3, 4).flatten(1, 2)], 1)


class QueryConnector(nn.Module):
    """Learned vectors that attend to the outputs, in layers with norms before attention and feed-forward network.

    Args:
        width: Width of the encoder's outputs.
        target: Width of the decoder's token embeddings, and of all layers.
        length: Number of vectors.
        layers: Number of layers.
        heads: Number of attention heads; it divides ``target``.

    Shape:
        ``[u, l, width]`` to ``[u, length, target]``.

    Raises:
        MetalmError: A number is below 1.
    """

    def __init__(self, width: int, target: int, length: int, layers: int, heads: int) -> None:
        for key, value in (("length", length), ("layers", layers), ("heads", heads)):
            check_count(key, value)
        super().__init__()
        self.query_embedding = nn.Parameter(torch.randn(length, target))
        self.input = Connector(width, target, 1)
        self.input_norm = nn.LayerNorm(target)
        self.layers = nn.ModuleList(QueryLayer(target, heads) for _ in range(layers))
        self.output_norm = nn.LayerNorm(target)
        self.output = Connector(target, target, 1)

    def forward(self, outputs: Tensor, mask: Tensor, grid: Grid | None = None) -> Tensor:
        """Read the outputs.

        Args:
            outputs: Docked outputs of u contents. ``[u, l, width]``
            mask: Whether there is an output. ``[u, l]`` bool.
            grid: Not used.
        """
        memory = self.input_norm(self.input(outputs))
        vectors = self.query_embedding.to(memory.dtype).expand(len(outputs), -1, -1)
        for layer in self.layers:
            vectors = layer(vectors, memory, mask[:, None, None])
        return self.output(self.output_norm(vectors))

    @torch.no_grad()
    def rescale(self, outputs: Tensor, scale: float, mask: Tensor, grid: Grid | None = None) -> None:
        """Scale the last layer so that these outputs give a root mean square of ``scale``; see :class:`Connector`."""
        current = root_mean_square(self(outputs, mask, grid))
        if current > 0:
            next(self.output.parameters()).mul_(scale / current)  # the matrix


class QueryLayer(nn.Module):
    """Attention of the learned vectors to the outputs, then a feed-forward network.

    Args:
        width: Width of the vectors and the outputs.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.joined = (Connector(width, width, 1) for _ in range(4))
        self.feed_forward_norm = nn.LayerNorm(width)
        inner = FEED_FORWARD_FACTOR * width
        self.feed_forward = nn.Sequential(Connector(width, inner, 1), nn.GELU(), Connector(inner, width, 1))

    def forward(self, vectors: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Compute the layer.

        Args:
            vectors: ``[u, q, d]``
            memory: ``[u, l, d]``
            mask: Whether there is an output. ``[u, 1, 1, l]`` bool.
        """
        query, key, value = (
            module(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for module, source in ((self.query, self.norm(vectors)), (self.key, memory), (self.value, memory))
        )
        read = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        vectors = vectors + self.joined(read.transpose(1, 2).flatten(2))
        return vectors + self.feed_forward(self.feed_forward_norm(vectors))


def connector_flops(connector: nn.Module, outputs: int, vectors: int) -> float:
    """FLOPs of a connector's forward pass.

    Args:
        connector: The connector.
        outputs: Number of docked encoder outputs.
        vectors: Number of vectors that it gives for them.
    """
    of_outputs, of_vectors = connector_weights(connector)
    products = 2.0 * (of_outputs * outputs + of_vectors * vectors)
    if not isinstance(connector, QueryConnector):
        return products
    length, width = connector.query_embedding.shape
    return products + 4.0 * length * width * outputs * len(connector.layers)


def connector_weights(connector: nn.Module, *, trained_only: bool = False) -> tuple[int, int]:
    """Number of weights of a connector in matrix products with every encoder output, and with every vector it gives.

    Args:
        connector: The connector.
        trained_only: Count only weights that train.
    """
    weights = matrix_weights(connector, trained_only=trained_only)
    if not isinstance(connector, QueryConnector):
        return 0, weights
    read: list[nn.Module] = [connector.input]
    for layer in connector.layers:
        read += [layer.key, layer.value]  # type: ignore[list-item]
    of_outputs = sum(matrix_weights(module, trained_only=trained_only) for module in read)
    queries = connector.query_embedding
    return of_outputs, weights - of_outputs - (queries.numel() if queries.requires_grad or not trained_only else 0)
