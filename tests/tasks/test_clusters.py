"""Leak rules: what must not train while something else is held out."""

from __future__ import annotations

import pytest

from metalm_cli.tasks import CLUSTERS, Cards, clusters, leaking
from metalm_cli.tasks.natural_instructions import slug


@pytest.fixture(scope="module")
def cards() -> Cards:
    return Cards()


def reasons(cards: Cards, *held: str) -> dict[str, str]:
    """Why tasks do not train while others, or all of a cluster, are held out."""
    kept = [card for card in cards.all() if card.name in held or card.cluster in held]
    facts = {card.name: (card.cluster, frozenset(card.tags)) for card in kept}
    found = {card.name: leaking(card.name, card.cluster, card.tags, facts) for card in cards.all()}
    return {name: reason for name, reason in found.items() if reason is not None}


def test_all_clusters_are_there() -> None:
    assert tuple(clusters().clusters) == CLUSTERS


def test_a_cluster_and_its_partner(cards: Cards) -> None:
    for held, partner in (("nli", "paraphrase"), ("paraphrase", "nli")):
        found = reasons(cards, held)
        for card in cards.all():
            if card.cluster == held:
                assert found[card.name] == "held out"
            elif card.cluster == partner:
                assert found[card.name] == f"its cluster leaks into {held}"
    assert set(reasons(cards, "sentiment")) == {card.name for card in cards.all() if card.cluster == "sentiment"}


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ("squad", {"squad_v2", "qnli"}),
        ("qnli", {"squad", "squad_v2"}),
        ("anli_r1", {"anli_r2", "anli_r3"}),
        ("arc_easy", {"arc_challenge"}),
        ("winogrande", {"wnli"}),
        ("wsc273", {"wnli", "wsc"}),
        ("wsc", {"wnli", "wsc273"}),
        ("dpr", {"wnli"}),
        ("wnli", {"wsc", "dpr", "winogrande", "wsc273"}),
    ],
)
def test_data_sets_that_share_their_data(cards: Cards, held: str, expected: set[str]) -> None:
    found = reasons(cards, held)
    by_data = {name for name, why in found.items() if why.startswith(("shares data", "is a sibling"))}
    partners = {name for name in expected if "its cluster" not in found.get(name, "")}
    assert expected <= set(found)
    assert by_data == partners


def test_reading_with_commonsense(cards: Cards) -> None:
    both = {card.name for card in cards.all() if "reading_with_commonsense" in card.tags}
    assert both == {"record", "cosmos_qa"}
    for cluster in ("reading", "commonsense"):
        assert both <= set(reasons(cards, cluster))
    found = reasons(cards, "record")
    assert {card.name for card in cards.all() if card.cluster in ("reading", "commonsense")} <= set(found)
    assert "cosmos_qa" in found
    assert "sst2" not in found


def test_nothing_leaks_into_nothing() -> None:
    assert leaking("rte", "nli", [], {}) is None
    assert leaking("sst2", "sentiment", [], {"rte": ("nli", frozenset())}) is None


@pytest.mark.parametrize(
    ("category", "cluster"),
    [("Textual Entailment", "nli"), ("Coreference Resolution", "coreference"), ("Sentiment Analysis", "sentiment")],
)
def test_categories_of_natural_instructions_leak_into_their_clusters(category: str, cluster: str) -> None:
    reason = leaking("task1_x", slug(category), [], {"held": (cluster, frozenset())})
    assert reason == f"its cluster leaks into {cluster}"


def test_every_rule_speaks_of_tasks_and_clusters_that_exist(cards: Cards) -> None:
    table = clusters()
    for group in (*table.task_leaks, *table.siblings.values()):
        assert set(group) <= set(cards.names)
    for rule in table.tag_leaks.values():
        assert set(rule.against) <= set(CLUSTERS)
    for group in table.cluster_leaks:
        assert group[0] in CLUSTERS
