"""Batches: rows of one or more streams as tensors; each distinct docked content occurs once."""

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
"""Name of the decoder's stream; an encoder that trains alone has a stream under its own name."""


@dataclass
class PackedTokens:
    """Packed rows of a decoder or an encoder. Letters: b rows, s positions, g segments, m targets.

    Args:
        input_ids: ``[b, s]`` int64; any value at docked positions and padding.
        position_ids: ``[b, s]`` int64.
        segment_ids: ``[b, s]`` int64; -1 at padding.
        parent_segments: ``[b, g]`` int64; -1 for roots.
        predict_at: Flat positions (row * s + position) whose output predicts a target. ``[m]`` int64.
        targets: ``[m]`` int64.
        target_segments: Flat segment (row * g + segment) of each target. ``[m]`` int64.
        uniforms: A random number in [0, 1) for each target, or None. ``[m]`` float32.
        plain: Every row is one root segment, so that ordinary causal attention is exact.
        depth: Longest chain of parents; 0 if all segments are roots.
        task_ids: Task of each segment; -1 at unused segments. ``[b, g]`` int64, or None.
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
    """Distinct contents of one encoder, and the decoder positions that take their outputs.

    Args:
        inputs: The encoder's inputs, one content per row.
        rows: Content of each docked output. ``[t]`` int64.
        columns: Position of each docked output in the encoder's output. ``[t]`` int64.
        positions: Flat decoder positions that take a docked output. ``[p]`` int64.
        content_index: Index among the vectors of the connector, for each of these positions. ``[p]`` int64.
        groups: For a connector that gives another number of vectors than outputs; None: one vector for each output.
        vectors: Vectors that follow those of the connector, or None. Without inputs the encoder does not run, and rows,
            columns and groups are not read. ``[v, d]``
        contents: The contents of ``inputs``; empty if they are not known.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    columns: Tensor
    positions: Tensor
    content_index: Tensor
    groups: DockGroups | None = None
    vectors: Tensor | None = None
    contents: tuple[DockInput, ...] = ()

    def to(self, device: Any, non_blocking: bool = False) -> DockTable:
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass
class DockGroups:
    """Vectors of a connector that reads the outputs of a whole content. Letters: t docked outputs, v vectors.

    Args:
        outputs: Maximum number of docked outputs of a content.
        vectors: Maximum number of its vectors.
        slots: Index of each docked output among those of its content. ``[t]`` int64.
        rows: Content of each vector. ``[v]`` int64.
        columns: Index of each vector among those of its content. ``[v]`` int64.
    """

    outputs: int
    vectors: int
    slots: Tensor
    rows: Tensor
    columns: Tensor


@dataclass
class TeacherTokens:
    """Sessions of a batch with their docks read as text (:mod:`metalm_cli.sessions.teacher`). Letter: k targets.

    Args:
        passes: Packed rows of each forward pass; their targets, joined, are the k targets.
        student_targets: Index of each of these targets among those of the batch. ``[k]`` int64.
    """

    passes: list[PackedTokens]
    student_targets: Tensor


@dataclass
class Batch:
    """Input of one forward pass, for a model and an objective.

    Args:
        streams: Packed rows by stream name: ``decoder``, with ``encoder`` for an encoder–decoder; or an encoder that
            trains alone.
        docks: Dock tables by encoder name.
        counts: Sums of the rows' counters, known before the forward pass.
        task_targets: Number of targets of each task that occurs in the rows, by its id.
        numbers: Index plan numbers of the rows, for messages.
        step_counts: Count of each loss term over the whole optimiser step (all micro-batches and processes), for
            weights that depend on it; None if the batch is not part of a step (validation).
        teacher: The sessions with docks as a teacher reads them; None: the run has no teacher.
        keep_target_losses: The step module is to return the loss of each target as ``outputs`` of its term ``loss``.
    """

    streams: dict[str, PackedTokens]
    docks: dict[str, DockTable] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    task_targets: dict[int, int] = field(default_factory=dict)
    step_counts: dict[str, int] | None = None
    teacher: TeacherTokens | None = None
    keep_target_losses: bool = False

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
            teacher=None if self.teacher is None else _map_tensors(self.teacher, change),
        )


def _map_tensors(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    import torch

    changed: dict[str, Any] = {}
    for dataclass_field in fields(record):
        value = getattr(record, dataclass_field.name)
        if isinstance(value, torch.Tensor):
            changed[dataclass_field.name] = change(value)
        elif isinstance(value, DockGroups):
            changed[dataclass_field.name] = _map_tensors(value, change)
        elif isinstance(value, list):
            changed[dataclass_field.name] = [_map_tensors(entry, change) for entry in value]
        elif isinstance(value, dict):
            changed[dataclass_field.name] = {key: change(tensor) for key, tensor in value.items()}
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
        rows: One or more rows.
        processors: Processors of the encoders that the rows dock into, by name.
        length: Padded length; default: the length of the longest row.
        stream: Name of the rows' stream.
        pad_id: Token at padded positions.

    Example, two rows of 3 and 2 positions::

        segment_ids  [[0, 0, 1], [0, 0, -1]]
        position_ids [[0, 1, 0], [0, 1,  2]]   positions continue in padding, which so never looks like a new document
    """
    import torch

    padded_length = max(len(row.ids) for row in rows) if length is None else length
    max_segments = max(len(row.parents) for row in rows)
    ids = np.full((len(rows), padded_length), pad_id, dtype=np.int64)
    positions = np.zeros((len(rows), padded_length), dtype=np.int64)
    segments = np.full((len(rows), padded_length), ROOT, dtype=np.int64)
    parents = np.full((len(rows), max_segments), ROOT, dtype=np.int64)
    task_ids = np.full((len(rows), max_segments), -1, dtype=np.int64)
    predict_at, targets, target_segments = [], [], []
    counts: Counter[str] = Counter()
    task_targets: Counter[int] = Counter()
    for index, row in enumerate(rows):
        row_length = len(row.ids)
        ids[index, :row_length] = row.ids
        segments[index, :row_length] = row.segments
        positions[index] = _padded_positions(row, padded_length)
        parents[index, : len(row.parents)] = row.parents
        if row.task_ids is not None:
            task_ids[index, : len(row.parents)] = row.task_ids
            task_targets.update(row.task_ids[row.target_segments].tolist())
        predict_at.append(row.predict_at + index * padded_length)
        targets.append(row.targets)
        target_segments.append(row.target_segments + index * max_segments)
        counts.update(row.counts)
        counts["padded_positions"] += padded_length - row_length
    uniforms = [row.uniforms for row in rows if row.uniforms is not None]
    packed = PackedTokens(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        segment_ids=torch.from_numpy(segments),
        parent_segments=torch.from_numpy(parents),
        predict_at=torch.from_numpy(np.concatenate(predict_at)),
        targets=torch.from_numpy(np.concatenate(targets)),
        target_segments=torch.from_numpy(np.concatenate(target_segments)),
        uniforms=torch.from_numpy(np.concatenate(uniforms)) if uniforms else None,
        plain=max_segments == 1,
        depth=max(map(_depth, rows)),
        task_ids=None if rows[0].task_ids is None else torch.from_numpy(task_ids),
    )
    return Batch(
        {stream: packed},
        _dock_tables(rows, processors, padded_length),
        counts=dict(counts),
        numbers=tuple(sorted({number for row in rows for number in row.numbers})),
        task_targets=dict(task_targets),
    )


def _padded_positions(row: Row, length: int) -> np.ndarray:
    """Positions of a row, continued in its padding up to the last position of a row of this length."""
    padding = row.positions[-1] + 1 + np.arange(length - len(row.ids))
    return np.concatenate([row.positions, np.minimum(padding, length - 1)])


def _depth(row: Row) -> int:
    depths: list[int] = []
    for parent in row.parents.tolist():
        depths.append(0 if parent == ROOT else depths[parent] + 1)
    return max(depths)


def _dock_tables(rows: Sequence[Row], processors: Mapping[str, Processor], padded_length: int) -> dict[str, DockTable]:
    docks_by_encoder: dict[str, list[tuple[int, DockInput]]] = {}
    for index, row in enumerate(rows):
        for start, dock in row.docks:
            docks_by_encoder.setdefault(dock.encoder, []).append((index * padded_length + start, dock))
    return {name: dock_table(docks, processors[name]) for name, docks in docks_by_encoder.items()}


def dock_table(docks: Sequence[tuple[int, DockInput]], processor: Processor) -> DockTable:
    """Make the table of the docks of an encoder.

    Args:
        docks: First flat decoder position and input of each dock.
        processor: Processor of the encoder.
    """
    import torch

    by_key: dict[bytes, DockInput] = {}
    for _, dock in docks:
        by_key.setdefault(dock.key, dock)
    precomputed = [dock for dock in by_key.values() if dock.vectors is not None]
    contents = [dock for dock in by_key.values() if dock.vectors is None]
    offsets, total = {}, 0
    for dock in (*contents, *precomputed):
        offsets[dock.key] = total
        total += dock.positions
    outputs = [dock.output_positions for dock in contents]
    vectors = [dock.vectors for dock in precomputed if dock.vectors is not None]
    inputs = processor.collate(contents) if contents else {}
    return DockTable(
        inputs={key: torch.from_numpy(array) for key, array in inputs.items()},
        rows=torch.from_numpy(np.repeat(np.arange(len(contents)), list(map(len, outputs)))),
        columns=torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *outputs]).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate([first + np.arange(dock.positions) for first, dock in docks])),
        content_index=torch.from_numpy(
            np.concatenate([offsets[dock.key] + np.arange(dock.positions) for _, dock in docks])
        ),
        groups=None if all(dock.compressed is None for dock in contents) else _dock_groups(contents),
        vectors=torch.from_numpy(np.concatenate(vectors)) if vectors else None,
        contents=tuple(contents),
    )


def _dock_groups(docks: Sequence[DockInput]) -> DockGroups:
    import torch

    outputs, vectors = [len(dock.output_positions) for dock in docks], [dock.positions for dock in docks]
    return DockGroups(
        max(outputs),
        max(vectors),
        slots=torch.from_numpy(np.concatenate([np.arange(count) for count in outputs])),
        rows=torch.from_numpy(np.repeat(np.arange(len(docks)), vectors)),
        columns=torch.from_numpy(np.concatenate([np.arange(count) for count in vectors])),
    )
