"""Search for runs: a path names a run, the model folder of a run, or a folder with several runs."""

from __future__ import annotations

from pathlib import Path

from metalm_cli.common.paths import read_regular
from metalm_cli.errors import MetalmError
from metalm_cli.reports.reading.tolerant_json import load_json
from metalm_cli.runs.find import RESULTS, stage_runs

SCORES_FOLDER = "results"
"""Name of a folder with result files, in a run folder or next to runs."""
STUDY_FILES = ("study.json", "demo.json")
"""Files that mark the folder of a study, or of a demo of an earlier version."""
SEED_PREFIX = "seed-"
"""Prefix of folders of seeds, before the number."""


def report_folder(path: Path) -> Path:
    """Folder for the report of a path: the folder of its only run, or else the path itself.

    Raises:
        MetalmError: See :func:`run_folders`.
    """
    folders = run_folders(path)
    return folders[0] if len(folders) == 1 else path


def run_folders(path: Path) -> list[Path]:
    """Folders of the runs and results that a path names.

    Raises:
        MetalmError: The path does not exist, cannot be read, or does not name a run.
    """
    if not path.exists():
        raise MetalmError("the run does not exist", where=str(path), remedy="name a run folder, such as runs/latest")
    if path.is_file():
        raise MetalmError(
            "a report needs a run folder, but this is a file", where=str(path), remedy=f"name its folder: {path.parent}"
        )
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise MetalmError("the run cannot be read", where=str(path), why=error.strerror or str(error)) from error
    if stages := stage_runs(path):
        return [*stages, *([path / SCORES_FOLDER] if (path / SCORES_FOLDER).is_dir() else [])]
    if _is_run(path):
        return [path]
    if path.name in RESULTS and (path.resolve().parent / "recipe.yaml").is_file():
        return [path.resolve().parent]
    folders = [run for folder in _runs_in_folder(path) for run in stage_runs(folder) or [folder]]
    if folders or any(_is_result_file(file) for file in path.glob("*.json")):
        return folders or [path]
    examples = ", ".join(str(run) for run in _child_runs(path)[:3])
    raise MetalmError(
        "not a run folder",
        where=str(path),
        why="the folder has no recipe.yaml, no metrics.jsonl and no results",
        remedy=f"name one of the runs in it: {examples}"
        if examples
        else "name the folder that --out named, or runs/latest",
    )


def _runs_in_folder(path: Path) -> list[Path]:
    """Folders of the runs in a folder of seeds or of a study, followed by folders of results."""
    runs, results = _runs_and_results(path, all_runs=any((path / name).is_file() for name in STUDY_FILES))
    if results == [path / SCORES_FOLDER] and not runs:
        return [path]
    return [*runs, *results]


def _runs_and_results(path: Path, all_runs: bool) -> tuple[list[Path], list[Path]]:
    """Runs and folders of results in a folder; runs other than seeds only next to results, or with ``all_runs``."""
    results = [path / SCORES_FOLDER] if (path / SCORES_FOLDER).is_dir() else []
    below = _child_runs(path)
    seeds = [folder for folder in _subfolders(path) if folder.name.startswith(SEED_PREFIX)]
    runs = below if all_runs or results else [folder for folder in below if folder in seeds]
    for seed in seeds:
        if seed not in below:
            seed_runs, seed_results = _runs_and_results(seed, all_runs=True)
            runs, results = [*runs, *seed_runs], [*results, *seed_results]
    return runs, results


def _child_runs(path: Path) -> list[Path]:
    return [folder for folder in _subfolders(path) if _is_run(folder)]


def _subfolders(path: Path) -> list[Path]:
    """Folders in a folder without the link ``latest``: seeds by number, others by start time."""

    def order(folder: Path) -> tuple[float, int, str]:
        recipe_file = folder / "recipe.yaml"
        is_seed = folder.name.startswith(SEED_PREFIX)
        return (
            0.0 if is_seed or not recipe_file.is_file() else recipe_file.stat().st_mtime,
            len(folder.name) if is_seed else 0,
            folder.name,
        )

    return sorted((folder for folder in path.glob("*/") if folder.name != "latest"), key=order)


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file() or (path / "metrics.jsonl").is_file()


def _is_result_file(path: Path) -> bool:
    try:
        record = load_json(read_regular(path))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "tasks" in record and "format" in record
