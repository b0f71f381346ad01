"""Which runs a path names: a run itself, the run around its model, or all that a folder of several holds."""

from __future__ import annotations

from pathlib import Path

from metalm_cli.errors import MetalmError
from metalm_cli.reports.reading.tolerant_json import load_json
from metalm_cli.runs.folder import RESULTS

SCORES = "results"
"""Folder of result files, in a run folder or beside runs."""
DEMO = "demo.json"
"""What a demo's folder holds."""
SEED = "seed-"
"""Folders of seeds are named so, with their number."""


def report_folder(path: Path) -> Path:
    """The folder that a report of what a path names belongs in: that of its only run, else the one of them all.

    Raises:
        MetalmError: As :func:`run_folders`.
    """
    found = run_folders(path)
    return found[0] if len(found) == 1 else path


def run_folders(path: Path) -> list[Path]:
    """The folders of runs and results that a path stands for.

    Raises:
        MetalmError: It does not exist, cannot be read, or names no run.
    """
    if not path.exists():
        raise MetalmError("there is no such run", where=str(path), remedy="name a run folder, as runs/latest")
    if path.is_file():
        raise MetalmError(
            "a report is of a run folder, and this is a file", where=str(path), remedy=f"name its folder: {path.parent}"
        )
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise MetalmError("the run cannot be read", where=str(path), why=error.strerror or str(error)) from error
    if _is_run(path):
        return [path]
    if path.name in RESULTS and (path.resolve().parent / "recipe.yaml").is_file():
        return [path.resolve().parent]
    found = _several(path)
    if found or any(_is_results(one) for one in path.glob("*.json")):
        return found or [path]
    few = ", ".join(str(one) for one in _below(path)[:3])
    raise MetalmError(
        "this folder is no run",
        where=str(path),
        why="it holds no recipe.yaml, no metrics.jsonl and no results",
        remedy=f"name one of the runs in it: {few}" if few else "name the folder that --out named, or runs/latest",
    )


def _several(path: Path) -> list[Path]:
    """The runs of several seeds, or of a demo with its results; or results alone. Results stand last."""
    runs, scores = _inside(path, whole=(path / DEMO).is_file())
    if scores == [path / SCORES] and not runs:
        return [path]
    return [*runs, *scores]


def _inside(path: Path, whole: bool) -> tuple[list[Path], list[Path]]:
    """Runs and folders of results. Runs that are no seeds count beside results, or where the whole folder does."""
    scores = [path / SCORES] if (path / SCORES).is_dir() else []
    below = _below(path)
    seeds = [one for one in _folders(path) if one.name.startswith(SEED)]
    runs = below if whole or scores else [one for one in below if one in seeds]
    for seed in seeds:
        if seed not in below:
            more, scored = _inside(seed, whole=True)
            runs, scores = [*runs, *more], [*scores, *scored]
    return runs, scores


def _below(path: Path) -> list[Path]:
    return [one for one in _folders(path) if _is_run(one)]


def _folders(path: Path) -> list[Path]:
    """Folders in a folder, seed-2 before seed-10, others as they were begun. ``latest`` is a link to one of them."""

    def order(one: Path) -> tuple[float, int, str]:
        recipe = one / "recipe.yaml"
        seed = one.name.startswith(SEED)
        return (0.0 if seed or not recipe.is_file() else recipe.stat().st_mtime, len(one.name) if seed else 0, one.name)

    return sorted((one for one in path.glob("*/") if one.name != "latest"), key=order)


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file() or (path / "metrics.jsonl").is_file()


def _is_results(path: Path) -> bool:
    try:
        record = load_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "tasks" in record and "format" in record
