"""Streams: a seeded order over shards and blocks, and rows kept for the lanes that have not asked yet."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

from metalm_cli.common.cache import explain_write_failure
from metalm_cli.data.sampling.index_plan import IndexPlan, key_of, permutation
from metalm_cli.data.sources.base import SequentialRows
from metalm_cli.data.sources.row_filter import DocumentFilter
from metalm_cli.errors import Exit, MetalmError

SHUFFLE_BLOCK = 4096
"""Rows that are shuffled together."""
KEPT_IN_MEMORY = 32 << 20
"""Bytes of waiting documents held in memory; more go to a temporary file."""
SEGMENT = 64 << 20


def shuffled_blocks(stream: SequentialRows, name: str, seed: int) -> Iterator[Any]:
    """Raw rows without end: each epoch in its own order of shards, shuffled in blocks of 4,096 rows.

    Raises:
        MetalmError: An epoch has no rows.
    """
    for epoch in count():
        waiting: list[Any] = []
        turn = 0
        for shard in permutation(stream.shards(), key_of("shards", seed, name, epoch)).tolist():
            for raw in stream.read(shard):
                waiting.append(raw)
                if len(waiting) == SHUFFLE_BLOCK:
                    yield from _mixed(waiting, key_of("stream", seed, name, epoch, turn))
                    waiting, turn = [], turn + 1
        if turn == 0 and not waiting:
            raise MetalmError(f"Source {name} has no rows", exit_code=Exit.FAILED)
        yield from _mixed(waiting, key_of("stream", seed, name, epoch, turn))


def _mixed(rows: list[Any], key: int) -> Iterator[Any]:
    for at in permutation(len(rows), key).tolist():
        yield rows[at]


class DocumentBuffer:
    """Texts by number, taken once each, in bounded memory.

    Lanes use up documents at different rates, and a stream gives its rows once: what the slower lanes have not
    asked for waits here, beyond :data:`KEPT_IN_MEMORY` in temporary files that go away when they are used up.
    """

    def __init__(self) -> None:
        self._memory: dict[int, bytes] = {}
        self._held = 0
        self._places: dict[int, tuple[int, int, int]] = {}
        self._segments: dict[int, IO[bytes]] = {}
        self._live: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._memory or number in self._places

    def __len__(self) -> int:
        return len(self._memory) + len(self._places)

    def put(self, number: int, text: str) -> None:
        data = text.encode("utf-8")
        if self._held + len(data) <= KEPT_IN_MEMORY:
            self._memory[number] = data
            self._held += len(data)
            return
        try:
            self._places[number] = self._written(data)
        except OSError as error:
            raise explain_write_failure(error, Path(tempfile.gettempdir())) from error

    def _written(self, data: bytes) -> tuple[int, int, int]:
        """(segment, offset, size) of data put at the end of the newest segment."""
        last = max(self._segments, default=-1)
        if last < 0 or self._segments[last].seek(0, 2) >= SEGMENT:
            last += 1
            self._segments[last] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self._live[last] = 0
        start = self._segments[last].seek(0, 2)
        self._segments[last].write(data)
        self._live[last] += 1
        return last, start, len(data)

    def take(self, number: int) -> str:
        data = self._memory.pop(number, None)
        if data is not None:
            self._held -= len(data)
            return data.decode("utf-8")
        segment, start, size = self._places.pop(number)
        file = self._segments[segment]
        file.seek(start)
        data = file.read(size)
        self._live[segment] -= 1
        if not self._live[segment]:
            file.close()
            del self._segments[segment], self._live[segment]
        return data.decode("utf-8")


class StreamCursor:
    """Reads one stream for the numbers that a reader owns.

    It reads the stream once from its start, passes over the rows of others without parsing them, and keeps
    those of its own that were not asked for yet. A number behind it that it did not keep makes it read again.
    """

    def __init__(
        self, plan: IndexPlan, source: int, stream: SequentialRows, picker: DocumentFilter, owns: Callable[[int], bool]
    ) -> None:
        self.plan, self.source, self.stream, self.picker, self.owns = plan, source, stream, picker, owns
        self._restart()

    def _restart(self) -> None:
        self._rows = shuffled_blocks(self.stream, self.plan.names[self.source], self.plan.seed)
        self._numbers = self.plan.numbers_of(self.source)
        self._passed = -1
        self._texts = DocumentBuffer()
        self._reasons: dict[int, str] = {}

    def get(self, number: int) -> tuple[str, str]:
        """(text, reason) of the row at ``number``, which the plan gives to this stream.

        Raises:
            MetalmError: A row of this reader is broken, or the stream cannot be read.
        """
        if number in self._reasons:
            return "", self._reasons.pop(number)
        if number in self._texts:
            return self._texts.take(number), ""
        if number <= self._passed:
            self._restart()
        while True:
            self._passed, raw = next(self._numbers), next(self._rows)
            if self._passed == number:
                return self._pick(raw)
            if self.owns(self._passed):
                text, reason = self._pick(raw)
                if reason:
                    self._reasons[self._passed] = reason
                else:
                    self._texts.put(self._passed, text)

    def _pick(self, raw: Any) -> tuple[str, str]:
        return self.picker.take(self.stream.load(raw), lambda: self.stream.where(raw))
