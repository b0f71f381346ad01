"""Tasks that a run evaluates during training: selected and opened before the first step, with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.registry import did_you_mean
from metalm_cli.config.rules.evaluation_rules import late_evaluation_problem
from metalm_cli.config.schema.recipes import FinetuneRecipe, Recipe
from metalm_cli.config.schema.training import TaskEvaluationConfig
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.evaluator import Evaluator
from metalm_cli.evaluation.open_tasks import select_templates
from metalm_cli.evaluation.opened_evaluation import (
    EvaluationCallbacks,
    OpenedEvaluation,
    open_evaluation,
    score_names,
)
from metalm_cli.evaluation.prompts import build_prompts
from metalm_cli.evaluation.request import EvaluationRequest
from metalm_cli.evaluation.results.result_writer import task_record
from metalm_cli.evaluation.results.schema import TaskRecord
from metalm_cli.evaluation.select_tasks import TaskSelection
from metalm_cli.inference import LanguageModel
from metalm_cli.provenance.model_history import Label, ModelHistory, SeenLabel
from metalm_cli.tasks import is_hub_id, is_path
from metalm_cli.tasks.derived_card import scored_split
from metalm_cli.templates import TemplateCollection

KEY = "train.evaluate"
"""Key of the recipe's section."""
LABEL_TEXTS: Mapping[Label, str] = {
    "seen": "trained on",
    "seen by the encoder": "seen by the encoder, in the training of its checkpoint",
    "seen by the decoder": "seen by the decoder, in the training of its checkpoint",
    "leak partner": "leak partners of the training",
    "held out": "held out",
    "unknown": "possibly trained on, because the training data of an ancestor is unknown",
}
"""Text in the plan for each label of a task."""


@dataclass(frozen=True)
class RequestedTasks:
    """Tasks of ``train.evaluate``, selected by name.

    Args:
        options: The section.
        request: The request of the evaluation.
        selection: The selected tasks.
    """

    options: TaskEvaluationConfig
    request: EvaluationRequest
    selection: TaskSelection

    @property
    def key(self) -> str:
        """Key that selects the tasks."""
        return f"{KEY}.suite" if self.options.suite is not None else f"{KEY}.tasks"

    def check_names(self, templates: str | None) -> None:
        """Check templates, splits and ``best_by``, without data.

        Args:
            templates: The template collection; None if an ancestor decides it.

        Raises:
            MetalmError: A name is unknown.
        """
        request, cards = self.request, self.selection.selected
        if templates is not None:
            with _naming(KEY):
                collection = TemplateCollection(templates)
                for card in cards:
                    select_templates(collection.templates_for(card), request.template or "first", card)
        for card in cards:
            split = scored_split(card, request.split)
            if card.split(split, local=True) is None:
                raise MetalmError(
                    f"task {card.name} has no {split} split",
                    where=self.key if request.split is None else f"{KEY}.split",
                    why=f"the splits of its card are {', '.join(card.splits)}",
                    remedy="choose one of these splits, or evaluate other tasks",
                )
        best_by = self.options.best_by
        names = score_names(self.selection, request.settings().shots)
        if best_by is not None and best_by not in names:
            raise MetalmError(
                f"no score is named {best_by}",
                where=f"{KEY}.best_by",
                why=f"the evaluation gives {', '.join(names)}",
                remedy=did_you_mean(best_by, names) or "name one of these",
            )


def select_evaluated_tasks(recipe: Recipe) -> RequestedTasks | None:
    """Select the tasks of ``train.evaluate``, and check all that refers to them by name; None without the section.

    Args:
        recipe: The recipe.

    Raises:
        MetalmError: A task, the suite, a template, a split or a score is unknown, or a setting is.
    """
    options = recipe.train.evaluate
    if options is None:
        return None
    with _naming(f"{KEY}.suite" if options.suite is not None else f"{KEY}.tasks"):
        request = EvaluationRequest(
            suite=options.suite,
            tasks=tuple(options.tasks or ()),
            card_folders=tuple(map(Path, _card_folders(recipe))),
            templates=options.templates,
            template=options.template,
            protocol=options.protocol,
            shots=None if options.shots is None else tuple(options.shots),
            split=options.split,
            limit=options.limit,
        ).with_suite()
        requested = RequestedTasks(options, request, request.select())
    of_training = recipe.data.templates.collection if isinstance(recipe, FinetuneRecipe) else None
    requested.check_names(requested.request.templates or of_training)
    return requested


def _card_folders(recipe: Recipe) -> list[str]:
    """Folders and files of user cards in a recipe."""
    if not isinstance(recipe, FinetuneRecipe):
        return []
    paths = (name for name in recipe.data.tasks if is_path(name) and not is_hub_id(name))
    return [*recipe.data.cards, *paths]


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Context manager that names a key of the recipe in the place of an error."""
    try:
        yield
    except MetalmError as error:
        error.where = f"{key}: {error.where}" if error.where else key
        raise


@dataclass(frozen=True)
class EvaluatedTasks:
    """Opened tasks of ``train.evaluate``.

    Args:
        requested: The selected tasks.
        opened: The tasks with their rows, templates and settings.
        labels: Label of each task: trained on, or held out.
    """

    requested: RequestedTasks
    opened: OpenedEvaluation
    labels: Mapping[str, SeenLabel]

    def check_steps(self, recipe: Recipe, steps: int) -> None:
        """Check that the first evaluation is not after the last step, which ``train.epochs`` may determine.

        Raises:
            MetalmError: It is.
        """
        problem = late_evaluation_problem(recipe.train, steps, "the steps of train.epochs,")
        if problem is not None:
            raise MetalmError(
                "the first evaluation is after the end of the run",
                where=problem.key,
                why=problem.message,
                remedy=problem.remedy,
            )

    def check_model(self, language_model: LanguageModel) -> None:
        """Check that the model reads at least one example of each task, with each template and its demonstrations.

        Raises:
            MetalmError: It does not.
        """
        settings = self.opened.settings
        with _naming(self.requested.key):
            for task in self.opened.tasks:
                for shots in settings.shots:
                    for template in task.templates:
                        prompts = build_prompts(language_model, task, template, shots, settings)
                        if not prompts.prompts:
                            raise MetalmError(
                                f"no example of {task.card.name} fits the model, with template {template.name} and "
                                f"{shots} demonstrations",
                                why=prompts.note or "all examples are too long, even truncated",
                                remedy=f"remove the task, or lower {KEY}.shots",
                            )
                task.release_prompts()

    def notes(self) -> list[str]:
        """Lines of the plan."""
        options, settings = self.requested.options, self.opened.settings
        when = "at the end" if options.every is None else f"every {options.every:,} steps and at the end"
        tasks = ", ".join(f"{task.card.name} ({len(task.examples):,})" for task in self.opened.tasks)
        shots = ", ".join(map(str, settings.shots))
        best = "the validation loss" if options.best_by is None else options.best_by
        by_label: dict[Label, list[str]] = {}
        for name, label in self.labels.items():
            by_label.setdefault(label.label, []).append(name)
        seen = "; ".join(f"{LABEL_TEXTS[label]}: {', '.join(names)}" for label, names in by_label.items())
        return [
            f"evaluation {when} (examples): {tasks}; protocol {settings.protocol}, templates {settings.collection}, "
            f"{shots} demonstrations; the best step is that of {best}",
            f"evaluated tasks by training data: {seen}",
        ]

    def records(
        self, language_model: LanguageModel, indices: Sequence[int], on_progress: Callable[[str], None]
    ) -> dict[str, TaskRecord]:
        """Evaluate some of the tasks.

        Args:
            language_model: The model, in evaluation mode.
            indices: Indices of the tasks.
            on_progress: Called with a progress message.
        """
        tasks = [self.opened.tasks[index] for index in indices]
        results = Evaluator(language_model, self.opened.settings, is_in_training=True).evaluate(tasks, on_progress)
        return {result.task.card.name: task_record(result, self.labels[result.task.card.name]) for result in results}


def open_evaluated_tasks(
    requested: RequestedTasks, history: ModelHistory, *, data_root: Path | None, offline: bool
) -> EvaluatedTasks:
    """Open the tasks of ``train.evaluate``.

    Args:
        requested: The selected tasks.
        history: What the run and its ancestors are trained on, and how its prompts are made.
        data_root: Folder of local data sets.
        offline: Do not open network connections.

    Raises:
        MetalmError: A task has no data or cannot be evaluated.
    """
    with _naming(KEY):
        opened = open_evaluation(
            requested.request, requested.selection, history, EvaluationCallbacks(), data_root, offline
        )
    if opened.missing:
        count = len(opened.missing)
        raise MetalmError(
            f"{count} task{'s' if count > 1 else ''} that the run evaluates {'have' if count > 1 else 'has'} no data",
            where=requested.key,
            why="\n    ".join(f"{name}: {why}" for name, why in opened.missing.items()),
            remedy="pass --data-root DIR, or set METALM_DATA, to the folder of the data; or evaluate other tasks",
        )
    return EvaluatedTasks(requested, opened, opened.seen_labels(history))
