"""The loader: the rows of every optimiser step, from this process or from worker processes, in one fixed order."""

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

from metalm_cli.data.sampling.lanes import SlotState
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Row


@dataclass(frozen=True)
class StepRows:
    """One optimiser step's rows of this process, in lane order, and where its lanes stand after them."""

    rows: list[Row]
    states: dict[int, SlotState]


class RowSlotProtocol(Protocol):
    """One slot of the batch: it gives a row a step, or what rows are made of."""

    state: SlotState

    def next_row(self) -> Any:
        """What the slot holds in the next step."""


SlotResult = list[tuple[int, Any, SlotState]]
"""What some lanes give in a step: lane, row (or what becomes one), and where the lane stands after it."""


def rows_of_slots(made: SlotResult) -> StepRows:
    """A step of lanes that give a row each."""
    return StepRows([row for _, row, _ in made], {index: state for index, _, state in made})


class StepRowDataset:
    """An endless iterable of the rows of some lanes; what a worker process runs.

    Args:
        lanes: Indices of this process's lanes.
        make_lane: Makes a lane, given its index and the set of lanes that share its reader.
        join: Makes a step of what all lanes give, in lane order; in the training process.
    """

    def __init__(
        self,
        lanes: Sequence[int],
        make_lane: Callable[[int, frozenset[int]], RowSlotProtocol],
        join: Callable[[SlotResult], StepRows] = rows_of_slots,
    ) -> None:
        self.lanes = list(lanes)
        self.make_lane = make_lane
        self.join = join

    def steps(self, mine: list[int]) -> Iterator[SlotResult]:
        owned = frozenset(mine)
        lanes = [(index, self.make_lane(index, owned)) for index in mine]
        while True:
            made = []
            for index, lane in lanes:
                row = lane.next_row()
                made.append((index, row, lane.state))
            yield made


def loader(stream: StepRowDataset, workers: int, start: str | None = None) -> Iterator[StepRows]:
    """Iterate over steps for ever.

    Worker w of n reads the lanes at w, w + n, ... of this process, so that the rows are the same for any number of
    workers.

    Args:
        stream: The rows.
        workers: Worker processes; 0 reads in this one.
        start: How they start: ``fork``, ``forkserver`` or ``spawn``; default the system's. All but the first need a
            stream that pickles.
    """
    workers = min(workers, len(stream.lanes))
    if workers == 0:
        for made in stream.steps(stream.lanes):
            yield stream.join(made)
        return
    others = set(active_children())
    shares = iter(_worker_loader(stream, workers, start))
    processes = set(active_children()) - others
    atexit.register(_kill, processes)
    while True:
        made = []
        for _ in range(workers):
            share = next(shares)
            if isinstance(share, MetalmError):
                raise share
            made += share
        yield stream.join(sorted(made, key=lambda one: one[0]))


def _kill(processes: set[Any]) -> None:
    """End workers that are alive when Python exits: it would wait for them, and they do not hear its SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error for a worker that is killed
    for process in processes:
        process.kill()


class _Share(IterableDataset):
    """What one worker reads."""

    def __init__(self, stream: StepRowDataset) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.stream.steps(self.stream.lanes[info.id :: info.num_workers])
        except MetalmError as error:
            yield error  # the loader would wrap what is raised here, traceback and all


def _worker_loader(stream: StepRowDataset, workers: int, start: str | None) -> Any:
    return DataLoader(
        _Share(stream),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        worker_init_fn=worker_init,
        multiprocessing_context=start,
    )


def worker_init(_worker: int) -> None:
    """Makes a worker deaf to SIGINT and SIGTERM, and leaves the cores to the others.

    A terminal or a scheduler signals the whole process group; only the training process decides what it means. Workers
    leave when their queue closes or the parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
