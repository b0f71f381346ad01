"""SHA-256 of a file, computed once for each state of the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from metalm_cli.common.cache import cache_folder, write_to_cache
from metalm_cli.common.file_hash import file_sha256, file_stamp
from metalm_cli.errors import MetalmError


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file. The cache remembers it for the file's stamp, so an unchanged file is read once.

    Raises:
        MetalmError: The file cannot be read.
    """
    try:
        stamp = json.dumps(file_stamp(path))
        record = cache_folder() / "file-hashes" / hashlib.sha256(stamp.encode()).hexdigest()
        with contextlib.suppress(OSError):
            sha256 = record.read_text(encoding="ascii")
            if len(sha256) == 64:
                return sha256
        sha256 = file_sha256(path)
        unchanged = json.dumps(file_stamp(path)) == stamp
    except OSError as error:
        raise MetalmError(
            "a file of a checkpoint cannot be read", where=str(path), why=error.strerror or str(error)
        ) from error
    if unchanged:
        with contextlib.suppress(MetalmError), write_to_cache(record) as file:
            file.write(sha256.encode())
    return sha256
