"""Validation on the same rows for every run of an objective, distributed over processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from metalm_cli.objectives import Objective
from metalm_cli.sessions import Row
from metalm_cli.training.distributed.collectives import Collectives


class Validator:
    """Validation loop over held-out rows.

    Args:
        objective: The objective.
        rows: Validation rows of all processes.
        rows_per_pass: Rows of a forward pass.
        collectives: Sums over processes.
    """

    def __init__(self, objective: Objective, rows: list[Row], rows_per_pass: int, collectives: Collectives) -> None:
        self.objective = objective
        self.collectives = collectives
        # Sorted by length to reduce padding.
        sorted_rows = sorted(rows, key=len)
        self.batches = [
            sorted_rows[start : start + rows_per_pass] for start in range(0, len(sorted_rows), rows_per_pass)
        ]

    @torch.no_grad()
    def __call__(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Compute validation metrics.

        Args:
            module: The prepared step module.
            device: Device of the module.

        Returns:
            The objective's metrics; empty without validation rows.
        """
        if not self.batches:
            return {}
        module.eval()
        sums: dict[str, torch.Tensor] = {}
        counts: Counter[str] = Counter()
        outputs: list[Any] = []
        num_processes, rank = self.collectives.num_processes, self.collectives.rank
        # Every process runs the same number of passes, as sharded models require.
        for pass_index in range(-(-len(self.batches) // num_processes)):
            index = pass_index * num_processes + rank
            is_real = index < len(self.batches)
            batch = self.objective.collate(self.batches[min(index, len(self.batches) - 1)]).to(device)
            terms = module(batch)
            if not is_real:
                continue
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.sum
            counts.update(batch.counts)
            counts.update(self.objective.counts(batch))
            outputs += [_arrays(term.outputs) for term in terms.values() if term.outputs is not None]
        module.train()
        return self._metrics({name: float(value) for name, value in sums.items()}, counts, outputs)

    def _metrics(self, sums: dict[str, float], counts: Counter[str], outputs: list[Any]) -> dict[str, float]:
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
