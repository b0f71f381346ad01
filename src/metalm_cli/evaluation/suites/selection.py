"""Selection of a suite's tasks: entries become cards, with the metrics, splits and parts of the suite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metalm_cli.common.registry import did_you_mean
from metalm_cli.common.slug import slug
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.suites.load import Suite, SuiteEntry
from metalm_cli.evaluation.suites.schema import SuiteTask
from metalm_cli.tasks import Card, Cards
from metalm_cli.tasks.card import Metric
from metalm_cli.tasks.derived_card import DerivedCard, derive_card
from metalm_cli.tasks.registry import ALL_CLUSTERS, GROUP_NAMES


@dataclass(frozen=True)
class SelectedTask:
    """A task of a suite.

    Args:
        card: The card, which differs from the original where the suite changes it.
        group: Group of the task in the aggregate; the name of the task if it has none.
        metrics: Metrics of the task in the aggregate, the primary one first.
    """

    card: Card
    group: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class SuiteSelection:
    """The tasks of a suite as cards.

    Args:
        suite: The suite.
        tasks: Its tasks, each once, in its order.
        changed: Settings of the suite that arguments have replaced.
    """

    suite: Suite
    tasks: tuple[SelectedTask, ...]
    changed: tuple[str, ...] = ()

    @property
    def cards(self) -> list[Card]:
        """Cards of the tasks."""
        return [task.card for task in self.tasks]


def select_suite_tasks(suite: Suite, cards: Cards) -> SuiteSelection:
    """Return the tasks of a suite as cards, and add cards that differ from their originals to ``cards``.

    Raises:
        MetalmError: A name is unknown (with file, line and a similar name); two tasks have the same name and differ;
            or a split is not one of the card.
    """
    problems: list[RecipeProblem] = []
    selected: dict[str, tuple[SelectedTask, SuiteEntry]] = {}
    for entry in suite.entries:
        try:
            tasks = [
                task for card in _cards_of(entry.task, cards) for task in _selected(entry.task, card, suite.file.source)
            ]
        except MetalmError as error:
            problems.append(RecipeProblem("tasks", error.what, error.remedy, entry.where))
            continue
        for task in tasks:
            known, _ = selected.setdefault(task.card.name, (task, entry))
            if known != task:
                problems.append(
                    RecipeProblem(
                        "tasks",
                        f"two entries are named {task.card.name}, and differ",
                        "remove one, or set name in one of them",
                        entry.where,
                    )
                )
    if problems:
        raise RecipeError(suite.name, problems, "suite")
    for task, entry in selected.values():
        if isinstance(task.card, DerivedCard):
            try:
                cards.add_derived(task.card)
            except MetalmError as error:
                raise RecipeError(
                    suite.name, [RecipeProblem("tasks", error.what, error.remedy, entry.where)], "suite"
                ) from error
    return SuiteSelection(suite, tuple(task for task, _ in selected.values()))


def _cards_of(entry: SuiteTask, cards: Cards) -> list[Card]:
    """Return the cards that an entry names; a task may also be given by the name of a cluster or group.

    Raises:
        MetalmError: The name is unknown.
    """
    names = (*ALL_CLUSTERS, *GROUP_NAMES)
    if entry.cluster is not None:
        if entry.cluster not in names:
            raise MetalmError(
                f"no cluster is named {entry.cluster}",
                remedy=did_you_mean(entry.cluster, names) or f"choose one of {', '.join(names)}",
            )
        return cards.select([entry.cluster])
    assert entry.task is not None, "included suites are read with the suite"
    is_plain = entry == SuiteTask(task=entry.task)
    if is_plain and entry.task in names and entry.task not in cards.paths:
        return cards.select([entry.task])
    return [cards[entry.task]]


def _selected(entry: SuiteTask, card: Card, source: str) -> Iterator[SelectedTask]:
    """Yield the tasks of an entry: one, or one for each part."""
    for key in ("split", "demonstrations"):
        role = getattr(entry, key)
        if role is not None and card.split(role, True) is None and card.split(role, False) is None:
            raise MetalmError(
                f"task {card.name} has no {role} split", remedy=f"{key}: choose one of {', '.join(card.splits)}"
            )
    changes: dict[str, Any] = {}
    if entry.metrics:
        primary, *others = entry.metrics
        also = dict.fromkeys([*others, *card.metric.also, card.metric.name])
        also.pop(primary, None)
        changes["metric"] = Metric.model_construct(name=primary, also=list(also), source=source or card.metric.source)
    if entry.demonstrations is not None:
        changes["demonstrations"] = entry.demonstrations
    metrics = entry.metrics or (card.metric.name,)
    name = entry.name or card.name
    if entry.parts is not None:
        for value in dict.fromkeys(entry.parts.values):
            part = derive_card(
                card,
                f"{card.name}_{slug(value, '_')}",
                column=entry.parts.column,
                value=value,
                split=entry.split,
                limit=entry.limit,
                changes=changes,
            )
            yield SelectedTask(part, entry.group or part.name, metrics)
    elif changes or entry.split is not None or entry.limit is not None or name != card.name:
        derived = derive_card(card, name, split=entry.split, limit=entry.limit, changes=changes)
        yield SelectedTask(derived, entry.group or name, metrics)
    else:
        yield SelectedTask(card, entry.group or name, metrics)
