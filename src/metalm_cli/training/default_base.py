"""Default base model: the newest finished pretraining run."""

from __future__ import annotations

import json
from pathlib import Path

from metalm_cli.errors import MetalmError
from metalm_cli.provenance.lineage import LINEAGE
from metalm_cli.runs.find import RUNS, newest_finished


def latest_base_model() -> Path:
    """Find the newest finished pretraining run below ``runs/`` with encoders.

    Raises:
        MetalmError: The run does not exist.
    """
    run = newest_finished(RUNS, _is_pretrained_metalm, time_of=_lineage_time, follow_latest=False)
    if run is None:
        raise MetalmError(
            "there is no pretrain run to start from",
            where=str(RUNS.absolute()),
            why="none of its runs has finished with a docked model" if RUNS.is_dir() else "no such folder",
            remedy="pass a model with --model, or run metalm pretrain small first",
        )
    return run


def _lineage_time(run: Path) -> int | None:
    """Modification time of the lineage of a run's model in nanoseconds; None if there is none."""
    path = run / "model" / LINEAGE
    return path.stat().st_mtime_ns if path.exists() else None


def _is_pretrained_metalm(run: Path) -> bool:
    try:
        lineage = json.loads((run / "model" / LINEAGE).read_text(encoding="utf-8"))
        config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(lineage.get("command") == "pretrain" and config.get("model_type") == "metalm")
