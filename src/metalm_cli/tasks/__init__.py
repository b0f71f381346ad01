"""Task cards: what a data set is, as one declarative record; clusters and leak rules."""

from metalm_cli.tasks.card import CLUSTERS, Card, Split
from metalm_cli.tasks.clusters import Clusters, clusters, leaking
from metalm_cli.tasks.examples import Example, ExampleMaker
from metalm_cli.tasks.find import Cards, is_path, read_card
from metalm_cli.tasks.natural import PAIRS

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
