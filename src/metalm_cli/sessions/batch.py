"""Batches: rows of one or more streams as tensors, with every distinct docked content once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from metalm_cli.sessions.packing import ROOT, Row
from metalm_cli.sessions.processors import DockInput, Processor

if TYPE_CHECKING:
    from torch import Tensor

DECODER = "decoder"
"""Name of the decoder's stream; encoders that train alone name their own."""


@dataclass
class PackedTokens:
    """Packed rows of one tower. Letters: b rows, s positions, g segments, m targets.

    Args:
        input_ids: ``[b, s]`` int64; anything at docked positions and padding.
        position_ids: ``[b, s]`` int64.
        segment_ids: ``[b, s]`` int64; -1 at padding.
        parents: ``[b, g]`` int64; -1 for roots.
        predict_at: Flat positions (row * s + position) whose output predicts a target. ``[m]`` int64.
        targets: ``[m]`` int64.
        owners: Flat segment (row * g + segment) of each target. ``[m]`` int64.
        uniforms: ``[m]`` float32 in [0, 1), or None.
        groups: What each segment belongs to; -1 where there is none. ``[b, g]`` int64, or None.
        plain: Every row is one root segment, so that ordinary causal attention is exact.
        depth: Longest chain of parents; 0 if all segments are roots.
    """

    input_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    parent_segments: Tensor
    predict_at: Tensor
    targets: Tensor
    target_segments: Tensor
    uniforms: Tensor | None
    plain: bool
    depth: int = 0
    task_ids: Tensor | None = None


@dataclass
class DockTable:
    """Distinct contents of one encoder and where their outputs go.

    Args:
        inputs: The encoder's inputs, one content a row.
        rows: Content of each docked output. ``[t]`` int64.
        columns: Its position in the encoder's output. ``[t]`` int64.
        at: Flat decoder positions that take a docked output. ``[p]`` int64.
        source: Which of the t outputs each takes. ``[p]`` int64.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    columns: Tensor
    positions: Tensor
    content_index: Tensor


@dataclass
class Batch:
    """What a model and an objective need for one forward pass.

    Args:
        streams: By name: ``decoder``, or an encoder that trains alone.
        docks: By encoder.
        counts: Sums of the rows' counters, known before the forward pass.
        numbers: Index plan numbers that were read, for messages.
        totals: What an objective counts in the whole optimiser step, over micro-batches and processes; set by the
            loop before the forward pass.
    """

    streams: dict[str, PackedTokens]
    docks: dict[str, DockTable] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def decoder(self) -> PackedTokens:
        return self.streams[DECODER]

    def to(self, device: Any, non_blocking: bool = True) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            streams={name: _map_tensors(stream, change) for name, stream in self.streams.items()},
            docks={name: _map_tensors(table, change) for name, table in self.docks.items()},
        )


def _map_tensors(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    import torch

    changed: dict[str, Any] = {}
    for one in fields(record):
        value = getattr(record, one.name)
        if isinstance(value, torch.Tensor):
            changed[one.name] = change(value)
        elif isinstance(value, dict):
            changed[one.name] = {key: change(tensor) for key, tensor in value.items()}
    return replace(record, **changed)


def collate(
    rows: Sequence[Row],
    processors: Mapping[str, Processor],
    *,
    length: int | None = None,
    stream: str = DECODER,
    pad_id: int = 0,
) -> Batch:
    """Join rows into a batch.

    Args:
        rows: At least one.
        processors: Of the encoders that the rows dock into.
        length: Positions to pad to; default the longest row's.
        stream: Name of the rows' stream.
        pad_id: Token at padded positions.

    Example, two rows of 3 and 2 positions::

        segment_ids  [[0, 0, 1], [0, 0, -1]]
        position_ids [[0, 1, 0], [0, 1,  2]]   padding goes on counting, so that it never looks like a new document
    """
    import torch

    longest = max(map(len, rows))
    size = longest if length is None else length
    most = max(len(row.parents) for row in rows)
    ids = np.full((len(rows), size), pad_id, dtype=np.int64)
    positions = np.zeros((len(rows), size), dtype=np.int64)
    segments = np.full((len(rows), size), ROOT, dtype=np.int64)
    parents = np.full((len(rows), most), ROOT, dtype=np.int64)
    groups = np.full((len(rows), most), -1, dtype=np.int64)
    predict_at, targets, owners = [], [], []
    counts: Counter[str] = Counter()
    for index, row in enumerate(rows):
        n = len(row)
        ids[index, :n], positions[index, :n], segments[index, :n] = row.ids, row.positions, row.segments
        positions[index, n:] = np.minimum(row.positions[-1] + 1 + np.arange(size - n), size - 1)
        parents[index, : len(row.parents)] = row.parents
        if row.groups is not None:
            groups[index, : len(row.parents)] = row.groups
        predict_at.append(row.predict_at + index * size)
        targets.append(row.targets)
        owners.append(row.owners + index * most)
        counts.update(row.counts)
        counts["padded_positions"] += size - n
    uniforms = None
    if rows[0].uniforms is not None:
        uniforms = torch.from_numpy(np.concatenate([row.uniforms for row in rows if row.uniforms is not None]))
    made = PackedTokens(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        segment_ids=torch.from_numpy(segments),
        parent_segments=torch.from_numpy(parents),
        predict_at=torch.from_numpy(np.concatenate(predict_at)),
        targets=torch.from_numpy(np.concatenate(targets)),
        target_segments=torch.from_numpy(np.concatenate(owners)),
        uniforms=uniforms,
        plain=most == 1,
        depth=max(map(_depth, rows)),
        task_ids=None if rows[0].groups is None else torch.from_numpy(groups),
    )
    numbers = tuple(sorted({number for row in rows for number in row.numbers}))
    return Batch({stream: made}, _dock_tables(rows, processors, size), dict(counts), numbers)


def _depth(row: Row) -> int:
    depths: list[int] = []
    for parent in row.parents.tolist():
        depths.append(0 if parent == ROOT else depths[parent] + 1)
    return max(depths)


def _dock_tables(rows: Sequence[Row], processors: Mapping[str, Processor], size: int) -> dict[str, DockTable]:
    placed: dict[str, list[tuple[int, DockInput]]] = {}
    for index, row in enumerate(rows):
        for at, dock in row.docks:
            placed.setdefault(dock.encoder, []).append((index * size + at, dock))
    return {name: _dock_table(docks, processors[name]) for name, docks in placed.items()}


def _dock_table(docks: list[tuple[int, DockInput]], processor: Processor) -> DockTable:
    import torch

    first: dict[bytes, int] = {}
    distinct: list[DockInput] = []
    begins: list[int] = []
    total = 0
    at, source = [], []
    for position, dock in docks:
        if dock.key not in first:
            first[dock.key] = len(distinct)
            distinct.append(dock)
            begins.append(total)
            total += dock.positions
        at.append(position + np.arange(dock.positions))
        source.append(begins[first[dock.key]] + np.arange(dock.positions))
    return DockTable(
        inputs={key: torch.from_numpy(array) for key, array in processor.collate(distinct).items()},
        rows=torch.from_numpy(np.repeat(np.arange(len(distinct)), [dock.positions for dock in distinct])),
        columns=torch.from_numpy(np.concatenate([dock.docked for dock in distinct]).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate(at)),
        content_index=torch.from_numpy(np.concatenate(source)),
    )
