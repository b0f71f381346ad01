"""The training text of a base model, located by its lineage as far as it is available."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from metalm_cli.common.file_hash import file_sha256, file_stamp
from metalm_cli.common.jsonl_files import JSONL_SUFFIXES, parse_line, read_lines
from metalm_cli.config.schema.data import MiniworldSource
from metalm_cli.data.sources.row_tables import MiniworldDocumentRows
from metalm_cli.errors import MetalmError

MAX_BYTES = 4 << 30
"""Maximum bytes of the files of all sources; sources beyond it are reported as missing."""


def all_texts(value: Any) -> Iterator[str]:
    """Iterate over all texts in a row, including those in lists and mappings.

    >>> list(all_texts({"a": "x", "b": [{"c": "y"}, 3]}))
    ['x', 'y']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from all_texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from all_texts(item)


@dataclass(frozen=True)
class AncestorSource:
    """A training source of a base model.

    Args:
        name: Name in the lineage.
        files: (path, SHA-256) of its files.
        world: Documents of the miniature world, instead of files.
    """

    name: str
    files: tuple[tuple[Path, str], ...] = ()
    world: MiniworldSource | None = None

    @property
    def key(self) -> list[object]:
        """Cache key that changes whenever the texts do."""
        if self.world is not None:
            table = MiniworldDocumentRows(self.world)
            return [self.world.model_dump(), [table.load(row)["text"] for row in range(min(table.rows, 100))]]
        return [(*file_stamp(path), sha256) for path, sha256 in self.files]

    def rows(self) -> Iterator[list[str]]:
        """Iterate over the texts of each row of the files, including rows that the model's recipe excluded.

        Raises:
            MetalmError: A file cannot be read, or differs from the file of the lineage.
        """
        if self.world is not None:
            table = MiniworldDocumentRows(self.world)
            for row in range(table.rows):
                yield list(all_texts(table.load(row)))
        for path, sha256 in self.files:
            if not _has_sha256(path, sha256):
                raise MetalmError(f"{path.name} differs from the file of the lineage", where=str(path))
            for number, line in read_lines(path):
                yield list(all_texts(parse_line(line, f"{path}:{number}")))


def _has_sha256(path: Path, sha256: str) -> bool:
    try:
        return file_sha256(path) == sha256
    except OSError:
        return False


@dataclass
class AncestorTextFinder:
    """Finder of the sources of lineages.

    Args:
        data_root: Folder of local data sets, in which files are found by name and size; SHA-256 is checked at reading.

    Attributes:
        missing: Why sources cannot be read, by name.
    """

    data_root: Path | None
    missing: dict[str, str] = field(default_factory=dict)
    _bytes_to_read: int = 0

    def find(self, lineages: Iterable[Mapping[str, Any]]) -> list[AncestorSource]:
        """Find the readable sources of all lineages, without duplicates."""
        sources: dict[str, AncestorSource] = {}
        for lineage in lineages:
            for source in lineage.get("data") or []:
                hashes = [file.get("sha256") for file in source.get("files") or []]
                key = json.dumps(hashes or [source.get(part) for part in ("name", "location", "rows", "revision")])
                if key not in sources and (found_source := self._find_source(source)) is not None:
                    sources[key] = found_source
        return list(sources.values())

    def _find_source(self, source: Mapping[str, Any]) -> AncestorSource | None:
        name, files = str(source.get("name")), source.get("files") or []
        seed = re.fullmatch(r"seed (\d+)", str(source.get("location")))
        if source.get("kind") == "world" and seed is not None and source.get("rows"):
            return AncestorSource(name, world=MiniworldSource(documents=int(source["rows"]), seed=int(seed[1])))
        if not files:
            self.missing[name] = f"read from {source.get('location')}, without a recorded file"
            return None
        paths = [self._find_file(source, file) for file in files]
        size = sum(int(file.get("size") or 0) for file in files)
        if any(not file.get("sha256") for file in files):
            self.missing[name] = "streamed, without a recorded hash"
        elif None in paths:
            self.missing[name] = f"{paths.count(None)} of its {len(files)} files are not available"
        elif self._bytes_to_read + size > MAX_BYTES:
            self.missing[name] = f"too large: {size:,} bytes; at most {MAX_BYTES:,} bytes are read in total"
        else:
            self._bytes_to_read += size
            pairs = ((path, str(file["sha256"])) for path, file in zip(paths, files, strict=True) if path is not None)
            return AncestorSource(name, tuple(pairs))
        return None

    def _find_file(self, source: Mapping[str, Any], file: Mapping[str, Any]) -> Path | None:
        """Path of a file: its recorded path, or a file below the data root with its name and size."""
        location = Path(str(source.get("location")))
        name, size = str(file.get("name")), file.get("size")
        recorded_paths = [
            candidate for candidate in (location, location / name) if candidate.name == name and candidate.is_file()
        ]
        return next(
            (
                candidate
                for candidate in [*recorded_paths, *self._files_by_name.get(name, [])]
                if size in (None, candidate.stat().st_size)
            ),
            None,
        )

    @cached_property
    def _files_by_name(self) -> dict[str, list[Path]]:
        files_by_name: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(self.data_root) if self.data_root is not None else ():
            for name in names:
                path = Path(folder, name)
                if name.endswith(JSONL_SUFFIXES) and path.is_file():
                    files_by_name.setdefault(name, []).append(path)
        return files_by_name
