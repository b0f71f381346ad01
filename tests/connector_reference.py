"""Reference of connectors with fewer vectors than outputs: explicit loops over one content."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import gelu, layer_norm


def vectors_of_content(connector: Any, record: dict[str, Any], outputs: torch.Tensor, grid: Any) -> torch.Tensor:
    """Compute the vectors of one content by explicit loops. ``[n, w]`` to ``[p, d]``"""
    if record["kind"] == "queries":
        return queries_of_content(connector, record, outputs)
    projection = connector[0]
    vectors = []
    for members in groups_of(len(outputs), record["factor"], grid):
        present = [outputs[index] for index in members if index is not None]
        if record["kind"] == "mean":
            joined = sum(present) / len(present)
        else:
            zero = torch.zeros_like(outputs[0])
            joined = torch.cat([zero if index is None else outputs[index] for index in members])
        vectors.append(projection.weight @ joined + projection.bias)
    return torch.stack(vectors)


def groups_of(count: int, factor: int, grid: tuple[int, int] | None) -> list[list[int | None]]:
    """Return the outputs of each group; None where there is none."""
    in_line = count if grid is None else count - grid[0] * grid[1]
    groups: list[list[int | None]] = []
    for first in range(0, in_line, factor):
        groups.append([index if index < in_line else None for index in range(first, first + factor)])
    if grid is not None:
        side = int(math.sqrt(factor))
        for top in range(0, grid[0], side):
            for left in range(0, grid[1], side):
                square = [(row, column) for row in range(top, top + side) for column in range(left, left + side)]
                groups.append(
                    [
                        in_line + row * grid[1] + column if row < grid[0] and column < grid[1] else None
                        for row, column in square
                    ]
                )
    return groups


def queries_of_content(connector: Any, record: dict[str, Any], outputs: torch.Tensor) -> torch.Tensor:
    def linear(module: Any, values: torch.Tensor) -> torch.Tensor:
        return values @ module[0].weight.T + module[0].bias

    def norm(module: Any, values: torch.Tensor) -> torch.Tensor:
        return layer_norm(values, values.shape[-1:], module.weight, module.bias)

    memory = norm(connector.input_norm, linear(connector.input, outputs))
    vectors = connector.query_embedding
    for layer in connector.layers:
        query = linear(layer.query, norm(layer.norm, vectors))
        key, value = linear(layer.key, memory), linear(layer.value, memory)
        size = query.shape[1] // record["heads"]
        heads = []
        for head in range(record["heads"]):
            part = slice(head * size, (head + 1) * size)
            weights = (query[:, part] @ key[:, part].T / math.sqrt(size)).softmax(-1)
            heads.append(weights @ value[:, part])
        vectors = vectors + linear(layer.joined, torch.cat(heads, 1))
        inner = gelu(linear(layer.feed_forward[0], norm(layer.feed_forward_norm, vectors)))
        vectors = vectors + linear(layer.feed_forward[2], inner)
    return linear(connector.output, norm(connector.output_norm, vectors))
