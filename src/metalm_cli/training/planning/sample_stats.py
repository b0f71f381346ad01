"""Statistics of a sample of the run's rows for the plan: documents, tokens, docks and fill."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from metalm_cli.data.documents.corpus import Corpus, SourceInfo
from metalm_cli.data.sampling.row_slots import RowSlot, RowWriter
from metalm_cli.data.sources.row_filter import HELD_OUT
from metalm_cli.errors import Exit, MetalmError

SAMPLED_DOCUMENTS = 256
"""Maximum number of documents that a plan reads."""
TIME_LIMIT_S = 1.5
"""Time limit for reading them."""
REASON_LABELS = {HELD_OUT: "held out for validation"}
"""Labels of reasons why rows are left out."""


@dataclass(frozen=True)
class SampleStats:
    """Statistics of a sample of rows, made as in a run with one row slot.

    Args:
        sampled: Number of sampled documents.
        documents: Documents consumed by the rows; some are read twice if the sample does not fill the last row.
        tokens: Tokens of these documents, without start and end tokens.
        text_bytes: UTF-8 bytes of these documents.
        rows: Number of rows.
        length: Positions of a row.
        counts: Sums of the rows' counters; ``positions`` counts filled positions.
    """

    sampled: int
    documents: int
    tokens: int
    text_bytes: int
    rows: int
    length: int
    counts: dict[str, int]

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
        """Share of positions that are filled."""
        return self.per_row("positions") / self.length

    @property
    def docked_fraction(self) -> float:
        """Share of document tokens that are docked."""
        return self.counts.get("docked_tokens", 0) / max(1, self.counts.get("source_tokens", 0))

    @property
    def positions_per_docked_token(self) -> float | None:
        """Decoder positions per docked document token; None if nothing is docked."""
        tokens = self.counts.get("docked_tokens", 0)
        return self.counts.get("docked_positions", 0) / tokens if tokens else None

    @property
    def positions_per_document(self) -> float:
        """Row positions per document, unfilled ones included."""
        per_token = self.rows * self.length / max(1, self.counts.get("source_tokens", 0))
        return self.tokens_per_document * per_token


class _RepeatedTexts:
    """Reader that repeats the sampled documents."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def get(self, number: int) -> Any:
        return _Text(self.texts[number % len(self.texts)])


@dataclass(frozen=True)
class _Text:
    text: str


def compute_sample_stats(
    corpus: Corpus, writer: RowWriter, *, documents: int = SAMPLED_DOCUMENTS, seconds: float = TIME_LIMIT_S
) -> SampleStats:
    """Read the first documents of a run, and compute statistics of the rows made from them.

    Args:
        corpus: The documents; read with a new reader.
        writer: The objective's row writer.
        documents: Maximum number of documents.
        seconds: Time limit. At least one document is read and one row written.

    Raises:
        MetalmError: A row of a source is broken.
    """
    start = time.monotonic()
    texts = _documents(corpus, documents, start + seconds / 3)
    slot = RowSlot(0, 1, _RepeatedTexts(texts), writer)
    counts: Counter[str] = Counter()
    rows = 0
    while rows == 0 or (slot.state.number < len(texts) and time.monotonic() < start + seconds):
        row = slot.next_row()
        counts.update(row.counts)
        counts["positions"] += len(row)
        rows += 1
    num_documents, begun_tokens = slot.state.number, slot.state.offset
    num_tokens = counts["source_tokens"] - begun_tokens
    if num_documents == 0:  # one document fills more than all rows: count its own tokens
        num_documents, num_tokens = 1, _length(writer, texts[0])
    text_bytes = sum(len(texts[index % len(texts)].encode()) for index in range(num_documents))
    return SampleStats(
        min(num_documents, len(texts)), num_documents, num_tokens, text_bytes, rows, writer.length, dict(counts)
    )


def _length(writer: RowWriter, text: str) -> int:
    unit = writer.read(text, 0)
    return len(getattr(unit, "document", unit))


def _documents(corpus: Corpus, count: int, deadline: float) -> list[str]:
    """Read the first distinct documents of the index plan."""
    limit = 20 * count + 1000
    reader = corpus.reader(limit.__gt__)
    texts: list[str] = []
    for number in range(limit):
        if len(texts) == count or (texts and time.monotonic() > deadline):
            break
        if not corpus.planned_row(number).epoch:
            texts.append(reader.get(number).text)
    return texts


@dataclass(frozen=True)
class SourcePlan:
    """Expected reading of a source over the whole run.

    Args:
        info: The source.
        documents: Expected number of documents read from it.
        epochs: Expected passes over it; None for a stream.
    """

    info: SourceInfo
    documents: float
    epochs: float | None


def source_plans(sources: list[SourceInfo], sample_stats: SampleStats, positions: float) -> tuple[SourcePlan, ...]:
    """Compute what a run with a number of positions reads from each source."""
    drawn = positions / sample_stats.positions_per_document
    return tuple(
        SourcePlan(info, drawn * info.share, drawn * info.share / info.usable if info.usable else None)
        for info in sources
    )


def left_out_notes(sources: list[SourceInfo]) -> list[str]:
    """Describe how many rows of each source are not trained on, and why."""
    return [
        f"{sum(info.left_out.values()):,} rows of {info.name} are not trained on: "
        + ", ".join(
            f"{number:,} {REASON_LABELS.get(reason, reason)}{_named(info, reason)}"
            for reason, number in sorted(info.left_out.items())
        )
        for info in sources
        if info.left_out
    ]


def _named(info: SourceInfo, reason: str) -> str:
    names = info.named.get(reason, ())
    return f" ({', '.join(names)}{', …' if info.left_out[reason] > len(names) else ''})" if names else ""


def steps_from_epochs(epochs: float, corpus: Corpus, sample_stats: SampleStats, batch_size: int) -> int:
    """Estimate the optimiser steps of ``epochs`` passes over all sources.

    The number is ``ceil(epochs * d * p / (batch_size * length))``, with ``d`` usable documents of ``p`` positions each
    on average, of which p is estimated from the sample.

    Raises:
        MetalmError: A source is a stream, whose size is unknown.
    """
    streams = [info.name for info in corpus.sources if info.streamed]
    if streams:
        raise MetalmError(
            f"the length of an epoch is unknown: {', '.join(streams)} {'is' if len(streams) == 1 else 'are'} read "
            "as a stream",
            where=f"train.epochs: {epochs:g}",
            why="the number of rows of a stream is unknown",
            remedy="set train.steps instead, or streaming: false for a source that can be downloaded",
            exit_code=Exit.USAGE,
        )
    documents = sum(info.usable or 0 for info in corpus.sources)
    return max(
        1, math.ceil(epochs * documents * sample_stats.positions_per_document / (batch_size * sample_stats.length))
    )
