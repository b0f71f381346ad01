"""Schema of result files and of the predictions next to them: the one definition of every key, in file order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.metrics.bootstrap import Observations

RESULT_FORMAT = 2
"""Format version of result files."""


class RecordPart(BaseModel):
    """Part of a result file; keys in :attr:`optional_keys` are not written if they are empty (false is not)."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)
    optional_keys: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_empty_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {
            key: value
            for key, value in content.items()
            if key not in self.optional_keys or value is False or value not in (None, "", 0, [], {})
        }


class Chance(RecordPart):
    """Chance levels, 0 to 100."""

    uniform: float | None = None
    majority: float | None = None

    @property
    def level(self) -> float | None:
        """The better of guessing and the best constant answer; None if neither is known."""
        return max((level for level in (self.uniform, self.majority) if level is not None), default=None)


class CostRecord(RecordPart):
    """Cost of an example, see :class:`~metalm_cli.evaluation.metrics.cost.Cost`."""

    examples: int
    milliseconds: float
    positions: float
    encoder_positions: float = 0.0
    flops: float | None = None
    memory: int | None = None


class TemplateRecord(RecordPart):
    """Result of a task with one template.

    Args:
        counts: Numbers of invalid texts, see :class:`~metalm_cli.evaluation.metrics.task_metrics.Score`.
        extra_intervals: 95% intervals of further scores, by name.
        extra_chance: Chance levels of further scores, by name.
        each: Columns by example, from which the score is computed.
        also_each: Columns by example of other metrics that an aggregate reads, by metric.
        cut: Number of examples whose long field was truncated.
        skipped: Number of examples that do not fit the model.
        empty: Number of examples for which the template renders an empty input or target.
        seconds: Time of tokenising, inference and scoring.
        note: Message about examples that do not fit with their demonstrations.
        max_answer_tokens: Maximum number of new tokens of open answers; None if answers are among options.
        at_limit: Number of open answers that met this limit, or the end of the model's positions, before their end.
        warnings: Messages about options or answers that the model's tokenizer cannot distinguish or spell.
        cost: Time, positions, FLOPs and memory of an example; None if all answers were cached.
    """

    optional_keys = frozenset(
        {"also_each", "empty", "note", "max_answer_tokens", "at_limit", "warnings", "cost"}
        | {"extra_intervals", "extra_chance"}
    )

    template: str
    score: float | None
    error: float | None = None
    interval: list[float] | None = Field(default=None, min_length=2, max_length=2)
    n: int = 0
    counts: dict[str, int] = {}
    chance: Chance = Chance()
    extra: dict[str, float] = {}
    extra_intervals: dict[str, list[float]] = {}
    extra_chance: dict[str, float] = {}
    each: dict[str, list[Any]] = {}
    also_each: dict[str, dict[str, list[Any]]] = {}
    cut: int = 0
    skipped: int = 0
    empty: int = 0
    seconds: float = 0.0
    note: str = ""
    max_answer_tokens: int | None = None
    at_limit: int = 0
    warnings: list[str] = []
    cost: CostRecord | None = None

    @property
    def limit_message(self) -> str:
        """Message about answers that met the limit of tokens."""
        return (
            f"{self.at_limit} of {self.n} answers met the limit of {self.max_answer_tokens} tokens "
            "(--max-answer-tokens), or filled the model's positions, before their end"
        )


class BestTemplate(RecordPart):
    """Template with the highest score on the scored examples themselves."""

    template: str
    score: float


class SettingRecord(RecordPart):
    """Results of a task with a number of demonstrations.

    Args:
        above_chance: Whether the whole interval is above the chance level; None without one of them, and in files of
            versions that did not write it, see :attr:`is_above_chance`.
    """

    optional_keys = frozenset({"above_chance"})

    shots: int
    score: float | None
    error: float | None = None
    interval: list[float] | None = Field(default=None, min_length=2, max_length=2)
    above_chance: bool | None = None
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
    def is_above_chance(self) -> bool | None:
        """Whether the lower end of the interval is above the chance level; None without one of them."""
        level = self.chance.level
        return None if level is None or self.interval is None else self.interval[0] > level

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

    @property
    def messages(self) -> list[str]:
        """Messages about examples that are not scored, and about options and answers with limits, without repeats."""
        limited = max(self.templates, key=lambda template: template.at_limit, default=None)
        at_limit = [] if limited is None or not limited.at_limit else [limited.limit_message]
        messages = [message for template in self.templates for message in (template.note, *template.warnings)]
        return list(dict.fromkeys(filter(None, [*messages, *at_limit])))


class SeenRecord(RecordPart):
    """Label of a task: seen in training or held out."""

    label: str = "unknown"
    why: str = ""


class FileRecord(RecordPart):
    """File that rows were read from."""

    path: str = ""
    sha256: str | None = None
    size: int | None = None


class TaskRecord(RecordPart):
    """Results of a task, by number of demonstrations."""

    cluster: str
    core: bool = False
    metric: str
    metric_source: str = ""
    seen: SeenRecord = SeenRecord()
    split: str
    examples: int = 0
    settings: list[SettingRecord]
    card_sha256: str
    templates_sha256: str
    location: str = ""
    revision: str | None = None
    files: list[FileRecord] = []

    def with_shots(self, shots: int) -> SettingRecord | None:
        """Return the results with this number of demonstrations, or None."""
        return next((setting for setting in self.settings if setting.shots == shots), None)


class MeanRecord(RecordPart):
    """Mean of scores.

    Args:
        value: The mean.
        error: Standard error of the mean of independent scores; None if a score has none.
        of: Names of the averaged tasks or clusters.
    """

    value: float
    error: float | None = None
    of: list[str]


class SuiteTaskRecord(RecordPart):
    """A task of a suite: its group, and its metrics in the aggregate, the primary one first."""

    group: str
    metrics: list[str] = Field(min_length=1)


class AggregateRecord(RecordPart):
    """Aggregate of the scores of a suite.

    Args:
        name: Name of the aggregate.
        value: Its value; None if a number that it needs is missing.
        error: Standard error, by bootstrap over examples.
        interval: 95% interval, by bootstrap over examples.
        of: Names of the tasks that it includes; it is partial if the suite has more.
    """

    name: str
    value: float | None
    error: float | None = None
    interval: list[float] | None = Field(default=None, min_length=2, max_length=2)
    of: list[str]


class SuiteRecord(RecordPart):
    """Suite of an evaluation.

    Args:
        name: Name of the suite.
        sha256: Hash of its contents.
        tasks: All its tasks, in its order.
        changed: Settings of the suite that options replaced, as ``key: value instead of value``.
        aggregates: Aggregates by number of demonstrations, the primary one first.
    """

    optional_keys = frozenset({"source", "changed"})

    name: str
    sha256: str
    source: str = ""
    tasks: dict[str, SuiteTaskRecord]
    changed: list[str] = []
    aggregates: dict[str, list[AggregateRecord]] = {}


class ResultRecord(RecordPart):
    """Contents of a result file.

    Args:
        name: Name in tables and messages: the file, or the model. Not in the file.
        complete: Whether all requested tasks are included.
        missing: Tasks without data, with reasons.
        clusters: Mean of each cluster, by number of demonstrations.
        mean: Mean over clusters, by number of demonstrations.
        suite: Suite whose tasks were evaluated; None for tasks that were selected by name.
        contamination: Overlap with training data; None if it was not checked.
        seconds: Time of tokenising, inference and scoring.
    """

    optional_keys = frozenset({"suite", "contamination"})

    name: str = Field(default="", exclude=True)
    format: int = RESULT_FORMAT
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
    suite: SuiteRecord | None = None
    contamination: dict[str, Any] | None = None
    environment: dict[str, Any] = {}
    seconds: float = 0.0

    @property
    def source(self) -> str:
        """Path or name of the evaluated model."""
        return str(self.model.get("source", "?"))

    @property
    def weights_sha256(self) -> str:
        """Hash of the evaluated weights."""
        return str(self.model.get("weights_sha256"))

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

    def to_json(self) -> str:
        """Return the text of the result file."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class SampleRecord(BaseModel):
    """Prediction for one example, a line of the file of predictions.

    Args:
        id: Task and row of the split, as ``task/row``.
        score: Score of the prediction, 0 to 1.
        log_likelihood: Log-probability of each option, if options were ranked.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str
    task: str
    template: str
    shots: int
    input: str
    target: str
    prediction: str
    score: float | None = Field(allow_inf_nan=False)
    log_likelihood: Mapping[str, float] | None = None

    @property
    def row(self) -> str:
        """Row of the example in the split."""
        return self.id.rpartition("/")[2]

    def to_line(self) -> str:
        """Return the line of the prediction in its file."""
        return json.dumps(self.model_dump(), ensure_ascii=False) + "\n"


def damaged_file(where: str, why: str) -> MetalmError:
    """Return the error for a damaged result file."""
    return MetalmError(
        "the result file is damaged", where=where, why=why, remedy="copy it again, or evaluate the model again"
    )


def _template_observations(metric: str, template: TemplateRecord, where: str, task: str) -> Observations:
    try:
        return task_metrics.observations(metric, template.each)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        why = f"tasks.{task}, template {template.template}: " + (
            f"no {error} by example" if isinstance(error, KeyError) else str(error)
        )
        raise damaged_file(where, why) from error
