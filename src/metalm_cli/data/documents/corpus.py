"""The corpus: the documents of a recipe as an endless numbered list that any number of processes read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from metalm_cli.data.sampling.index_plan import IndexPlan, PlannedRow, key_of
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.locate import FileFacts
from metalm_cli.data.sources.row_filter import EMPTY, EXCLUDED, HELD_OUT, DocumentFilter
from metalm_cli.data.sources.streaming import StreamCursor
from metalm_cli.errors import Exit, MetalmError

SCAN_FACTOR = 4
"""A stream's held-out documents are looked for in at most this many times the rows expected to hold them."""


@dataclass(frozen=True)
class Document:
    """A document that stands at a number of the plan.

    Attributes:
        text: Its text, never empty.
        source: Name of its source.
        row: Row of a table; for a stream the n of the n-th row read.
        number: Its number; -1 for a validation document.
    """

    text: str
    source: str
    row: int
    number: int


@dataclass(frozen=True)
class SourceInfo:
    """A source as the plan, the logs and the lineage show it.

    Attributes:
        name: Its name.
        kind: hub, path or world.
        streamed: It is read in order; else it is a table, read by row.
        rows: Rows before filtering; None for a stream.
        share: Share of the documents drawn that come from it; the shares sum to 1.
        text_bytes: UTF-8 bytes of its texts, estimated from the rows sampled at opening; None for a stream.
        location: Folder, file, hub id or seed.
        revision: Commit of a hub data set, if it was read from the hub.
        files: Its files with their hashes.
    """

    name: str
    kind: str
    streamed: bool
    rows: int | None
    share: float
    text_bytes: int | None
    location: str
    revision: str | None
    files: tuple[FileFacts, ...]


@dataclass(frozen=True)
class OpenSource:
    """A source ready to be read."""

    info: SourceInfo
    data: RandomAccessRows | SequentialRows
    picker: DocumentFilter


class DocumentReader:
    """Reads documents by number in one process.

    Picklable until its first read. Numbers asked for in one lane only increase; lanes may interleave in any way.

    Args:
        plan: The plan.
        sources: The sources, in the plan's order.
        owns: Which numbers this reader will be asked for; for streams, whose rows come by once, it decides what
            is kept. Saying no to numbers that were read before a resume saves keeping them.

    Attributes:
        skipped: Numbers met that were empty, by reason: excluded, empty, validation.
        reason: Why the last number that was empty is so.
    """

    def __init__(self, plan: IndexPlan, sources: list[OpenSource], owns: Callable[[int], bool]) -> None:
        self.plan, self.sources, self.owns = plan, sources, owns
        self.skipped: dict[str, int] = {EXCLUDED: 0, EMPTY: 0, HELD_OUT: 0}
        self.reason = ""
        self._cursors: dict[int, StreamCursor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursors": {}}

    def get(self, number: int) -> Document | None:
        """The document at ``number``; None if the number is empty (:attr:`skipped` counts why).

        Raises:
            MetalmError: The row is broken or the source cannot be read (exit code: failed while running).
        """
        place = self.plan.place(number)
        opened = self.sources[place.source]
        try:
            if isinstance(opened.data, RandomAccessRows):
                data, row = opened.data, place.row
                text, reason = opened.picker.take(data.load(row), lambda: data.where(row))
            else:
                text, reason = self._cursor(place.source).get(number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise
        if reason:
            self.skipped[reason] += 1
            self.reason = reason
            return None
        return Document(text, opened.info.name, place.row, number)

    def _cursor(self, source: int) -> StreamCursor:
        if source not in self._cursors:
            opened = self.sources[source]
            assert not isinstance(opened.data, RandomAccessRows)
            self._cursors[source] = StreamCursor(self.plan, source, opened.data, opened.picker, self.owns)
        return self._cursors[source]


class Corpus:
    """The training documents of a recipe, and those held out to validate.

    Args:
        sources: The training sources.
        validation_sources: Sources of their own for validation; then nothing is held out of training.
        documents: Validation documents per source.
        seed: Seed of every order.
    """

    def __init__(
        self, sources: list[OpenSource], validation_sources: list[OpenSource] | None, documents: int, seed: int
    ) -> None:
        self._opened, self._validation, self._documents, self.seed = sources, validation_sources, documents, seed
        self.plan = self._planned(seed)

    def _planned(self, seed: int) -> IndexPlan:
        infos = self.sources
        return IndexPlan([i.name for i in infos], [i.share for i in infos], [i.rows for i in infos], seed)

    @property
    def sources(self) -> list[SourceInfo]:
        """The training sources, in the recipe's order."""
        return [opened.info for opened in self._opened]

    @property
    def validation_sources(self) -> list[SourceInfo]:
        """Validation sources of their own; empty if documents are held out of training instead."""
        return [opened.info for opened in self._validation or []]

    @property
    def fingerprint(self) -> str:
        """Changes whenever a number could stand for another document: seed, shares, files, filters, revisions."""
        parts: list[object] = [self.seed]
        for opened in self._opened:
            info, picker = opened.info, opened.picker
            files = [file.sha256 or f"{file.path}:{file.size}" for file in info.files]
            location = "" if info.files else info.location
            parts += [info.name, info.kind, info.streamed, info.rows, info.share, location, info.revision]
            parts += [files, picker.text, picker.exclude, picker.every]
        return f"{key_of(*parts):016x}"

    def place(self, number: int) -> PlannedRow:
        """Which row of which source stands at ``number``.

        Raises:
            ValueError: The number is negative.
        """
        return self.plan.place(number)

    def where(self, number: int) -> str:
        """Where the row at ``number`` is to be found: ``file:line`` for files, a row number otherwise."""
        place = self.place(number)
        data, info = self._opened[place.source].data, self.sources[place.source]
        if isinstance(data, RandomAccessRows):
            return data.where(place.row)
        return f"{info.name} ({info.location}), row {place.row} in the order of seed {self.seed}"

    def reader(self, owns: Callable[[int], bool]) -> DocumentReader:
        """A reader for the numbers that ``owns`` says yes to."""
        return DocumentReader(self.plan, self._opened, owns)

    def sample(self, n: int, seed: int) -> Iterator[str]:
        """Up to ``n`` training texts in the recipe's shares; no row of a table twice.

        Raises:
            MetalmError: A row is broken or a source cannot be read.
        """
        plan = self._planned(key_of("sample", seed))
        reader = DocumentReader(plan, self._opened, _everything)
        rows, limit = [info.rows for info in self.sources], 20 * n + 1000
        if None not in rows:
            limit = min(limit, max(int((info.rows or 0) / info.share) for info in self.sources) + plan.block_size)
        for number in range(limit):
            if n <= 0:
                return
            if plan.place(number).epoch:
                continue
            document = reader.get(number)
            if document is not None:
                n -= 1
                yield document.text

    def validation(self) -> list[Document]:
        """The validation documents, the same in every run: of each source the first in its own order.

        Without validation sources of their own these are the documents held out of training; a source may have
        fewer of them than the recipe asks for.

        Raises:
            MetalmError: A row is broken or a source cannot be read.
        """
        found: list[Document] = []
        for opened in self._opened if self._validation is None else self._validation:
            found += self._first(opened, "" if self._validation is not None else HELD_OUT)
        return found

    def _first(self, opened: OpenSource, wanted: str) -> list[Document]:
        found: list[Document] = []
        if not self._documents:
            return found
        most = SCAN_FACTOR * self._documents * max(1, opened.picker.every)
        for row, (text, reason) in enumerate(filter_rows(opened)):
            if reason == wanted:
                found.append(Document(text, opened.info.name, row, -1))
            if len(found) == self._documents or (opened.info.streamed and row >= most):
                break
        return found


def filter_rows(opened: OpenSource) -> Iterator[tuple[str, str]]:
    """(text, reason) of a source's rows, once, in the source's own order."""
    data, take = opened.data, opened.picker.take
    if isinstance(data, RandomAccessRows):
        for row in range(data.rows):
            yield take(data.load(row), lambda row=row: data.where(row))  # type: ignore[misc]
        return
    for shard in range(data.shards()):
        for raw in data.read(shard):
            yield take(data.load(raw), lambda raw=raw: data.where(raw))  # type: ignore[misc]


def _everything(number: int) -> bool:
    return True


def count_skip_reasons(pairs: Iterator[tuple[str, str]]) -> Counter[str]:
    """How many rows gave a document ("") or each reason for none."""
    return Counter(reason for _, reason in pairs)
