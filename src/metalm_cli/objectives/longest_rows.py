"""Rows that take the most memory: full, with the longest docks or with masks, of random tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from metalm_cli.data.documents.masked_rows import EncoderWriter
from metalm_cli.data.sampling.row_slots import RowSegment
from metalm_cli.sessions import (
    DOCKED_ID,
    DockInput,
    Processor,
    Row,
    TextProcessor,
    TokenisedDocument,
    TokenisedSession,
    build_row,
)
from metalm_cli.sessions.processors import digest, dock_input


def masked_row(writer: EncoderWriter, vocabulary: int, rng: np.random.Generator, number: int) -> Row:
    """Make a full row of an encoder, of two documents where the encoder packs.

    Args:
        writer: Writer of the rows.
        vocabulary: Size of the encoder's vocabulary.
        rng: Generator of the tokens.
        number: Number of the row in the index plan.
    """
    ids = rng.integers(0, vocabulary, size=writer.length)
    ends = np.arange(1, writer.length + 1)
    document = TokenisedDocument("", ids, ends - 1, ends)
    segments: list[RowSegment] = []
    counts, length = Counter[str](), writer.length
    sizes = [length // 2, length - length // 2] if writer.isolate and writer.packs else [length]
    for size in sizes:
        segment = writer.take(document, 0, size, not segments)
        if segment is not None:
            segments.append(segment)
            counts.update(segment.counts)
    return writer.write(segments, counts, [number])


def docked_row(
    length: int, is_packed: bool, longest: int, processor: Processor | None, vocabulary: int, rng: np.random.Generator
) -> Row:
    """Make a full row of a decoder with as many docks as fit.

    Args:
        length: Decoder positions of the row.
        is_packed: Make two sessions that cannot attend to each other, instead of one.
        longest: Maximum number of tokens of a docked span; 0 for no docked spans.
        processor: Processor of the encoder that reads the docked spans.
        vocabulary: Size of the decoder's vocabulary.
        rng: Generator of the tokens.
    """
    sizes = [length // 2, length - length // 2] if is_packed else [length]
    sessions = [_docked_session(size, longest, processor, vocabulary, rng) for size in sizes]
    return build_row(sessions, counts={"source_tokens": length})


def with_texts(row: Row, longest: int, max_length: int | None, vocabulary: int, rng: np.random.Generator) -> Row:
    """Give the docks of a row random texts for a teacher, as long as it can read.

    Args:
        row: A row of :func:`docked_row`.
        longest: Maximum number of tokens of a docked span.
        max_length: Maximum positions of the decoder; None: no limit.
        vocabulary: Size of the decoder's vocabulary.
        rng: Generator of the tokens.
    """
    segments = row.segments[[position for position, _ in row.docks]]
    docks = []
    for (position, dock), segment in zip(row.docks, segments, strict=True):
        siblings = [other for (_, other), own in zip(row.docks, segments, strict=True) if own == segment]
        causal = int((row.segments == segment).sum()) - sum(other.positions for other in siblings)
        room = longest if max_length is None else (max_length - causal) // len(siblings)
        text_ids = rng.integers(0, vocabulary, size=max(1, min(longest, room)))
        docks.append((position, replace(dock, text_ids=text_ids)))
    return replace(row, docks=tuple(docks))


def random_pair(length: int, source_length: int, vocabulary: int, rng: np.random.Generator) -> TokenisedSession:
    """Make a full session of an encoder–decoder, of random tokens: a source, and the rest as its target."""
    trained = np.arange(length) >= min(source_length, length // 2)
    return TokenisedSession(rng.integers(0, vocabulary, size=length), trained)


def _docked_session(
    size: int, longest: int, processor: Processor | None, vocabulary: int, rng: np.random.Generator
) -> TokenisedSession:
    """Make a session of docks with one trained token after each, then trained tokens up to the size."""
    ids = rng.integers(0, vocabulary, size=size)
    trained = np.ones(size, dtype=bool)
    docks, position = [], 0
    while longest and processor is not None:
        dock = _random_dock(processor, longest, size - position - 1, rng)
        if dock is None or position + dock.positions + 1 > size:
            break
        docks.append((position, dock))
        ids[position : position + dock.positions] = DOCKED_ID
        trained[position : position + dock.positions] = False
        position += dock.positions + 1
    return TokenisedSession(ids, trained, tuple(docks))


def _random_dock(processor: Processor, longest: int, room: int, rng: np.random.Generator) -> DockInput | None:
    """Make a dock of random content, distinct from all others, because equal docks are encoded only once.

    Args:
        processor: Processor of the encoder.
        longest: Maximum number of content tokens.
        room: Decoder positions that the dock may take.
        rng: Generator of the content.

    Returns:
        None if no dock fits.
    """
    if isinstance(processor, TextProcessor):
        template = processor.prepare("a")
        ids, docked_length = (
            template.arrays["input_ids"],
            0 if processor.keep_special else len(template.output_positions),
        )
        content_start = (
            int(template.output_positions[0]) if docked_length else int(np.argmax(~_is_special(processor, ids)))
        )
        num_special = len(ids) - 1 if not docked_length else len(ids) - docked_length
        extra_outputs = num_special if not docked_length else 0
        compression = processor.compression
        tokens = longest if compression is not None else min(longest, room)
        content_length = min(tokens - extra_outputs, processor.max_length - num_special)
        while content_length > 0 and compression and compression.positions(content_length + extra_outputs) > room:
            content_length -= 1
        if content_length < 1:
            return None
        content_ids = rng.integers(0, len(processor.tokenizer), size=content_length)
        input_ids = np.concatenate([ids[:content_start], content_ids, ids[len(ids) - num_special + content_start :]])
        docked = np.arange(len(input_ids)) if processor.keep_special else content_start + np.arange(content_length)
        arrays = {"input_ids": input_ids}
        key, cost = digest("probe", input_ids), {"text": len(input_ids)}
        return dock_input(processor.encoder, arrays, docked, key, cost, compression)
    template = processor.dummy()
    noise = {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in template.arrays.items()}
    return replace(template, arrays=noise, key=digest("probe", *noise.values()))


def _is_special(processor: TextProcessor, ids: np.ndarray) -> np.ndarray:
    return np.isin(ids, processor.tokenizer.all_special_ids)
