"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metalm_cli.common.atomic_files import open_atomically, write_atomically
from metalm_cli.common.cache import write_to_cache
from metalm_cli.errors import MetalmError


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def stop_halfway() -> None:
        with open_atomically(path) as file:
            file.write(b"ne")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])
    with open_atomically(path) as file:
        file.write(b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["file"])


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"")
        with write_to_cache(tmp_path / "cache" / "file") as file:
            file.write(b"")
    finally:
        os.umask(umask)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "file", tmp_path / "cache" / "file")]
    assert modes == [0o644, 0o600]


def test_an_error_of_reading_is_not_an_error_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_to_cache(tmp_path / "cache" / "file"):
        (tmp_path / "source").read_bytes()
    with pytest.raises(MetalmError, match="no space left: the cache"), write_to_cache(tmp_path / "cache" / "file"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path / "cache") == []
