"""JSONL files from elsewhere: pipes, bombs and endless lines are refused, and lines come whole."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from metalm_cli.common import jsonl_files
from metalm_cli.common.jsonl_files import read_chunks, read_lines
from metalm_cli.config.yaml_records import read_node
from metalm_cli.errors import MetalmError

COMPRESS = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n  \n"])
def test_lines_are_whole_whatever_the_chunks(suffix, end, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(jsonl_files, "CHUNK_BYTES", 7)
    monkeypatch.setattr(jsonl_files, "COMPRESSED_BYTES", 5)
    lines = [b"a" * length for length in (1, 6, 7, 8, 40, 2)]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(COMPRESS[suffix](b"\n".join(lines) + end))
    assert list(read_lines(path)) == list(enumerate(lines, 1))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_line_of_more_than_the_limit_is_refused_before_it_fills_the_memory(
    suffix, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(jsonl_files, "MAX_LINE_BYTES", 1 << 23)
    monkeypatch.setattr(jsonl_files, "COMPRESSED_BYTES", 1 << 9)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(COMPRESS[suffix](b"{}\n" + bytes(1 << 26)))
    tracemalloc.start()
    with pytest.raises(MetalmError, match="a line is too long") as caught:
        list(read_lines(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
    assert caught.value.where == f"{path}:2"
    assert caught.value.remedy


@pytest.mark.parametrize("read", [lambda path: list(read_chunks(path)), lambda path: read_node(path, "task card")])
def test_a_pipe_is_not_waited_for(read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows")
    for path in (tmp_path / "rows", Path("/dev/zero")):
        with pytest.raises(MetalmError) as caught:
            read(path)
        assert caught.value.why == "it is not a regular file"
        assert caught.value.where == str(path)
