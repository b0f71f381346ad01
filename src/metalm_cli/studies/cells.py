"""Finished cells of a study: a line of JSON for each stage and seed, which later work reads and continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.errors import MetalmError
from metalm_cli.studies.state import StudyFolder, last_record

if TYPE_CHECKING:
    from metalm_cli.studies.stages import Stage

CELLS_FILE = "results.jsonl"
VALIDATION_KEYS = ("step", "loss", "bits_per_byte")
"""Values of a run's last validation that a cell has."""


def write_cells(folder: StudyFolder, stages: Sequence[Stage], done: set[str], scale: str) -> Path:
    """Write the cells of the finished stages, in their order, after those of other seeds, and return the file.

    A cell has the study, the scale, the stage, the seed, the command with its hash, the version of metalm, the running
    time in seconds, the outputs below the study's folder, and the last validation of a run or the scores of an
    evaluation (by model, task and number of demonstrations, 0 to 100, with the 95% interval over examples and chance).
    """
    path = folder.path / CELLS_FILE
    lines = _cells_of_others(path, stages)
    for stage in stages:
        if stage.name not in done or stage.seed is None:
            continue
        cell: dict[str, Any] = {
            "study": folder.study.name,
            "scale": scale,
            "stage": stage.kind,
            "seed": stage.seed,
            "command": ["metalm", *stage.arguments],
            "command_sha256": stage.command_hash,
            "metalm": folder.version_of(stage),
            "seconds": folder.seconds.get(stage.name),
            "outputs": [path.relative_to(folder.path).as_posix() for path in stage.outputs],
        }
        if stage.run is not None:
            record = last_record(stage.run, "validation")
            cell["validation"] = {key: record[key] for key in VALIDATION_KEYS if key in record}
        else:
            cell["scores"] = [_scores(path) for path in stage.outputs]
        lines.append(json.dumps(cell, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines).encode())
    return path


def _cells_of_others(path: Path, stages: Sequence[Stage]) -> list[str]:
    """Lines of the cells of other stages and seeds whose outputs still exist."""
    current = {(stage.kind, stage.seed) for stage in stages}
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            cell = json.loads(line)
            is_other = (cell["stage"], cell["seed"]) not in current
            if is_other and all((path.parent / output).exists() for output in cell["outputs"]):
                lines.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # a damaged line; its stage has its results in its own files
            continue
    return lines


def _scores(path: Path) -> dict[str, Any]:
    """Scores of a result file, by task and number of demonstrations."""
    from metalm_cli.evaluation.results.result_reader import read_result

    try:
        record = read_result(path)
    except MetalmError:  # the page and the tables report the damaged file
        return {}
    return {
        "model": record.source,
        "weights_sha256": record.weights_sha256,
        "tasks": {
            name: {
                str(setting.shots): {
                    "score": setting.score,
                    "interval": setting.interval,
                    "chance": setting.chance.level,
                    "n": setting.n,
                }
                for setting in task.settings
            }
            for name, task in record.tasks.items()
        },
    }
