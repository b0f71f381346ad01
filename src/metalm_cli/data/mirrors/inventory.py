"""Inventory of the data root and the cache: listing and removing data sets and cached files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.jsonl_files import JSONL_SUFFIXES
from metalm_cli.data.examples.open_examples import FEATURES
from metalm_cli.data.mirrors.mirror import MANIFEST, Manifest
from metalm_cli.data.sources.locate import SAFE_NAME
from metalm_cli.errors import Exit, MetalmError

CACHE_CONTENT = {"unpacked": "unpacked copies", "index": "row indexes", "files": "hashes of files"}
"""Folders of the cache with their content, which is derived again when needed."""


@dataclass(frozen=True)
class LocalDataset:
    """A data set below a data root.

    Args:
        name: Name of its folder.
        splits: Its splits.
        rows: Rows of all splits by the manifest; None if the manifest does not list them.
        size: Size in bytes.
        origin: Hub id and commit of a mirror, else empty.
        mirror: Whether metalm wrote it.
    """

    name: str
    splits: tuple[str, ...]
    rows: int | None
    size: int
    origin: str
    mirror: bool


@dataclass(frozen=True)
class CacheFolder:
    """A folder of the cache: its name, its content, number of files, size in bytes."""

    name: str
    content: str
    files: int
    size: int


def list_datasets(root: Path) -> list[LocalDataset]:
    """List the data sets below a data root: folders with JSON lines files, directly or in a folder per split.

    Raises:
        MetalmError: The manifest is broken.
    """
    manifest = Manifest(root)
    datasets = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        splits = _split_files(folder)
        if splits:
            datasets.append(_local_dataset(folder, splits, manifest))
    return datasets


def _split_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.endswith(JSONL_SUFFIXES):
            files.setdefault(path.name[: path.name.rindex(".jsonl")], []).append(path)
        elif path.is_dir() and (shards := [shard for shard in path.iterdir() if shard.name.endswith(JSONL_SUFFIXES)]):
            files.setdefault(path.name, []).extend(shards)
    return files


def _local_dataset(folder: Path, splits: dict[str, list[Path]], manifest: Manifest) -> LocalDataset:
    mirror = (folder / FEATURES).is_file()
    entry, split_facts = manifest.entry(folder.name) or {}, manifest.splits(folder.name)
    row_counts = [split_facts.get(split, {}).get("rows") for split in splits]
    known_counts = [count for count in row_counts if isinstance(count, int)]
    origin = " ".join(str(entry[key]) for key in ("hub_id", "hub_config") if entry.get(key)) if mirror else ""
    if origin and entry.get("revision"):
        origin += f" at {str(entry['revision'])[:12]}"
    size = sum(path.stat().st_size for paths in splits.values() for path in paths)
    rows = sum(known_counts) if len(known_counts) == len(row_counts) else None
    return LocalDataset(folder.name, tuple(splits), rows, size, origin, mirror)


def list_cache_folders(cache: Path) -> list[CacheFolder]:
    """List the non-empty folders of the cache."""
    folders = []
    for name, content in CACHE_CONTENT.items():
        sizes = [path.stat().st_size for path in _files(cache / name)]
        if sizes:
            folders.append(CacheFolder(name, content, len(sizes), sum(sizes)))
    return folders


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []


def clean_cache(cache: Path) -> int:
    """Remove unpacked copies, indexes and hashes; return the number of files.

    Raises:
        MetalmError: A file cannot be removed.
    """
    files = [path for name in CACHE_CONTENT for path in _files(cache / name)]
    _remove_files(files)
    return len(files)


def find_dataset(root: Path, names: list[str]) -> list[LocalDataset]:
    """Find mirrors by name.

    Raises:
        MetalmError: A data set does not exist, or was not written by metalm.
    """
    datasets = {dataset.name: dataset for dataset in list_datasets(root)}
    for name in names:
        if not SAFE_NAME.match(name) or name not in datasets:
            raise MetalmError(
                f"no data set is named {name}",
                where=str(root),
                remedy=f"choose from {', '.join(datasets)}" if datasets else "the data root is empty",
            )
        if not datasets[name].mirror:
            raise MetalmError(
                f"{name} is not a mirror written by metalm",
                where=str(root / name),
                why=f"the folder has no {FEATURES}",
                remedy="remove the folder yourself if you do not need it",
            )
    return [datasets[name] for name in dict.fromkeys(names)]


def remove_mirror(root: Path, name: str) -> int:
    """Remove the files of a mirror and its entry in the manifest, but no other files; return the number of files.

    Raises:
        MetalmError: A file cannot be removed.
    """
    folder = root / name
    files = [path for paths in _split_files(folder).values() for path in paths]
    _remove_files([*files, folder / FEATURES])
    if (root / MANIFEST).exists():
        Manifest(root).remove(name)
    for path in (*{file.parent for file in files} - {folder}, folder):
        if not any(path.iterdir()):
            path.rmdir()
    return len(files)


def _remove_files(files: list[Path]) -> None:
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise MetalmError(
                "a file cannot be removed",
                where=str(path),
                why=error.strerror or str(error),
                exit_code=Exit.FAILED,
            ) from error
