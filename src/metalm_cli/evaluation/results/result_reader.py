"""Result files as they are read back: format 2 of :mod:`metalm_cli.evaluation.results.result_writer`, checked first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.metrics.bootstrap import Observations

FORMAT = 2
"""The format that is read."""
LIMIT = 2_000_000_000
"""Most bytes of a file that is read."""


class RecordPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Chance(RecordPart):
    """Chance levels, 0 to 100."""

    uniform: float | None = None
    majority: float | None = None


class WordingRecord(RecordPart):
    """A task in one wording."""

    template: str
    score: float | None
    error: float | None = None
    n: int = 0
    chance: Chance = Chance()
    extra: dict[str, float] = {}
    each: dict[str, list[Any]] = {}
    cut: int = 0
    skipped: int = 0
    note: str = ""


class BestTemplate(RecordPart):
    """The wording with the highest score, chosen on the scored examples."""

    template: str
    score: float


class SettingRecord(RecordPart):
    """A task with so many demonstrations."""

    shots: int
    score: float | None
    error: float | None = None
    interval: list[float] | None = Field(default=None, min_length=2, max_length=2)
    spread: float | None = None
    oracle: BestTemplate | None = None
    templates: list[WordingRecord]

    @property
    def scored(self) -> list[WordingRecord]:
        """The wordings that have a score."""
        return [one for one in self.templates if one.score is not None]

    @property
    def chance(self) -> Chance:
        """The chance level of the first wording, or none."""
        return self.templates[0].chance if self.templates else Chance()

    @property
    def n(self) -> int:
        """Examples of the wording that has the most."""
        return max((one.n for one in self.templates), default=0)

    @property
    def extra(self) -> dict[str, float]:
        """Further columns that every scored wording has, their mean over wordings."""
        found = [one.extra for one in self.scored]
        names = [name for name in found[0] if all(name in one for one in found)] if found else []
        return {name: sum(one[name] for one in found) / len(found) for name in names}


class SeenRecord(RecordPart):
    """How new a task is to the model."""

    label: str = "unknown"
    why: str = ""


class FileRecord(RecordPart):
    """A file that rows were read from."""

    sha256: str | None = None


class TaskRecord(RecordPart):
    """A task in all its settings."""

    cluster: str
    core: bool = False
    metric: str
    seen: SeenRecord = SeenRecord()
    split: str
    settings: list[SettingRecord]
    card_sha256: str
    templates_sha256: str
    revision: str | None = None
    files: list[FileRecord] = []

    def at(self, shots: int) -> SettingRecord | None:
        """The setting with so many demonstrations."""
        return next((one for one in self.settings if one.shots == shots), None)


class MeanRecord(RecordPart):
    """A mean of scores."""

    value: float
    error: float | None = None
    of: list[str]


class ResultRecord(RecordPart):
    """A result file.

    Args:
        name: What it is called in tables: the file, or the model.
    """

    name: str
    metalm: str = ""
    created: str = ""
    protocol: str
    complete: bool
    model: dict[str, Any]
    settings: dict[str, Any]
    tasks: dict[str, TaskRecord]
    missing: dict[str, str] = {}
    clusters: dict[str, dict[str, MeanRecord]] = {}
    mean: dict[str, MeanRecord | None] = {}

    @property
    def source(self) -> str:
        """The model that was scored."""
        return str(self.model.get("source", "?"))

    @property
    def shots(self) -> list[int]:
        """Numbers of demonstrations, as they were asked for."""
        return list(dict.fromkeys(one.shots for task in self.tasks.values() for one in task.settings))

    @cached_property
    def observations(self) -> dict[tuple[str, int], list[Observations]]:
        """What each example says, by task and shots, for each scored wording."""
        return {
            (name, setting.shots): [_observed(task.metric, one, self.name, name) for one in setting.scored]
            for name, task in self.tasks.items()
            for setting in task.settings
        }


def _observed(metric: str, wording: WordingRecord, where: str, task: str) -> Observations:
    try:
        return task_metrics.observations(metric, wording.each)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        why = f"tasks.{task}, template {wording.template}: " + (
            f"no {error} by example" if isinstance(error, KeyError) else str(error)
        )
        raise _damaged(where, why) from error


def parse_result(record: Mapping[str, Any], name: str) -> ResultRecord:
    """A record that was made or read, checked.

    Args:
        record: Such as :func:`metalm_cli.evaluation.results.result_writer.result_record` makes.
        name: What it is called in tables and messages: its file.

    Raises:
        MetalmError: It is of another format, or not as it should be.
    """
    version = record.get("format")
    if version != FORMAT or isinstance(version, bool):
        if "tasks" not in record or not isinstance(version, int):
            raise MetalmError(
                "this is no result file of metalm", where=name, remedy="name a file that metalm evaluate wrote"
            )
        older = version < FORMAT
        raise MetalmError(
            f"results of format {version} cannot be read",
            where=name,
            why=f"this metalm reads format {FORMAT}",
            remedy="evaluate the model again" if older else "use the metalm that wrote it, or a newer one",
        )
    try:
        return ResultRecord.model_validate({**record, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise _damaged(name, f"{at}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def read(path: Path) -> ResultRecord:
    """Read a result file.

    Raises:
        MetalmError: It cannot be read, is damaged, is of something else, or of another format.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise MetalmError("the file is too large for a result file", where=str(path))
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MetalmError(
            "results cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            remedy="name a result file, or a run folder with results/",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(str(path), f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise MetalmError(
            "this is no result file of metalm", where=str(path), remedy="name a file that metalm evaluate wrote"
        )
    return parse_result(found, str(path))


def result_files(place: Path) -> list[Path]:
    """The result files that an argument stands for: itself, or those of a run folder, oldest first.

    Raises:
        MetalmError: There are none.
    """
    if not place.is_dir():
        return [place]
    folder = place / "results" if (place / "results").is_dir() else place
    found = [path for path in folder.glob("*.json") if path.is_file() and _may_be(path)]
    if not found:
        raise MetalmError(
            "no results are here",
            where=str(folder),
            remedy=f"metalm evaluate {place} --task NAME writes some" if folder != place else "name a result file",
        )
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _may_be(path: Path) -> bool:
    """Whether a file of a folder is of results; what cannot be told is read, and then refused."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return isinstance(found, dict) and {"tasks", "format"} <= set(found)


def _damaged(where: str, why: str) -> MetalmError:
    return MetalmError(
        "the result file is damaged", where=where, why=why, remedy="copy it again, or evaluate the model again"
    )
