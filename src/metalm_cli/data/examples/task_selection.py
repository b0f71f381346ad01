"""From the ``data`` section of a finetuning recipe to a mixture of open tasks, nothing held out among them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from metalm_cli.config.schema.tasks import TaskData
from metalm_cli.data.examples.open_examples import Examples, open_examples
from metalm_cli.data.examples.task_corpus import TaskCorpus, TrainingTask, training_templates
from metalm_cli.data.sampling.mixing_rates import mixing_rates
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, is_path, leaking
from metalm_cli.templates import Collection


@dataclass(frozen=True)
class TaskSelection:
    """The tasks of a recipe.

    Args:
        cards: Those that train.
        held: Those that are held out.
        dropped: Why others do not train, by name.
    """

    cards: tuple[Card, ...]
    held_out: tuple[Card, ...]
    dropped: dict[str, str] = field(default_factory=dict)


def load_cards(options: TaskData) -> Cards:
    """All cards that a recipe knows: the shipped ones, those of its folders, and those that it names by path."""
    return Cards([*options.cards, *(name for name in options.tasks if is_path(name))])


def select_tasks(options: TaskData, cards: Cards | None = None) -> TaskSelection:
    """What trains and what does not: held-out tasks, what leaks into them, and what is for evaluation only.

    Raises:
        MetalmError: A name is unknown; nothing is left to train on.
    """
    cards = cards or load_cards(options)
    names = [one for name in options.tasks for one in (cards.at(name) if is_path(name) else [name])]
    wanted = cards.select(names, options.all_cards)
    held = _held_out(options.hold_out, cards)
    facts = {card.name: (card.cluster, frozenset(card.tags)) for card in held}
    dropped: dict[str, str] = {}
    for card in wanted:
        reason = leaking(card.name, card.cluster, card.tags, facts)
        if reason is None and card.usage == "eval":
            reason = "for evaluation only"
        if reason is not None:
            dropped[card.name] = reason
    chosen = tuple(card for card in wanted if card.name not in dropped)
    if not chosen:
        raise MetalmError(
            "no task is left to train on",
            where=f"data.tasks: {', '.join(options.tasks)}; data.hold_out: {', '.join(options.hold_out) or 'nothing'}",
            why="; ".join(f"{', '.join(names)}: {reason}" for reason, names in group_by_reason(dropped).items())
            or "the clusters have no such cards",
            remedy="train on more, or hold out less",
        )
    return TaskSelection(chosen, tuple(held), dropped)


def group_by_reason(dropped: Mapping[str, str]) -> dict[str, list[str]]:
    """Tasks that do not train, by the reason why."""
    found: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        found.setdefault(reason, []).append(name)
    return found


def _held_out(names: Sequence[str], cards: Cards) -> list[Card]:
    """Cards of held-out clusters, all of them, and of held-out tasks.

    Raises:
        MetalmError: A name is neither.
    """
    found: dict[str, Card] = {}
    everything = cards.all()
    clusters = {card.cluster for card in everything}
    for name in names:
        if name in clusters:
            found.update({card.name: card for card in everything if card.cluster == name})
        elif name in cards.paths:
            found[name] = cards[name]
        else:
            near = difflib.get_close_matches(name, [*sorted(clusters), *cards.names], n=1)
            raise MetalmError(
                f"no cluster or task is named {name}",
                where="data.hold_out (--hold-out)",
                why=f"the clusters are {', '.join(sorted(clusters))}",
                remedy=f"did you mean {near[0]}?" if near else "metalm tasks list shows all tasks",
            )
    return list(found.values())


def open_training_tasks(
    options: TaskData,
    *,
    seed: int,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> tuple[TaskCorpus, TaskSelection]:
    """Open what a recipe trains on, and look at the first rows of each task.

    Args:
        options: The recipe's ``data``.
        seed: Seed of every order.
        data_root: Folder in which data sets lie; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder for unpacked files and indexes.

    Raises:
        MetalmError: Rows of a task cannot be had (all such tasks are named), a row does not fit its card, a task has
            no templates, or nothing is left to train on.
    """
    cards = load_cards(options)
    chosen = select_tasks(options, cards)
    collection = Collection(options.templates.collection)
    tasks: list[TrainingTask] = []
    missing: dict[str, MetalmError] = {}
    for card in chosen.cards:
        templates = training_templates(collection.of(card), options)
        try:
            train = open_examples(
                card, "train", data_root=data_root, offline=offline, cache=cache, beside=cards.paths[card.name]
            )
        except MetalmError as error:
            missing[card.name] = error
            continue
        rows = min(len(train), options.mixture.cap_examples or len(train))
        tasks.append(TrainingTask(card, train, templates, rows, 0.0))
    dropped = dict(chosen.dropped)
    if missing:
        if options.on_missing_data == "fail" or not tasks:
            raise _missing(missing, bool(tasks))
        dropped |= {name: f"its rows cannot be had ({error.what})" for name, error in missing.items()}
    rates = mixing_rates(
        {task.card.name: task.rows for task in tasks},
        options.mixture,
        {task.card.name: task.card.cluster for task in tasks},
    )
    dropped |= {task.card.name: "in no group of the mixture" for task in tasks if task.card.name not in rates}
    kept = [replace(task, rate=rates[task.card.name]) for task in tasks if task.card.name in rates]
    corpus = TaskCorpus(kept, options, seed)
    for index in range(len(kept)):
        corpus.usable_row(index, 0)
    return corpus, TaskSelection(tuple(task.card for task in kept), chosen.held_out, dropped)


def _missing(missing: dict[str, MetalmError], others: bool) -> MetalmError:
    first = next(iter(missing.values()))
    skip = "; data.on_missing_data=skip trains on the others" if others else "; data.tasks=[world] needs no data"
    if len(missing) == 1:
        return MetalmError(first.what, where=first.where, why=first.why, remedy=first.remedy + skip)
    return MetalmError(
        f"the rows of {len(missing)} tasks cannot be had: {', '.join(missing)}",
        where=first.where,
        why=f"{next(iter(missing))}: {first.what}; {first.why}",
        remedy=f"give --data-root DIR where the data lies, or a connection to the hub{skip}",
    )


def validation_examples(
    corpus: TaskCorpus, *, data_root: Path | None = None, offline: bool = False, cache: Path | None = None
) -> dict[int, Examples]:
    """The validation split of every task that has one, by index of the task.

    Raises:
        MetalmError: Its rows cannot be had though those to train on can.
    """
    found: dict[int, Examples] = {}
    options = corpus.options
    paths = load_cards(options).paths
    for index, task in enumerate(corpus.tasks):
        if options.validation.examples and options.validation.role in task.card.splits:
            found[index] = open_examples(
                task.card,
                options.validation.role,
                data_root=data_root,
                offline=offline,
                cache=cache,
                beside=paths[task.card.name],
            )
    return found
