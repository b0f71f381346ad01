"""Levels of generalisation of OPT-IML (arXiv 2212.12017): how new a task is to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from metalm_cli.tasks import Card, leak_reason

Level = Literal["held_out_category", "held_out_task", "held_out_instances", "leaked"]
"""``held_out_category``: neither a task of the cluster nor a task that leaks into it was trained on ("fully held out").
``held_out_task``: other tasks of the cluster were trained on, but not this task ("partially supervised").
``held_out_instances``: the task was trained on, and its evaluation rows are new ("fully supervised").
``leaked``: the task was not trained on, but a training task shares data with it or leaks into it by the leak rules;
not a level of OPT-IML, and not evidence of generalisation.

A task that the leak rules removed from training has one of the first two levels: ``--hold-out nli`` makes paraphrase a
held-out category as well.
"""
LEVELS: tuple[Level, ...] = get_args(Level)

TITLES: dict[Level, str] = {
    "held_out_category": "held-out categories",
    "held_out_task": "held-out tasks of seen categories",
    "held_out_instances": "held-out instances of seen tasks",
    "leaked": "not trained on, but leaked into",
}


def generalization_levels(cards: Iterable[Card], trained: Iterable[str]) -> dict[str, Level]:
    """Level of each task for a model.

    Args:
        cards: All cards.
        trained: Tasks that the model, or an ancestor of it, was trained on.
    """
    known = {card.name: card for card in cards}
    seen = {name: known[name] for name in trained if name in known}
    return {card.name: _level(card, seen) for card in known.values()}


def leaking_task(card: Card, trained: Iterable[Card]) -> tuple[str, str] | None:
    """Return the first trained task that shares data with a task or leaks into it, and why; None if there is none."""
    facts = {card.name: (card.cluster, frozenset(card.tags))}
    reasons = (
        (
            other.name,
            leak_reason(other.name, other.cluster, other.tags, facts)
            or ("reads the same data set" if _reads_same_data(card, other) else None),
        )
        for other in trained
    )
    return next(((name, reason) for name, reason in reasons if reason is not None), None)


def _reads_same_data(card: Card, other: Card) -> bool:
    """Whether two cards name the same data set of the hub, or the same task of the miniature world."""
    if card.hub is not None and other.hub is not None:
        return (card.hub.id, card.hub.config) == (other.hub.id, other.hub.config)
    return card.world is not None and card.world == other.world


def _level(card: Card, seen: Mapping[str, Card]) -> Level:
    if card.name in seen:
        return "held_out_instances"
    if leaking_task(card, seen.values()) is not None:
        return "leaked"
    return "held_out_task" if any(trained.cluster == card.cluster for trained in seen.values()) else "held_out_category"


def describe_levels(levels: Mapping[str, Level], clusters: Mapping[str, str]) -> str:
    """Describe the levels in a line, with held-out categories by the names of their clusters.

    Args:
        levels: From :func:`generalization_levels`.
        clusters: Cluster of each task to list.
    """
    parts = []
    for level in LEVELS:
        names = [name for name in clusters if levels[name] == level]
        if level == "held_out_category":
            names = list(dict.fromkeys(clusters[name] for name in names))
        if names:
            parts.append(f"{TITLES[level]}: {', '.join(names)}")
    return f"levels: {'; '.join(parts)}"
