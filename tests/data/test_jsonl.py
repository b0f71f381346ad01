"""JSONL files: unpacking, row index, reading by row and in order, damage."""

import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.common.jsonl_files import read_lines
from metalm_cli.data.sources import jsonl
from metalm_cli.data.sources.jsonl import JsonlStream, JsonlTable, prepare, row_starts
from metalm_cli.errors import MetalmError

NAMES = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"]


def cached_files(cache: Path) -> list[Path]:
    """Files in a cache, without the lists of copies in use."""
    return [path for path in cache.rglob("*") if path.is_file() and path.parent.name != "in-use"]


PIECES = [b"{}", b"", b" ", b'"abcdefghijkl"', b"\r", b"12345678"]
BLANKS = ['{"text": "one"}', "", '{"text": "two"}', "   ", "\r", '{"text": "three"}\r', ""]


@pytest.mark.parametrize("name", NAMES)
def test_rows_by_number_and_in_order(name, write, tmp_path):
    path = write(name, BLANKS)
    table, stream = JsonlTable([prepare(path, tmp_path / "cache")]), JsonlStream([path])
    assert table.rows == 3
    assert [table.load(row)["text"] for row in (2, 0, 1)] == ["three", "one", "two"]
    assert [stream.load(raw)["text"] for raw in stream.read(0)] == ["one", "two", "three"]
    assert [table.where(row) for row in range(3)] == [f"{path}:{line}" for line in (1, 3, 6)]
    assert [stream.where(raw) for raw in stream.read(0)] == [f"{path}:{line}" for line in (1, 3, 6)]


@given(
    st.lists(st.sampled_from([b"{}", b"", b" ", b'"abcdefghijkl"', b"\r", b"12345678"]), max_size=30), st.integers(1, 9)
)
@settings(max_examples=100, deadline=None)
def test_the_index_agrees_with_splitting_at_line_ends(rows, size):
    content = b"\n".join(rows)
    pieces = (content[start : start + size] for start in range(0, len(content), size))
    starts = [int(start) for piece in row_starts(pieces) for start in piece]
    expected, offset = [], 0
    for line in content.split(b"\n"):
        if line.strip():
            expected.append(offset)
        offset += len(line) + 1
    assert starts == expected


def test_a_file_without_a_line_end_and_lines_across_chunks(write, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "CHUNK_BYTES", 7)
    path = tmp_path / "b.jsonl"
    rows = [{"text": "x" * length} for length in (1, 30, 0, 5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    table = JsonlTable([prepare(path, tmp_path / "cache")])
    assert [table.load(row) for row in range(table.rows)] == rows
    assert [json.loads(line) for _, line in read_lines(path)] == rows
    assert table.where(3) == f"{path}:4"


def test_many_files_are_one_table(write, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_OPEN_FILES", 2)
    files = [prepare(write(f"{n}.jsonl", [{"n": n, "i": i} for i in range(n)]), tmp_path / "c") for n in range(5)]
    table = pickle.loads(pickle.dumps(JsonlTable(files)))
    expected = [(n, i) for n in range(5) for i in range(n)]
    for row in [9, 0, 5, 1, 9, 3, 2, 8, 4, 7, 6]:
        assert tuple(table.load(row).values()) == expected[row]


def test_a_file_is_unpacked_once_and_again_when_it_changes(write, tmp_path, monkeypatch):
    path, cache = write("a.jsonl.gz", [{"text": "old"}]), tmp_path / "cache"
    first = prepare(path, cache)
    monkeypatch.setattr(jsonl, "_unpack_and_index", lambda *_: pytest.fail("the file was unpacked again"))
    assert prepare(path, cache) == first
    monkeypatch.undo()
    for damage in (first.index, first.plain):
        damage.write_bytes(damage.read_bytes()[:-1])
        assert JsonlTable([prepare(path, cache)]).load(0) == {"text": "old"}
        damage.unlink()
        assert JsonlTable([prepare(path, cache)]).load(0) == {"text": "old"}
    write("a.jsonl.gz", [{"text": "new"}, {"text": "er"}])
    os.utime(path, ns=(1, 1))
    second = prepare(path, cache)
    assert (second.rows, second.sha256 == first.sha256) == (2, False)
    assert JsonlTable([second]).load(0) == {"text": "new"}
    assert not list(cache.rglob(".*"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("replace", [False, True])
def test_a_change_that_keeps_size_and_time_is_seen(name, replace, write, tmp_path):
    """A corrected file from an archive with fixed times, written over the old one or put in its place."""
    cache, size = tmp_path / "cache", 0
    for text in ("nah", "yes"):
        path = write(f"{text}-{name}" if replace else name, [{"text": text}] * 20)
        os.utime(path, ns=(10**18, 10**18))
        path = path.replace(tmp_path / name)
        assert path.stat().st_size in (0, size) or text == "nah", "the test needs files of equal size"
        size = path.stat().st_size
        assert JsonlTable([prepare(path, cache)]).load(7) == {"text": text}


def test_a_file_that_changes_while_it_is_prepared(write, tmp_path, monkeypatch):
    path, cache = write("a.jsonl", [{"text": "old"}]), tmp_path / "cache"

    def change_and_index(*arguments):
        write("a.jsonl", [{"text": "new"}])
        return unpack_and_index(*arguments)

    unpack_and_index = jsonl._unpack_and_index
    monkeypatch.setattr(jsonl, "_unpack_and_index", change_and_index)
    with pytest.raises(MetalmError, match="was changed while it was read"):
        prepare(path, cache)
    monkeypatch.undo()
    assert JsonlTable([prepare(path, cache)]).load(0) == {"text": "new"}


def test_plain_files_are_not_copied(write, tmp_path):
    path = write("a.jsonl", [{"text": "x"}])
    assert prepare(path, tmp_path / "cache").plain == path
    assert not (tmp_path / "cache" / "unpacked").exists()


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_cut_short_is_named_and_leaves_nothing(name, write, tmp_path):
    path = write(name, [{"text": str(number) * 50} for number in range(2000)])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MetalmError, match="damaged or truncated") as caught:
        prepare(path, tmp_path / "cache")
    assert str(path) in str(caught.value)
    assert not cached_files(tmp_path / "cache")
    with pytest.raises(MetalmError, match="damaged or truncated"):
        list(JsonlStream([path]).read(0))


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_whose_content_does_not_match_its_suffix(name, tmp_path):
    (tmp_path / name).write_text('{"text": "plain"}\n')
    with pytest.raises(MetalmError, match="damaged or truncated"):
        prepare(tmp_path / name, tmp_path / "cache")


def test_several_frames_and_members_are_one_file(write, tmp_path):
    for name in NAMES[1:]:
        path = write(name, [{"text": "a"}])
        path.write_bytes(path.read_bytes() * 3)
        assert prepare(path, tmp_path / "cache").rows == 3


@pytest.mark.parametrize("line", ['{"text": "a"', '{"text": "\x01"}', "[" * 100_000, "nonsense"])
def test_a_broken_line_is_named(line, write, tmp_path):
    path = write("a.jsonl", [{"text": "a"}, line])
    table = JsonlTable([prepare(path, tmp_path / "cache")])
    assert table.load(0) == {"text": "a"}
    with pytest.raises(MetalmError, match="not JSON") as caught:
        table.load(1)
    assert f"{path}:2" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_invalid_utf8_is_a_broken_line(write, tmp_path):
    path = write("a.jsonl", [])
    path.write_bytes(b'{"text": "\xff\xfe bad"}\n')
    with pytest.raises(MetalmError, match="not JSON"):
        JsonlTable([prepare(path, tmp_path / "cache")]).load(0)


def test_a_file_changed_while_it_is_read(write, tmp_path):
    path = write("a.jsonl", [{"text": "a"}, {"text": "b"}])
    table = JsonlTable([prepare(path, tmp_path / "cache")])
    path.write_text("{}\n")
    with pytest.raises(MetalmError, match="was changed"):
        table.load(1)


def test_a_cache_that_cannot_be_written(write, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(MetalmError, match="cache cannot be written") as caught:
        prepare(write("a.jsonl.gz", [{"text": "a"}]), tmp_path / "cache")
    assert "XDG_CACHE_HOME" in str(caught.value)


def test_a_full_disk_leaves_nothing(write, tmp_path, monkeypatch):
    def full(_: Path):
        yield b"{}\n"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonl, "read_chunks", full)
    with pytest.raises(MetalmError, match="no space left: the cache"):
        prepare(write("a.jsonl.gz", [{"text": "a"}]), tmp_path / "cache")
    assert not cached_files(tmp_path / "cache")


def test_reading_moves_no_file_position(write, tmp_path):
    """A forked loader shares its parent's file positions, so a moving position would mix up their rows."""
    path = write("a.jsonl", [{"n": number, "pad": "x" * (number % 97)} for number in range(300)])
    table = JsonlTable([prepare(path, tmp_path / "cache")])
    table.load(0)
    ((file, _),) = table._open.values()
    before = file.tell()
    child = os.fork()
    rows = range(0, 300, 2) if child else range(1, 300, 2)
    good = all(table.load(row)["n"] == row for row in rows)
    if not child:
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert good
    assert file.tell() == before


@pytest.mark.parametrize("streamed", [False, True])
def test_a_document_with_a_key_twice_is_an_error(tmp_path, streamed) -> None:
    """Of two texts, other parsers keep the last one only."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two", "text": "three"}\n')
    stream = JsonlStream([path])
    (_, raw), table = stream.read(0), JsonlTable([prepare(path, tmp_path / "cache")])
    with pytest.raises(MetalmError, match="an object has the same key twice") as raised:
        stream.load(raw) if streamed else table.load(1)
    assert raised.value.where.endswith("rows.jsonl:2")
    assert "'text' occurs twice" in raised.value.why
