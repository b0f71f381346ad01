"""Small integers that all processes of a run must agree on, every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Collectives:
    """Sums over processes, on the host.

    What the loop decides by (token counts, which encoders are used, whether to stop) is known on the host before the
    forward pass. It travels over a group of its own on the CPU, so that no device is waited for.
    """

    def __init__(self, accelerator: Any) -> None:
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self._group = torch.distributed.new_group(backend="gloo") if self.world > 1 else None

    def total(self, values: list[int]) -> list[int]:
        """Sum a list over processes."""
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(tensor, group=self._group)
        return tensor.tolist()

    def total_floats(self, values: list[float]) -> list[float]:
        """Sum a list over processes, in float64."""
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, group=self._group)
        return tensor.tolist()

    def collect(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks; for checkpoints and messages, not for every step."""
        if self._group is None:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value, group=self._group)
        return found

    def wait(self) -> None:
        """Wait for every process."""
        if self._group is not None:
            torch.distributed.barrier(group=self._group)


def scalar(value: Tensor) -> float:
    """A device scalar on the host: this waits for the device."""
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)
