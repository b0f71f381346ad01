"""Default base model: the newest finished run."""

from __future__ import annotations

import json
from pathlib import Path

from metalm_cli.errors import MetalmError
from metalm_cli.provenance.lineage import LINEAGE

RUNS = Path("runs")


def latest_base_model(*commands: str, docked: bool = True) -> Path:
    """Find the newest finished run below ``runs/``.

    Args:
        commands: Commands of the runs to consider; default: all.
        docked: Only consider MetaLMs with encoders.

    Raises:
        MetalmError: There is no such run.
    """
    candidates = []
    for lineage_file in [*RUNS.glob(f"*/model/{LINEAGE}"), *RUNS.glob(f"*/seed-*/model/{LINEAGE}")]:
        if lineage_file.parts[1] == "latest":
            continue
        try:
            lineage = json.loads(lineage_file.read_text(encoding="utf-8"))
            model_type = json.loads((lineage_file.parent / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError):
            continue
        if (not commands or lineage.get("command") in commands) and (not docked or model_type == "metalm"):
            candidates.append((lineage_file.stat().st_mtime, lineage_file.parent.parent))
    if not candidates:
        command_names = " or ".join(commands) or "finished"
        raise MetalmError(
            f"there is no {command_names} run to start from",
            where=str(RUNS.absolute()),
            why="none of its runs has finished with a docked model" if RUNS.is_dir() else "no such folder",
            remedy="pass a model with --model, or run metalm pretrain small first",
        )
    return max(candidates)[1]
