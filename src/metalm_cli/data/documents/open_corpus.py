"""From the ``data`` section of a recipe to a corpus, with every source looked at before work begins."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.cache import cache_folder
from metalm_cli.config.schema.data import Data, Source
from metalm_cli.data.documents.corpus import Corpus, OpenSource, SourceInfo, count_skip_reasons, filter_rows
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.data.sources.jsonl import JsonlStream, JsonlTable, prepare
from metalm_cli.data.sources.locate import FileFacts, check_hub_name, data_folder, local_files
from metalm_cli.data.sources.row_filter import ABSENT, DocumentFilter, nested_field
from metalm_cli.data.sources.row_tables import MiniworldDocumentRows
from metalm_cli.errors import MetalmError

SAMPLED = 64
"""Rows looked at when a source is opened: of a table spread over it, of a stream its first."""
SEARCHED = 4096
"""Rows searched for a usable document if none of the sampled is."""


def open_corpus(
    data: Data,
    *,
    seed: int,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> Corpus:
    """Open the sources of a recipe and look at a sample of each.

    Args:
        data: The ``data`` section.
        seed: Seed of every order (``train.seed``).
        data_root: Folder in which data sets lie; default ``$METALM_DATA``.
        offline: Open no connection; hub data must be at hand.
        cache: Folder for unpacked files and indexes; default ``$XDG_CACHE_HOME/metalm`` or ``~/.cache/metalm``.

    Raises:
        MetalmError: A source is missing, empty, broken in the sample, or has no usable document; weights are
            needed and not given; the hub cannot give a data set.
    """
    root, cache = data_folder(data_root), cache_folder(cache)
    held_out = data.validation.sources is None and data.validation.documents > 0
    every = data.validation.hold_out_every if held_out else 0
    opened = [_opened(source, root, offline, cache, every) for source in data.sources]
    apart = None
    if data.validation.sources is not None:
        apart = [_opened(source, root, offline, cache, 0) for source in data.validation.sources]
    return Corpus(_weighted(opened, data.sources), apart, data.validation.documents, seed)


def _opened(source: Source, root: Path | None, offline: bool, cache: Path, every: int) -> OpenSource:
    picker = DocumentFilter(source.name, source.text, source.exclude, every)
    if source.hub is not None:
        check_hub_name(source)
    kind = "hub" if source.hub is not None else "path" if source.path is not None else "world"
    revision, files = None, tuple[FileFacts, ...]()
    read: RandomAccessRows | SequentialRows
    if source.world is not None:
        read, location = MiniworldDocumentRows(source.world), f"seed {source.world.seed}"
    elif (paths := local_files(source, root)) is not None:
        read, files = _from_files(paths, bool(source.streaming), cache)
        location = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    else:
        from metalm_cli.data.sources.hub import open_hub

        read, revision = open_hub(source, offline=offline)
        location = str(source.hub)
    rows = read.rows if isinstance(read, RandomAccessRows) else None
    info = SourceInfo(source.name, kind, rows is None, rows, 1.0, None, location, revision, files)
    return _looked_at(OpenSource(info, read, picker))


def _from_files(
    paths: list[Path], streaming: bool, cache: Path
) -> tuple[RandomAccessRows | SequentialRows, tuple[FileFacts, ...]]:
    if streaming:
        return JsonlStream(paths), tuple(FileFacts(str(path), None, path.stat().st_size) for path in paths)
    files = [prepare(path, cache) for path in paths]
    return JsonlTable(files), tuple(FileFacts(str(file.path), file.sha256, file.size) for file in files)


def _weighted(opened: list[OpenSource], sources: list[Source]) -> list[OpenSource]:
    """Give each source its share of the documents.

    Raises:
        MetalmError: A weight is needed and not given.
    """
    given = [source.weight for source in sources]
    rows = [one.info.rows for one in opened]
    if len(opened) == 1:
        weights = [1.0]
    elif all(weight is None for weight in given) and None not in rows:
        weights = [float(count or 0) for count in rows]
    elif None in given:
        missing = [source.name for source, weight in zip(sources, given, strict=True) if weight is None]
        streams = [one.info.name for one in opened if one.info.rows is None]
        raise MetalmError(
            "Sources without a weight",
            where="data.sources",
            why=f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} none, and "
            + (f"the row count of {', '.join(streams)} is unknown" if streams else "others have one"),
            remedy="give every source a `weight` (its share of the documents drawn)",
        )
    else:
        weights = [float(weight or 0) for weight in given]
    total = sum(weights)
    return [
        replace(one, info=replace(one.info, share=weight / total)) for one, weight in zip(opened, weights, strict=True)
    ]


def _looked_at(opened: OpenSource) -> OpenSource:
    """Read a sample of a source, so that what is wrong with it is said before work begins.

    Raises:
        MetalmError: It is empty, a sampled row is broken, an excluded field is in no row, or nothing is usable.
    """
    data, info = opened.data, opened.info
    rows = _sampled(data)
    if not rows:
        raise MetalmError(
            f"Source {info.name} is empty",
            where=info.location,
            why="it has no rows",
            remedy="remove the source, or put documents into it",
        )
    reasons, size = [], 0
    for row, where in rows:
        text, reason = opened.picker.take(row, lambda where=where: _place(data, where))  # type: ignore[misc]
        reasons.append(reason)
        size += len(text.encode("utf-8"))
    for path in opened.picker.exclude:
        if all(nested_field(row, path) is ABSENT for row, _ in rows):
            raise MetalmError(
                f"Source {info.name} excludes by a field that its rows do not have",
                where=f"exclude.{path}",
                why=f"none of {len(rows)} sampled rows has it; they have {', '.join(sorted(rows[0][0]))}",
                remedy="correct the field; dots reach inside objects",
            )
    if all(reasons):
        _find_usable(opened, len(rows))
    if info.rows is None:
        return opened
    return replace(opened, info=replace(info, text_bytes=round(size / len(rows) * info.rows)))


def _place(data: Any, where: Any) -> str:
    return data.where(where)


def _sampled(data: RandomAccessRows | SequentialRows) -> list[tuple[Any, Any]]:
    """(row, what tells where it stands)."""
    if isinstance(data, RandomAccessRows):
        chosen = np.unique(np.linspace(0, data.rows - 1, min(SAMPLED, data.rows)).astype(np.int64))
        return [(data.load(row), row) for row in chosen.tolist()] if data.rows else []
    found = []
    for shard in range(data.shards()):
        for raw in data.read(shard):
            found.append((data.load(raw), raw))
            if len(found) == SAMPLED:
                return found
    return found


def _find_usable(opened: OpenSource, sampled: int) -> None:
    counts = count_skip_reasons(islice(filter_rows(opened), SEARCHED))
    if counts[""]:
        return
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items()))
    raise MetalmError(
        f"Source {opened.info.name} gives no document to train on",
        where=opened.info.location,
        why=f"of its first {counts.total()} rows: {why}",
        remedy="look at `text` and `exclude` of the source, and at data.validation",
    )
