"""The examples of a mixture as an endless numbered list, and those that validate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metalm_cli.config.renamed_keys import fingerprint_json
from metalm_cli.config.schema.tasks import TaskData
from metalm_cli.data.documents.corpus import SourceInfo
from metalm_cli.data.examples.open_examples import Examples
from metalm_cli.data.sampling.index_plan import IndexPlan, PlannedRow, key_of, permute, permute_one
from metalm_cli.data.sampling.lanes import numpy_generator
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, render, scorable

TRIES = 10_000
"""Rows in a row that may be left out before a task gives up."""
DEMONSTRATIONS, TEMPLATE = 11, 12
"""Purposes of random numbers."""


@dataclass
class TrainingTask:
    """A task that is trained on.

    Args:
        card: Its card.
        train: Its training rows.
        templates: Those that train, in their order.
        rows: How many of its rows are used, at most.
        rate: Its share of what is drawn.
        left_out: Rows of the split that are not trained on (decontamination).
    """

    card: Card
    train: Examples
    templates: list[Template]
    rows: int
    rate: float
    left_out: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PlannedExample:
    """What stands at a number: an example, how it is put, and what stands in front of it.

    Args:
        task: Index of its task.
        example: The example.
        template: Its wording; its demonstrations have the same.
        demonstrations: Answered examples in front.
        number: Of the index plan.
        key: Equal for equal sessions.
    """

    task: int
    example: Example
    template: Template
    demonstrations: tuple[Example, ...]
    number: int
    key: tuple[Any, ...]


@dataclass
class TaskCorpus:
    """The training examples of a recipe.

    Args:
        tasks: The tasks, rates set.
        options: The recipe's ``data``.
        seed: Seed of every order.
    """

    tasks: list[TrainingTask]
    options: TaskData
    seed: int
    validation_sources: list[SourceInfo] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [task.card.name for task in self.tasks]
        self.plan = IndexPlan(names, [task.rate for task in self.tasks], [task.rows for task in self.tasks], self.seed)
        self._cap_keys = [key_of("cap", name) for name in names]

    @property
    def style(self) -> PromptStyle:
        """How prompts are made."""
        options = self.options
        templates = options.templates
        layout, windows = options.demonstrations.demonstration_layout, options.long_inputs == "windows"
        return PromptStyle(templates.show_options, templates.rationales, templates.input_route, layout, windows)

    @property
    def sources(self) -> list[SourceInfo]:
        """The tasks, as plans, run folders and lineages name sources."""
        return [
            SourceInfo(
                task.card.name,
                "world" if task.card.world else "hub" if task.train.revision else "path",
                False,
                task.rows,
                task.rate,
                None,
                task.train.location,
                task.train.revision,
                task.train.files,
            )
            for task in self.tasks
        ]

    @property
    def fingerprint(self) -> str:
        """Changes whenever a number could stand for another session."""
        parts: list[object] = [self.seed, fingerprint_json(self.options, {"workers", "validation", "row_packing"})]
        for task in self.tasks:
            files = [file.sha256 for file in task.train.files]
            parts += [fingerprint_json(task.card), task.rows, task.rate, files, task.train.revision]
            parts += [[fingerprint_json(template) for template in task.templates], sorted(task.left_out)]
        return f"{key_of(*parts):016x}"

    def place(self, number: int) -> PlannedRow:
        """Which row of which task stands at a number."""
        return self.plan.place(number)

    def where(self, number: int) -> str:
        """Where the row at a number is to be found."""
        place = self.plan.place(number)
        task = self.tasks[place.source]
        return f"{task.card.name}: {task.train.where(self._row(place.source, place.row))}"

    def _row(self, task: int, row: int) -> int:
        """Row of the split that the n-th used row of a task is: a fixed sample where the cap leaves rows out."""
        opened = self.tasks[task]
        if opened.rows == len(opened.train):
            return row
        return permute_one(row, len(opened.train), self._cap_keys[task])

    def used_rows(self, task: int) -> np.ndarray:
        """Rows (int64[n]) of the split that a task uses, those that the audit leaves out among them."""
        opened = self.tasks[task]
        if opened.rows == len(opened.train):
            return np.arange(opened.rows)
        keys = np.full(opened.rows, self._cap_keys[task], dtype=np.uint64)
        return permute(np.arange(opened.rows), len(opened.train), keys).astype(np.int64)

    def get(self, number: int) -> PlannedExample:
        """What stands at a number. A row that the card leaves out, or the audit, gives way to the next that is used.

        Raises:
            MetalmError: A row does not fit its card, or a task has no row left.
        """
        place = self.plan.place(number)
        task = self.tasks[place.source]
        example = self.usable_row(place.source, place.row)
        index = example.row + place.epoch
        template = self._template(task, index, number)
        shown = self._demonstrations(place.source, example, number)
        key = (place.source, example.row, template.name, tuple(one.row for one in shown))
        return PlannedExample(place.source, example, template, shown, number, key)

    def replacement(self, asked: PlannedExample, tries: int) -> PlannedExample:
        """What takes the place of an example that fits into no session: a later row of its task."""
        place = self.plan.place(asked.number)
        task = self.tasks[place.source]
        example = self.usable_row(place.source, (place.row + tries) % task.rows)
        template = self._template(task, example.row + place.epoch, asked.number)
        key = (place.source, example.row, template.name, ())
        return PlannedExample(place.source, example, template, (), asked.number, key)

    def usable_row(self, task: int, row: int) -> Example:
        opened = self.tasks[task]
        for step in range(min(TRIES, opened.rows)):
            at = self._row(task, (row + step) % opened.rows)
            if at in opened.left_out:
                continue
            found = opened.train[at]
            if found is not None:
                return found
        raise MetalmError(
            f"{opened.card.name} gives no training example",
            where=opened.train.location,
            why=f"{min(TRIES, opened.rows):,} rows in a row are left out by its card or by the audit",
            remedy="leave the task out of data.tasks, or look at `where` of its card",
        )

    def _template(self, task: TrainingTask, index: int, number: int) -> Template:
        choose = self.options.templates.template_sampling
        if choose == "first":
            return task.templates[0]
        if choose == "index":
            return task.templates[index % len(task.templates)]
        return task.templates[int(numpy_generator(self.seed, TEMPLATE, number).integers(len(task.templates)))]

    def _demonstrations(self, task: int, example: Example, number: int) -> tuple[Example, ...]:
        least, most = self.options.demonstrations.shots
        if not most:
            return ()
        rng = numpy_generator(self.seed, DEMONSTRATIONS, number)
        count = int(rng.integers(least, most + 1))
        found: list[Example] = []
        taken = {example.row}
        for row in rng.integers(self.tasks[task].rows, size=4 * count).tolist():
            if len(found) == count:
                break
            shown = self.usable_row(task, row)
            if shown.row not in taken:
                taken.add(shown.row)
                found.append(shown)
        return tuple(found)

    def sample(self, n: int, seed: int) -> Iterator[str]:
        """Texts of up to ``n`` prompts with their answers, to train tokenizers on."""
        plan = IndexPlan(
            self.plan.names,
            [task.rate for task in self.tasks],
            [task.rows for task in self.tasks],
            key_of("sample", seed),
        )
        for number in range(n):
            place = plan.place(number)
            if place.epoch and number > 1000:
                continue
            example = self.usable_row(place.source, place.row)
            prompt = render(example, self._template(self.tasks[place.source], example.row, number), self.style)
            yield f"{prompt.input} {prompt.target}"


def training_templates(found: list[Template], options: TaskData) -> list[Template]:
    """The templates of a task that train."""
    chosen = options.templates
    kept = found if chosen.inverted and chosen.template_sampling != "first" else scorable(found)
    return kept[: chosen.templates_per_task] if chosen.templates_per_task is not None else kept
