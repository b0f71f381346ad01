"""Checks of the tasks of a recipe that read no data: names, hold-outs, templates, splits, the mixture."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.common.registry import did_you_mean
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.task_corpus import training_templates
from metalm_cli.data.examples.task_selection import TaskSelection, load_cards, select_tasks
from metalm_cli.data.sampling.mixing_rates import mixing_rates
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, is_hub_id
from metalm_cli.templates import TemplateCollection


def check_names_of_tasks(options: TaskDataConfig) -> None:
    """Check a recipe as :func:`check_recipe_tasks` does, unless it names data sets of the hub, which are not opened.

    Args:
        options: The recipe's ``data``.

    Raises:
        MetalmError: See :func:`check_recipe_tasks`.
    """
    if not any(map(is_hub_id, options.tasks)):
        check_recipe_tasks(options, load_cards(options))


def check_recipe_tasks(options: TaskDataConfig, cards: Cards) -> TaskSelection:
    """Select the tasks of a recipe, and check all that refers to them by name.

    Args:
        options: The recipe's ``data``.
        cards: All cards of the recipe.

    Raises:
        MetalmError: A task, a hold-out, a template collection, a split or an entry of the mixture is unknown, a task
            has no templates, a template reads a field that its card does not have, or no task is left to train on.
    """
    selection = select_tasks(options, cards)
    collection = TemplateCollection(options.templates.collection)
    for card in selection.cards:
        training_templates(collection.templates_for(card), options)
    _check_splits(options, selection.cards)
    clusters = {card.name: card.cluster for card in selection.cards}
    mixing_rates(dict.fromkeys(clusters, 1), options.mixture, clusters)
    return selection


def _check_splits(options: TaskDataConfig, cards: Sequence[Card]) -> None:
    """Check that tasks have a split to train on, and any task the one to validate on."""
    for card in cards:
        if "train" not in card.splits and options.on_missing_data == "fail":
            raise MetalmError(
                f"task {card.name} has no train split",
                where=f"data.tasks: {', '.join(options.tasks)}",
                why=f"the splits of its card are {', '.join(card.splits)}",
                remedy="leave the task out, or add the split to its card",
            )
    role, roles = options.validation.role, list(dict.fromkeys(role for card in cards for role in card.splits))
    if options.validation.examples and role not in roles and role != type(options.validation)().role:
        raise MetalmError(
            f"no task has a {role} split",
            where=f"data.validation.role: {role}",
            why=f"the splits of the tasks are {', '.join(roles)}",
            remedy=did_you_mean(role, roles) or "choose one of these splits",
        )
