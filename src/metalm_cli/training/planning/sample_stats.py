"""What a sample of the run's own rows says about the run: documents, tokens, docks and fill, for the plan."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from metalm_cli.data.documents.corpus import Corpus, SourceInfo
from metalm_cli.data.sampling.lanes import RowSlot, RowWriter
from metalm_cli.errors import Exit, MetalmError

SAMPLED = 256
"""Documents that a plan reads."""
SECONDS = 1.5
"""... unless they take longer than this."""


@dataclass(frozen=True)
class SampleStats:
    """Counts of a sample of rows, read as a run of one lane would read them.

    Args:
        sampled: Documents of the sample.
        documents: Documents that rows used up; some twice, if the sample did not fill its last row.
        tokens: Their tokens, start and end tokens not counted.
        text_bytes: Their UTF-8 bytes.
        rows: Whole rows that were written from them.
        length: Positions of a row.
        counts: Sums of the rows' counters; ``positions`` is what was filled.
        usable: Share of each source's rows that gave a document, by name.
    """

    sampled: int
    documents: int
    tokens: int
    text_bytes: int
    rows: int
    length: int
    counts: dict[str, int]
    usable: dict[str, float]

    def per_row(self, name: str) -> float:
        """Mean of a counter over the rows."""
        return self.counts.get(name, 0) / self.rows

    @property
    def tokens_per_document(self) -> float:
        return self.tokens / self.documents

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / max(1, self.tokens)

    @property
    def fill(self) -> float:
        """Filled positions as a share of all."""
        return self.per_row("positions") / self.length

    @property
    def docked_fraction(self) -> float:
        """Document tokens that were docked, as a share of all."""
        return self.counts.get("docked_tokens", 0) / max(1, self.counts.get("source_tokens", 0))

    @property
    def positions_per_docked_token(self) -> float | None:
        """Decoder positions that a docked document token takes; None where nothing was docked."""
        tokens = self.counts.get("docked_tokens", 0)
        return self.counts.get("docked_positions", 0) / tokens if tokens else None

    @property
    def positions_per_document(self) -> float:
        """Positions of rows, filled or not, that a document takes."""
        per_token = self.rows * self.length / max(1, self.counts.get("source_tokens", 0))
        return self.tokens_per_document * per_token


class _Sampled:
    """The documents of the plan's first numbers, over and over."""

    reason = ""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def get(self, number: int) -> Any:
        return _Text(self.texts[number % len(self.texts)])


@dataclass(frozen=True)
class _Text:
    text: str


def sample_figures(
    corpus: Corpus, writer: RowWriter, *, documents: int = SAMPLED, seconds: float = SECONDS
) -> SampleStats:
    """Read the documents that a run would read first, and write rows of them.

    Args:
        corpus: The documents; a reader of its own is used.
        writer: The objective's.
        documents: How many to read.
        seconds: Stop earlier when it takes longer. At least one document is read and one row written.

    Raises:
        MetalmError: A row of a source is broken, or nothing usable is found.
    """
    start = time.monotonic()
    texts, usable = _documents(corpus, documents, start + seconds / 3)
    lane = RowSlot(0, 1, _Sampled(texts), writer)
    counts: Counter[str] = Counter()
    rows = 0
    while rows == 0 or (lane.state.number < len(texts) and time.monotonic() < start + seconds):
        row = lane.next_row()
        counts.update(row.counts)
        counts["positions"] += len(row)
        rows += 1
    done, begun = lane.state.number, lane.state.offset
    tokens = counts["source_tokens"] - begun
    if done == 0:  # one document is longer than all that was read: its tokens are known from its bytes
        done, tokens = 1, _length(writer, texts[0])
    size = sum(len(texts[at % len(texts)].encode()) for at in range(done))
    return SampleStats(min(done, len(texts)), done, tokens, size, rows, writer.length, dict(counts), usable)


def _length(writer: RowWriter, text: str) -> int:
    read = writer.read(text, 0)
    return len(getattr(read, "document", read))


def _documents(corpus: Corpus, count: int, until: float) -> tuple[list[str], dict[str, float]]:
    """The first documents of the plan, none twice, and the usable share of each source's rows."""
    limit = 20 * count + 1000
    reader, names = corpus.reader(limit.__gt__), [info.name for info in corpus.sources]
    texts: list[str] = []
    read: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for number in range(limit):
        if len(texts) == count or (texts and time.monotonic() > until):
            break
        place = corpus.place(number)
        if place.epoch:
            continue
        name = names[place.source]
        read[name] += 1
        found = reader.get(number)
        if found is not None:
            used[name] += 1
            texts.append(found.text)
    if not texts:
        raise MetalmError(
            f"the first {limit:,} rows of the sources give no document",
            where="data.sources",
            remedy="check exclude, the text column, and that the sources hold text",
        )
    return texts, {name: used[name] / read[name] for name in read}


@dataclass(frozen=True)
class SourcePlan:
    """A source over the whole run.

    Args:
        info: The source.
        documents: Documents that the run is expected to read from it.
        epochs: How often that is all of it; None for a stream.
    """

    info: SourceInfo
    documents: float
    epochs: float | None


def source_plans(sources: list[SourceInfo], figures: SampleStats, positions: float) -> tuple[SourcePlan, ...]:
    """What a run of that many positions reads from each source."""
    given = {info.name: info.share * figures.usable.get(info.name, 1.0) for info in sources}
    numbers = positions / figures.positions_per_document / max(sum(given.values()), 1e-12)
    return tuple(
        SourcePlan(info, numbers * given[info.name], numbers * info.share / info.rows if info.rows else None)
        for info in sources
    )


def steps_from_epochs(epochs: float, corpus: Corpus, figures: SampleStats, batch_size: int) -> int:
    """Optimiser steps of that many passes over all sources: ``ceil(epochs * d * p / (batch_size * length))``.

    ``d`` is the number of usable documents, ``p`` the mean positions that one takes; both come from the sample, so
    the result is an estimate.

    Raises:
        MetalmError: A source is a stream, whose size nobody knows.
    """
    streams = [info.name for info in corpus.sources if info.rows is None]
    if streams:
        raise MetalmError(
            f"how long an epoch is cannot be known: {', '.join(streams)} {'is' if len(streams) == 1 else 'are'} read "
            "as a stream",
            where=f"train.epochs: {epochs:g}",
            why="a stream does not say how many rows it has",
            remedy="give train.steps instead, or streaming: false for a source that is at hand",
            exit_code=Exit.USAGE,
        )
    documents = sum((info.rows or 0) * figures.usable.get(info.name, 1.0) for info in corpus.sources)
    return max(1, math.ceil(epochs * documents * figures.positions_per_document / (batch_size * figures.length)))
