"""Task cards: what a data set is, as one declarative record; clusters and leak rules."""

from metalm_cli.tasks.card import CLUSTERS, Card, Split
from metalm_cli.tasks.clusters import Clusters, clusters, leaking
from metalm_cli.tasks.example import Example, ExampleMaker
from metalm_cli.tasks.natural_instructions import PAIRS
from metalm_cli.tasks.registry import Cards, is_path, read_card

__all__ = [
    "CLUSTERS",
    "PAIRS",
    "Card",
    "Cards",
    "Clusters",
    "Example",
    "ExampleMaker",
    "Split",
    "clusters",
    "is_path",
    "leaking",
    "read_card",
]
