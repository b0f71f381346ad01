"""What a run folder has of its losses and of all that they depend on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.runs.data_record import DATA_FORMAT, DataRecord, SourceRecord, read_data_record
from metalm_cli.runs.find import stage_runs
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.metrics_log import read_metrics
from metalm_cli.runs.reference_curves.curve import ReferenceCurve
from metalm_cli.runs.resume_check import read_recipe


@dataclass(frozen=True)
class Losses:
    """Losses by step; a loss that was not finite is NaN.

    Args:
        steps: Steps, rising.
        values: For each step, the mean loss since the step before.
    """

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def over(self, grid: Sequence[int]) -> list[float]:
        """Mean losses between the steps of a grid, which are steps of these losses.

        Example:
            >>> Losses((5, 10, 15, 20), (4.0, 3.0, 2.0, 1.0)).over([10, 20])
            [3.5, 1.5]
        """
        means, last = [], 0
        for step in grid:
            window = [loss for number, loss in zip(self.steps, self.values, strict=True) if last < number <= step]
            means.append(sum(window) / len(window))
            last = step
        return means


@dataclass(frozen=True)
class RunLosses:
    """Losses of a run and what they depend on.

    Args:
        path: Folder of the run.
        recipe: Name of its recipe; empty if the run does not say it.
        settings: Its resolved recipe.
        environment: Versions and machine.
        sources: Training data; None for a run without a record of it.
        validation_sources: Separate validation data.
        start: Checkpoints that it starts from, by part; None for a run of an earlier version.
        train: Training losses.
        validation: Validation losses.
    """

    path: Path
    recipe: str
    settings: dict[str, Any]
    environment: Mapping[str, str]
    sources: list[SourceRecord] | None
    validation_sources: list[SourceRecord]
    start: Mapping[str, str] | None
    train: Losses
    validation: Losses

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings.get("train", {}).get("seed", 0))


def read_run_losses(path: Path) -> RunLosses:
    """Read a run, which may be unfinished.

    Raises:
        MetalmError: The folder is not a run, has stages, or has no training loss.
    """
    folder = RunFolder.attach(path)
    if stages := stage_runs(path):
        raise MetalmError(
            "a reference curve is that of one run, and this run has stages",
            where=str(path),
            remedy=f"name a stage: {', '.join(map(str, stages))}",
        )
    settings = read_recipe(folder)
    records, _ = read_metrics(folder.metrics)
    train = _losses(records, "train")
    if settings is None or not train.steps:
        raise MetalmError(
            "the run has no training loss to compare",
            where=str(path),
            why="it has not logged a step yet, or train.log_every is 0"
            if settings is not None
            else "the folder has no recipe.yaml that can be read",
            remedy="name the folder of a run that has trained for some steps",
        )
    damaged = "the record of the run's environment cannot be read"
    saved = folder.read_json(folder.environment.name, damaged, "restore or remove the file") or {}
    environment = {key: str(value) for key, value in saved.items()}
    data = read_data_record(folder)
    return RunLosses(
        path=path,
        recipe=environment.pop("recipe", ""),
        settings=settings,
        environment=environment,
        sources=None if data is None else data["sources"],
        validation_sources=[] if data is None else data["validation"],
        start=None if data is None else data.get("start"),
        train=train,
        validation=_losses(records, "validation"),
    )


def _losses(records: Iterable[Mapping[str, Any]], split: str) -> Losses:
    """Losses of the records of a split; of a step that was run twice, the later record."""
    by_step: dict[int, float] = {}
    for record in records:
        loss, step = record.get("loss"), record.get("step")
        if record.get("split") == split and isinstance(step, int) and "loss" in record:
            by_step[step] = float(loss) if isinstance(loss, int | float) else math.nan
    steps = tuple(sorted(by_step))
    return Losses(steps, tuple(by_step[step] for step in steps))


def data_of(run: RunLosses | ReferenceCurve) -> DataRecord:
    """Record of the data of a run or a curve, without the order of the rows, which the seed determines."""
    sources: Any = run.sources or []
    validation: Any = run.validation_sources
    return {"format": DATA_FORMAT, "fingerprint": "", "sources": sources, "validation": validation}
