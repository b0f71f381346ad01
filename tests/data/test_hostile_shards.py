"""Hostile, damaged and truncated tar shards: refused by name, with nothing read outside of them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.common import tar_shards
from metalm_cli.common.tar_shards import list_rows
from metalm_cli.data.sources.file_tables import open_table
from shard_fixtures import add_member, captions, error_of, write_shard


def tar_of(path: Path, *entries: tuple[str, bytes | str, dict[str, Any]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content, facts in entries:
            add_member(tar, name, content, **facts)
    return path


@pytest.mark.parametrize(
    ("name", "facts", "words"),
    [
        ("0.png", {"type": tarfile.SYMTYPE, "linkname": "{folder}/secret.txt"}, "it is a link"),
        ("0.txt", {"type": tarfile.LNKTYPE, "linkname": "{folder}/secret.txt"}, "it is a link"),
        ("0.txt", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 9}, "it is not an ordinary file"),
        ("0.txt", {"type": tarfile.FIFOTYPE}, "it is not an ordinary file"),
        ("{folder}/secret.txt", {}, "a path that leads out of it"),
        ("../secret.txt", {}, "a path that leads out of it"),
        ("a/../../secret.txt", {}, "a path that leads out of it"),
    ],
)
def test_members_that_lead_out_are_refused_by_name_and_nothing_outside_is_touched(
    tmp_path: Path, name: str, facts: dict[str, Any], words: str
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.utime(secret, (1, 1))
    before = sorted(tmp_path.iterdir())
    name = name.format(folder=tmp_path)
    facts = {fact: value.format(folder=tmp_path) if isinstance(value, str) else value for fact, value in facts.items()}
    path = tar_of(tmp_path / "s.tar", ("good.txt", "good", {}), (name, b"", facts))
    error = error_of(lambda: open_table(path, tmp_path / "cache", "rows"))
    assert words in str(error)
    assert error.where == f"{path}, member {name}"
    assert sorted(tmp_path.iterdir()) == sorted([*before, path, tmp_path / "cache"])
    assert (secret.read_text(), secret.stat().st_mtime) == ("secret", 1)
    assert not list((tmp_path / "cache").rglob("*.jsonl")), "a listing of a refused shard stays"


def test_links_and_devices_without_a_column_are_ignored(tmp_path: Path, rows_of: Any) -> None:
    path = tar_of(
        tmp_path / "s.tar",
        ("folder", b"", {"type": tarfile.DIRTYPE}),
        ("../notes.pdf", b"x", {}),
        ("passwd", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("0.txt", b"good", {}),
        ("dev", b"", {"type": tarfile.CHRTYPE}),
    )
    assert rows_of(path) == [{"__key__": "0", "txt": "good"}]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["0.txt", "0.TXT"], "a key has the column txt twice"),
        (["0.txt", "0.txt"], "a key has the column txt twice"),
        (["0.txt", "1.txt", "0.png"], "the members of the key 0 are not next to each other"),
        ([f"0.{number}.txt" for number in range(1001)], "a key has over 1000 columns"),
    ],
)
def test_duplicate_keys_are_refused_by_name(tmp_path: Path, names: list[str], words: str) -> None:
    path = write_shard(tmp_path / "s.tar", [(name, b"x") for name in names])
    error = error_of(lambda: list(list_rows(path)))
    assert words in error.what
    assert names[-1] in error.where


def test_equal_keys_of_different_shards_are_different_rows(tmp_path: Path, rows_of: Any) -> None:
    for shard in ("a", "b"):
        write_shard(tmp_path / "s" / f"{shard}.tar", {"0.txt": shard})
    assert [row["txt"] for row in rows_of(tmp_path / "s")] == ["a", "b"]


def test_a_text_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_shards, "MAX_LINE_BYTES", 100)
    path = write_shard(tmp_path / "s.tar", {"0.txt": "x" * 101})
    error = error_of(lambda: list(list_rows(path)))
    assert (error.what, error.where) == ("a text of a shard is too large", f"{path}, member 0.txt")
    assert "101 bytes" in error.why


def test_truncation_at_any_place_is_an_error(tmp_path: Path) -> None:
    data = write_shard(tmp_path / "s.tar", captions(0, 3)).read_bytes()
    assert len(list(list_rows(tmp_path / "s.tar"))) == 3
    end = len(data.rstrip(b"\0"))
    for size in [0, 1, 511, 512, 600, 1024, 1500, *range(2048, end + 512, 512), end]:
        path = tmp_path / "cut.tar"
        path.write_bytes(data[:size])
        error = error_of(lambda path=path: list(list_rows(path)))
        assert error.what == "a tar file is damaged or truncated", size
        assert error.where == str(path)


def test_damage_of_a_header_at_any_byte_is_an_error(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.tar", captions(0, 3))
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for header in headers:
        for offset in range(header, header + 512, 23):
            damaged = bytearray(data)
            damaged[offset] ^= 0x41
            path.write_bytes(damaged)
            assert error_of(lambda: list(list_rows(path))).what == "a tar file is damaged or truncated", offset


@pytest.mark.parametrize("size", ["-512", "99999999999999999999", "1e3", "0x10", "-1"])
def test_sizes_of_extended_headers_are_not_trusted(tmp_path: Path, size: str) -> None:
    path = tar_of(tmp_path / "s.tar", ("0.txt", b"good", {"pax_headers": {"size": size}}), format=tarfile.PAX_FORMAT)
    assert error_of(lambda: list(list_rows(path))).what == "a tar file is damaged or truncated"


def test_a_huge_extended_header_is_not_read(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "s.tar", ("0.txt", b"good", {"pax_headers": {"comment": "x" * 200_000}}), format=tarfile.PAX_FORMAT
    )
    error = error_of(lambda: list(list_rows(path)))
    assert "at most 65,536 are read" in error.why


def test_other_files_named_tar_are_one_error(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", captions(0, 1)).read_bytes()
    for content, words in [
        (b"", "empty"),
        (b"{}\n" * 400, "header"),
        (os.urandom(4096), "header"),
        (shard + shard, "data follow the end of the archive"),
    ]:
        path = tmp_path / "other.tar"
        path.write_bytes(content)
        assert words in error_of(lambda path=path: list(list_rows(path))).why
    (tmp_path / "none.tar").write_bytes(bytes(10240))
    assert list(list_rows(tmp_path / "none.tar")) == []
    os.mkfifo(tmp_path / "pipe.tar")
    assert "not a regular file" in error_of(lambda: list(list_rows(tmp_path / "pipe.tar"))).why


@pytest.mark.parametrize(
    ("column", "content", "words"),
    [
        ("txt", b"\xff\xfe\xfd", "a member of a shard is not UTF-8 text"),
        ("json", b"{", "a member of a shard is not JSON"),
        ("json", b'{"a": 1, "a": 2}', "a member of a shard is not JSON"),
        ("json", b"[" * 100_000, "a member of a shard is not JSON"),
    ],
)
def test_broken_texts_name_the_shard_and_the_key(
    tmp_path: Path, rows_of: Any, column: str, content: bytes, words: str
) -> None:
    path = write_shard(tmp_path / "s.tar", {f"k7.{column}": content})
    error = error_of(lambda: rows_of(path))
    assert error.what == words
    assert error.where == f"{path}, key k7, column {column}"
