"""Schema of suite files: the one definition of every key."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from metalm_cli.config.schema.base import InconsistentValues, Section

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Parts(Section):
    """Parts of a data set, each of which is a task: the rows with a value in a column."""

    column: str = Field(pattern=r"^[A-Za-z_]\w*$", description="Column of the data set that names the part of a row.")
    values: list[str] = Field(min_length=1, description="Values of the column; each makes a task.")


class SuiteTask(Section):
    """An entry of ``tasks``: a task, the tasks of a cluster or group, or the tasks of another suite."""

    one_of = (("task", "cluster", "suite"),)

    task: str | None = Field(default=None, description="Name of a task.")
    cluster: str | None = Field(
        default=None, description="Name of a cluster, which stands for its core tasks, or of a group of tasks."
    )
    suite: str | None = Field(
        default=None,
        description="Name or file of another suite, which stands for its tasks, not for its settings or aggregate. "
        "A relative path starts at the folder of the file.",
    )
    name: Name | None = Field(
        default=None, description="Name of the task in results, if a suite has a task more than once. Default: task."
    )
    metric: str | list[str] | None = Field(
        default=None,
        description="Metric that the benchmark scores the task with, if it differs from the card's; or a list of "
        "metrics, of which the first is the primary one and which metrics_then_tasks averages.",
    )
    split: str | None = Field(default=None, description="Split to score, by its role in the card.")
    demonstrations: str | None = Field(
        default=None, description="Split that demonstrations are drawn from, by its role in the card."
    )
    limit: int | None = Field(default=None, ge=1, description="Maximum number of examples of the task.")
    group: str | None = Field(
        default=None, description="Tasks of the same group are averaged first, and count once in the aggregate."
    )
    parts: Parts | None = Field(default=None, description="Evaluates parts of the data set as tasks of their own.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics of the entry; empty for those of the card."""
        return () if self.metric is None else (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @model_validator(mode="after")
    def _is_consistent(self) -> SuiteTask:
        if self.task is None and self.cluster is None and self.suite is None:
            raise InconsistentValues("expected one of task, cluster and suite, got none", remedy="set one of them")
        if self.task is None:
            only_of_tasks = [key for key in _KEYS_OF_A_TASK if getattr(self, key) is not None]
            if only_of_tasks:
                raise InconsistentValues(
                    f"{only_of_tasks[0]} needs task", key=only_of_tasks[0], remedy="list the tasks by name"
                )
        if self.metric is not None and (not self.metrics or len(set(self.metrics)) < len(self.metrics)):
            raise InconsistentValues("expected different metrics, at least one", key="metric")
        if self.name is not None and self.parts is not None:
            raise InconsistentValues("parts make names of their own", key="name", remedy="remove name")
        return self


_KEYS_OF_A_TASK = ("name", "metric", "split", "demonstrations", "limit", "group", "parts")


class SuiteFile(Section):
    """A suite."""

    kind: ClassVar[str] = "suite"

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        examples=["glue"],
        description="Name of the suite; must equal the file's stem.",
    )
    description: str = Field(description="One-line description of what the suite measures.")
    tasks: list[str | SuiteTask] = Field(
        min_length=1, description="Tasks: names of tasks, clusters or groups, or entries with keys of their own."
    )
    aggregate: str = Field(
        default="mean_over_clusters", description="Named function that combines the scores of the tasks."
    )
    also: list[str] = Field(default=[], description="Additional aggregates to report.")
    source: str = Field(default="", description="Benchmark, paper or script that the tasks and the aggregate follow.")
    shots: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], min_length=1, description="Numbers of demonstrations; each is evaluated separately."
    )
    protocol: Literal["auto", "finetuned", "in_context", "instruct", "zero_shot", "linear_probe"] = Field(
        default="auto", description="How answers are obtained; auto: by the training of the model."
    )
    templates: str | None = Field(
        default=None, description="Template collection, or a folder. Default: as in training, else flan."
    )
    template: str | None = Field(
        default=None, description="Templates to score for each task: first, paper, all, a number, or a name."
    )
    split: str | None = Field(default=None, description="Split to score. Default: validation, else test.")
    limit: int | None = Field(default=None, ge=1, description="Maximum number of examples of each task.")
    demonstrations: Literal["frozen", "drawn"] | None = Field(
        default=None, description="Demonstrations: the same for all examples of a task, or drawn for each example."
    )
    demonstration_layout: Literal["docks", "answered", "joined"] | None = Field(
        default=None,
        description="Layout of demonstrations: their inputs docked, they and their answers docked, or one "
        "text with the input.",
    )
    input_route: Literal["template", "encoder", "decoder"] | None = Field(
        default=None, description="Where inputs go: as the template says, all docked, or all in the decoder."
    )
    show_options: bool | None = Field(default=None, description="List the answer options in prompts.")
    rationales: bool | None = Field(default=None, description="Let the model reason before it answers.")
    normalise: bool | None = Field(
        default=None, description="Ignore case, English articles and marks around words when comparing answers."
    )
