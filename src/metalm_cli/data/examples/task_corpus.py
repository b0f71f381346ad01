"""The training examples of a task mixture as an endless numbered list."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metalm_cli.config.renamed_keys import fingerprint_json
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.documents.corpus import SourceInfo
from metalm_cli.data.examples.open_examples import Examples
from metalm_cli.data.examples.training_rows import TrainingRows
from metalm_cli.data.sampling.index_plan import IndexPlan, PlannedRow, key_of
from metalm_cli.data.sampling.mixing_rates import mixing_rates
from metalm_cli.data.sampling.row_slots import numpy_generator
from metalm_cli.errors import EmptyRenderingError, MetalmError
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, render, scored_templates

DEMONSTRATIONS_PURPOSE, TEMPLATE_PURPOSE, REPLACEMENT_PURPOSE = 11, 12, 13
"""Purposes of random generators."""
MAX_REJECTED_DEMONSTRATIONS = 100
"""Candidates of an example's demonstrations, beyond four for each, that are drawn before there are fewer of them."""


KEYS_WITHOUT_EFFECT = {"workers", "validation", "row_packing", "broken_images"}
"""Keys of ``data`` that do not decide which session a number has."""


@dataclass
class TrainingTask:
    """A task of the training mixture.

    Args:
        card: Card of the task.
        card_path: File of the card.
        examples: Its training split.
        templates: Its training templates, in their order.
        rows: Rows of the split that are trained on.
        rate: Share of the task among the drawn examples.
    """

    card: Card
    card_path: Path
    examples: Examples
    templates: list[Template]
    rows: TrainingRows
    rate: float

    @property
    def row_count(self) -> int:
        """Rows that are trained on."""
        return len(self.rows)

    def example(self, position: int) -> Example:
        """The example at a position of the rows that are trained on.

        Raises:
            MetalmError: The row does not fit the card.
        """
        example = self.examples[self.rows[position]]
        assert example is not None, "the row filter includes the row"
        return example


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

    def without_rows(self, rows: Mapping[str, Collection[int]]) -> TaskCorpus:
        """The corpus without some rows of each split, by task, with the mixing rates of those that are left."""
        tasks = [replace(task, rows=task.rows.without(rows.get(task.card.name, ()))) for task in self.tasks]
        return TaskCorpus(with_rates(tasks, self.options), self.options, self.seed)

    @property
    def style(self) -> PromptStyle:
        """Style in which prompts are rendered."""
        options = self.options
        templates = options.templates
        layout, windows = options.demonstrations.demonstration_layout, options.long_inputs == "windows"
        return PromptStyle(
            templates.show_options,
            templates.rationales,
            templates.input_route,
            layout,
            windows,
            options.truncate,
            options.long_field_tokens,
        )

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
                task.row_count,
                task.rows.usable.left_out,
                named=task.rows.usable.named,
            )
            for task in self.tasks
        ]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the session at a number."""
        parts: list[object] = [self.seed, fingerprint_json(self.options, KEYS_WITHOUT_EFFECT)]
        for task in self.tasks:
            files = [file.sha256 for file in task.examples.files]
            parts += [
                fingerprint_json(task.card),
                task.row_count,
                task.rate,
                files,
                task.examples.revision,
            ]
            parts += [[fingerprint_json(template) for template in task.templates], list(task.rows.excluded)]
            if len(task.rows.usable) != task.rows.usable.rows:
                parts += ["usable", len(task.rows.usable)]
        return f"{key_of(*parts):016x}"

    def where(self, number: int) -> str:
        """Location of the row at a number."""
        planned_row = self.plan.planned_row(number)
        task = self.tasks[planned_row.source]
        return f"{task.card.name}: {task.examples.where(task.rows[planned_row.row])}"

    def get(self, number: int) -> PlannedExample:
        """The example at a number.

        Raises:
            MetalmError: A row does not fit its card.
        """
        planned_row = self.plan.planned_row(number)
        return self._planned_example(number, planned_row, planned_row.row)

    def replacement(self, number: int, attempt: int) -> PlannedExample:
        """An independent draw of the task at a number, in place of an example that does not fit.

        Args:
            number: Number in the index plan.
            attempt: Number of the draw; the same number and attempt give the same example.

        Raises:
            MetalmError: A row does not fit its card.
        """
        planned_row = self.plan.planned_row(number)
        rng = numpy_generator(self.seed, REPLACEMENT_PURPOSE, number, attempt)
        position = int(rng.integers(self.tasks[planned_row.source].row_count))
        return self._planned_example(number, planned_row, position)

    def _planned_example(self, number: int, planned_row: PlannedRow, position: int) -> PlannedExample:
        task = self.tasks[planned_row.source]
        example = self._with_drawn_answer(task.example(position), planned_row.epoch)
        template = self._choose_template(task, example.row + planned_row.epoch, number)
        demonstrations = self._draw_demonstrations(task, example, number)
        key = (
            planned_row.source,
            example.row,
            template.name,
            tuple(demonstration.row for demonstration in demonstrations),
            *example.answers[:1],
        )
        return PlannedExample(planned_row.source, example, template, demonstrations, number, key)

    def _with_drawn_answer(self, example: Example, epoch: int) -> Example:
        """The example with the answer that trains in an epoch as the first; options keep the right one."""
        if self.options.answer_sampling == "first" or example.options:
            return example
        first = (example.row + epoch) % len(example.answers)
        return replace(example, answers=(*example.answers[first:], *example.answers[:first]))

    def _choose_template(self, task: TrainingTask, index: int, number: int) -> Template:
        sampling = self.options.templates.template_sampling
        if sampling == "first":
            return task.templates[0]
        if sampling == "index":
            return task.templates[index % len(task.templates)]
        return task.templates[int(numpy_generator(self.seed, TEMPLATE_PURPOSE, number).integers(len(task.templates)))]

    def _draw_demonstrations(self, task: TrainingTask, example: Example, number: int) -> tuple[Example, ...]:
        """Draw demonstrations whose inputs differ from the example's and from each other."""
        min_shots, max_shots = self.options.demonstrations.shots
        if not max_shots:
            return ()
        rng = numpy_generator(self.seed, DEMONSTRATIONS_PURPOSE, number)
        count = int(rng.integers(min_shots, max_shots + 1))
        demonstrations: list[Example] = []
        positions = rng.integers(task.row_count, size=4 * count + MAX_REJECTED_DEMONSTRATIONS)
        for position in positions.tolist() if count else ():
            candidate = task.example(position)
            if all(candidate.inputs != other.inputs for other in (example, *demonstrations)):
                demonstrations.append(candidate)
                if len(demonstrations) == count:
                    break
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
            task = self.tasks[planned_row.source]
            example = task.example(planned_row.row)
            try:
                prompt = render(example, self._choose_template(task, example.row, number), self.style)
            except EmptyRenderingError:  # the template leaves the row out
                continue
            yield f"{prompt.text} {prompt.target}".strip()


def with_rates(tasks: Sequence[TrainingTask], options: TaskDataConfig) -> list[TrainingTask]:
    """The tasks with their mixing rates, without those that the mixture does not draw from.

    Raises:
        MetalmError: The mixture does not match the tasks.
    """
    row_counts = {task.card.name: task.row_count for task in tasks}
    rates = mixing_rates(row_counts, options.mixture, {task.card.name: task.card.cluster for task in tasks})
    return [replace(task, rate=rates[task.card.name]) for task in tasks if task.card.name in rates]


def training_templates(templates: list[Template], options: TaskDataConfig) -> list[Template]:
    """The templates of a task that are used for training.

    Raises:
        MetalmError: All are inverted, and inverted templates are not used.
    """
    template_options = options.templates
    selected = (
        templates
        if template_options.inverted and template_options.template_sampling != "first"
        else scored_templates(templates)
    )
    if not selected:
        raise MetalmError(
            "every template of a task is inverted, and none asks for the answer",
            why=f"the templates are {', '.join(template.name for template in templates[:5])}",
            remedy="set data.templates.inverted=true and data.templates.template_sampling=index, or add a template",
        )
    return (
        selected[: template_options.templates_per_task] if template_options.templates_per_task is not None else selected
    )
