"""Data files of every kind, and corpora on them with a cache of their own."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from metalm_cli.config.schema.data import Data, Source
from metalm_cli.data import Corpus, open_corpus


def packed(name: str, data: bytes) -> bytes:
    """The bytes of a file of that name."""
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if name.endswith(".zst") else data


@pytest.fixture
def write(tmp_path):
    """Write rows (objects, or raw lines as str) into a file under tmp_path; returns its path."""

    def writer(name: str, rows) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(name, "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")))
        return path

    return writer


@pytest.fixture
def corpus(tmp_path):
    """Open a corpus on sources given as dicts; validation off unless given."""

    def opener(*sources: dict, seed: int = 0, validation: dict | None = None, **options) -> Corpus:
        made = [Source(**{"name": f"s{at}", **source}) for at, source in enumerate(sources)]
        data = Data(sources=made, validation=validation or {"documents": 0})
        return open_corpus(data, seed=seed, cache=tmp_path / "cache", **options)

    return opener


def everything(number: int) -> bool:
    return True


@pytest.fixture
def read():
    """The texts at the numbers below ``count``, None where a number is empty."""

    def reading(corpus: Corpus, count: int, start: int = 0) -> list[str | None]:
        reader = corpus.reader(everything)
        return [document and document.text for document in map(reader.get, range(start, count))]

    return reading
