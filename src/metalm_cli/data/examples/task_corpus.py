"""The training examples of a task mixture as an endless numbered list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.config.renamed_keys import fingerprint_json
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.documents.corpus import SourceInfo
from metalm_cli.data.examples.open_examples import Examples
from metalm_cli.data.sampling.index_plan import IndexPlan, PlannedRow, key_of, permute, permute_one
from metalm_cli.data.sampling.row_slots import numpy_generator
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, render, scored_templates

MAX_SKIPPED_ROWS = 10_000
"""A task fails after this many consecutive excluded rows."""
DEMONSTRATIONS_PURPOSE, TEMPLATE_PURPOSE = 11, 12
"""Purposes of random generators."""


@dataclass
class TrainingTask:
    """A task of the training mixture.

    Args:
        card: Card of the task.
        card_path: File of the card.
        examples: Its training split.
        templates: Its training templates, in their order.
        row_count: Rows of the split that are used (at most the cap of the mixture).
        rate: Share of the task among the drawn examples.
        excluded_rows: Rows of the split that are not trained on (decontamination).
    """

    card: Card
    card_path: Path
    examples: Examples
    templates: list[Template]
    row_count: int
    rate: float
    excluded_rows: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PlannedExample:
    """The example at a number of the index plan, with its template and demonstrations.

    Args:
        task: Index of its task.
        example: The example.
        template: Template of the example and of its demonstrations.
        demonstrations: Answered examples that precede it.
        number: Number in the index plan.
        key: Cache key, equal for equal sessions.
    """

    task: int
    example: Example
    template: Template
    demonstrations: tuple[Example, ...]
    number: int
    key: tuple[Any, ...]


@dataclass
class TaskCorpus:
    """The training examples of a recipe, by number.

    Args:
        tasks: The tasks with their rates.
        options: The recipe's ``data``.
        seed: Seed of every order.
    """

    tasks: list[TrainingTask]
    options: TaskDataConfig
    seed: int
    validation_sources: list[SourceInfo] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [task.card.name for task in self.tasks]
        self.plan = IndexPlan(
            names, [task.rate for task in self.tasks], [task.row_count for task in self.tasks], self.seed
        )
        self._cap_keys = [key_of("cap", name) for name in names]

    @property
    def style(self) -> PromptStyle:
        """Style in which prompts are rendered."""
        options = self.options
        templates = options.templates
        layout, windows = options.demonstrations.demonstration_layout, options.long_inputs == "windows"
        return PromptStyle(templates.show_options, templates.rationales, templates.input_route, layout, windows)

    @property
    def sources(self) -> list[SourceInfo]:
        """The tasks as sources, for plans, run folders and lineages."""
        return [
            SourceInfo(
                task.card.name,
                "world" if task.card.world else "hub" if task.examples.revision else "path",
                False,
                task.row_count,
                task.rate,
                None,
                task.examples.location,
                task.examples.revision,
                task.examples.files,
            )
            for task in self.tasks
        ]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the session at a number."""
        parts: list[object] = [self.seed, fingerprint_json(self.options, {"workers", "validation", "row_packing"})]
        for task in self.tasks:
            files = [file.sha256 for file in task.examples.files]
            parts += [fingerprint_json(task.card), task.row_count, task.rate, files, task.examples.revision]
            parts += [[fingerprint_json(template) for template in task.templates], sorted(task.excluded_rows)]
        return f"{key_of(*parts):016x}"

    def planned_row(self, number: int) -> PlannedRow:
        """The task and the row at a number."""
        return self.plan.planned_row(number)

    def where(self, number: int) -> str:
        """Location of the row at a number."""
        planned_row = self.plan.planned_row(number)
        task = self.tasks[planned_row.source]
        return f"{task.card.name}: {task.examples.where(self._row_of_split(planned_row.source, planned_row.row))}"

    def _row_of_split(self, task_index: int, row: int) -> int:
        """Row of the split for the n-th used row of a task; with a cap, the used rows are a fixed sample."""
        training_task = self.tasks[task_index]
        if training_task.row_count == len(training_task.examples):
            return row
        return permute_one(row, len(training_task.examples), self._cap_keys[task_index])

    def used_rows(self, task_index: int) -> np.ndarray:
        """Rows (int64[n]) of the split that a task uses, including rows that the audit excludes."""
        training_task = self.tasks[task_index]
        if training_task.row_count == len(training_task.examples):
            return np.arange(training_task.row_count)
        keys = np.full(training_task.row_count, self._cap_keys[task_index], dtype=np.uint64)
        return permute(np.arange(training_task.row_count), len(training_task.examples), keys).astype(np.int64)

    def get(self, number: int) -> PlannedExample:
        """The example at a number. A row that the card or the audit excludes is replaced by the next usable row.

        Raises:
            MetalmError: A row does not fit its card, or a task has no row left.
        """
        planned_row = self.plan.planned_row(number)
        task = self.tasks[planned_row.source]
        example = self.usable_example(planned_row.source, planned_row.row)
        index = example.row + planned_row.epoch
        template = self._choose_template(task, index, number)
        demonstrations = self._draw_demonstrations(planned_row.source, example, number)
        key = (
            planned_row.source,
            example.row,
            template.name,
            tuple(demonstration.row for demonstration in demonstrations),
        )
        return PlannedExample(planned_row.source, example, template, demonstrations, number, key)

    def replacement(self, planned: PlannedExample, attempt: int) -> PlannedExample:
        """The replacement of an example that does not fit: a later row of its task."""
        planned_row = self.plan.planned_row(planned.number)
        task = self.tasks[planned_row.source]
        example = self.usable_example(planned_row.source, (planned_row.row + attempt) % task.row_count)
        template = self._choose_template(task, example.row + planned_row.epoch, planned.number)
        key = (planned_row.source, example.row, template.name, ())
        return PlannedExample(planned_row.source, example, template, (), planned.number, key)

    def usable_example(self, task_index: int, row: int) -> Example:
        training_task = self.tasks[task_index]
        for step in range(min(MAX_SKIPPED_ROWS, training_task.row_count)):
            row_index = self._row_of_split(task_index, (row + step) % training_task.row_count)
            if row_index in training_task.excluded_rows:
                continue
            example = training_task.examples[row_index]
            if example is not None:
                return example
        raise MetalmError(
            f"task {training_task.card.name} has no usable training example",
            where=training_task.examples.location,
            why=f"{min(MAX_SKIPPED_ROWS, training_task.row_count):,} consecutive rows are excluded by card or audit",
            remedy="remove the task from data.tasks, or check `row_filter` of its card",
        )

    def _choose_template(self, task: TrainingTask, index: int, number: int) -> Template:
        sampling = self.options.templates.template_sampling
        if sampling == "first":
            return task.templates[0]
        if sampling == "index":
            return task.templates[index % len(task.templates)]
        return task.templates[int(numpy_generator(self.seed, TEMPLATE_PURPOSE, number).integers(len(task.templates)))]

    def _draw_demonstrations(self, task_index: int, example: Example, number: int) -> tuple[Example, ...]:
        min_shots, max_shots = self.options.demonstrations.shots
        if not max_shots:
            return ()
        rng = numpy_generator(self.seed, DEMONSTRATIONS_PURPOSE, number)
        count = int(rng.integers(min_shots, max_shots + 1))
        demonstrations: list[Example] = []
        used_rows = {example.row}
        for row in rng.integers(self.tasks[task_index].row_count, size=4 * count).tolist():
            if len(demonstrations) == count:
                break
            demonstration = self.usable_example(task_index, row)
            if demonstration.row not in used_rows:
                used_rows.add(demonstration.row)
                demonstrations.append(demonstration)
        return tuple(demonstrations)

    def sample(self, count: int, seed: int) -> Iterator[str]:
        """Iterate over the texts of up to ``count`` prompts with their answers, for training tokenizers."""
        plan = IndexPlan(
            self.plan.names,
            [task.rate for task in self.tasks],
            [task.row_count for task in self.tasks],
            key_of("sample", seed),
        )
        for number in range(count):
            planned_row = plan.planned_row(number)
            if planned_row.epoch and number > 1000:
                continue
            example = self.usable_example(planned_row.source, planned_row.row)
            prompt = render(
                example, self._choose_template(self.tasks[planned_row.source], example.row, number), self.style
            )
            yield f"{prompt.input} {prompt.target}"


def training_templates(templates: list[Template], options: TaskDataConfig) -> list[Template]:
    """The templates of a task that are used for training."""
    template_options = options.templates
    selected = (
        templates
        if template_options.inverted and template_options.template_sampling != "first"
        else scored_templates(templates)
    )
    return (
        selected[: template_options.templates_per_task] if template_options.templates_per_task is not None else selected
    )
