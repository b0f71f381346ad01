"""Data sets of the hub, through ``datasets``: downloaded as a table, or streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.common.hub import explain, no_connections
from metalm_cli.config.schema.data import Source
from metalm_cli.data.sources.base import RandomAccessRows, SequentialRows
from metalm_cli.errors import MetalmError

OPENING_RETRIES = 2
"""Retries of a failing hub while a data set is opened; reading later is more patient."""

BATCH = 256
"""Rows that are converted from Arrow together."""

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class HubName:
    """A split of a hub data set at a commit (None: what the cache has)."""

    repo: str
    config: str | None
    split: str
    commit: str | None

    def load(self, *, streaming: bool, offline: bool = False) -> Any:
        """The ``datasets`` object.

        Raises:
            MetalmError: The hub or the cache cannot give it.
        """
        import datasets

        if Path(self.repo).exists():
            raise MetalmError(
                f"{self.repo} is both a hub data set and a folder here",
                where=str(Path(self.repo).absolute()),
                remedy="run from another folder, or read the folder with `path`",
            )
        try:
            with no_connections(offline):
                builder = datasets.load_dataset_builder(self.repo, self.config, revision=self.commit)
                if not offline and "packaged_modules.cache" in type(builder).__module__:
                    raise self._only_cached()
                if streaming:
                    return builder.as_streaming_dataset(split=self.split)
                builder.download_and_prepare()
                return builder.as_dataset(split=self.split)
        except Exception as error:
            raise _explained(error, self) from error

    def _only_cached(self) -> MetalmError:
        """``datasets`` falls back to any revision in its cache; a run must not change its data unasked."""
        return MetalmError(
            f"The hub failed while {self.repo} was opened",
            where=self.repo,
            why="its files could not be listed; the cache has a copy",
            remedy="try again later, or use the copy with --offline",
        )


class HubTable(RandomAccessRows):
    """A downloaded split, memory-mapped."""

    def __init__(self, name: HubName, loaded: Any) -> None:
        self.name, self._loaded = name, loaded.with_format("arrow")

    @property
    def rows(self) -> int:
        return len(self._loaded)

    def load(self, row: int) -> Any:
        return self._loaded[row].to_pylist()[0]

    def where(self, row: int) -> str:
        return f"{self.name.repo}, split {self.name.split}, row {row}"

    def class_names(self) -> dict[str, list[str]]:
        """Names of the classes of each column that has any, in the order of their ids."""
        return _class_names(self._loaded.features)


def _class_names(features: Any) -> dict[str, list[str]]:
    return {name: list(one.names) for name, one in features.items() if hasattr(one, "names")}


class HubStream(SequentialRows):
    """A split read over the network, file by file. A process that gets a copy opens it anew."""

    def __init__(self, name: HubName) -> None:
        self.name = name
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "_loaded": None}

    def _opened(self) -> Any:
        if self._loaded is None:
            self._loaded = self.name.load(streaming=True)
        return self._loaded

    def shards(self) -> int:
        return max(1, self._opened().num_shards)

    def class_names(self) -> dict[str, list[str]]:
        """As a table's, as far as the data set says what its columns are before it is read."""
        return _class_names(self._opened().features or {})

    def read(self, shard: int) -> Iterator[tuple[int, int, Any]]:
        """(shard, row in it, row).

        Raises:
            MetalmError: The hub fails, or a file of the data set is broken.
        """
        try:
            part = self._opened().shard(num_shards=self.shards(), index=shard).with_format("arrow")
            # Not by iterating over it: in a loader's worker that gives the worker's share of the shards alone.
            tables = part.iter(batch_size=BATCH)
            rows = (row for table in tables for row in table.to_pylist())
            for at, row in enumerate(rows):
                yield shard, at, row
        except MetalmError:
            raise
        except Exception as error:
            raise _explained(error, self.name) from error

    def load(self, raw: tuple[int, int, Any]) -> Any:
        return raw[2]

    def where(self, raw: tuple[int, int, Any]) -> str:
        return f"{self.name.repo}, split {self.name.split}, shard {raw[0]}, row {raw[1]}"


def open_hub(source: Source, *, offline: bool) -> tuple[RandomAccessRows | SequentialRows, str | None]:
    """A hub data set as a stream (unless ``streaming: false``), or as a table; and its commit.

    Offline, a data set that was downloaded before is read as a table from the cache; nothing can be streamed.

    Raises:
        MetalmError: The hub cannot give it, or offline the cache has it not.
    """
    repo = str(source.hub)
    if offline:
        return _cached(source, repo)
    commit = _commit(repo, source.revision)
    name = HubName(repo, source.config, source.split, commit)
    if source.streaming is False:
        return HubTable(name, name.load(streaming=False)), commit
    stream = HubStream(name)
    with _impatient():
        stream.shards()
    return stream, commit


def _cached(source: Source, repo: str) -> tuple[RandomAccessRows, str | None]:
    if source.streaming:
        raise MetalmError(
            f"Source {source.name} streams from the hub, and connections are off",
            where=repo,
            remedy="set `streaming: false` and run once without --offline, or put the data under --data-root",
        )
    name = HubName(repo, source.config, source.split, None)
    loaded = name.load(streaming=False, offline=True)
    parts = Path(loaded.cache_files[0]["filename"]).parts if loaded.cache_files else ()
    commit = next((part for part in reversed(parts) if _COMMIT.match(part)), None)
    wanted = source.revision
    if wanted is not None and _COMMIT.match(wanted) and commit != wanted:
        raise MetalmError(
            f"Revision {wanted} of {repo} is not on this machine, and connections are off",
            where=repo,
            why=f"the cache holds {commit or 'another revision'}",
            remedy="run once without --offline to download it",
        )
    return HubTable(name, loaded), commit


def _commit(repo: str, revision: str | None) -> str:
    """The commit that a revision means now, so that every process and every resume reads the same rows."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(repo, revision=revision, timeout=20).sha
    except Exception as error:
        raise explain(error, repo) from error
    return str(found)


@contextmanager
def _impatient() -> Iterator[None]:
    """Few, short retries: at opening somebody waits for the answer."""
    from datasets import config

    quick = {
        "STREAMING_READ_MAX_RETRIES": OPENING_RETRIES,
        "STREAMING_READ_RETRY_INTERVAL": 1,
        "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 1,
        "STREAMING_OPEN_MAX_RETRIES": OPENING_RETRIES,
        "STREAMING_OPEN_RETRY_INTERVAL": 1,
    }
    before = {key: getattr(config, key) for key in quick if hasattr(config, key)}
    for key in before:
        setattr(config, key, quick[key])
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(config, key, value)


def _explained(error: Exception, name: HubName) -> MetalmError:
    """Wrong names within a data set and broken files; all else is the hub's."""
    if isinstance(error, MetalmError):
        return error
    text, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, ValueError) and ("split" in text or "BuilderConfig" in text or "onfig name" in text):
        return MetalmError(
            f"{name.repo} has no such configuration or split",
            where=name.repo,
            why=text[:400],
            remedy="correct `config` and `split` of the source",
        )
    if isinstance(error, ValueError) and "cache" in text:
        return MetalmError(
            f"{name.repo} is not on this machine, and connections are off",
            where=name.repo,
            why=text[:400],
            remedy="run once without --offline and with `streaming: false` to download it",
        )
    if "scripts are no longer supported" in text:
        return MetalmError(
            f"{name.repo} is a loading script, which is not run",
            where=name.repo,
            remedy="look for a copy of the data set in Parquet or JSONL, or download its files and use `path`",
        )
    if kind in ("DatasetGenerationError", "CastError", "ArrowInvalid", "JSONDecodeError", "DatasetGenerationCastError"):
        return MetalmError(
            f"A file of {name.repo} cannot be read",
            where=f"{name.repo}, split {name.split}",
            why=f"{kind}: {_deepest(error)[:400]}",
            remedy="the data set is broken or mixes columns; choose one `config`, or download its files and use `path`",
        )
    return explain(error, name.repo)


def _deepest(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
