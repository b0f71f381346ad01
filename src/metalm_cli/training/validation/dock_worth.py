"""What docks are worth: the loss of validation sessions as they are, with docks exchanged, and with mean vectors.

Only the vectors that the decoder reads in docked positions change. Text, positions and targets stay as they are, and
so does the layout of the batches, so that differences are those of the vectors alone:

- *exchanged*: the m-th dock of a session takes the vectors of the m-th dock of its donor, counted by encoder and again
  from the first if the donor has fewer docks; the vectors are cut where the donor's dock is longer, and repeated from
  the dock's first where it is shorter. Example, a dock of 5 positions takes one of 3 vectors: v1 v2 v3 v1 v2.
- *mean vector*: every docked position takes the mean of the vectors in all docked positions of these sessions, one
  mean for each encoder.

The loss as it is and the vectors come from the validation's own passes; the encoders do not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalm_cli.evaluation.metrics.bootstrap import interval
from metalm_cli.models.connectors import vectors_of_docks
from metalm_cli.objectives import Objective, Term
from metalm_cli.sessions import Batch, DockTable, Row
from metalm_cli.training.distributed.collectives import Collectives
from metalm_cli.training.validation.dock_exchange import DockExchange, docks_by_encoder

DockVectors = dict[str, list[Tensor]]
"""Vectors of each dock of a session, by encoder. ``[p, d]`` each, p positions of the dock."""


@dataclass(frozen=True)
class Reading:
    """A session as it is: its loss in nats per trained token, and its dock vectors on the CPU."""

    loss: float
    vectors: DockVectors


def passes(count: int, collectives: Collectives) -> Iterator[tuple[int, bool]]:
    """Batches of this process, and whether it is the first to run the batch.

    Every process runs the same number of passes, as sharded models require.
    """
    for start in range(0, count, collectives.num_processes):
        index = start + collectives.rank
        yield min(index, count - 1), index < count


class DockComparison:
    """Comparison of the losses of some validation sessions, with docks and without.

    Args:
        exchange: The sessions and their donors.
        rows: Their rows, in the order of the exchange.
        rows_per_pass: Rows of a forward pass.
        connectors: Connectors of the model by encoder name.
        objective: The objective.
        collectives: Sums over processes.

    Attributes:
        batches: Indices of the sessions of each batch, sorted by length.
    """

    def __init__(
        self,
        exchange: DockExchange,
        rows: Sequence[Row],
        rows_per_pass: int,
        connectors: Mapping[str, nn.Module],
        objective: Objective,
        collectives: Collectives,
    ) -> None:
        self.exchange, self.rows, self.connectors = exchange, list(rows), connectors
        self.objective, self.collectives = objective, collectives
        self.docks = [docks_by_encoder(row) for row in rows]
        order = sorted(range(len(self.rows)), key=lambda index: len(self.rows[index]))
        self.batches = [order[start : start + rows_per_pass] for start in range(0, len(order), rows_per_pass)]
        self._readings: dict[int, Reading] = {}

    def read(self, module: nn.Module, batch: Batch, index: int, is_real: bool) -> dict[str, Term]:
        """Run a batch as it is, and keep the losses and dock vectors of its sessions.

        Args:
            module: The prepared step module.
            batch: The batch at ``index``, on the device.
            index: Index in :attr:`batches`.
            is_real: False if another process keeps the batch.

        Returns:
            The terms of the batch.
        """
        outputs: dict[str, Tensor] = {}
        with _kept_outputs(self.connectors, outputs):
            terms = module(replace(batch, keep_target_losses=True))
        if is_real:
            losses = session_losses(batch, terms)
            vectors = {
                name: vectors_of_docks(outputs[name], table)[table.content_index]
                .cpu()
                .split(self._lengths_of(index, name))
                for name, table in batch.docks.items()
            }
            for session, loss in zip(self.batches[index], losses, strict=True):
                self._readings[session] = Reading(loss, {name: [] for name in self.docks[session]})
            for name, dock_vectors in vectors.items():
                remaining = iter(dock_vectors)
                for session in self.batches[index]:
                    # Copies, because a part of a tensor would keep the whole of it in memory.
                    own = [next(remaining).clone() for _ in self.docks[session].get(name, [])]
                    self._readings[session].vectors.update({name: own} if own else {})
        return {name: term._replace(outputs=None) for name, term in terms.items()}

    def _lengths_of(self, index: int, name: str) -> list[int]:
        """Positions of the docks of an encoder in a batch."""
        return [length for session in self.batches[index] for length in self._lengths(session, name)]

    def compare(self, module: nn.Module, device: torch.device) -> dict[str, Any]:
        """Compare the losses of the sessions; all batches have been read.

        Args:
            module: The prepared step module, in evaluation mode.
            device: Device of the module.

        Returns:
            Number of ``sessions``; their mean ``loss`` as they are, ``exchanged_loss`` and ``mean_vector_loss``, in
            nats per trained token of a session; and under ``exchanged`` and ``mean_vector`` the mean ``difference``
            from the loss as it is, with the 95% interval ``low`` to ``high`` by bootstrap over the sessions.
        """
        readings = _merged(self.collectives.gather_objects(self._readings))
        self._readings = {}
        means = mean_vectors([readings[session].vectors for session in range(len(self.rows))])
        vectors_of: dict[str, Callable[[int, str], list[Tensor]]] = {
            "exchanged": lambda session, name: exchanged_vectors(
                self._lengths(session, name), readings[self.exchange.donors[session]].vectors.get(name, [])
            ),
            "mean_vector": lambda session, name: [
                means[name].expand(length, -1) for length in self._lengths(session, name)
            ],
        }
        losses: dict[str, dict[int, float]] = {kind: {} for kind in vectors_of}
        for index, is_real in passes(len(self.batches), self.collectives):
            sessions = self.batches[index]
            batch = self.objective.collate([self.rows[session] for session in sessions])
            for kind, vectors in vectors_of.items():
                changed = _with_vectors(batch, sessions, vectors).to(device)
                kind_losses = session_losses(changed, module(changed))
                losses[kind].update(zip(sessions, kind_losses, strict=True) if is_real else ())
        gathered = {kind: _merged(self.collectives.gather_objects(by_session)) for kind, by_session in losses.items()}
        return _record(
            np.array([readings[session].loss for session in range(len(self.rows))]),
            {kind: np.array([gathered[kind][session] for session in range(len(self.rows))]) for kind in gathered},
        )

    def _lengths(self, session: int, name: str) -> list[int]:
        """Positions of the docks of an encoder in a session."""
        return [dock.positions for dock in self.docks[session].get(name, [])]


def session_losses(batch: Batch, terms: Mapping[str, Term]) -> list[float]:
    """Mean loss of each row over its targets, in nats, of terms with the loss of each target. Waits for the device."""
    outputs = terms["loss"].outputs
    assert outputs is not None, "the step module gives the loss of each target"
    stream = batch.decoder
    rows = (stream.target_segments // stream.parent_segments.shape[1]).cpu().numpy()
    sums = np.bincount(rows, weights=outputs[0].double().cpu().numpy(), minlength=len(stream.input_ids))
    return (sums / np.bincount(rows, minlength=len(stream.input_ids))).tolist()


def exchanged_vectors(lengths: Sequence[int], donor: Sequence[Tensor]) -> list[Tensor]:
    """Fit a donor's vectors of an encoder to the docks of a session.

    Args:
        lengths: Positions of each dock of the session.
        donor: Vectors of each dock of the donor. ``[p, d]`` each

    Returns:
        Vectors for each dock of the session. ``[length, d]`` each

    Example:
        >>> vectors = exchanged_vectors([5, 1], [torch.tensor([[1.0], [2.0], [3.0]])])
        >>> [dock.flatten().tolist() for dock in vectors]
        [[1.0, 2.0, 3.0, 1.0, 2.0], [1.0]]
    """
    docks = [donor[index % len(donor)] for index in range(len(lengths))]
    return [dock[torch.arange(length) % len(dock)] for length, dock in zip(lengths, docks, strict=True)]


def mean_vectors(sessions: Sequence[DockVectors]) -> dict[str, Tensor]:
    """Mean of all dock vectors of each encoder, ``[d]``, computed in float64, in the dtype of the vectors."""
    docks: dict[str, list[Tensor]] = {}
    for vectors in sessions:
        for name, own in vectors.items():
            docks.setdefault(name, []).extend(own)
    return {name: torch.cat(own).double().mean(0).to(own[0].dtype) for name, own in docks.items()}


def _with_vectors(batch: Batch, sessions: Sequence[int], vectors: Callable[[int, str], list[Tensor]]) -> Batch:
    """Replace the dock tables of a batch by vectors, and ask for the losses of targets."""
    empty = torch.zeros(0, dtype=torch.int64)
    tables = {}
    for name, table in batch.docks.items():
        rows = [dock for session in sessions for dock in vectors(session, name)]
        index = torch.arange(len(table.positions))
        tables[name] = DockTable({}, empty, empty, table.positions, index, vectors=torch.cat(rows))
    return replace(batch, docks=tables, teacher=None, keep_target_losses=True)


@contextmanager
def _kept_outputs(modules: Mapping[str, nn.Module], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Context manager that stores the last output of each module."""

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _merged(parts: Sequence[Mapping[int, Any]]) -> dict[int, Any]:
    return {session: value for part in parts for session, value in part.items()}


def _record(as_it_is: np.ndarray, changed: Mapping[str, np.ndarray]) -> dict[str, Any]:
    record: dict[str, Any] = {"sessions": len(as_it_is), "loss": float(as_it_is.mean())}
    for kind, losses in changed.items():
        differences = losses - as_it_is
        low, high = interval(differences)
        record[f"{kind}_loss"] = float(losses.mean())
        record[kind] = {"difference": float(differences.mean()), "low": low, "high": high}
    return record
