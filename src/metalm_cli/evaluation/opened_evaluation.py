"""Evaluation with resolved settings and opened tasks: all that is decided before inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.open_tasks import EvaluatedTask, open_evaluation_tasks
from metalm_cli.evaluation.request import EvaluationRequest
from metalm_cli.evaluation.resolve_settings import resolve_settings
from metalm_cli.evaluation.results.aggregation import aggregate_values
from metalm_cli.evaluation.results.result_writer import MEAN, named_scores, score_name
from metalm_cli.evaluation.results.schema import TaskRecord
from metalm_cli.evaluation.select_tasks import TaskSelection
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.evaluation.suites.suite_results import check_aggregates, suite_record
from metalm_cli.provenance.model_history import ModelHistory, SeenLabel

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.results import Results


def ignore(_: object) -> None:
    """Callback that does nothing."""


@dataclass(frozen=True)
class EvaluationCallbacks:
    """Receivers of what an evaluation does.

    Args:
        on_progress: Called with what is being done, often.
        on_note: Called with what is unusual or was decided, a line each.
        on_results: Called with the results of each model when it is evaluated, and their file if there is one.
    """

    on_progress: Callable[[str], None] = ignore
    on_note: Callable[[str], None] = ignore
    on_results: Callable[[Results, Path | None], None] = lambda results, path: None


@dataclass(frozen=True)
class OpenedEvaluation:
    """Evaluation with resolved settings and opened tasks.

    Args:
        selection: The selected tasks.
        settings: The settings.
        tasks: Tasks with data.
        missing: Tasks without data, with reasons.
        contamination: Overlap with training data; None if it was not checked.
    """

    selection: TaskSelection
    settings: EvaluationSettings
    tasks: tuple[EvaluatedTask, ...]
    missing: Mapping[str, str]
    contamination: Mapping[str, Any] | None = None

    def named_scores(self, tasks: Mapping[str, TaskRecord]) -> dict[str, float]:
        """Return all scores of an evaluation by name: of tasks, clusters, ``mean``, and aggregates of the suite."""
        scores = named_scores(tasks, self.settings.shots)
        suite = self.selection.suite
        if suite is None:
            return scores
        record = suite_record(suite)
        for number in self.settings.shots:
            for name, value in aggregate_values(tasks, record, suite.suite.aggregates, number).items():
                if value is not None:
                    scores.setdefault(score_name(name, number, self.settings.shots), value)
        return scores

    def seen_labels(self, history: ModelHistory) -> dict[str, SeenLabel]:
        """Label the tasks as seen or held out in a training, by their names and by the content of their files."""
        cards = self.selection.cards
        known = {name: cards[name] for name in history.tasks if name in cards.paths}
        files = {task.card.name: task.source.files for task in self.tasks}
        return {card.name: history.label_for(card, known, files.get(card.name, ())) for card in self.selection.selected}


def score_names(selection: TaskSelection, shots: Sequence[int]) -> list[str]:
    """Names of the scores that tasks give: see :func:`~metalm_cli.evaluation.results.results.named_scores`."""
    cards = selection.selected
    clusters = [card.cluster for card in cards if card.core] or [card.cluster for card in cards]
    aggregates = () if selection.suite is None else selection.suite.suite.aggregates
    names = dict.fromkeys((*(card.name for card in cards), *clusters, MEAN, *aggregates))
    return [score_name(name, number, shots) for number in shots for name in names]


def open_evaluation(
    request: EvaluationRequest,
    selection: TaskSelection,
    history: ModelHistory,
    callbacks: EvaluationCallbacks,
    data_root: Path | None = None,
    offline: bool = False,
) -> OpenedEvaluation:
    """Resolve the settings, and open the tasks.

    Args:
        request: Tasks and settings, with those of a suite.
        selection: From :meth:`EvaluationRequest.select`.
        history: Training of the model, which decides settings that are open.
        callbacks: Receivers of what happens.
        data_root: Folder of local data sets.
        offline: Do not open network connections.

    Raises:
        MetalmError: A task cannot be evaluated; tasks without data are not an error.
    """
    settings, notes = resolve_settings(request.settings(), request.prompt_options, history)
    for note in notes:
        callbacks.on_note(note)
    suite = selection.suite
    if suite is not None and suite.changed:
        callbacks.on_note(f"suite    {suite.suite.name}: {'; '.join(suite.changed)}")
    callbacks.on_progress("reading the tasks")
    tasks, missing = open_evaluation_tasks(
        selection.cards, selection.selected, settings, data_root=data_root, offline=offline
    )
    if suite is not None and tasks:
        check_aggregates(suite, tasks)
    return OpenedEvaluation(selection, settings, tuple(tasks), missing)


def report_missing(opened: OpenedEvaluation, callbacks: EvaluationCallbacks) -> None:
    """Report the tasks without data.

    Raises:
        MetalmError: No task has data.
    """
    count = len(opened.selection.selected)
    if len(opened.missing) == count:
        raise MetalmError(
            f"no data found for {'this task' if count == 1 else f'any of these {count} tasks'}",
            why="\n    ".join(f"{name}: {why}" for name, why in opened.missing.items()),
            remedy="pass --data-root DIR, or set METALM_DATA, to the folder of the data; or choose another --split",
        )
    for name, why in opened.missing.items():
        callbacks.on_note(f"missing  {name}: {why}")


def check_held_out(source: str, labels: Mapping[str, SeenLabel]) -> None:
    """Check that a model was trained on none of the tasks, nor on what leaks into them.

    Raises:
        MetalmError: The lineage does not show it.
    """
    not_held_out = {name: label for name, label in labels.items() if label.label != "held out"}
    if not_held_out:
        raise MetalmError(
            f"{len(not_held_out)} of {len(labels)} tasks are not held out from {source}",
            why="\n    ".join(f"{name}: {label.label}; {label.why}" for name, label in not_held_out.items()),
            remedy="leave out these tasks, use a model that has not seen them, or omit --require-held-out",
        )
