"""Validation on the same rows for every run of an objective, distributed over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from metalm_cli.objectives import Objective
from metalm_cli.sessions import Row
from metalm_cli.training.distributed.collectives import Collectives
from metalm_cli.training.validation.dock_worth import DockComparison, passes


class Validator:
    """Validation loop over held-out rows.

    Args:
        objective: The objective.
        rows: Validation rows of all processes.
        rows_per_pass: Rows of a forward pass.
        collectives: Sums over processes.
        docks: Measures what docks are worth; its sessions have batches of their own. None: not measured.
        unmeasured: Why docks are not measured, for the records; empty if that needs no explanation.
    """

    def __init__(
        self,
        objective: Objective,
        rows: Sequence[Row],
        rows_per_pass: int,
        collectives: Collectives,
        docks: DockComparison | None = None,
        unmeasured: str = "",
    ) -> None:
        self.objective, self.collectives = objective, collectives
        self.docks, self.unmeasured, self.num_rows = docks, unmeasured, len(rows)
        measured = set() if docks is None else set(docks.exchange.rows)
        # Sorted by length to reduce padding.
        others = sorted((row for index, row in enumerate(rows) if index not in measured), key=len)
        self.batches = [] if docks is None else [[docks.rows[index] for index in batch] for batch in docks.batches]
        self.num_measured = len(self.batches)
        self.batches += [others[start : start + rows_per_pass] for start in range(0, len(others), rows_per_pass)]

    @torch.no_grad()
    def __call__(self, module: nn.Module, device: torch.device) -> dict[str, Any]:
        """Compute validation metrics.

        Args:
            module: The prepared step module.
            device: Device of the module.

        Returns:
            The objective's metrics, and ``dock_worth``, the result of :meth:`DockComparison.compare` or the reason
            (``why``) that there is none; empty without validation rows.
        """
        if not self.batches:
            return {}
        module.eval()
        sums: dict[str, torch.Tensor] = {}
        counts: Counter[str] = Counter()
        outputs: list[Any] = []
        for index, is_real in passes(len(self.batches), self.collectives):
            batch = self.objective.collate(self.batches[index]).to(device)
            if self.docks is not None and index < self.num_measured:
                terms = self.docks.read(module, batch, index, is_real)
            else:
                terms = module(batch)
            if not is_real:
                continue
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.sum
            counts.update(batch.counts)
            counts.update(self.objective.counts(batch))
            outputs += [_arrays(term.outputs) for term in terms.values() if term.outputs is not None]
        worth = self._dock_worth(module, device)
        module.train()
        return {**self._metrics({name: float(value) for name, value in sums.items()}, counts, outputs), **worth}

    def _dock_worth(self, module: nn.Module, device: torch.device) -> dict[str, Any]:
        if self.docks is not None:
            return {"dock_worth": self.docks.compare(module, device)}
        return {"dock_worth": {"why": self.unmeasured}} if self.unmeasured else {}

    @property
    def notes(self) -> list[str]:
        """Notes for the user: on how many sessions docks are measured, or why they are not."""
        if self.docks is not None:
            exchange = self.docks.exchange
            return [
                f"what docks are worth is measured on {len(exchange.rows)} of {self.num_rows} validation sessions, "
                f"which adds {exchange.share:.1%} to the computation of a validation"
            ]
        return [f"what docks are worth is not measured: {self.unmeasured}"] if self.unmeasured else []

    def _metrics(self, sums: dict[str, float], counts: Counter[str], outputs: list[Any]) -> dict[str, Any]:
        names = sorted(set().union(*self.collectives.gather_objects(sorted(sums))))
        keys = sorted(set().union(*self.collectives.gather_objects(sorted(counts))))
        total_sums = self.collectives.sum_floats([sums.get(name, 0.0) for name in names])
        total_counts = self.collectives.sum_ints([counts[key] for key in keys])
        outputs = [
            batch_outputs
            for process_outputs in self.collectives.gather_objects(outputs)
            for batch_outputs in process_outputs
        ]
        return self.objective.metrics(
            dict(zip(names, total_sums, strict=True)), dict(zip(keys, total_counts, strict=True)), outputs
        )


def _arrays(outputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    return tuple(output.detach().cpu().numpy() for output in outputs)
