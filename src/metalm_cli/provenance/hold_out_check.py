"""What a base model and its ancestors have been trained on, held against what is to be held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, leaking

SHOWN = 8
"""Tasks that a refusal names."""


def ancestors_and_lineages(ancestors: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """(checkpoint, its lineage or None) of all ancestors, the nearest first.

    Args:
        ancestors: From :func:`metalm_cli.provenance.lineage.read_ancestors`, or of a lineage.
    """
    for one in ancestors:
        found = one.get("lineage")
        lineage = found if isinstance(found, Mapping) else None
        yield str(one.get("checkpoint")), lineage
        if lineage is not None:
            yield from ancestors_and_lineages(lineage.get("ancestors") or [])


def tasks_trained_on(ancestors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Tasks that any ancestor was trained on."""
    return list(
        dict.fromkeys(task for _, one in ancestors_and_lineages(ancestors) if one is not None for task in _listed(one))
    )


def ancestors_without_lineage(ancestors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ancestors without a lineage: nobody can tell what they have seen."""
    return list(
        dict.fromkeys(checkpoint for checkpoint, lineage in ancestors_and_lineages(ancestors) if lineage is None)
    )


def reject_trained_on_held_out(
    held: Sequence[Card], names: Iterable[str], ancestors: Iterable[Mapping[str, Any]], cards: Cards
) -> None:
    """Refuse a base that was trained on what is held out, or on what leaks into it.

    Args:
        held: Cards that are held out.
        names: As the recipe names them: clusters or tasks.
        ancestors: The base and its ancestors.
        cards: All cards that are known.

    Raises:
        MetalmError: It was; the ancestor, its tasks and their clusters are named.
    """
    facts = {card.name: (card.cluster, frozenset(card.tags)) for card in held}
    clusters = {name for name in names if name not in facts}
    for checkpoint, lineage in ancestors_and_lineages(ancestors):
        found = [] if lineage is None else _reasons(lineage, facts, clusters, cards)
        if lineage is None or not found:
            continue
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise MetalmError(
            f"the base model has been trained on what is held out ({', '.join(names)})",
            where=checkpoint,
            why=f"by its lineage, {lineage.get('command')} {lineage.get('recipe')} trained on "
            + "; ".join(found[:SHOWN])
            + more,
            remedy="begin from a model that has not (--model), such as a pretraining run, or hold out something else",
        )


def _reasons(
    lineage: Mapping[str, Any], held: dict[str, tuple[str, frozenset[str]]], clusters: set[str], cards: Cards
) -> list[str]:
    """What of a lineage must not have been trained on, and why."""
    found: list[str] = []
    known: set[str] = set()
    for name in _listed(lineage):
        if name not in cards.paths:
            if name in held:
                found.append(f"{name}: held out")
            continue
        card = cards[name]
        known.add(card.cluster)
        reason = leaking(name, card.cluster, card.tags, held)
        if reason is not None:
            found.append(f"{name} (cluster {card.cluster}): {reason}")
    for cluster in lineage.get("clusters") or []:
        if cluster in known:
            continue
        reason = "held out" if cluster in clusters else leaking("", str(cluster), (), held)
        if reason is not None:
            found.append(f"tasks of cluster {cluster} that no card describes: {reason}")
    return found


def _listed(lineage: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in lineage.get("tasks") or []]
