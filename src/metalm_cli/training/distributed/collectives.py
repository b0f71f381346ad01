"""Collective operations on host values: sums, gathered objects and a barrier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Collectives:
    """Collective operations of a run's processes on the host.

    The inputs of the loop's decisions (token counts, encoders in use, whether to stop) are known on the host before the
    forward pass. They are reduced over a separate gloo group on the CPU, which avoids device syncs.
    """

    def __init__(self, accelerator: Any) -> None:
        self.rank: int = accelerator.process_index
        self.num_processes: int = accelerator.num_processes
        self._group = torch.distributed.new_group(backend="gloo") if self.num_processes > 1 else None

    def sum_ints(self, values: list[int]) -> list[int]:
        """Sum a list over processes."""
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(tensor, group=self._group)
        return tensor.tolist()

    def sum_floats(self, values: list[float]) -> list[float]:
        """Sum a list over processes, in float64."""
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, group=self._group)
        return tensor.tolist()

    def gather_objects(self, value: Any) -> list[Any]:
        """Gather the values of all processes by rank; meant for checkpoints and messages, too slow for every step."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def barrier(self) -> None:
        """Wait for every process."""
        if self._group is not None:
            torch.distributed.barrier(group=self._group)


def scalar(value: Tensor) -> float:
    """Copy a device scalar to the host. Waits for the device."""
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)
