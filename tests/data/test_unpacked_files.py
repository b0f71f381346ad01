"""The limit of the unpacked copies in the cache: the oldest unused ones go, none that a process uses."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalm_cli.data.sources import unpacked_files
from metalm_cli.data.sources.jsonl import JsonlTable, prepare
from metalm_cli.errors import MetalmError

ROWS = 200
READER = """
import sys
from pathlib import Path
from metalm_cli.data.sources.jsonl import JsonlTable, prepare
table = JsonlTable([prepare(Path(sys.argv[1]), Path(sys.argv[2]))])
print("ready", flush=True)
sys.stdin.readline()
print(table.load(3)["text"], flush=True)
"""


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.jsonl.gz"
    lines = [json.dumps({"text": f"{name} {row}"}) + "\n" for row in range(ROWS)]
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    return path


def prepare_elsewhere(path: Path, cache: Path) -> subprocess.Popen[str]:
    """Process that has prepared a file and reads it when it gets a line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate("go\n", timeout=60)[0].strip()


def copies(cache: Path) -> set[Path]:
    return set((cache / "unpacked").iterdir())


def age(copy: Path, hours: int) -> None:
    os.utime(copy, (copy.stat().st_atime - 3_600 * hours,) * 2)


def test_the_copies_that_were_not_used_for_longest_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    files = {name: write(tmp_path, name) for name in ("oldest", "older", "young")}
    for path in files.values():
        assert finish(prepare_elsewhere(path, cache)).endswith(" 3")
    plain = {name: prepare(path, cache).plain for name, path in files.items()}
    size = plain["young"].stat().st_size
    for descriptor, _ in unpacked_files._open_lists.values():
        os.close(descriptor)
    monkeypatch.setattr(unpacked_files, "_open_lists", {})
    for hours, name in enumerate(("young", "older", "oldest"), start=1):
        age(plain[name], hours)
    monkeypatch.setenv("METALM_UNPACKED_GB", str(3.2 * size / 1e9))
    prepare(files["young"], cache)
    assert copies(cache) == set(plain.values()), "nothing was unpacked, and all are within the limit"
    newest = prepare(write(tmp_path, "newest"), cache).plain
    assert copies(cache) == {newest, plain["young"], plain["older"]}
    monkeypatch.setenv("METALM_UNPACKED_GB", "0")
    prepare(write(tmp_path, "last"), cache)
    assert plain["older"] not in copies(cache)
    assert {newest, plain["young"]} <= copies(cache), "this process has prepared them"
    assert JsonlTable([prepare(files["oldest"], cache)]).load(5) == {"text": "oldest 5"}, "it is unpacked again"


def test_a_list_that_other_code_has_closed_is_written_anew(tmp_path: Path) -> None:
    """Nothing is written to a file that has the descriptor now."""
    cache = tmp_path / "cache"
    first = prepare(write(tmp_path, "first"), cache)
    descriptor, _ = unpacked_files._open_lists[cache]
    os.close(descriptor)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, descriptor)
    prepare(write(tmp_path, "second"), cache)
    assert (tmp_path / "other").read_bytes() == b""
    assert unpacked_files.remove_unused(cache, 0) == [first.plain], "its list has ended with the descriptor"
    os.close(other)
    os.close(descriptor)


def test_a_copy_that_another_process_uses_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has prepared the file, and opens its copy only afterwards."""
    cache = tmp_path / "cache"
    reader = prepare_elsewhere(write(tmp_path, "read"), cache)
    (used,) = copies(cache)
    age(used, 99)
    monkeypatch.setenv("METALM_UNPACKED_GB", "0")
    prepare(write(tmp_path, "other"), cache)
    assert used in copies(cache)
    assert finish(reader) == "read 3"
    prepare(write(tmp_path, "third"), cache)
    assert used not in copies(cache), "its process has ended"
    lists = [path for path in (cache / "in-use").iterdir() if path.name != "lock"]
    assert len(lists) == 1, "the list of a process that has ended is removed"


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("METALM_UNPACKED_GB", text)
    with pytest.raises(MetalmError, match="METALM_UNPACKED_GB is"):
        prepare(write(tmp_path, "x"), tmp_path / "cache")


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setenv("METALM_UNPACKED_GB", "0")
    first, second = (prepare(write(tmp_path, name), tmp_path / "cache").plain for name in ("a", "b"))
    assert first.exists()
    assert second.exists()
