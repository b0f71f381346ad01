"""The loader: the rows of every optimiser step, read in this process or in workers, in a fixed order."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from metalm_cli.common.signals import STOP_SIGNALS
from metalm_cli.data.sampling.row_slots import SlotState
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Row


@dataclass(frozen=True)
class StepRows:
    """This process's rows of an optimiser step, and the states of its slots after them.

    Args:
        rows: The rows, in the order of the slots.
        states: State of each slot; empty if the number of the step determines what the slots read next.
    """

    rows: list[Row]
    states: dict[int, SlotState]


class RowSlotProtocol(Protocol):
    """Interface of a slot of the batch, which yields a row (or a session to be packed) per step."""

    @property
    def state(self) -> SlotState | None:
        """State after the last row; None if the number of the step determines it."""

    def next_row(self) -> Any:
        """The row (or session) of the next step."""


SlotResult = list[tuple[int, Any, SlotState | None]]
"""Results of some slots in a step: slot index, row (or session), and state of the slot after it."""


def rows_of_slots(results: SlotResult) -> StepRows:
    """The step of slots that each yield a row."""
    return StepRows([row for _, row, _ in results], {index: state for index, _, state in results if state is not None})


class StepRowDataset:
    """An endless iterable of the rows of some slots, by step.

    Args:
        slot_indices: Indices of this process's slots.
        make_slot: Makes a slot, from its index and the set of slots that share its reader.
        join: Makes a step from the results of all slots, in the order of the slots; runs in the training process.
    """

    def __init__(
        self,
        slot_indices: Sequence[int],
        make_slot: Callable[[int, frozenset[int]], RowSlotProtocol],
        join: Callable[[SlotResult], StepRows] = rows_of_slots,
    ) -> None:
        self.slot_indices = list(slot_indices)
        self.make_slot = make_slot
        self.join = join

    def steps(self, slot_indices: list[int]) -> Iterator[SlotResult]:
        owned = frozenset(slot_indices)
        slots = [(index, self.make_slot(index, owned)) for index in slot_indices]
        while True:
            results = []
            for index, slot in slots:
                row = slot.next_row()
                results.append((index, row, slot.state))
            yield results


def loader(dataset: StepRowDataset, workers: int, start_method: str | None = None) -> Iterator[StepRows]:
    """Iterate over steps without end.

    Worker w of n reads the slots at w, w + n, ... of this process, so that the rows are the same for any number of
    workers.

    Args:
        dataset: The rows.
        workers: Number of worker processes; 0 reads in this process.
        start_method: Start method of the workers: ``fork``, ``forkserver`` or ``spawn``; default the system's. The last
            two need a dataset that can be pickled.
    """
    workers = min(workers, len(dataset.slot_indices))
    if workers == 0:
        for results in dataset.steps(dataset.slot_indices):
            yield dataset.join(results)
        return
    earlier_processes = set(active_children())
    worker_results = iter(_worker_loader(dataset, workers, start_method))
    processes = set(active_children()) - earlier_processes
    atexit.register(_kill_workers, processes)
    while True:
        results = []
        for _ in range(workers):
            worker_result = next(worker_results)
            if isinstance(worker_result, MetalmError):
                raise worker_result
            results += worker_result
        yield dataset.join(sorted(results, key=lambda result: result[0]))


def _kill_workers(processes: set[Any]) -> None:
    """Kill workers that are alive when Python exits, which would wait for them; they ignore SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error for a worker that is killed
    for process in processes:
        process.kill()


class _WorkerDataset(IterableDataset):
    """The steps of the slots of one worker."""

    def __init__(self, dataset: StepRowDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.dataset.steps(self.dataset.slot_indices[info.id :: info.num_workers])
        except MetalmError as error:
            yield error  # DataLoader would wrap a raised error with its traceback


def _worker_loader(dataset: StepRowDataset, workers: int, start_method: str | None) -> Any:
    return DataLoader(
        _WorkerDataset(dataset),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        worker_init_fn=worker_init,
        multiprocessing_context=start_method,
    )


def worker_init(_worker: int) -> None:
    """Make a worker ignore the signals that stop a run, and limit it to one thread.

    A terminal or a scheduler signals the whole process group, and only the training process handles the signal.
    Workers exit when their queue closes or their parent is gone.
    """
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
