"""OPT-IML's levels of generalisation (arXiv 2212.12017): how new a task is to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from metalm_cli.tasks import Card, leaking

Level = Literal["held_out_category", "held_out_task", "held_out_instances", "leaked"]
"""``held_out_category``: no task of its cluster was trained on, nor anything that leaks into it ("fully held out").
``held_out_task``: its cluster was, it was not ("partially supervised").
``held_out_instances``: it was, and its evaluation rows are new ("fully supervised").
``leaked``: it was not, yet something that was shares data with it, or leaks into it by the leak rules: none of the
three, and no evidence of generalisation.

A task that leak rules kept out of training has, by effect, one of the first two: ``--hold-out nli`` makes paraphrase a
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
    """The level of each task for a model, exactly one.

    Args:
        cards: All that are known.
        trained: Tasks that the model, or an ancestor of it, was trained on.
    """
    known = {card.name: card for card in cards}
    seen = {name: known[name] for name in trained if name in known}
    return {card.name: _level(card, seen) for card in known.values()}


def _level(card: Card, seen: Mapping[str, Card]) -> Level:
    if card.name in seen:
        return "held_out_instances"
    here = {card.name: (card.cluster, frozenset(card.tags))}
    if any(leaking(one.name, one.cluster, one.tags, here) for one in seen.values()):
        return "leaked"
    return "held_out_task" if any(one.cluster == card.cluster for one in seen.values()) else "held_out_category"


def describe_levels(found: Mapping[str, Level], clusters: Mapping[str, str]) -> str:
    """The levels in a line; categories by the names of their clusters.

    Args:
        found: From :func:`generalization_levels`.
        clusters: Cluster of each task that is to be named.
    """
    parts = []
    for level in LEVELS:
        names = [name for name in clusters if found[name] == level]
        if level == "held_out_category":
            names = list(dict.fromkeys(clusters[name] for name in names))
        if names:
            parts.append(f"{TITLES[level]}: {', '.join(names)}")
    return f"levels: {'; '.join(parts)}"
