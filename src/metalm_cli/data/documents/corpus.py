"""The corpus: the documents of a recipe as an endless numbered list, readable by any number of processes."""

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
"""The search for a stream's held-out documents ends after this multiple of the rows expected to hold them."""


@dataclass(frozen=True)
class Document:
    """The document at a number of the index plan.

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
    """Facts of a source for plans, logs and the lineage.

    Attributes:
        name: Name of the source.
        kind: hub, path or world.
        streamed: Whether the source is read in order; otherwise it is a table, read by row.
        rows: Rows before filtering; None for a stream.
        share: Share of the drawn documents that come from this source; the shares sum to 1.
        text_bytes: UTF-8 bytes of the texts, estimated from the rows sampled at opening; None for a stream.
        location: Folder, file, hub id or seed.
        revision: Commit of a hub data set, if it was read from the hub.
        files: The files with their hashes.
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
    """An open source: its facts, its rows and its filter."""

    info: SourceInfo
    data: RandomAccessRows | SequentialRows
    document_filter: DocumentFilter


class DocumentReader:
    """Reader of documents by number, in one process. Picklable until its first read.

    The numbers of a row slot must increase; the numbers of several slots may interleave in any way.

    Args:
        plan: The index plan.
        sources: The sources, in the plan's order.
        owns: Predicate of the numbers that this reader will read. Streams yield each row once, and buffer only rows of
            these numbers; a resumed run excludes the numbers that it has read before.

    Attributes:
        skipped: Empty numbers read, by reason: excluded, empty, validation.
        reason: Skip reason of the last empty number.
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
        planned_row = self.plan.planned_row(number)
        source = self.sources[planned_row.source]
        try:
            if isinstance(source.data, RandomAccessRows):
                data, row = source.data, planned_row.row
                text, reason = source.document_filter.extract(data.load(row), lambda: data.where(row))
            else:
                text, reason = self._cursor(planned_row.source).get(number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise
        if reason:
            self.skipped[reason] += 1
            self.reason = reason
            return None
        return Document(text, source.info.name, planned_row.row, number)

    def _cursor(self, source: int) -> StreamCursor:
        if source not in self._cursors:
            open_source = self.sources[source]
            assert not isinstance(open_source.data, RandomAccessRows)
            self._cursors[source] = StreamCursor(
                self.plan, source, open_source.data, open_source.document_filter, self.owns
            )
        return self._cursors[source]


class Corpus:
    """The training documents of a recipe, and its validation documents.

    Args:
        sources: The training sources.
        validation_sources: Separate sources for validation; with them nothing is held out of training.
        validation_documents: Validation documents per source.
        seed: Seed of every order.
    """

    def __init__(
        self,
        sources: list[OpenSource],
        validation_sources: list[OpenSource] | None,
        validation_documents: int,
        seed: int,
    ) -> None:
        self._sources, self._validation_sources, self._validation_documents, self.seed = (
            sources,
            validation_sources,
            validation_documents,
            seed,
        )
        self.plan = self._index_plan(seed)

    def _index_plan(self, seed: int) -> IndexPlan:
        infos = self.sources
        return IndexPlan([info.name for info in infos], [i.share for i in infos], [i.rows for i in infos], seed)

    @property
    def sources(self) -> list[SourceInfo]:
        """The training sources, in the recipe's order."""
        return [source.info for source in self._sources]

    @property
    def validation_sources(self) -> list[SourceInfo]:
        """Separate validation sources; empty if validation documents are held out of training."""
        return [source.info for source in self._validation_sources or []]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the document at a number: seed, shares, files, filters, revisions."""
        parts: list[object] = [self.seed]
        for source in self._sources:
            info, document_filter = source.info, source.document_filter
            files = [file.sha256 or f"{file.path}:{file.size}" for file in info.files]
            location = "" if info.files else info.location
            parts += [info.name, info.kind, info.streamed, info.rows, info.share, location, info.revision]
            parts += [files, document_filter.text, document_filter.exclude, document_filter.hold_out_every]
        return f"{key_of(*parts):016x}"

    def planned_row(self, number: int) -> PlannedRow:
        """The source and the row at ``number``.

        Raises:
            ValueError: The number is negative.
        """
        return self.plan.planned_row(number)

    def where(self, number: int) -> str:
        """Location of the row at ``number``: ``file:line`` for files, a row number otherwise."""
        planned_row = self.planned_row(number)
        data, info = self._sources[planned_row.source].data, self.sources[planned_row.source]
        if isinstance(data, RandomAccessRows):
            return data.where(planned_row.row)
        return f"{info.name} ({info.location}), row {planned_row.row} in the order of seed {self.seed}"

    def reader(self, owns: Callable[[int], bool]) -> DocumentReader:
        """A reader for the numbers for which ``owns`` is true."""
        return DocumentReader(self.plan, self._sources, owns)

    def sample(self, count: int, seed: int) -> Iterator[str]:
        """Iterate over up to ``count`` training texts in the recipe's shares, without repeating a row of a table.

        Raises:
            MetalmError: A row is broken or a source cannot be read.
        """
        plan = self._index_plan(key_of("sample", seed))
        reader = DocumentReader(plan, self._sources, _owns_all)
        rows, limit = [info.rows for info in self.sources], 20 * count + 1000
        if None not in rows:
            limit = min(limit, max(int((info.rows or 0) / info.share) for info in self.sources) + plan.block_size)
        for number in range(limit):
            if count <= 0:
                return
            if plan.planned_row(number).epoch:
                continue
            document = reader.get(number)
            if document is not None:
                count -= 1
                yield document.text

    def validation(self) -> list[Document]:
        """The validation documents, the same in every run: the first of each source, in the source's order.

        Without separate validation sources these are the documents held out of training; a source may have fewer of
        them than the recipe requests.

        Raises:
            MetalmError: A row is broken or a source cannot be read.
        """
        documents: list[Document] = []
        for source in self._sources if self._validation_sources is None else self._validation_sources:
            documents += self._first_documents(source, "" if self._validation_sources is not None else HELD_OUT)
        return documents

    def _first_documents(self, source: OpenSource, wanted_reason: str) -> list[Document]:
        documents: list[Document] = []
        if not self._validation_documents:
            return documents
        max_rows = SCAN_FACTOR * self._validation_documents * max(1, source.document_filter.hold_out_every)
        for row, (text, reason) in enumerate(filter_rows(source)):
            if reason == wanted_reason:
                documents.append(Document(text, source.info.name, row, -1))
            if len(documents) == self._validation_documents or (source.info.streamed and row >= max_rows):
                break
        return documents


def filter_rows(source: OpenSource) -> Iterator[tuple[str, str]]:
    """Iterate over (text, skip reason) of all rows of a source, once, in the source's order."""
    data, extract = source.data, source.document_filter.extract
    if isinstance(data, RandomAccessRows):
        for row in range(data.rows):
            yield extract(data.load(row), lambda row=row: data.where(row))  # type: ignore[misc]
        return
    for shard in range(data.shards()):
        for raw in data.read(shard):
            yield extract(data.load(raw), lambda raw=raw: data.where(raw))  # type: ignore[misc]


def _owns_all(number: int) -> bool:
    return True


def count_skip_reasons(filtered_rows: Iterator[tuple[str, str]]) -> Counter[str]:
    """Number of rows by skip reason; rows with a document count as ``""``."""
    return Counter(reason for _, reason in filtered_rows)
