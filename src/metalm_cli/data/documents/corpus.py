"""The corpus: the documents of a recipe as an endless numbered list, readable by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from metalm_cli.data.sampling.index_plan import IndexPlan, PlannedRow, key_of
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.locate import FileFacts
from metalm_cli.data.sources.row_filter import HELD_OUT, DocumentFilter
from metalm_cli.data.sources.streaming import StreamCursor
from metalm_cli.data.sources.usable_rows import UsableRows
from metalm_cli.errors import Exit, MetalmError

SCAN_FACTOR = 4
"""The search for a stream's held-out documents ends after this multiple of the documents expected to hold them."""


@dataclass(frozen=True)
class Document:
    """The document at a number of the index plan.

    Attributes:
        text: Its text, never empty.
        source: Name of its source.
        row: Row of a table; for a stream the n of the n-th document read.
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
        kind: hub, path, world, or a data source of a plug-in.
        streamed: Whether the source is read in order; otherwise it is a table, read by row.
        rows: Rows before filtering; None for a stream.
        share: Share of the drawn documents that come from this source; the shares sum to 1.
        text_bytes: UTF-8 bytes of the texts that can be drawn; None for a stream.
        location: Folder, file, hub id or seed.
        revision: Commit of a hub data set, if it was read from the hub.
        files: The files with their hashes.
        usable: Rows that can be drawn; None for a stream.
        left_out: Number of the other rows of a table, by reason.
        named: What is wrong with some of these rows, by reason.
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
    usable: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenSource:
    """An open source: its facts, its rows, its filter, and the rows of a table that can be drawn."""

    info: SourceInfo
    data: RandomAccessRows | SequentialRows
    document_filter: DocumentFilter
    usable_rows: UsableRows | None = None

    def row_of_table(self, draw: int) -> int:
        """Row of the table for a row of the index plan, which counts usable rows."""
        assert self.usable_rows is not None, "tables are opened with their usable rows"
        return self.usable_rows[draw]


class DocumentReader:
    """Reader of documents by number, in one process. Picklable until its first read.

    The numbers of a row slot must increase; the numbers of several slots may interleave in any way.

    Args:
        plan: The index plan.
        sources: The sources, in the plan's order.
        owns: Predicate of the numbers that this reader will read. Streams yield each row once, and buffer only rows of
            these numbers; a resumed run excludes the numbers that it has read before.
    """

    def __init__(self, plan: IndexPlan, sources: list[OpenSource], owns: Callable[[int], bool]) -> None:
        self.plan, self.sources, self.owns = plan, sources, owns
        self._cursors: dict[int, StreamCursor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursors": {}}

    def get(self, number: int) -> Document:
        """The document at ``number``.

        Raises:
            MetalmError: A row is broken or the source cannot be read (exit code: failed while running).
        """
        planned_row = self.plan.planned_row(number)
        source = self.sources[planned_row.source]
        try:
            if isinstance(source.data, RandomAccessRows):
                data, row = source.data, source.row_of_table(planned_row.row)
                text, _ = source.document_filter.extract(data.load(row), lambda: data.where(row))
                return Document(text, source.info.name, row, number)
            return Document(self._cursor(planned_row.source).get(number), source.info.name, planned_row.row, number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise

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
        return IndexPlan([info.name for info in infos], [i.share for i in infos], [i.usable for i in infos], seed)

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
            if info.usable != info.rows:
                parts += ["usable", info.usable]
        return f"{key_of(*parts):016x}"

    def planned_row(self, number: int) -> PlannedRow:
        """The source and the row at ``number``: the row of a table in the table, unlike that of the index plan.

        Raises:
            ValueError: The number is negative.
        """
        planned_row = self.plan.planned_row(number)
        source = self._sources[planned_row.source]
        if source.info.streamed:
            return planned_row
        return replace(planned_row, row=source.row_of_table(planned_row.row))

    def where(self, number: int) -> str:
        """Location of the row at ``number``: ``file:line`` for files, a row number otherwise."""
        planned_row = self.planned_row(number)
        data, info = self._sources[planned_row.source].data, self.sources[planned_row.source]
        if isinstance(data, RandomAccessRows):
            return data.where(planned_row.row)
        return f"{info.name} ({info.location}), document {planned_row.row} in the order of seed {self.seed}"

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
        usable, limit = [info.usable for info in self.sources], 20 * count + 1000
        if None not in usable:
            limit = min(limit, max(int((info.usable or 0) / info.share) for info in self.sources) + plan.block_size)
        for number in range(limit):
            if count <= 0:
                return
            if not plan.planned_row(number).epoch:
                count -= 1
                yield reader.get(number).text

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
        max_documents = SCAN_FACTOR * self._validation_documents * max(1, source.document_filter.hold_out_every)
        searched = 0
        for row, (text, reason) in enumerate(filter_rows(source.data, source.document_filter)):
            if reason == wanted_reason:
                documents.append(Document(text, source.info.name, row, -1))
            searched += reason in ("", HELD_OUT)
            if len(documents) == self._validation_documents or (source.info.streamed and searched > max_documents):
                break
        return documents


def filter_rows(data: RandomAccessRows | SequentialRows, document_filter: DocumentFilter) -> Iterator[tuple[str, str]]:
    """Iterate over (text, reason why it is left out) of all rows of a source, once, in the source's order."""
    extract = document_filter.extract
    if isinstance(data, RandomAccessRows):
        for row, columns in enumerate(data.scan(range(data.rows))):
            yield extract(columns, partial(data.where, row))
        return
    for shard in range(data.shards()):
        for raw in data.read(shard):
            yield extract(data.load(raw), partial(data.where, raw))


def _owns_all(number: int) -> bool:
    return True
