"""Task cards, which describe data sets declaratively; clusters and leak rules."""

from metalm_cli.tasks.card import CLUSTERS, Card, Split
from metalm_cli.tasks.clusters import ClusterTable, leak_reason, read_clusters
from metalm_cli.tasks.example import Example, ExampleMaker
from metalm_cli.tasks.natural_instructions import INPUT_TARGET_SUFFIXES
from metalm_cli.tasks.registry import Cards, is_hub_id, is_path, read_card

__all__ = [
    "CLUSTERS",
    "INPUT_TARGET_SUFFIXES",
    "Card",
    "Cards",
    "ClusterTable",
    "Example",
    "ExampleMaker",
    "Split",
    "is_hub_id",
    "is_path",
    "leak_reason",
    "read_card",
    "read_clusters",
]
