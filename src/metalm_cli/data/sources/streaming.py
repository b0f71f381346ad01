"""Streams: a seeded order of shards and blocks, and a buffer for documents that slower row slots read later."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

from metalm_cli.common.cache import cache_write_error
from metalm_cli.data.sampling.index_plan import IndexPlan, key_of, permutation
from metalm_cli.data.sources.base import SequentialRows
from metalm_cli.data.sources.row_filter import DocumentFilter
from metalm_cli.errors import Exit, MetalmError

SHUFFLE_BLOCK_ROWS = 4096
"""Rows per shuffled block."""
MAX_MEMORY_BYTES = 32 << 20
"""Bytes of buffered documents in memory; the others are written to temporary files."""
FILE_BYTES = 64 << 20
"""Size at which a new temporary file is begun."""


def shuffled_rows(stream: SequentialRows, name: str, seed: int, epoch: int) -> Iterator[Any]:
    """Iterate over the raw rows of an epoch, which has its own order of shards, shuffled in blocks of 4,096 rows."""
    block: list[Any] = []
    block_index = 0
    for shard in permutation(stream.shards(), key_of("shards", seed, name, epoch)).tolist():
        for raw in stream.read(shard):
            block.append(raw)
            if len(block) == SHUFFLE_BLOCK_ROWS:
                yield from _shuffled(block, key_of("stream", seed, name, epoch, block_index))
                block, block_index = [], block_index + 1
    yield from _shuffled(block, key_of("stream", seed, name, epoch, block_index))


def usable_texts(stream: SequentialRows, document_filter: DocumentFilter, name: str, seed: int) -> Iterator[str]:
    """Iterate over the documents of a stream without end, each once an epoch.

    Raises:
        MetalmError: A row is broken, or an epoch has no document.
    """
    for epoch in count():
        documents = 0
        for raw in shuffled_rows(stream, name, seed, epoch):
            text, reason = document_filter.extract(stream.load(raw), partial(stream.where, raw))
            if not reason:
                documents += 1
                yield text
        if not documents:
            raise MetalmError(
                f"source {name} has no document to train on",
                where="data.sources",
                why="all its rows are empty, excluded or held out",
                remedy="check `text` and `exclude` of the source, and data.validation",
                exit_code=Exit.FAILED,
            )


def _shuffled(rows: list[Any], key: int) -> Iterator[Any]:
    for index in permutation(len(rows), key).tolist():
        yield rows[index]


class DocumentBuffer:
    """Buffer of texts by number, each taken once, in bounded memory.

    Row slots use up documents at different rates, and a stream yields its rows once: the buffer holds the documents
    that slower slots have not read yet. Beyond :data:`MAX_MEMORY_BYTES` they are written to temporary files, which are
    deleted when all their texts are taken.
    """

    def __init__(self) -> None:
        self._memory: dict[int, bytes] = {}
        self._memory_bytes = 0
        self._file_spans: dict[int, tuple[int, int, int]] = {}
        self._files: dict[int, IO[bytes]] = {}
        self._texts_in_file: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._memory or number in self._file_spans

    def __len__(self) -> int:
        return len(self._memory) + len(self._file_spans)

    def put(self, number: int, text: str) -> None:
        data = text.encode("utf-8")
        if self._memory_bytes + len(data) <= MAX_MEMORY_BYTES:
            self._memory[number] = data
            self._memory_bytes += len(data)
            return
        try:
            self._file_spans[number] = self._append(data)
        except OSError as error:
            raise cache_write_error(error, Path(tempfile.gettempdir())) from error

    def _append(self, data: bytes) -> tuple[int, int, int]:
        """Append data to the newest file; return (file index, offset, size)."""
        last = max(self._files, default=-1)
        if last < 0 or self._files[last].seek(0, 2) >= FILE_BYTES:
            last += 1
            self._files[last] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self._texts_in_file[last] = 0
        start = self._files[last].seek(0, 2)
        self._files[last].write(data)
        self._texts_in_file[last] += 1
        return last, start, len(data)

    def take(self, number: int) -> str:
        data = self._memory.pop(number, None)
        if data is not None:
            self._memory_bytes -= len(data)
            return data.decode("utf-8")
        file_index, start, size = self._file_spans.pop(number)
        file = self._files[file_index]
        file.seek(start)
        data = file.read(size)
        self._texts_in_file[file_index] -= 1
        if not self._texts_in_file[file_index]:
            file.close()
            del self._files[file_index], self._texts_in_file[file_index]
        return data.decode("utf-8")


class StreamCursor:
    """Cursor that reads the documents of a stream for the numbers that a reader owns.

    The n-th number of the plan that belongs to the stream has the n-th document. The cursor reads the stream once from
    its start, filters every row, because each document counts for the numbers after it, and buffers its reader's
    documents until they are read. For a number that it has passed and not buffered, it starts again.
    """

    def __init__(
        self,
        plan: IndexPlan,
        source: int,
        stream: SequentialRows,
        document_filter: DocumentFilter,
        owns: Callable[[int], bool],
    ) -> None:
        self.plan, self.source, self.stream, self.document_filter, self.owns = (
            plan,
            source,
            stream,
            document_filter,
            owns,
        )
        self._restart()

    def _restart(self) -> None:
        self._texts = usable_texts(self.stream, self.document_filter, self.plan.names[self.source], self.plan.seed)
        self._numbers = self.plan.numbers_of(self.source)
        self._last_number = -1
        self._buffer = DocumentBuffer()

    def get(self, number: int) -> str:
        """The document at ``number``, which the plan assigns to this stream.

        Raises:
            MetalmError: A row is broken, or the stream cannot be read.
        """
        if number in self._buffer:
            return self._buffer.take(number)
        if number <= self._last_number:
            self._restart()
        while True:
            self._last_number, text = next(self._numbers), next(self._texts)
            if self._last_number == number:
                return text
            if self.owns(self._last_number):
                self._buffer.put(self._last_number, text)
