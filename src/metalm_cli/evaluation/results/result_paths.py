"""Paths of result files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from metalm_cli.common.paths import expand_user
from metalm_cli.errors import MetalmError

MAX_NAMES_LENGTH = 48
"""Length of the names of tasks in the name of a result file, from which on further ones are counted."""


def result_paths(
    sources: Sequence[str],
    out: Path | None,
    protocol: str,
    names: Sequence[str],
    samples: bool,
    parts: Sequence[str] = (),
) -> list[Path]:
    """Return the paths of new result files: ``--out``, or in the run folders, or else in ``results/``.

    Args:
        sources: The models.
        out: Path of the first file.
        protocol: Protocol, or ``auto``.
        names: Names of tasks, clusters or the suite.
        samples: Whether the predictions are written as well.
        parts: Settings in the name of a file.

    Raises:
        MetalmError: ``--out`` exists already, or its folder is not writable.
    """
    paths: list[Path] = []
    for index, source in enumerate(sources):
        if out is not None:
            result_path = out if index == 0 else out.with_name(f"{out.stem}-{index + 1}{out.suffix or '.json'}")
            for path in [result_path, *([samples_path(result_path)] if samples else [])]:
                if path.exists():
                    raise MetalmError(
                        "results exist already", where=str(path), remedy="choose another --out, or remove the file"
                    )
        else:
            stem = "-".join([protocol, _joined_names(names), *parts])
            candidates = (result_folder(source) / f"{stem}{'' if n == 1 else f'-{n}'}.json" for n in range(1, 100_000))
            result_path = next(path for path in candidates if not path.exists() and path not in paths)
        ancestor = next(parent for parent in result_path.absolute().parents if parent.exists())
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
            raise MetalmError(
                "results cannot be written", where=str(result_path), remedy="choose another path with --out FILE"
            )
        paths.append(result_path)
    return paths


def _joined_names(names: Sequence[str]) -> str:
    """Join names up to a length, and count the others.

    >>> _joined_names(["rte", "cb"]), _joined_names(["world_reviews"] * 9)
    ('rte-cb', 'world_reviews-world_reviews-world_reviews-and-6-more')
    """
    count = 1
    while count < len(names) and len("-".join(names[: count + 1])) <= MAX_NAMES_LENGTH:
        count += 1
    more = [f"and-{len(names) - count}-more"] if count < len(names) else []
    return "-".join([*(name[:MAX_NAMES_LENGTH] for name in names[:count]), *more])


def result_folder(source: str) -> Path:
    """Return the folder for results of a model: in its run folder, or ``results/NAME`` for other models."""
    folder = expand_user(source)
    runs = [candidate for candidate in (folder, folder.parent) if (candidate / "recipe.yaml").is_file()]
    return (
        runs[0] / "results" if runs else Path("results") / (folder.resolve().name if folder.is_dir() else folder.name)
    )


def samples_path(path: Path) -> Path:
    """Return the path of the predictions that belong to a result file."""
    return path.with_name(f"{path.stem}.samples.jsonl")


def with_protocol_in_name(result_path: Path, protocol: str, taken: Sequence[Path] = ()) -> Path:
    """Replace ``auto`` in the name of a results file by the protocol, with a number if the file exists or is taken."""
    if not result_path.name.startswith("auto-"):
        return result_path
    stem = result_path.stem.replace("auto-", f"{protocol}-", 1)
    numbered = (
        result_path.with_name(f"{stem}{'' if number == 1 else f'-{number}'}.json") for number in range(1, 100_000)
    )
    return next(candidate for candidate in numbered if not candidate.exists() and candidate not in taken)
