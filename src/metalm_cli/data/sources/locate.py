"""Where the files of a source are found, and the source that has none: the miniature world."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.jsonl_files import SUFFIXES
from metalm_cli.config.schema.data import Source
from metalm_cli.errors import MetalmError

SAFE_PART = re.compile(r"^[\w][\w.-]*$")


@dataclass(frozen=True)
class FileFacts:
    """A file for the lineage: where it lies, its SHA-256 (None where it is streamed), its size in bytes."""

    path: str
    sha256: str | None
    size: int


def local_files(source: Source, data_root: Path | None) -> list[Path] | None:
    """The files of a ``path`` source, or of a ``hub`` source that lies in ``data_root``; None: not at hand.

    Raises:
        MetalmError: A ``path`` that matches nothing, or a hub name that is none.
    """
    if source.path is not None:
        return _path_files(source, source.path, data_root)
    if source.hub is not None and data_root is not None:
        return _mirrored_files(source, source.hub, data_root)
    return None


def _path_files(source: Source, path: str, data_root: Path | None) -> list[Path]:
    given = Path(path).expanduser()
    candidates = [given]
    if not given.is_absolute() and data_root is not None:
        candidates.append(data_root / given)
    for candidate in candidates:
        found = _matches(candidate)
        if found:
            return found
    place = candidates[0].absolute() if len(candidates) == 1 else " or ".join(map(str, candidates))
    if any(candidate.is_file() for candidate in candidates):
        why = f"a data file is named *{', *'.join(SUFFIXES)}"
    elif any(candidate.is_dir() for candidate in candidates):
        why = f"the folder holds no *{', *'.join(SUFFIXES)}"
    else:
        why = "nothing is there"
    raise MetalmError(
        f"Source {source.name} finds no data files",
        where=str(place),
        why=why,
        remedy="correct `path`; it may be relative to the working directory or to --data-root",
    )


def _matches(candidate: Path) -> list[Path]:
    """Data files of a file name, a folder or a glob, sorted by name."""
    if candidate.is_dir():
        found = sorted(candidate.iterdir())
    elif candidate.exists():
        found = [candidate]
    else:
        found = sorted(Path(name) for name in glob.glob(str(candidate), recursive=True))
    return [path for path in found if path.is_file() and path.name.endswith(SUFFIXES)]


def check_hub_name(source: Source) -> None:
    """Refuse hub names and splits that are no names, so that none leads out of a folder.

    Raises:
        MetalmError: The hub id, the configuration or the split is no name.
    """
    hub = source.hub or ""
    parts = hub.split("/")
    if not 1 <= len(parts) <= 2 or not all(SAFE_PART.match(part) for part in parts):
        raise MetalmError(
            f"Source {source.name} names no hub data set",
            why=f"got {hub!r}, expected name or owner/name",
            remedy="for files on this machine use `path`",
        )
    if source.config is not None and (".." in source.config or "/" in source.config):
        raise MetalmError(f"Source {source.name} has no valid configuration name", why=f"got {source.config!r}")


def _mirrored_files(source: Source, hub: str, root: Path) -> list[Path] | None:
    """``ROOT/<name>/<split>.jsonl[.gz|.zst]`` or ``ROOT/<name>/<split>/*.jsonl*``.

    The name is the hub id, the last part of it, or the source's own; a configuration is looked for as a folder
    inside first.
    """
    if not SAFE_PART.match(source.split):
        return None
    for name in dict.fromkeys([hub, hub.split("/")[-1], source.name]):
        folders = [root / name / source.config] if source.config else []
        for folder in [*folders, root / name]:
            for suffix in SUFFIXES:
                if (folder / f"{source.split}{suffix}").is_file():
                    return [folder / f"{source.split}{suffix}"]
            if (folder / source.split).is_dir() and (found := _matches(folder / source.split)):
                return found
    return None


def data_folder(given: Path | None) -> Path | None:
    """``--data-root``, else ``$METALM_DATA``, else None.

    Raises:
        MetalmError: It is no folder.
    """
    variable = os.environ.get("METALM_DATA")
    root = given if given is not None else Path(variable).expanduser() if variable else None
    if root is not None and not root.is_dir():
        raise MetalmError(
            "The data folder does not exist",
            where=str(root),
            remedy="correct --data-root (or METALM_DATA), or leave it out",
        )
    return root
