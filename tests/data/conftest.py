"""Data files of every kind, and corpora on them with a cache of their own."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from metalm_cli.config.schema.data import DataConfig, DocumentSource
from metalm_cli.data import Corpus, open_corpus
from metalm_cli.data.sources.file_tables import open_table


def packed(name: str, data: bytes) -> bytes:
    """Bytes of a file, compressed by the suffix of its name."""
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if name.endswith(".zst") else data


@pytest.fixture
def write(tmp_path):
    """Function that writes rows (objects, or raw lines as str) into a file under tmp_path and returns its path."""

    def writer(name: str, rows) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(name, "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")))
        return path

    return writer


@pytest.fixture
def corpus(tmp_path):
    """Function that opens a corpus of sources (as dicts), by default without validation."""

    def opener(*sources: dict, seed: int = 0, validation: dict | None = None, **options) -> Corpus:
        settings = [DocumentSource(**{"name": f"s{index}", **source}) for index, source in enumerate(sources)]
        data = DataConfig(sources=settings, validation=validation or {"documents": 0})
        return open_corpus(data, seed=seed, cache=tmp_path / "cache", **options)

    return opener


def owns_all(number: int) -> bool:
    return True


@pytest.fixture
def read():
    """Function that reads the texts at the numbers below ``count``."""

    def reading(corpus: Corpus, count: int, start: int = 0) -> list[str]:
        reader = corpus.reader(owns_all)
        return [reader.get(number).text for number in range(start, count)]

    return reading


@pytest.fixture
def rows_of(tmp_path: Path) -> Callable[[Path], list]:
    """Function that returns the rows of a path of shards."""

    def read(path: Path) -> list:
        table, _ = open_table(path, tmp_path / "cache", "rows")
        return list(table.scan(range(table.rows)))

    return read
