"""Opening the corpus of a recipe's ``data`` section, with a check of a sample of every source."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.cache import cache_folder
from metalm_cli.config.schema.data import DataConfig, DocumentSource
from metalm_cli.data.documents.corpus import Corpus, OpenSource, SourceInfo, count_skip_reasons, filter_rows
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.jsonl import JsonlStream, JsonlTable, prepare
from metalm_cli.data.sources.locate import FileFacts, check_hub_name, data_folder, local_files
from metalm_cli.data.sources.row_filter import ABSENT, DocumentFilter, nested_field
from metalm_cli.data.sources.row_tables import MiniworldDocumentRows
from metalm_cli.errors import MetalmError

SAMPLE_ROWS = 64
"""Rows that are checked when a source is opened: spread over a table, the first of a stream."""
MAX_ROWS_SEARCHED = 4096
"""Rows searched for a usable document if the sample has none."""


def open_corpus(
    data: DataConfig,
    *,
    seed: int,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> Corpus:
    """Open the sources of a recipe and check a sample of each.

    Args:
        data: The ``data`` section.
        seed: Seed of every order (``train.seed``).
        data_root: Folder of local data sets; default ``$METALM_DATA``.
        offline: Open no connection; hub data must be in ``data_root`` or in the hub's cache.
        cache: Folder for unpacked files and indexes; default ``$XDG_CACHE_HOME/metalm`` or ``~/.cache/metalm``.

    Raises:
        MetalmError: A source is missing, empty, broken in the sample, or has no usable document; a weight is required
            and missing; a hub data set cannot be read.
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
    if source.hub is not None:
        check_hub_name(source)
    kind = "hub" if source.hub is not None else "path" if source.path is not None else "world"
    revision, files = None, tuple[FileFacts, ...]()
    data: RandomAccessRows | SequentialRows
    if source.world is not None:
        data, location = MiniworldDocumentRows(source.world), f"seed {source.world.seed}"
    elif (paths := local_files(source, root)) is not None:
        data, files = _open_files(paths, bool(source.streaming), cache)
        location = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    else:
        from metalm_cli.data.sources.hub import open_hub

        data, revision = open_hub(source, offline=offline)
        location = str(source.hub)
    rows = data.rows if isinstance(data, RandomAccessRows) else None
    info = SourceInfo(source.name, kind, rows is None, rows, 1.0, None, location, revision, files)
    return _check_sample(OpenSource(info, data, document_filter))


def _open_files(
    paths: list[Path], streaming: bool, cache: Path
) -> tuple[RandomAccessRows | SequentialRows, tuple[FileFacts, ...]]:
    if streaming:
        return JsonlStream(paths), tuple(FileFacts(str(path), None, path.stat().st_size) for path in paths)
    files = [prepare(path, cache) for path in paths]
    return JsonlTable(files), tuple(FileFacts(str(file.path), file.sha256, file.size) for file in files)


def _set_shares(open_sources: list[OpenSource], sources: list[DocumentSource]) -> list[OpenSource]:
    """Set the share of each source among the drawn documents.

    Raises:
        MetalmError: A weight is required and missing.
    """
    recipe_weights = [source.weight for source in sources]
    row_counts = [source.info.rows for source in open_sources]
    if len(open_sources) == 1:
        weights = [1.0]
    elif all(weight is None for weight in recipe_weights) and None not in row_counts:
        weights = [float(count or 0) for count in row_counts]
    elif None in recipe_weights:
        missing = [source.name for source, weight in zip(sources, recipe_weights, strict=True) if weight is None]
        streams = [source.info.name for source in open_sources if source.info.rows is None]
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


def _check_sample(source: OpenSource) -> OpenSource:
    """Check a sample of a source, so that errors are reported before work begins.

    Raises:
        MetalmError: The source is empty, a sampled row is broken, an excluded field is in no row, or no row is usable.
    """
    data, info = source.data, source.info
    sample = _sample_rows(data)
    if not sample:
        raise MetalmError(
            f"source {info.name} is empty",
            where=info.location,
            why="the source has no rows",
            remedy="remove the source, or put documents into it",
        )
    reasons, text_bytes = [], 0
    for row, key in sample:
        text, reason = source.document_filter.extract(row, lambda where=key: _location(data, where))  # type: ignore[misc]
        reasons.append(reason)
        text_bytes += len(text.encode("utf-8"))
    for path in source.document_filter.exclude:
        if all(nested_field(row, path) is ABSENT for row, _ in sample):
            raise MetalmError(
                f"source {info.name} excludes by a field that its rows do not have",
                where=f"exclude.{path}",
                why=f"none of {len(sample)} sampled rows has it; they have {', '.join(sorted(sample[0][0]))}",
                remedy="correct the field; dots reach into nested objects",
            )
    if all(reasons):
        _check_usable(source, len(sample))
    if info.rows is None:
        return source
    return replace(source, info=replace(info, text_bytes=round(text_bytes / len(sample) * info.rows)))


def _location(data: Any, key: Any) -> str:
    return data.where(key)


def _sample_rows(data: RandomAccessRows | SequentialRows) -> list[tuple[Any, Any]]:
    """Sample of (row, argument of ``where`` for its location)."""
    if isinstance(data, RandomAccessRows):
        row_indices = np.unique(np.linspace(0, data.rows - 1, min(SAMPLE_ROWS, data.rows)).astype(np.int64))
        return [(data.load(row), row) for row in row_indices.tolist()] if data.rows else []
    sample = []
    for shard in range(data.shards()):
        for raw in data.read(shard):
            sample.append((data.load(raw), raw))
            if len(sample) == SAMPLE_ROWS:
                return sample
    return sample


def _check_usable(source: OpenSource, sampled: int) -> None:
    counts = count_skip_reasons(islice(filter_rows(source), MAX_ROWS_SEARCHED))
    if counts[""]:
        return
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items()))
    raise MetalmError(
        f"source {source.info.name} has no document to train on",
        where=source.info.location,
        why=f"of its first {counts.total()} rows: {why}",
        remedy="check `text` and `exclude` of the source, and data.validation",
    )
