"""Choice of the validation sessions that show what docks are worth, and of the session whose docks each takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from metalm_cli.models.compressing_connectors import connector_weights
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import matrix_weights, transformer_layers
from metalm_cli.sessions import Row
from metalm_cli.sessions.processors import DockInput

MAX_SHARE = 0.1
"""Largest share of the validation's computation that the further passes take."""
FURTHER_PASSES = 2
"""Passes of the decoder over each chosen session besides the validation's own."""


@dataclass(frozen=True)
class PassCost:
    """Weights of a model in matrix products with each position of a forward pass; attention scores are not counted.

    Args:
        decoder: Weights of the decoder's layers, for each decoder position.
        head: Weights of the output head, for each target.
        encoders: Weights of each encoder's layers, for each position that the encoder reads.
        connectors: Weights of each connector, for each docked output and for each of its vectors.
    """

    decoder: int
    head: int
    encoders: Mapping[str, int]
    connectors: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: MetaLM) -> PassCost:
        """Count the weights of a model."""

        def of_layers(part: nn.Module) -> int:
            return sum(matrix_weights(layer) for layer in transformer_layers(part))

        encoders = {name: of_layers(encoder) for name, encoder in model.encoders.items()}
        connectors = {name: connector_weights(connector) for name, connector in model.connectors.items()}
        head: Any = model.get_output_embeddings()
        return cls(of_layers(model.decoder), head.weight.numel(), encoders, connectors)

    def decoder_pass(self, row: Row) -> int:
        """Cost of the decoder's pass over a row whose dock vectors are known."""
        return self.decoder * len(row.ids) + self.head * len(row.targets)

    def whole_pass(self, row: Row) -> int:
        """Cost of a pass over a row with its encoders."""
        return self.decoder_pass(row) + sum(self._dock(dock) for _, dock in row.docks)

    def _dock(self, dock: DockInput) -> int:
        of_outputs, of_vectors = self.connectors.get(dock.encoder, (0, 0))
        connector = of_outputs * len(dock.output_positions) + of_vectors * dock.positions
        return self.encoders[dock.encoder] * sum(dock.cost.values()) + connector


@dataclass(frozen=True)
class DockExchange:
    """Sessions on which docks are exchanged. Letters: n sessions.

    Args:
        rows: Indices of the validation rows, one session each; empty if fewer than two can exchange docks. ``[n]``
        donors: For each session, the index in ``rows`` of the session whose docks it takes: a permutation in which no
            session takes contents that equal its own. ``[n]``
        share: Computation of the further passes, as a share of the validation's.
        reason: Reason for the lack of sessions; empty otherwise.
    """

    rows: tuple[int, ...] = ()
    donors: tuple[int, ...] = ()
    share: float = 0.0
    reason: str = ""


def choose_exchange(rows: Sequence[Row], cost: PassCost, max_sessions: int) -> DockExchange:
    """Choose sessions and donors, by counts alone: the same in every process and after every resume.

    The sessions are the first with docks and trained tokens, those of several tasks in turns; as many as keep the two
    further decoder passes at or below :data:`MAX_SHARE` of the validation, at most ``max_sessions``.

    Args:
        rows: The validation rows, one session each.
        cost: Cost of passes.
        max_sessions: Maximum number of sessions.
    """
    docked = _in_turns(rows)
    if len(docked) < 2:
        return DockExchange(reason="fewer than two validation sessions have docks and trained tokens")
    total = sum(map(cost.whole_pass, rows))
    further = np.cumsum([FURTHER_PASSES * cost.decoder_pass(rows[index]) for index in docked])
    count = min(int((further <= MAX_SHARE * total).sum()), max_sessions)
    if count < 2:
        why = f"two of {len(rows)} validation sessions would take more than {MAX_SHARE:.0%} of the validation"
        return DockExchange(reason=why if max_sessions > 1 else "train.dock_worth_sessions is 1")
    chosen, donors = assign_donors([rows[index] for index in docked[:count]])
    if not chosen:
        return DockExchange(reason=f"the first {count} validation sessions with docks have no docks to exchange")
    measured = [docked[position] for position in chosen]
    share = sum(FURTHER_PASSES * cost.decoder_pass(rows[index]) for index in measured) / total
    return DockExchange(tuple(measured), tuple(donors), share)


def _in_turns(rows: Sequence[Row]) -> list[int]:
    """Indices of rows with docks and targets: the first of every task, then the second of every task, and so on."""
    counts: Counter[int] = Counter()
    turns = []
    for index, row in enumerate(rows):
        if row.docks and len(row.targets):
            task = _task_of(row)
            turns.append((counts[task], index))
            counts[task] += 1
    return [index for _, index in sorted(turns)]


def _task_of(row: Row) -> int:
    return -1 if row.task_ids is None else int(row.task_ids[0])


def docks_by_encoder(row: Row) -> dict[str, list[DockInput]]:
    """Docks of a row by encoder, in the order of their positions."""
    docks: dict[str, list[DockInput]] = {}
    for _, dock in row.docks:
        docks.setdefault(dock.encoder, []).append(dock)
    return docks


def assign_donors(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Assign to each session the session whose docks it takes.

    Sessions exchange docks if they dock into the same encoders and the contents that one would take differ from its
    own. Of all permutations, that with the most exchanges within tasks and then the smallest differences in docked
    positions is taken (a linear assignment); seeded random numbers decide between equal ones. Sessions that this leaves
    without a donor, as when most sessions have the same docks, are left out.

    Args:
        rows: Rows with docks, one session each. ``[n]``

    Returns:
        Indices of the remaining rows, ascending, and for each the index among these of its donor.
    """
    from scipy.optimize import linear_sum_assignment

    remaining = list(range(len(rows)))
    costs, forbidden = _assignment_costs(rows)
    while len(remaining) > 1:
        _, donors = linear_sum_assignment(costs[np.ix_(remaining, remaining)])
        exchanges = [
            not forbidden[own, remaining[donor]] for own, donor in zip(remaining, donors.tolist(), strict=True)
        ]
        if all(exchanges):
            return remaining, donors.tolist()
        remaining = [index for index, is_exchange in zip(remaining, exchanges, strict=True) if is_exchange]
    return [], []


def _assignment_costs(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Cost of each session (first axis) taking the docks of each (second axis), and which exchanges are forbidden."""
    docks = [docks_by_encoder(row) for row in rows]
    encoders = sorted(set().union(*docks))
    sizes = np.array([[sum(dock.positions for dock in own.get(name, [])) for name in encoders] for own in docks])
    has_docks = np.array([[name in own for name in encoders] for own in docks])
    tasks = np.array([_task_of(row) for row in rows])
    lengths = np.abs(sizes[:, None] - sizes[None]).sum(axis=2).astype(float)
    forbidden = (has_docks[:, None] != has_docks[None]).any(axis=2)
    first_keys = _codes([tuple(own[name][0].key if name in own else b"" for name in encoders) for own in docks])
    for own, donor in np.argwhere(first_keys[:, None] == first_keys[None]).tolist():
        forbidden[own, donor] |= takes_its_own(docks[own], docks[donor])
    other_task = 1.0 + len(rows) * lengths.max()
    never = other_task * (2.0 + len(rows))
    ties = np.random.default_rng(0).random(lengths.shape) / (1 + len(rows))
    return lengths + ties + other_task * (tasks[:, None] != tasks[None]) + never * forbidden, forbidden


def _codes(values: Sequence[Any]) -> np.ndarray:
    """Integers that are equal where the values are equal."""
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    return np.array([codes[value] for value in values])


def takes_its_own(own: Mapping[str, list[DockInput]], donor: Mapping[str, list[DockInput]]) -> bool:
    """Whether a session that takes the docks of another would read the contents that it has."""
    return all(
        dock.key == donor[name][index % len(donor[name])].key
        for name, docks in own.items()
        for index, dock in enumerate(docks)
        if name in donor
    )
