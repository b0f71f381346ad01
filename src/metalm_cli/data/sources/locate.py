"""Locating the files of a source: paths, globs, and local copies of hub data sets."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.jsonl_files import JSONL_SUFFIXES
from metalm_cli.common.paths import expand_user
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.sources.arrow_tables import is_saved_dataset
from metalm_cli.errors import MetalmError

KINDS_OF_FILES = (JSONL_SUFFIXES, (".parquet",), (".csv", ".tsv"), (".json",), (".txt",))
"""Suffixes of data files, by kind; a folder or a glob is read as the first kind that it has."""
DATA_SUFFIXES = tuple(suffix for suffixes in KINDS_OF_FILES for suffix in suffixes)
SAFE_NAME = re.compile(r"^[\w][\w.-]*$")


@dataclass(frozen=True)
class FileFacts:
    """A file as recorded in the lineage: path, SHA-256 (None if the file is streamed), size in bytes."""

    path: str
    sha256: str | None
    size: int


def local_files(source: DocumentSource, data_root: Path | None) -> list[Path] | None:
    """Files of a ``path`` source, or of a ``hub`` source with a copy in ``data_root``; None if there is no copy.

    Raises:
        MetalmError: A ``path`` matches no data file.
    """
    if source.path is not None:
        return _path_files(source, source.path, data_root)
    if source.hub is not None and data_root is not None:
        return _mirrored_files(source, source.hub, data_root)
    return None


def _path_files(source: DocumentSource, path: str, data_root: Path | None) -> list[Path]:
    path_of_source = expand_user(path)
    candidates = [path_of_source]
    if not path_of_source.is_absolute() and data_root is not None:
        candidates.append(data_root / path_of_source)
    for candidate in candidates:
        if is_saved_dataset(candidate):
            return [candidate]
        for suffixes in KINDS_OF_FILES:
            if files := _data_files(candidate, suffixes):
                return files
    location = candidates[0].absolute() if len(candidates) == 1 else " or ".join(map(str, candidates))
    if any(candidate.is_file() for candidate in candidates):
        why = f"a data file is named *{', *'.join(DATA_SUFFIXES)}"
    elif any(candidate.is_dir() for candidate in candidates):
        why = f"the folder holds no *{', *'.join(DATA_SUFFIXES)}"
    else:
        why = "the path does not exist"
    raise MetalmError(
        f"no data files found for source {source.name}",
        where=str(location),
        why=why,
        remedy="correct `path`; it may be relative to the working directory or to --data-root",
    )


def _data_files(candidate: Path, suffixes: tuple[str, ...] = JSONL_SUFFIXES) -> list[Path]:
    """Data files of a path, a folder or a glob, sorted by name; each file once, whatever links lead to it."""
    if candidate.is_dir():
        paths = list(candidate.iterdir())
    elif candidate.exists():
        paths = [candidate]
    else:
        paths = _glob(candidate)
    files = [path for path in paths if path.name.endswith(suffixes) and path.is_file()]
    return sorted(_distinct(sorted(files, key=lambda path: (os.path.realpath(path) != os.path.abspath(path), path))))


def _glob(pattern: Path) -> list[Path]:
    """Paths that match a pattern, in which ``**`` matches any number of folders; a part that exists is itself.

    After each part of the pattern a folder is kept once, however many links and parts ``**`` lead to it. With a link
    to a folder above, :func:`glob.glob` gives the same files again and again, and hardly ends.
    """
    first, *parts = pattern.parts if pattern.is_absolute() else (".", *pattern.parts)
    if parts[-1:] == ["**"]:
        parts.append("*")
    paths = [Path(first)]
    for index, part in enumerate(parts, start=1):
        if part == "**":
            visited: set[str] = set()
            paths = [below for path in paths for below in _folders_below(path, visited)]
        else:
            matches = [path / name for path in paths if path.is_dir() for name in _names_like(path, part)]
            paths = matches if index == len(parts) else _distinct(matches)
    return paths


def _names_like(folder: Path, pattern: str) -> list[str]:
    return [pattern] if (folder / pattern).exists() else glob.glob(pattern, root_dir=folder)


def _folders_below(path: Path, visited: set[str]) -> Iterator[Path]:
    """Iterate over a folder and the folders in it, also behind links, without hidden ones and those visited before."""
    if not path.is_dir() or os.path.realpath(path) in visited:
        return
    visited.add(os.path.realpath(path))
    for folder, names, _ in os.walk(path, followlinks=True):
        yield Path(folder)
        unvisited = []
        for name in sorted(name for name in names if not name.startswith(".")):
            real_path = os.path.realpath(os.path.join(folder, name))
            if real_path not in visited:
                visited.add(real_path)
                unvisited.append(name)
        names[:] = unvisited


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lead to the same place as an earlier one."""
    distinct: dict[str, Path] = {}
    for path in paths:
        distinct.setdefault(os.path.realpath(path), path)
    return list(distinct.values())


def check_hub_name(source: DocumentSource) -> None:
    """Reject an invalid hub id or configuration, such as one whose path leaves the data root.

    Raises:
        MetalmError: The hub id or the configuration is not a valid name.
    """
    hub = source.hub or ""
    parts = hub.split("/")
    if not 1 <= len(parts) <= 2 or not all(SAFE_NAME.match(part) for part in parts):
        raise MetalmError(
            f"source {source.name} has no valid hub data set name",
            why=f"got {hub!r}, expected name or owner/name",
            remedy="for files on this machine use `path`",
        )
    if source.config is not None and (".." in source.config or "/" in source.config):
        raise MetalmError(f"source {source.name} has no valid configuration name", why=f"got {source.config!r}")


def _mirrored_files(source: DocumentSource, hub: str, root: Path) -> list[Path] | None:
    """Files ``ROOT/<name>/<split>.jsonl[.gz|.zst]`` or ``ROOT/<name>/<split>/*.jsonl*``.

    The name is the hub id, its last part, or the source's own name; for a configuration, a folder of its name inside
    is searched first.
    """
    if not SAFE_NAME.match(source.split):
        return None
    for name in dict.fromkeys([hub, hub.split("/")[-1], source.name]):
        folders = [root / name / source.config] if source.config else []
        for folder in [*folders, root / name]:
            for suffix in JSONL_SUFFIXES:
                if (folder / f"{source.split}{suffix}").is_file():
                    return [folder / f"{source.split}{suffix}"]
            if (folder / source.split).is_dir() and (files := _data_files(folder / source.split)):
                return files
    return None


def data_folder(data_root: Path | None) -> Path | None:
    """Data root: ``--data-root``, else ``$METALM_DATA``, else None.

    Raises:
        MetalmError: The data root is not a folder.
    """
    variable = os.environ.get("METALM_DATA")
    root = data_root if data_root is not None else expand_user(variable) if variable else None
    if root is not None and not root.is_dir():
        raise MetalmError(
            "the data folder does not exist",
            where=str(root),
            remedy="correct --data-root (or METALM_DATA), or leave it out",
        )
    return root
