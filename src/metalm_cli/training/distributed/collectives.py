"""Collective operations on host values: sums, gathered objects, a barrier, and errors that all processes share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from metalm_cli.errors import Exit, LostProcessError, MetalmError

Value = TypeVar("Value")

PATIENCE = timedelta(days=365)
"""Time limit of operations that wait for long work of a process; one that has ended is still noticed at once."""
LOST_PROCESS_TIMEOUT_S = 10.0
"""A collective operation fails within this time if another process has ended, and waits longer for a busy one."""


class Collectives:
    """Collective operations of a run's processes on the host.

    The inputs of the loop's decisions (token counts, encoders in use, whether to stop) are known on the host before the
    forward pass. They are reduced over a separate gloo group on the CPU, which avoids device syncs.

    Args:
        state: Accelerate's state or accelerator: the number of processes and the rank of this one.
    """

    def __init__(self, state: Any) -> None:
        self.rank: int = state.process_index
        self.num_processes: int = state.num_processes
        several = self.num_processes > 1
        self._group = torch.distributed.new_group(backend="gloo") if several else None
        self._patient_group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if several else None

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

    def run_together(self, function: Callable[[], Value]) -> Value:
        """Call a function in every process and return its value; an error in one process is raised in all of them.

        Raises:
            MetalmError: The function raised it, in this process or another; the error of the lowest rank.
        """
        if self._group is None:
            return function()
        value, own_error = _outcome(function)
        errors = self.gather_objects(own_error)
        self._raise_shared(next((error for error in errors if error is not None), None))
        return value  # type: ignore[return-value]

    def gather_patiently(self, function: Callable[[], Value]) -> list[Value]:
        """Call a function in every process and return the values by rank, however long a process takes.

        Other operations have a time limit of 30 minutes; a process that waits here for a busy one has none.

        Raises:
            MetalmError: The function raised it, in this process or another; the error of the lowest rank.
        """
        if self._patient_group is None:
            return [function()]
        outcomes: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(outcomes, _outcome(function), group=self._patient_group)
        self._raise_shared(next((error for _, error in outcomes if error is not None), None))
        return [value for value, _ in outcomes]

    def on_rank_zero(self, function: Callable[[], Value]) -> Value:
        """Call a function in rank zero and return its value in every process.

        Args:
            function: Called in rank zero only; its value must be picklable.

        Raises:
            MetalmError: The function raised it in rank zero.
        """
        if self._group is None:
            return function()
        value_and_error: list[Any] = [None, None]
        if self.rank == 0:
            value_and_error[:] = _outcome(function)
        torch.distributed.broadcast_object_list(value_and_error, src=0, group=self._group)
        self._raise_shared(value_and_error[1])
        return value_and_error[0]

    def _raise_shared(self, error: MetalmError | None) -> None:
        """Raise an error that every process raises, and let no process end before all have received it."""
        if error is None:
            return
        with suppress(RuntimeError):
            self.barrier()
        error.is_shared = True
        raise error

    @contextmanager
    def explain_lost_process(self) -> Iterator[None]:
        """Context manager that turns the errors of broken connections into a :class:`LostProcessError`."""
        try:
            yield
        except (RuntimeError, ConnectionError) as error:
            if not self._has_lost_process():
                raise
            raise LostProcessError(
                "another process of this run has ended",
                why="it was killed, lost its connection, or has printed its own error",
                remedy="continue with --resume",
                exit_code=Exit.FAILED,
            ) from error

    def _has_lost_process(self) -> bool:
        """Whether the connection to another process is closed: an operation then fails before its time limit.

        The errors of broken connections have no class of their own.
        """
        if self._group is None:
            return False
        start = time.monotonic()
        try:
            work = torch.distributed.all_reduce(torch.zeros(1), group=self._group, async_op=True)
            assert work is not None
            work.wait(timedelta(seconds=LOST_PROCESS_TIMEOUT_S))
        except RuntimeError:
            return time.monotonic() - start < LOST_PROCESS_TIMEOUT_S
        return False


def scalar(value: Tensor) -> float:
    """Copy a device scalar to the host. Waits for the device."""
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)


def _outcome(function: Callable[[], Value]) -> tuple[Value | None, MetalmError | None]:
    """Call a function; return its value, or the error that it raised."""
    try:
        return function(), None
    except MetalmError as error:
        return None, error
