"""Hub data sets, read with ``datasets``: downloaded as a table, or streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metalm_cli.common.hub import explain_hub_error, no_connections
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.sources.arrow_tables import ROWS_PER_BATCH, DatasetRows, class_names
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.errors import MetalmError

MAX_OPENING_RETRIES = 2
"""Retries while a data set is opened; reading uses the longer defaults of ``datasets``."""

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class HubSplit:
    """A split of a hub data set at a commit (None: the commit in the cache)."""

    repo: str
    config: str | None
    split: str
    commit: str | None

    def load(self, *, streaming: bool, offline: bool = False) -> Any:
        """Load the split as a ``datasets`` object.

        Raises:
            MetalmError: The split cannot be loaded from the hub or from the cache.
        """
        import datasets

        if Path(self.repo).exists():
            raise MetalmError(
                f"{self.repo} is both a hub data set and a folder in the working directory",
                where=str(Path(self.repo).absolute()),
                remedy="run from another folder, or read the folder with `path`",
            )
        try:
            with no_connections(offline):
                builder = datasets.load_dataset_builder(self.repo, self.config, revision=self.commit)
                if not offline and "packaged_modules.cache" in type(builder).__module__:
                    raise self._cached_copy_error()
                if streaming:
                    return builder.as_streaming_dataset(split=self.split)
                builder.download_and_prepare()
                return builder.as_dataset(split=self.split)
        except Exception as error:
            raise _explain_error(error, self) from error

    def _cached_copy_error(self) -> MetalmError:
        """Error for the fallback of ``datasets`` to any revision in its cache, which would silently change the data."""
        return MetalmError(
            f"the hub failed while {self.repo} was opened",
            where=self.repo,
            why="the files could not be listed; the cache has a copy",
            remedy="try again later, or use the copy with --offline",
        )


class HubTable(DatasetRows):
    """A downloaded split, memory-mapped."""

    def __init__(self, hub_split: HubSplit, dataset: Any) -> None:
        super().__init__(dataset, f"{hub_split.repo}, split {hub_split.split}")
        self.hub_split = hub_split

    @property
    def identity(self) -> list[object] | None:
        split = self.hub_split
        return [split.repo, split.config, split.split, split.commit] if split.commit is not None else None

    def splits(self) -> list[str]:
        """Names of the splits of the data set."""
        return [*(self._dataset.info.splits or ())]


class HubStream(SequentialRows):
    """A split streamed over the network, one file at a time; an unpickled copy opens the data set again."""

    def __init__(self, hub_split: HubSplit) -> None:
        self.hub_split = hub_split
        self._dataset: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"hub_split": self.hub_split, "_dataset": None}

    def _open_dataset(self) -> Any:
        if self._dataset is None:
            self._dataset = self.hub_split.load(streaming=True)
        return self._dataset

    def shards(self) -> int:
        return max(1, self._open_dataset().num_shards)

    def class_names(self) -> dict[str, list[str]]:
        """Class names of each column, as far as they are known before the data set is read."""
        return class_names(self._open_dataset().features or {})

    def read(self, shard: int) -> Iterator[tuple[int, int, Any]]:
        """Iterate over (shard, index in the shard, row).

        Raises:
            MetalmError: The hub fails, or a file of the data set is broken.
        """
        try:
            shard_rows = self._open_dataset().shard(num_shards=self.shards(), index=shard).with_format("arrow")
            # Iterating over the dataset itself in a loader's worker would give only the worker's share of the shards.
            tables = shard_rows.iter(batch_size=ROWS_PER_BATCH)
            rows = (row for table in tables for row in table.to_pylist())
            for index, row in enumerate(rows):
                yield shard, index, row
        except MetalmError:
            raise
        except Exception as error:
            raise _explain_error(error, self.hub_split) from error

    def load(self, raw: tuple[int, int, Any]) -> Any:
        return raw[2]

    def where(self, raw: tuple[int, int, Any]) -> str:
        return f"{self.hub_split.repo}, split {self.hub_split.split}, shard {raw[0]}, row {raw[1]}"


def open_hub(source: DocumentSource, *, offline: bool) -> tuple[RandomAccessRows | SequentialRows, str | None]:
    """Open a hub data set as a stream, or as a table (``streaming: false``), and return it with its commit.

    Offline, a data set that was downloaded before is read as a table from the cache; nothing can be streamed.

    Raises:
        MetalmError: The data set cannot be read from the hub, or offline is not in the cache.
    """
    repo = str(source.hub)
    if offline:
        return _open_cached(source, repo)
    commit = _resolve_commit(repo, source.revision)
    hub_split = HubSplit(repo, source.config, source.split, commit)
    if source.streaming is False:
        return HubTable(hub_split, hub_split.load(streaming=False)), commit
    stream = HubStream(hub_split)
    with _few_retries():
        stream.shards()
    return stream, commit


def _open_cached(source: DocumentSource, repo: str) -> tuple[RandomAccessRows, str | None]:
    if source.streaming:
        raise MetalmError(
            f"source {source.name} streams from the hub, and connections are off",
            where=repo,
            remedy="set `streaming: false` and run once without --offline, or put the data under --data-root",
        )
    hub_split = HubSplit(repo, source.config, source.split, None)
    dataset = hub_split.load(streaming=False, offline=True)
    parts = Path(dataset.cache_files[0]["filename"]).parts if dataset.cache_files else ()
    commit = next((part for part in reversed(parts) if _COMMIT.match(part)), None)
    revision = source.revision
    if revision is not None and _COMMIT.match(revision) and commit != revision:
        raise MetalmError(
            f"revision {revision} of {repo} is not on this machine, and connections are off",
            where=repo,
            why=f"the cache holds {commit or 'another revision'}",
            remedy="run once without --offline to download it",
        )
    return HubTable(replace(hub_split, commit=commit), dataset), commit


def _resolve_commit(repo: str, revision: str | None) -> str:
    """Current commit of a revision, so that every process and every resumed run reads the same rows."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(repo, revision=revision, timeout=20).sha
    except Exception as error:
        raise explain_hub_error(error, repo) from error
    return str(commit)


@contextmanager
def _few_retries() -> Iterator[None]:
    """Context with few, short retries of ``datasets``, for opening, where the user waits."""
    from datasets import config

    settings = {
        "STREAMING_READ_MAX_RETRIES": MAX_OPENING_RETRIES,
        "STREAMING_READ_RETRY_INTERVAL": 1,
        "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 1,
        "STREAMING_OPEN_MAX_RETRIES": MAX_OPENING_RETRIES,
        "STREAMING_OPEN_RETRY_INTERVAL": 1,
    }
    previous = {key: getattr(config, key) for key in settings if hasattr(config, key)}
    for key in previous:
        setattr(config, key, settings[key])
    try:
        yield
    finally:
        for key, value in previous.items():
            setattr(config, key, value)


def _explain_error(error: Exception, hub_split: HubSplit) -> MetalmError:
    """Explain wrong names in a data set and broken files; other errors are explained as errors of the hub."""
    if isinstance(error, MetalmError):
        return error
    text, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, ValueError) and ("split" in text or "BuilderConfig" in text or "onfig name" in text):
        return MetalmError(
            f"{hub_split.repo} has no such configuration or split",
            where=hub_split.repo,
            why=text[:400],
            remedy="correct `config` and `split` of the source",
        )
    if isinstance(error, ValueError) and "cache" in text:
        return MetalmError(
            f"{hub_split.repo} is not on this machine, and connections are off",
            where=hub_split.repo,
            why=text[:400],
            remedy="run once without --offline and with `streaming: false` to download it",
        )
    if "scripts are no longer supported" in text:
        return MetalmError(
            f"{hub_split.repo} needs a loading script, and scripts are not run",
            where=hub_split.repo,
            remedy="look for a copy of the data set in Parquet or JSONL, or download its files and use `path`",
        )
    if kind in ("DatasetGenerationError", "CastError", "ArrowInvalid", "JSONDecodeError", "DatasetGenerationCastError"):
        return MetalmError(
            f"a file of {hub_split.repo} cannot be read",
            where=f"{hub_split.repo}, split {hub_split.split}",
            why=f"{kind}: {_root_cause(error)[:400]}",
            remedy="the data set is broken or mixes columns; choose one `config`, or download its files and use `path`",
        )
    return explain_hub_error(error, hub_split.repo)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
