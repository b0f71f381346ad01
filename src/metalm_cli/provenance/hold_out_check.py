"""Check that a base model and its ancestors were not trained on held-out tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.provenance.lineage import ancestors_and_lineages, trained_tasks
from metalm_cli.tasks import Card, Cards, leak_reason

MAX_REASONS = 8
"""Tasks that an error lists."""


def reject_trained_on_held_out(
    held_out: Sequence[Card], names: Iterable[str], ancestors: Iterable[Mapping[str, Any]], cards: Cards
) -> None:
    """Reject a base model that was trained on held-out tasks, or on tasks that leak into them.

    Args:
        held_out: Cards of the held-out tasks.
        names: Held-out clusters and tasks as named in the recipe.
        ancestors: The base model and its ancestors.
        cards: All cards.

    Raises:
        MetalmError: An ancestor was trained on such tasks; the error names the ancestor, the tasks and their clusters.
    """
    held_out_facts = {card.name: (card.cluster, frozenset(card.tags)) for card in held_out}
    clusters = {name for name in names if name not in held_out_facts}
    for checkpoint, lineage in ancestors_and_lineages(ancestors):
        reasons = [] if lineage is None else _reasons(lineage, held_out_facts, clusters, cards)
        if lineage is None or not reasons:
            continue
        more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
        raise MetalmError(
            f"the base model was already trained on held-out tasks ({', '.join(names)})",
            where=checkpoint,
            why=f"by its lineage, {lineage.get('command')} {lineage.get('recipe')} trained on "
            + "; ".join(reasons[:MAX_REASONS])
            + more,
            remedy="choose another base model (--model), such as a pretraining run, or hold out other tasks",
        )


def _reasons(
    lineage: Mapping[str, Any],
    held_out: dict[str, tuple[str, frozenset[str]]],
    held_out_clusters: set[str],
    cards: Cards,
) -> list[str]:
    """Tasks and clusters of a lineage that are held out or leak into held-out tasks, with the reasons."""
    reasons: list[str] = []
    known_clusters: set[str] = set()
    for name in trained_tasks(lineage):
        if name not in cards.paths:
            if name in held_out:
                reasons.append(f"{name}: held out")
            continue
        card = cards[name]
        known_clusters.add(card.cluster)
        reason = leak_reason(name, card.cluster, card.tags, held_out)
        if reason is not None:
            reasons.append(f"{name} (cluster {card.cluster}): {reason}")
    for cluster in lineage.get("clusters") or []:
        if cluster in known_clusters:
            continue
        reason = "held out" if cluster in held_out_clusters else leak_reason("", str(cluster), (), held_out)
        if reason is not None:
            reasons.append(f"tasks of cluster {cluster} that no card describes: {reason}")
    return reasons
