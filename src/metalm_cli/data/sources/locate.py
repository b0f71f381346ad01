"""Locating the files of a source: paths, globs, and local copies of hub data sets."""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.jsonl_files import JSONL_SUFFIXES
from metalm_cli.common.paths import expand_user
from metalm_cli.common.tar_shards import COMPRESSED_SHARD_SUFFIXES, SHARD_SUFFIX, compressed_shard_error
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.data.sources.arrow_tables import is_saved_dataset
from metalm_cli.errors import MetalmError

KINDS_OF_FILES = (JSONL_SUFFIXES, (SHARD_SUFFIX,), (".parquet",), (".csv", ".tsv"), (".json",), (".txt",))
"""Suffixes of data files, by kind; a folder or a glob is read as the first kind that it has."""
DATA_SUFFIXES = tuple(suffix for suffixes in KINDS_OF_FILES for suffix in suffixes)
SAFE_NAME = re.compile(r"^[\w][\w.-]*$")
ALL_SHARDS = "rows"
"""Name of a split that has all shards of a folder."""
BRACES = re.compile(r"\{([^{}]*)\}")
BRACE_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MAX_SHARDS = 1_000_000


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
            if files := _files_of_kind(candidate, suffixes):
                return files
        shard_files(candidate, ALL_SHARDS)  # raises an error if there are only compressed ones
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


def _files_of_kind(candidate: Path, suffixes: tuple[str, ...]) -> list[Path]:
    is_other = suffixes != (SHARD_SUFFIX,) or (candidate.is_dir() and not _data_files(candidate, suffixes))
    return _data_files(candidate, suffixes) if is_other else shard_files(candidate, ALL_SHARDS)


def shard_files(path: Path, split: str) -> list[Path]:
    """Tar shards of a path, in the order of their names or of the braces; empty if the path has none.

    Args:
        path: A tar file, a pattern with braces (``train-{000..010}.tar``) or with wildcards, or a folder of tar files.
        split: The shards of a folder that are taken: those whose names begin with the split, or that are in a folder
            of its name; :data:`ALL_SHARDS`: all.

    Raises:
        MetalmError: Shards are compressed, some of the braces are missing, or a folder has shards of other splits only.
    """
    suffixes = (SHARD_SUFFIX, *COMPRESSED_SHARD_SUFFIXES)
    if path.is_dir():
        paths = _shards_of_split(path, split, suffixes)
    elif not path.name.endswith(suffixes):
        return []
    elif BRACES.search(str(path)) and not path.exists():
        paths = list(_without_braces(path))
        missing = [shard for shard in paths if not shard.is_file()]
        if missing and len(missing) < len(paths):
            raise MetalmError(
                f"{len(missing):,} of {len(paths):,} shards are missing",
                where=str(path),
                why=f"there is no {missing[0]}",
                remedy="download them, or correct the numbers in the braces",
            )
        paths = [] if missing else paths
    else:
        paths = _data_files(path, suffixes)
    for shard in paths:
        if shard.name.endswith(COMPRESSED_SHARD_SUFFIXES):
            raise compressed_shard_error(shard)
    return paths


def shards_exist(path: Path, split: str) -> bool:
    """Whether a path has shards of a split; none is opened."""
    try:
        return bool(shard_files(path, split))
    except MetalmError:
        return False


def shard_splits(path: Path, names: Iterable[str]) -> list[str]:
    """The names of splits of which a folder has shards of their own, in their order."""
    return [name for name in names if path.is_dir() and _own_shards(path, name, (SHARD_SUFFIX,))]


def _shards_of_split(folder: Path, split: str, suffixes: tuple[str, ...]) -> list[Path]:
    shards = _data_files(folder, suffixes)
    if split == ALL_SHARDS:
        return shards
    own = _own_shards(folder, split, suffixes)
    if shards and not own:
        raise MetalmError(
            f"a folder has no shards of the split {split}",
            where=str(folder),
            why=f"none of its {len(shards):,} tar files is named {split}*, such as {shards[0].name}",
            remedy=f"name the files {split}-000.tar and so on, or take all of them: {split}: {ALL_SHARDS} in `splits`",
        )
    return own


def _own_shards(folder: Path, split: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The shards of a folder that are named ``SPLIT-….tar``, else those in its folder SPLIT."""
    named = re.compile(re.escape(split) + r"(?![A-Za-z])")
    own = [path for path in _data_files(folder, suffixes) if named.match(path.name)]
    is_folder = SAFE_NAME.match(split) is not None and (folder / split).is_dir()
    return own or (_data_files(folder / split, suffixes) if is_folder else [])


def _without_braces(path: Path) -> Iterator[Path]:
    """The paths that a pattern with braces stands for: numbers ``{000..010}``, or alternatives ``{train,extra}``.

    >>> [str(path) for path in _without_braces(Path("a{08..10}.tar"))]
    ['a08.tar', 'a09.tar', 'a10.tar']
    """
    parts = BRACES.split(str(path))
    alternatives = [_alternatives(text, path) if index % 2 else [text] for index, text in enumerate(parts)]
    if math.prod(map(len, alternatives)) > MAX_SHARDS:
        raise _braces_error(path, f"more than {MAX_SHARDS:,} files")
    return (Path("".join(choice)) for choice in itertools.product(*alternatives))


def _alternatives(text: str, path: Path) -> Sequence[str]:
    numbers = BRACE_RANGE.fullmatch(text)
    if numbers is None:
        if ".." in text:
            raise _braces_error(path, f"{{{text}}} is not a range of numbers")
        return text.split(",")
    first, last, digits = int(numbers[1]), int(numbers[2]), len(numbers[1])
    if not first <= last < first + MAX_SHARDS:
        raise _braces_error(path, f"{{{text}}} is empty, or has more than {MAX_SHARDS:,} numbers")
    return [f"{number:0{digits}}" for number in range(first, last + 1)]


def _braces_error(path: Path, why: str) -> MetalmError:
    return MetalmError(
        "a pattern of shards cannot be read",
        where=str(path),
        why=why,
        remedy="write the first and the last number, such as train-{000..010}.tar",
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
