"""Lookup of finished and unfinished runs.

A run is *finished* when ``model/`` (or ``adapter/``) exists: both are written to a temporary folder and then renamed.
"""

from __future__ import annotations

import re
from pathlib import Path

from metalm_cli.errors import MetalmError

RUNS = Path("runs")
"""Default parent folder of runs."""
RESULTS = ("model", "adapter")
STAGES_FOLDER = "stages"
"""Folder of a run with stages, which holds a run for each."""
_TIMESTAMP = re.compile(r"-(\d{8}-\d{6})(?:-(\d+))?$")


def is_finished(path: Path) -> bool:
    """Whether a run is finished: ``model/`` or ``adapter/`` exists in its folder."""
    return _result_time(path) is not None


def stage_runs(path: Path) -> list[Path]:
    """Runs of the stages of a run, in the order they began; empty for a run without stages."""
    runs = [run for run in (path / STAGES_FOLDER).glob("*/") if (run / "recipe.yaml").is_file()]
    return sorted(runs, key=lambda run: (run / "data.json").stat().st_mtime if (run / "data.json").exists() else 0.0)


def run_of_result(path: Path) -> Path:
    """Run that wrote the result of a run: the run itself, or its last stage."""
    results = (path / name for name in RESULTS)
    return next((result.resolve().parent for result in results if result.is_symlink() and result.is_dir()), path)


def newest_unfinished(root: Path, label: str) -> Path:
    """Find the newest unfinished run ``<label>-<time>`` under ``root``.

    Raises:
        MetalmError: The run does not exist.
    """
    candidates = []
    for path in root.iterdir() if root.is_dir() else ():
        match = _TIMESTAMP.search(path.name)
        if match and path.name[: match.start()] == label and path.is_dir() and not is_finished(path):
            candidates.append((match[1], int(match[2] or 1), path))
    if not candidates:
        raise MetalmError(
            f"there is no unfinished run of {label} to resume",
            where=str(root),
            remedy="omit --resume to start a new run, or pass the run folder with --out",
        )
    return max(candidates)[2]


def _result_time(run: Path) -> int | None:
    """Modification time of a run's newest result in nanoseconds; None if there is none."""
    return max(((run / name).stat().st_mtime_ns for name in RESULTS if (run / name).is_dir()), default=None)
