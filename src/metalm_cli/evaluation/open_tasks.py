"""Tasks opened for evaluation: rows, cards and templates, read and checked before inference."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.config.locate import display
from metalm_cli.data.examples.open_examples import Examples, open_examples
from metalm_cli.data.examples.prompt_builder import PromptRenderer
from metalm_cli.errors import MetalmError, RowsUnavailableError
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.metrics.normalisation import normalise_words
from metalm_cli.evaluation.metrics.text_metrics import split_list
from metalm_cli.evaluation.settings import PAPER_TEMPLATES, EvaluationSettings
from metalm_cli.tasks import Card, Cards, Example
from metalm_cli.tasks.derived_card import DerivedCard, evaluated_limit, scored_split
from metalm_cli.tasks.expressions import ROW_NAME
from metalm_cli.templates import PromptStyle, Template, TemplateCollection, scored_templates


@dataclass(frozen=True)
class EvaluatedTask:
    """Task opened for evaluation.

    Args:
        card: Its card.
        templates: Its templates, without inverted ones.
        examples: Examples to evaluate.
        source: Split that the examples come from.
        card_path: File of the card.
        template_path: File of the templates.
        pool: Split that demonstrations come from, or that a linear probe is fitted on; None for none.
    """

    card: Card
    templates: tuple[Template, ...]
    examples: tuple[Example, ...]
    source: Examples
    card_path: Path
    template_path: Path
    pool: Examples | None = None
    _renderers: dict[tuple[str, PromptStyle], PromptRenderer] = field(default_factory=dict, compare=False, repr=False)

    def renderer(self, template: Template, style: PromptStyle) -> PromptRenderer:
        """Return the renderer of a template, which is the same until :meth:`release_prompts`."""
        return self._renderers.setdefault((template.name, style), PromptRenderer(template, style))

    def release_prompts(self) -> None:
        """Free the rendered prompts."""
        self._renderers.clear()

    def demonstrations(
        self, example: Example, count: int, settings: EvaluationSettings, renderer: PromptRenderer | None = None
    ) -> tuple[Example, ...]:
        """Return demonstrations for an example; a smaller number is a prefix of a larger one.

        Args:
            example: The evaluated example; never among its demonstrations.
            count: Number of demonstrations.
            settings: Whether demonstrations are drawn for each example or once for the task, and the seed.
            renderer: Renderer of the prompts; examples that it renders empty are left out.

        Raises:
            MetalmError: The pool has fewer examples.
        """
        if not count:
            return ()
        assert self.pool is not None, "tasks are opened with the numbers of demonstrations"
        seed = [
            settings.seed,
            zlib.crc32(self.card.name.encode()),
            *([example.row] if settings.draw_per_example else []),
        ]
        same_split = self.pool.location == self.source.location and self.pool.role == self.source.role
        demonstrations: list[Example] = []
        for index in np.random.default_rng(seed).permutation(len(self.pool)).tolist():
            candidate = self.pool[index]
            if (
                candidate is not None
                and not (same_split and candidate.row == example.row)
                and candidate.inputs != example.inputs
                and not (renderer is not None and renderer.is_empty(candidate))
            ):
                demonstrations.append(candidate)
                if len(demonstrations) == count:
                    return tuple(demonstrations)
        raise MetalmError(
            f"{count} demonstrations of {self.card.name} requested, available: {len(demonstrations)}",
            where=self.pool.location,
            remedy=f"use at most {len(demonstrations)}",
        )


def open_evaluation_tasks(
    cards: Cards,
    selection: Sequence[Card],
    settings: EvaluationSettings,
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> tuple[list[EvaluatedTask], dict[str, str]]:
    """Open tasks for evaluation: read and check their rows, cards and templates.

    Args:
        cards: All cards.
        selection: Cards of the tasks to evaluate.
        settings: Settings of the evaluation.
        data_root: Folder of local data sets.
        offline: Do not open connections.
        cache: Folder for unpacked files.

    Returns:
        The tasks, and for each task without data the reason.

    Raises:
        MetalmError: A row does not fit its card, a card lacks the template, a template fails, a metric does not fit.
    """
    collection = TemplateCollection(settings.collection)
    templates = {
        card.name: tuple(select_templates(collection.templates_for(card), settings.template, card))
        for card in selection
    }
    tasks: list[EvaluatedTask] = []
    missing: dict[str, str] = {}
    for card in selection:
        path, split = cards.paths[card.name], scored_split(card, settings.split)
        source_options: dict[str, Any] = {"data_root": data_root, "offline": offline, "cache": cache, "card_path": path}
        try:
            source = open_examples(card, split, **source_options)
        except MetalmError as error:
            reason = _missing_reason(error, card, split)
            if reason is None:
                raise
            missing[card.name] = reason
            continue
        reads_columns = any(ROW_NAME in template.names for template in templates[card.name])
        examples = tuple(draw_examples(source, evaluated_limit(card, settings.limit), with_columns=reads_columns))
        if not examples and isinstance(card, DerivedCard) and card.part:
            missing[card.name] = f"no row of {source.location} has {card.part}"
            continue
        if not examples:
            raise MetalmError(f"the card of {card.name} leaves out every row", where=source.location)
        task_metrics.check_metric(card.metric.name, examples)
        _check_options_differ(examples)
        pool = None
        if max(settings.shots, default=0) or settings.protocol == "linear_probe":
            try:
                pool = open_examples(card, card.demonstrations, **source_options)
            except MetalmError as error:
                reason = _missing_reason(error, card, card.demonstrations)
                if reason is None:
                    raise
                missing[card.name] = f"no demonstrations: {reason}"
                continue
        task = EvaluatedTask(card, templates[card.name], examples, source, path, collection.path_for(card), pool)
        for template in task.templates:
            _check_prompts(task, task.renderer(template, settings.style))
        task.demonstrations(examples[0], max(settings.shots, default=0), settings)
        tasks.append(task)
    return tasks, missing


def _check_prompts(task: EvaluatedTask, renderer: PromptRenderer) -> None:
    """Render all examples.

    Raises:
        MetalmError: The template fails on an example, or renders an empty input or target for all.
    """
    empty = [example for example in task.examples if renderer.is_empty(example)]
    if len(empty) == len(task.examples):
        raise MetalmError(
            f"template {renderer.template.name} renders an empty input or target for every example of {task.card.name}",
            where=display(task.template_path),
            why=f"{len(task.examples):,} examples were rendered",
            remedy="choose another template (--template), or correct it",
        )


def _missing_reason(error: MetalmError, card: Card, split: str) -> str | None:
    """Return why the data of a task is missing; None if the error has another cause."""
    if card.split(split, local=True) is None and card.split(split, local=False) is None:
        return error.what
    if isinstance(error, RowsUnavailableError):
        return "; ".join(part for part in (error.what, error.why) if part)
    return None


def select_templates(templates: Sequence[Template], choice: str, card: Card) -> list[Template]:
    """Select the templates to evaluate with.

    Args:
        templates: Templates of the card.
        choice: ``first``, ``paper``, ``all``, a number, or a name.
        card: The card, for messages.

    Raises:
        MetalmError: The template does not exist or is inverted, or all are inverted.
    """
    usable = scored_templates(templates)
    if not usable:
        raise MetalmError(
            f"no template of {card.name} asks for the answer",
            why="all are inverted, which are used for training only and are never scored",
            remedy="add a template whose target is {{ answer }}, or choose another collection",
        )
    if choice in ("first", "all", "paper"):
        return usable[: {"first": 1, "paper": PAPER_TEMPLATES}.get(choice)]
    if choice.isdecimal():
        if int(choice) == 0:
            raise MetalmError("got --template 0, expected at least one template")
        return usable[: int(choice)]
    matches = [template for template in templates if template.name == choice]
    if not matches:
        raise MetalmError(
            f"{card.name} has no template {choice}",
            why=f"available: {', '.join(template.name for template in usable)}",
            remedy="name one of these, first, paper, all, or a number",
        )
    if matches[0].inverted:
        raise MetalmError(
            f"template {choice} of {card.name} does not ask for the answer",
            why="inverted templates are used for training only and are never scored",
            remedy=f"name one of {', '.join(template.name for template in usable)}",
        )
    return matches


def _check_options_differ(examples: Sequence[Example]) -> None:
    """Raise an error if all options of an example are the same."""
    for example in examples:
        if len(example.options) > 1 and len(set(example.options)) == 1:
            raise MetalmError(
                f"all options of {example.task} row {example.row} are the same: {example.options[0]!r:.60}",
                why="the answers cannot be distinguished",
                remedy="correct the options of the card, or exclude the row with row_filter",
            )


def normalise(text: str, language: str) -> str:
    """Normalise a text for ``--normalise``: without case, punctuation around words, and English articles.

    The semicolons between the items of a list remain.
    """
    items = (" ".join(normalise_words(item, language)) for item in split_list(text))
    return "; ".join(items) or text.strip()


def normalise_answer(prediction: str, reference: Example) -> tuple[str, Example]:
    """Return a prediction and its example with normalised answers and options.

    Both are returned as they are if normalisation makes two options of the example the same: which of them was
    predicted would no longer be known.
    """
    if normalised_tie(reference) is not None:
        return prediction, reference
    language = reference.language
    answers, options = (
        tuple(normalise(text, language) for text in texts) for texts in (reference.answers, reference.options)
    )
    return normalise(prediction, language), replace(reference, answers=answers, options=options)


def normalised_tie(example: Example) -> tuple[str, str] | None:
    """Return two different options that are the same text after normalisation; None if there are none."""
    originals: dict[str, str] = {}
    for option in example.options:
        other = originals.setdefault(normalise(option, example.language), option)
        if other != option:
            return other, option
    return None


def normalisation_notes(references: Sequence[Example]) -> list[str]:
    """Describe the examples that are compared without ``--normalise``, because it makes two of their options the same.

    Args:
        references: The examples with answers and options as the template renders them.
    """
    ties = [(reference.row, tie) for reference in references if (tie := normalised_tie(reference)) is not None]
    if not ties:
        return []
    row, (first, second) = ties[0]
    return [
        f"{len(ties)} of {len(references)} examples have options that --normalise makes the same, such as row {row} "
        f"with {first!r:.60} and {second!r:.60}; their answers are compared without it"
    ]


def draw_examples(source: Examples, limit: int | None, *, with_columns: bool = False) -> Iterator[Example]:
    """Return the examples of a split in the order of their rows: all, or ``limit`` of them drawn by a fixed seed.

    Args:
        source: The split.
        limit: Number of examples; None for all.
        with_columns: Keep the columns of the rows, which take memory, for templates that read them.

    Raises:
        MetalmError: A row does not fit the card.
    """
    indices = range(len(source)) if limit is None else np.random.default_rng(0).permutation(len(source)).tolist()
    examples: list[Example] = []
    for index in indices:
        if limit is not None and len(examples) == limit:
            break
        example = source[index]
        if example is not None:
            examples.append(example if with_columns else replace(example, raw={}))
    return iter(sorted(examples, key=lambda example: example.row))
