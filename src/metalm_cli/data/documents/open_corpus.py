"""Opening the corpus of a recipe's ``data`` section, with a check of every table and of a sample of every stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import cache_folder
from metalm_cli.config.schema.data import DataConfig, DocumentSource
from metalm_cli.data.documents.corpus import Corpus, OpenSource, SourceInfo
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.locate import data_folder
from metalm_cli.data.sources.openers import OpeningContext, open_rows
from metalm_cli.data.sources.row_filter import ABSENT, DocumentFilter, nested_field
from metalm_cli.data.sources.tar_rows import TEXT_MISSING
from metalm_cli.data.sources.usable_rows import find_usable_rows
from metalm_cli.errors import MetalmError

SAMPLE_ROWS = 64
"""Rows at the start of a stream that are checked when it is opened."""


def open_corpus(
    data: DataConfig,
    *,
    seed: int,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> Corpus:
    """Open the sources of a recipe, check the rows of tables and a sample of each stream.

    Args:
        data: The ``data`` section.
        seed: Seed of every order (``train.seed``).
        data_root: Folder of local data sets; default ``$METALM_DATA``.
        offline: Open no connection; hub data must be in ``data_root`` or in the hub's cache.
        cache: Folder for unpacked files and indexes; default ``$XDG_CACHE_HOME/metalm`` or ``~/.cache/metalm``.

    Raises:
        MetalmError: A source is missing, empty, broken (a stream: in its first rows), or has no usable document; a
            weight is required and missing; a hub data set cannot be read.
    """
    root, cache = data_folder(data_root), cache_folder(cache)
    held_out = data.validation.sources is None and data.validation.documents > 0
    hold_out_every = data.validation.hold_out_every if held_out else 0
    training_sources = [_open_source(source, root, offline, cache, hold_out_every) for source in data.sources]
    validation_sources = None
    if data.validation.sources is not None:
        validation_sources = [_open_source(source, root, offline, cache, 0) for source in data.validation.sources]
    return Corpus(_set_shares(training_sources, data.sources), validation_sources, data.validation.documents, seed)


def _open_source(
    source: DocumentSource, root: Path | None, offline: bool, cache: Path, hold_out_every: int
) -> OpenSource:
    document_filter = DocumentFilter(source.name, source.text, source.exclude, hold_out_every)
    opened = open_rows(source, OpeningContext(root, offline, cache))
    data = opened.rows
    rows = data.rows if isinstance(data, RandomAccessRows) else None
    info = SourceInfo(
        source.name, source.kind, rows is None, rows, 1.0, None, opened.location, opened.revision, opened.files
    )
    if isinstance(data, RandomAccessRows):
        return _open_table(info, data, document_filter, cache)
    return _open_stream(info, data, document_filter)


def _set_shares(open_sources: list[OpenSource], sources: list[DocumentSource]) -> list[OpenSource]:
    """Set the share of each source among the drawn documents.

    Raises:
        MetalmError: A weight is required and missing.
    """
    recipe_weights = [source.weight for source in sources]
    row_counts = [source.info.usable for source in open_sources]
    if len(open_sources) == 1:
        weights = [1.0]
    elif all(weight is None for weight in recipe_weights) and None not in row_counts:
        weights = [float(count or 0) for count in row_counts]
    elif None in recipe_weights:
        missing = [source.name for source, weight in zip(sources, recipe_weights, strict=True) if weight is None]
        streams = [source.info.name for source in open_sources if source.info.streamed]
        raise MetalmError(
            "some sources have no weight",
            where="data.sources",
            why=f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} none, and "
            + (f"the row count of {', '.join(streams)} is unknown" if streams else "others have one"),
            remedy="give every source a `weight` (its share of the drawn documents)",
        )
    else:
        weights = [float(weight or 0) for weight in recipe_weights]
    total = sum(weights)
    return [
        replace(source, info=replace(source.info, share=weight / total))
        for source, weight in zip(open_sources, weights, strict=True)
    ]


def _open_table(info: SourceInfo, table: RandomAccessRows, document_filter: DocumentFilter, cache: Path) -> OpenSource:
    """Find the usable rows of a table.

    Raises:
        MetalmError: The table is empty, a row is broken, an excluded field is in no row, or no row is usable.
    """
    if not table.rows:
        raise _empty_error(info)
    absent = set(document_filter.exclude)

    def reasons() -> Iterator[tuple[str, int]]:
        for row, columns in enumerate(table.scan(range(table.rows))):
            has_text = TEXT_MISSING not in table.lacks(columns, (document_filter.text.partition(".")[0],))
            extracted = document_filter.extract(columns, partial(table.where, row)) if has_text else ("", TEXT_MISSING)
            text, reason = extracted
            absent.difference_update([path for path in absent if nested_field(columns, path) is not ABSENT])
            yield reason, 0 if reason else len(text.encode("utf-8"))
        _check_excluded_fields(info, absent, columns, table.rows)

    identity = None
    if table.identity is not None:
        identity = [type(table).__name__, table.identity, document_filter.identity]
    usable_rows = find_usable_rows(reasons(), table.rows, identity, cache)
    if not usable_rows.count:
        raise _no_document_error(info, Counter(usable_rows.left_out))
    info = replace(info, usable=usable_rows.count, left_out=usable_rows.left_out, text_bytes=usable_rows.text_bytes)
    return OpenSource(info, table, document_filter, usable_rows)


def _open_stream(info: SourceInfo, stream: SequentialRows, document_filter: DocumentFilter) -> OpenSource:
    """Check the first rows of a stream, at least up to its first document.

    Raises:
        MetalmError: The stream is empty, a row is broken, an excluded field is in none of them, or no row is usable.
    """
    absent = set(document_filter.exclude)
    reasons: Counter[str] = Counter()
    columns: Any = None
    for raw in (raw for shard in range(stream.shards()) for raw in stream.read(shard)):
        columns = stream.load(raw)
        reasons[document_filter.extract(columns, partial(stream.where, raw))[1]] += 1
        absent.difference_update([path for path in absent if nested_field(columns, path) is not ABSENT])
        if reasons[""] and reasons.total() >= SAMPLE_ROWS:
            break
    if not reasons.total():
        raise _empty_error(info)
    _check_excluded_fields(info, absent, columns, reasons.total())
    if not reasons[""]:
        raise _no_document_error(info, reasons)
    return OpenSource(info, stream, document_filter)


def _empty_error(info: SourceInfo) -> MetalmError:
    return MetalmError(
        f"source {info.name} is empty",
        where=info.location,
        why="the source has no rows",
        remedy="remove the source, or put documents into it",
    )


def _check_excluded_fields(info: SourceInfo, absent: set[str], columns: dict[str, Any], rows: int) -> None:
    """Raise an error for a field of ``exclude`` that none of the checked rows has."""
    for path in sorted(absent):
        raise MetalmError(
            f"source {info.name} excludes by a field that its rows do not have",
            where=f"exclude.{path}",
            why=f"none of {rows:,} rows has it; the last one has {', '.join(sorted(columns))}",
            remedy="correct the field; dots reach into nested objects",
        )


def _no_document_error(info: SourceInfo, reasons: Counter[str]) -> MetalmError:
    del reasons[""]
    return MetalmError(
        f"source {info.name} has no document to train on",
        where=info.location,
        why=f"of its {reasons.total():,} rows: "
        + ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items())),
        remedy="check `text` and `exclude` of the source, and data.validation",
    )
