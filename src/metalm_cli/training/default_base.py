"""The newest finished run, for commands that are not told which model to take."""

from __future__ import annotations

import json
from pathlib import Path

from metalm_cli.errors import MetalmError
from metalm_cli.provenance.lineage import LINEAGE

RUNS = Path("runs")


def latest_base_model(*commands: str, docked: bool = True) -> Path:
    """The newest finished run below ``runs/``.

    Args:
        commands: Commands that may have made it; none: any.
        docked: Only MetaLMs with encoders.

    Raises:
        MetalmError: There is none.
    """
    found = []
    for lineage in [*RUNS.glob(f"*/model/{LINEAGE}"), *RUNS.glob(f"*/seed-*/model/{LINEAGE}")]:
        if lineage.parts[1] == "latest":
            continue
        try:
            facts = json.loads(lineage.read_text(encoding="utf-8"))
            kind = json.loads((lineage.parent / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError):
            continue
        if (not commands or facts.get("command") in commands) and (not docked or kind == "metalm"):
            found.append((lineage.stat().st_mtime, lineage.parent.parent))
    if not found:
        what = " or ".join(commands) or "finished"
        raise MetalmError(
            f"there is no {what} run to begin from",
            where=str(RUNS.absolute()),
            why="no run below it has finished with a docked model" if RUNS.is_dir() else "no such folder",
            remedy="name a model with --model, or run metalm pretrain small first",
        )
    return max(found)[1]
