"""Selecting and opening the training tasks of a finetuning recipe, without held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metalm_cli.common.registry import did_you_mean
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.open_examples import FILTERED, Examples, open_examples
from metalm_cli.data.examples.record_cards import record_cards
from metalm_cli.data.examples.task_corpus import TaskCorpus, TrainingTask, training_templates, with_rates
from metalm_cli.data.examples.training_rows import TrainingRows
from metalm_cli.data.sampling.index_plan import key_of
from metalm_cli.data.sources.usable_rows import UsableRows
from metalm_cli.errors import MetalmError, RowsUnavailableError
from metalm_cli.tasks import Card, Cards, is_path, leak_reason
from metalm_cli.templates import TemplateCollection


@dataclass(frozen=True)
class TaskSelection:
    """The selected tasks of a recipe.

    Args:
        cards: Cards of the training tasks.
        held_out: Cards of the held-out tasks.
        dropped: Why other tasks are not trained on, by name.
    """

    cards: tuple[Card, ...]
    held_out: tuple[Card, ...]
    dropped: dict[str, str] = field(default_factory=dict)


def load_cards(options: TaskDataConfig, data_root: Path | None = None, offline: bool = False) -> Cards:
    """Load all cards of a recipe: the built-in cards, those of its folders, and those that it names by path or hub id.

    Args:
        options: The recipe's ``data``.
        data_root: Folder of local data sets; default ``$METALM_DATA``.
        offline: Open no connection.

    Raises:
        MetalmError: A path has no cards, or a hub data set cannot be read or has no known format.
    """
    paths = [name for name in options.tasks if is_path(name)]
    return Cards([*options.cards, *paths], record_cards(paths, data_root=data_root, offline=offline))


def select_tasks(options: TaskDataConfig, cards: Cards | None = None) -> TaskSelection:
    """Select the training tasks: without held-out tasks, tasks that leak into them, and tasks for evaluation only.

    Raises:
        MetalmError: A name is unknown, no task is left to train on, or none has a long field to shorten.
    """
    cards = cards or load_cards(options)
    names = [task for name in options.tasks for task in (cards.names_in_path(name) if is_path(name) else [name])]
    requested = cards.select(names, options.all_cards)
    held_out = _held_out_cards(options.hold_out, cards)
    held_out_facts = {card.name: (card.cluster, frozenset(card.tags)) for card in held_out}
    dropped: dict[str, str] = {}
    for card in requested:
        reason = leak_reason(card.name, card.cluster, card.tags, held_out_facts)
        if reason is None and card.usage == "eval":
            reason = "for evaluation only"
        if reason is not None:
            dropped[card.name] = reason
    training_cards = tuple(card for card in requested if card.name not in dropped)
    if not training_cards:
        raise MetalmError(
            "no task is left to train on",
            where=f"data.tasks: {', '.join(options.tasks)}; data.hold_out: {', '.join(options.hold_out) or 'nothing'}",
            why="; ".join(f"{', '.join(names)}: {reason}" for reason, names in group_by_reason(dropped).items())
            or "the clusters have no such cards",
            remedy="train on more tasks, or hold out fewer",
        )
    if options.long_field_tokens is not None and all(card.long_inputs is None for card in training_cards):
        raise MetalmError(
            "no task has a long field to shorten",
            where=f"data.long_field_tokens: {options.long_field_tokens}",
            why=f"no long_inputs in the cards of {', '.join(card.name for card in training_cards)}",
            remedy="name the field in a card (long_inputs), or leave data.long_field_tokens out",
        )
    return TaskSelection(training_cards, tuple(held_out), dropped)


def group_by_reason(dropped: Mapping[str, str]) -> dict[str, list[str]]:
    """Group dropped tasks by reason."""
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        names_by_reason.setdefault(reason, []).append(name)
    return names_by_reason


def _held_out_cards(names: Sequence[str], cards: Cards) -> list[Card]:
    """Cards of held-out tasks and of all tasks in held-out clusters.

    Raises:
        MetalmError: A name is neither a task nor a cluster.
    """
    held_out: dict[str, Card] = {}
    all_cards = cards.all()
    clusters = {card.cluster for card in all_cards}
    for name in names:
        if name in clusters:
            held_out.update({card.name: card for card in all_cards if card.cluster == name})
        elif name in cards.paths:
            held_out[name] = cards[name]
        else:
            raise MetalmError(
                f"no cluster or task is named {name}",
                where="data.hold_out (--hold-out)",
                why=f"the clusters are {', '.join(sorted(clusters))}",
                remedy=did_you_mean(name, [*sorted(clusters), *cards.names]) or "metalm tasks list shows all tasks",
            )
    return list(held_out.values())


def open_training_tasks(
    options: TaskDataConfig,
    *,
    seed: int,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
    cards: Cards | None = None,
    selection: TaskSelection | None = None,
) -> tuple[TaskCorpus, TaskSelection]:
    """Open the training tasks of a recipe, and check a row of each.

    Args:
        options: The recipe's ``data``.
        seed: Seed of every order.
        data_root: Folder of local data sets; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.
        cards: All cards of the recipe; default: from :func:`load_cards`.
        selection: The selected tasks; default: from :func:`select_tasks`.

    Raises:
        MetalmError: The data of a task is missing (all such tasks are named), a row does not fit its card, a task has
            no templates, or no task is left to train on.
    """
    cards = cards or load_cards(options, data_root, offline)
    selection = selection or select_tasks(options, cards)
    collection = TemplateCollection(options.templates.collection)
    tasks: list[TrainingTask] = []
    missing: dict[str, MetalmError] = {}
    for card in selection.cards:
        templates = training_templates(collection.templates_for(card), options)
        path = cards.paths[card.name]
        try:
            examples = open_examples(card, "train", data_root=data_root, offline=offline, cache=cache, card_path=path)
        except MetalmError as error:
            missing[card.name] = error
            continue
        rows = TrainingRows.of(
            _usable_rows(examples, cache, options), options.mixture.cap_examples, key_of("cap", card.name)
        )
        tasks.append(TrainingTask(card, path, examples, templates, rows, 0.0))
    dropped = dict(selection.dropped)
    if missing:
        if options.on_missing_data == "fail" or not tasks:
            raise _missing_data_error(missing, bool(tasks))
        dropped |= {name: f"no data found ({error.what})" for name, error in missing.items()}
    drawn_tasks = with_rates(tasks, options)
    drawn_names = {task.card.name for task in drawn_tasks}
    dropped |= {task.card.name: "not in a group of the mixture" for task in tasks if task.card.name not in drawn_names}
    for task in drawn_tasks:
        task.example(0)
    selection = TaskSelection(tuple(task.card for task in drawn_tasks), selection.held_out, dropped)
    return TaskCorpus(drawn_tasks, options, seed), selection


def _usable_rows(examples: Examples, cache: Path | None, options: TaskDataConfig) -> UsableRows:
    """The rows that the card includes.

    Raises:
        MetalmError: The card's filter fails on a row, or no row is left.
    """
    usable = examples.usable_rows(cache, options.broken_images)
    if not usable and usable.named:
        reason, names = next(iter(usable.named.items()))
        raise MetalmError(
            f"task {examples.card.name} has no row with images that can be read",
            where=examples.location,
            why=f"of {len(examples):,} rows, {describe_left_out(usable.left_out)}; {reason}: {names[0]!r:.80}, in the "
            f"folder {examples.make_example.image_root or 'of the rows'}",
            remedy="correct `images` or `image_folder` of the card, or put the images into the folder",
        )
    if not usable:
        why, key = f"row_filter of its card leaves out all {len(examples):,} rows", "row_filter"
        if set(usable.left_out) != {FILTERED}:
            why, key = f"of {len(examples):,} rows, {describe_left_out(usable.left_out)}", "the columns"
        raise MetalmError(
            f"task {examples.card.name} has no usable training example",
            where=examples.location,
            why=why,
            remedy=f"correct {key} of the card, or remove the task from data.tasks",
        )
    return usable


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Describe why rows are left out, by reason.

    >>> describe_left_out({"image missing": 1200})
    '1,200 image missing'
    """
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(left_out.items()))


def _missing_data_error(missing: dict[str, MetalmError], has_other_tasks: bool) -> MetalmError:
    first = next(iter(missing.values()))
    alternative = (
        "; data.on_missing_data=skip trains on the others" if has_other_tasks else "; data.tasks=[world] needs no data"
    )
    if len(missing) == 1:
        return MetalmError(first.what, where=first.where, why=first.why, remedy=first.remedy + alternative)
    return MetalmError(
        f"no data for {len(missing)} tasks: {', '.join(missing)}",
        where=first.where,
        why=f"{next(iter(missing))}: {first.what}; {first.why}",
        remedy=f"set --data-root DIR to the folder of the data, or allow connections to the hub{alternative}",
    )


def validation_examples(
    corpus: TaskCorpus, *, data_root: Path | None = None, offline: bool = False, cache: Path | None = None
) -> dict[int, Examples]:
    """Open the validation split of every task that has one, by index of the task; a task of one row gives up none.

    Raises:
        MetalmError: The data of a validation split is missing.
    """
    examples: dict[int, Examples] = {}
    options = corpus.options
    for index, task in enumerate(corpus.tasks):
        if not options.validation.examples or options.validation.role not in task.card.splits:
            continue
        try:
            examples[index] = open_examples(
                task.card,
                options.validation.role,
                data_root=data_root,
                offline=offline,
                cache=cache,
                card_path=task.card_path,
            )
        except RowsUnavailableError:
            if not task.card.shares_validation:
                raise
    return examples
