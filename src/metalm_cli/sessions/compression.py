"""Compression: the number of decoder positions of a dock whose connector gives fewer vectors than outputs.

The number depends only on the number of outputs and on the settings of the connector. It is computed when a content is
tokenised, without the model. Functions of connectors compute it: ``positions(outputs, grid, **settings)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError

Grid = tuple[int, int]
"""Rows and columns of the patches of an image."""


@dataclass(frozen=True)
class Compression:
    """Number of vectors of a connector, by the number of docked outputs. Picklable.

    Args:
        kind: The registered connector.
        settings: Its settings.
        grid: Rows and columns of the last docked outputs, if they are the patches of an image.
    """

    kind: str
    settings: Mapping[str, Any]
    grid: Grid | None = None

    def positions(self, outputs: int) -> int:
        """Return the number of decoder positions of a content.

        Args:
            outputs: Number of its docked encoder outputs, at least 1.

        Raises:
            MetalmError: A setting is not valid, or no position is left.
        """
        count = registry.connectors.load_positions(self.kind)(outputs, self.grid, **self.settings)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise MetalmError(
                f"the connector {self.kind} leaves no position for {outputs} outputs of an encoder",
                where="kind",
                why=f"its positions are {count!r}, expected a number of at least 1",
                remedy=f"correct the plug-in, {registry.connectors.entry(self.kind).origin}",
            )
        return count

    def __str__(self) -> str:
        factor, length = self.settings.get("factor"), self.settings.get("length")
        if factor is None:
            return self.kind if length is None else f"{self.kind}: {length} positions for each content"
        what = f"{math.isqrt(factor)} x {math.isqrt(factor)} patches" if self.grid else f"{factor} outputs"
        rest = "filled up with zeros" if self.kind == "stack" else "the mean of what it has"
        return f"{self.kind}: one position for {what}; an incomplete last group is {rest}"


def compression_of(record: Mapping[str, Any], grid: Grid | None, where: str) -> Compression | None:
    """Return the compression of a connector.

    Args:
        record: ``kind`` and the settings of the connector, as a model's config records them.
        grid: Rows and columns of the encoder's patches; None for other encoders.
        where: Key of the connector, for messages.

    Returns:
        None for a connector that gives one vector for each output.

    Raises:
        MetalmError: The kind is unknown, or a setting is not valid.
    """
    kind = str(record["kind"])
    if registry.connectors.load_positions(kind, where=where) is None:
        return None
    settings = {key: value for key, value in record.items() if key != "kind"}
    schema = registry.connectors.load_settings(kind)
    try:
        if schema is not None:
            settings = schema.model_validate(settings).model_dump()
        compression = Compression(kind, settings, grid)
        compression.positions(grid[0] * grid[1] if grid else 1)
    except MetalmError as error:
        raise MetalmError(
            error.what, where=f"{where}.{error.where or 'kind'}", why=error.why, remedy=error.remedy
        ) from error
    except Exception as error:  # functions of plug-ins raise anything
        raise MetalmError(
            f"the number of positions of the connector {kind} cannot be computed",
            where=where,
            why=f"{type(error).__name__}: {error}",
            remedy="correct its settings, or use the version of the plug-in that the model was made with",
        ) from error
    return compression


def group_positions(outputs: int, grid: Grid | None, *, factor: int) -> int:
    """Return the number of groups of neighbouring outputs; the last group may be incomplete.

    Patches on a grid are grouped in squares; outputs before them (class vectors) have groups of their own.

    >>> group_positions(17, None, factor=8), group_positions(9, (3, 3), factor=4), group_positions(10, (3, 3), factor=4)
    (3, 4, 5)

    Raises:
        MetalmError: The factor is not valid, or there are fewer outputs than patches.
    """
    check_count("factor", factor)
    if grid is None:
        return -(-outputs // factor)
    side = square_side(factor)
    if outputs < grid[0] * grid[1]:
        raise MetalmError(
            f"got {outputs} outputs of an image, expected at least its {grid[0]} x {grid[1]} patches",
            where="kind",
            why="patches are grouped in squares",
            remedy="set kind=queries, or let grid() of the encoder adapter return None",
        )
    return -(-(outputs - grid[0] * grid[1]) // factor) + -(-grid[0] // side) * -(-grid[1] // side)


def query_positions(_outputs: int, _grid: Grid | None, *, length: int, **_settings: Any) -> int:
    """Return the number of learned vectors, whatever the input.

    >>> query_positions(1, None, length=4), query_positions(900, (30, 30), length=4, heads=2)
    (4, 4)
    """
    check_count("length", length)
    return length


def square_side(factor: int) -> int:
    """Return the side of a square of patches.

    Raises:
        MetalmError: The number of patches is not a square.
    """
    side = math.isqrt(factor)
    if side * side != factor:
        raise MetalmError(
            f"got factor {factor}, but patches are grouped in squares",
            where="factor",
            why="the encoder reads images",
            remedy=f"set it to {side * side} or {(side + 1) ** 2}, or give the encoder a connector of its own",
        )
    return side


def check_count(key: str, value: Any) -> None:
    """Check a number of outputs, vectors or heads.

    Raises:
        MetalmError: It is not a whole number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MetalmError(f"got {key} {value!r}, expected a whole number of at least 1", where=key)
