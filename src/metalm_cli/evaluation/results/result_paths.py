"""Result paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    pass


def result_paths(
    sources: Sequence[str], out: Path | None, protocol: str, names: Sequence[str], samples: bool
) -> list[Path]:
    """The files that results go to: ``--out``, or new ones in the run folders, or else in ``results/`` here.

    Raises:
        MetalmError: ``--out`` exists already, or nothing can be written there.
    """
    found: list[Path] = []
    for at, source in enumerate(sources):
        if out is not None:
            place = out if at == 0 else out.with_name(f"{out.stem}-{at + 1}{out.suffix or '.json'}")
            for path in [place, *([samples_path(place)] if samples else [])]:
                if path.exists():
                    raise MetalmError(
                        "results exist already", where=str(path), remedy="choose another --out, or remove it"
                    )
        else:
            stem = f"{protocol}-" + "-".join(names)[:60]
            numbered = (result_folder(source) / f"{stem}{'' if n == 1 else f'-{n}'}.json" for n in range(1, 100_000))
            place = next(path for path in numbered if not path.exists() and path not in found)
        above = next(one for one in place.absolute().parents if one.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise MetalmError(
                "results cannot be written", where=str(place), remedy="choose another place with --out FILE"
            )
        found.append(place)
    return found


def result_folder(source: str) -> Path:
    """Where results of a model lie: in its run folder; of any other model in ``results/NAME`` here."""
    folder = Path(source).expanduser()
    runs = [one for one in (folder, folder.parent) if (one / "recipe.yaml").is_file()]
    return (
        runs[0] / "results" if runs else Path("results") / (folder.resolve().name if folder.is_dir() else folder.name)
    )


def samples_path(place: Path) -> Path:
    """Where the answers of a results file are written."""
    return place.with_name(f"{place.stem}.samples.jsonl")
