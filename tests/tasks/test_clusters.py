"""Leak rules: tasks that must not train while others are held out."""

from __future__ import annotations

import pytest

from metalm_cli.common.slug import slug
from metalm_cli.tasks import CLUSTERS, Cards, leak_reason, read_clusters
from metalm_cli.tasks.registry import ALL_CLUSTERS


@pytest.fixture(scope="module")
def cards() -> Cards:
    return Cards()


def leak_reasons(cards: Cards, *held_out: str) -> dict[str, str]:
    """Reasons why tasks do not train while tasks or clusters are held out."""
    held_out_cards = [card for card in cards.all() if card.name in held_out or card.cluster in held_out]
    clusters_and_tags = {card.name: (card.cluster, frozenset(card.tags)) for card in held_out_cards}
    reasons = {card.name: leak_reason(card.name, card.cluster, card.tags, clusters_and_tags) for card in cards.all()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def test_all_clusters_are_there() -> None:
    assert tuple(read_clusters().clusters) == ALL_CLUSTERS


def test_tasks_about_the_same_photographs_leak_into_each_other(cards: Cards) -> None:
    assert set(leak_reasons(cards, "vqav2")) == {"vqav2", "okvqa", "gqa", "coco_captions"}
    assert leak_reasons(cards, "coco_captions")["vqav2"] == "both are coco_images"
    reasons = leak_reasons(cards, "snli_ve")
    assert set(reasons) == {"snli", "snli_ve", "e_snli_ve", "flickr30k", "flickr8k"}
    assert reasons["snli"] == "shares data with snli_ve"


def test_a_cluster_and_its_partner(cards: Cards) -> None:
    for held_out, partner in (("nli", "paraphrase"), ("paraphrase", "nli")):
        reasons = leak_reasons(cards, held_out)
        for card in cards.all():
            if card.cluster == held_out:
                assert reasons[card.name] == "held out"
            elif card.cluster == partner:
                assert reasons[card.name] == f"its cluster leaks into {held_out}"
    assert set(leak_reasons(cards, "sentiment")) == {card.name for card in cards.all() if card.cluster == "sentiment"}


@pytest.mark.parametrize(
    ("held_out", "expected"),
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
def test_data_sets_that_share_their_data(cards: Cards, held_out: str, expected: set[str]) -> None:
    reasons = leak_reasons(cards, held_out)
    by_data = {name for name, why in reasons.items() if why.startswith(("shares data", "is a sibling"))}
    partners = {name for name in expected if "its cluster" not in reasons.get(name, "")}
    assert expected <= set(reasons)
    assert by_data == partners


def test_reading_with_commonsense(cards: Cards) -> None:
    both = {card.name for card in cards.all() if "reading_with_commonsense" in card.tags}
    assert both == {"record", "cosmos_qa"}
    for cluster in ("reading", "commonsense"):
        assert both <= set(leak_reasons(cards, cluster))
    reasons = leak_reasons(cards, "record")
    assert {card.name for card in cards.all() if card.cluster in ("reading", "commonsense")} <= set(reasons)
    assert "cosmos_qa" in reasons
    assert "sst2" not in reasons


def test_nothing_leaks_into_nothing() -> None:
    assert leak_reason("rte", "nli", [], {}) is None
    assert leak_reason("sst2", "sentiment", [], {"rte": ("nli", frozenset())}) is None


@pytest.mark.parametrize(
    ("category", "cluster"),
    [("Textual Entailment", "nli"), ("Coreference Resolution", "coreference"), ("Sentiment Analysis", "sentiment")],
)
def test_categories_of_natural_instructions_leak_into_their_clusters(category: str, cluster: str) -> None:
    reason = leak_reason("task1_x", slug(category, "_"), [], {"held": (cluster, frozenset())})
    assert reason == f"its cluster leaks into {cluster}"


def test_every_rule_names_existing_tasks_and_clusters(cards: Cards) -> None:
    table = read_clusters()
    for group in (*table.task_leaks, *table.siblings.values()):
        assert set(group) <= set(cards.names)
    for rule in table.tag_leaks.values():
        assert set(rule.against) <= set(CLUSTERS)
    for group in table.cluster_leaks:
        assert group[0] in CLUSTERS
