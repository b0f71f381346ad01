"""Result reader: validation of files in format 2 of :mod:`metalm_cli.evaluation.results.result_writer`."""

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

RESULT_FORMAT = 2
"""Format version that this module reads."""
MAX_FILE_BYTES = 2_000_000_000
"""Maximum size of a result file."""


class RecordPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Chance(RecordPart):
    """Chance levels, 0 to 100."""

    uniform: float | None = None
    majority: float | None = None


class TemplateRecord(RecordPart):
    """Result of a task with one template."""

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
    """Template with the highest score on the scored examples themselves."""

    template: str
    score: float


class SettingRecord(RecordPart):
    """Results of a task with a number of demonstrations."""

    shots: int
    score: float | None
    error: float | None = None
    interval: list[float] | None = Field(default=None, min_length=2, max_length=2)
    spread: float | None = None
    oracle: BestTemplate | None = None
    templates: list[TemplateRecord]

    @property
    def scored_templates(self) -> list[TemplateRecord]:
        """Templates that have a score."""
        return [template for template in self.templates if template.score is not None]

    @property
    def chance(self) -> Chance:
        """Chance level of the first template; empty if there are no templates."""
        return self.templates[0].chance if self.templates else Chance()

    @property
    def n(self) -> int:
        """Largest number of examples of a template."""
        return max((template.n for template in self.templates), default=0)

    @property
    def extra(self) -> dict[str, float]:
        """Mean over templates of each additional metric that all scored templates have."""
        extras = [template.extra for template in self.scored_templates]
        names = [name for name in extras[0] if all(name in extra for extra in extras)] if extras else []
        return {name: sum(extra[name] for extra in extras) / len(extras) for name in names}


class SeenRecord(RecordPart):
    """Label of a task: seen in training or held out."""

    label: str = "unknown"
    why: str = ""


class FileRecord(RecordPart):
    """File that rows were read from."""

    sha256: str | None = None


class TaskRecord(RecordPart):
    """Results of a task, by number of demonstrations."""

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

    def with_shots(self, shots: int) -> SettingRecord | None:
        """Return the results with this number of demonstrations, or None."""
        return next((setting for setting in self.settings if setting.shots == shots), None)


class MeanRecord(RecordPart):
    """Mean of scores."""

    value: float
    error: float | None = None
    of: list[str]


class ResultRecord(RecordPart):
    """Contents of a result file.

    Args:
        name: Name in tables: the file, or the model.
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
        """Path or name of the evaluated model."""
        return str(self.model.get("source", "?"))

    @property
    def shots(self) -> list[int]:
        """Numbers of demonstrations, in the order of the file."""
        return list(dict.fromkeys(setting.shots for task in self.tasks.values() for setting in task.settings))

    @cached_property
    def observations(self) -> dict[tuple[str, int], list[Observations]]:
        """Observations of each scored template, by task and shots."""
        return {
            (name, setting.shots): [
                _template_observations(task.metric, template, self.name, name) for template in setting.scored_templates
            ]
            for name, task in self.tasks.items()
            for setting in task.settings
        }


def _template_observations(metric: str, template: TemplateRecord, where: str, task: str) -> Observations:
    try:
        return task_metrics.observations(metric, template.each)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        why = f"tasks.{task}, template {template.template}: " + (
            f"no {error} by example" if isinstance(error, KeyError) else str(error)
        )
        raise _damaged(where, why) from error


def parse_result(record: Mapping[str, Any], name: str) -> ResultRecord:
    """Validate a record.

    Args:
        record: Record as :func:`metalm_cli.evaluation.results.result_writer.result_record` returns it.
        name: Name in tables and messages: the file.

    Raises:
        MetalmError: The record has another format, or is invalid.
    """
    version = record.get("format")
    if version != RESULT_FORMAT or isinstance(version, bool):
        if "tasks" not in record or not isinstance(version, int):
            raise MetalmError(
                "not a result file of metalm", where=name, remedy="name a file that metalm evaluate wrote"
            )
        is_older = version < RESULT_FORMAT
        raise MetalmError(
            f"results of format {version} cannot be read",
            where=name,
            why=f"this version of metalm reads format {RESULT_FORMAT}",
            remedy="evaluate the model again"
            if is_older
            else "use the version of metalm that wrote the file, or a newer version",
        )
    try:
        return ResultRecord.model_validate({**record, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise _damaged(name, f"{location}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def read_result(path: Path) -> ResultRecord:
    """Read a result file.

    Raises:
        MetalmError: The file cannot be read, is damaged, is not a result file, or has another format.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MetalmError("the file is too large for a result file", where=str(path))
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MetalmError(
            "results cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            remedy="name a result file, or a run folder with results/",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(str(path), f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise MetalmError(
            "not a result file of metalm", where=str(path), remedy="name a file that metalm evaluate wrote"
        )
    return parse_result(record, str(path))


def result_files(source: Path) -> list[Path]:
    """List the result files of an argument: a file itself, or the files of a run folder, oldest first.

    Raises:
        MetalmError: The folder has no result files.
    """
    if not source.is_dir():
        return [source]
    folder = source / "results" if (source / "results").is_dir() else source
    files = [path for path in folder.glob("*.json") if path.is_file() and _may_be_result_file(path)]
    if not files:
        raise MetalmError(
            "no results found",
            where=str(folder),
            remedy=f"run metalm evaluate {source} --task NAME to write results"
            if folder != source
            else "name a result file",
        )
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _may_be_result_file(path: Path) -> bool:
    """Whether a file may be a result file; an unreadable file counts, so that reading it reports the error."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return isinstance(content, dict) and {"tasks", "format"} <= set(content)


def _damaged(where: str, why: str) -> MetalmError:
    return MetalmError(
        "the result file is damaged", where=where, why=why, remedy="copy it again, or evaluate the model again"
    )
