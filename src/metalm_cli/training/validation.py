"""Validation: the same rows for every run of an objective, shared out over processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from metalm_cli.objectives import Objective
from metalm_cli.sessions import Row
from metalm_cli.training.distributed.collectives import Collectives


class Validator:
    """Scores held-out rows.

    Args:
        objective: What to measure.
        rows: The rows, of all processes.
        size: Rows of a forward pass.
        control: Adds up over processes.
    """

    def __init__(self, objective: Objective, rows: list[Row], size: int, control: Collectives) -> None:
        self.objective = objective
        self.control = control
        # By length, so that little is padded.
        ordered = sorted(rows, key=len)
        self.batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]

    @torch.no_grad()
    def __call__(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Validate.

        Args:
            module: The prepared step module.
            device: Where it is.

        Returns:
            The objective's metrics; empty without validation rows.
        """
        if not self.batches:
            return {}
        module.eval()
        sums: dict[str, torch.Tensor] = {}
        counts: Counter[str] = Counter()
        outputs: list[Any] = []
        world, rank = self.control.world, self.control.rank
        # Every process makes the same number of passes: sharded models need all of them in each.
        for turn in range(-(-len(self.batches) // world)):
            index = turn * world + rank
            real = index < len(self.batches)
            batch = self.objective.collate(self.batches[min(index, len(self.batches) - 1)]).to(device)
            terms = module(batch)
            if not real:
                continue
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.sum
            counts.update(batch.counts)
            counts.update(self.objective.counts(batch))
            outputs += [_arrays(term.outputs) for term in terms.values() if term.outputs is not None]
        module.train()
        return self._metrics({name: float(value) for name, value in sums.items()}, counts, outputs)

    def _metrics(self, sums: dict[str, float], counts: Counter[str], outputs: list[Any]) -> dict[str, float]:
        names = sorted(set().union(*self.control.collect(sorted(sums))))
        keys = sorted(set().union(*self.control.collect(sorted(counts))))
        added = self.control.total_floats([sums.get(name, 0.0) for name in names])
        counted = self.control.total([counts[key] for key in keys])
        outputs = [one for share in self.control.collect(outputs) for one in share]
        return self.objective.metrics(
            dict(zip(names, added, strict=True)), dict(zip(keys, counted, strict=True)), outputs
        )


def _arrays(outputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    return tuple(one.detach().cpu().numpy() for one in outputs)
