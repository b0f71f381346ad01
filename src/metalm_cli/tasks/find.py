"""Where task cards are: shipped ones by name, a user's own in folders."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from metalm_cli.errors import MetalmError
from metalm_cli.recipes.find import display
from metalm_cli.recipes.records import read_record
from metalm_cli.tasks.card import CLUSTERS, Card

SHIPPED = Path(__file__).parent
GROUPS = ("core", "extras", "world", "all")
"""Names of groups of cards, beside clusters and tasks."""


@cache
def read_card(path: Path) -> Card:
    """A card from its file.

    Raises:
        MetalmError: It cannot be read or does not fit; its name or its cluster is not that of its file and folder.
    """
    card = read_record(path, Card, "task card")
    if card.name != path.stem:
        raise MetalmError(
            f"a task card is named {card.name} and its file {path.name}",
            where=display(path),
            remedy=f"rename the file to {card.name}.yaml, or the card",
        )
    if path.is_relative_to(SHIPPED) and card.cluster != path.parent.name:
        raise MetalmError(f"card {card.name} of cluster {card.cluster} stands in {path.parent.name}/")
    return card


class Cards:
    """All cards that a command knows.

    Args:
        folders: Folders of a user's own; a card there replaces the shipped one of its name.
    """

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        self.paths: dict[str, Path] = {}
        for cluster in CLUSTERS:
            self.paths.update({path.stem: path for path in sorted((SHIPPED / cluster).glob("*.yaml"))})
        for folder in map(Path, folders):
            self._add(folder.expanduser())

    def _add(self, folder: Path) -> None:
        if folder.is_file():
            self.paths[folder.stem] = folder
            return
        found = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
        if not found:
            raise MetalmError(
                "no task cards are found",
                where=display(folder),
                why="the folder holds no .yaml" if folder.is_dir() else "no such folder",
                remedy="name a folder of cards; metalm tasks new FILE drafts one from a data file",
            )
        self.paths.update({path.stem: path for path in found})

    @property
    def names(self) -> list[str]:
        """Names of all cards."""
        return list(self.paths)

    def __getitem__(self, name: str) -> Card:
        """The card of that name.

        Raises:
            MetalmError: There is none (with the nearest name), or it is wrong.
        """
        if name not in self.paths:
            near = difflib.get_close_matches(name, [*self.paths, *CLUSTERS], n=1)
            raise MetalmError(
                f"no task is named {name}",
                remedy=f"did you mean {near[0]}?" if near else "metalm tasks list shows them",
            )
        return read_card(self.paths[name])

    def all(self) -> list[Card]:
        """All cards, clusters in the paper's order."""
        return [self[name] for name in self.paths]

    def choose(self, names: Sequence[str], extras: bool = False) -> list[Card]:
        """The cards that names stand for: of tasks, clusters, or groups.

        Args:
            names: Tasks by name; ``core`` (the paper's), ``extras`` (the other real ones), ``world``, ``all``; or
                clusters, of which the core cards are taken.
            extras: Also take what is not core in clusters.

        Raises:
            MetalmError: A name is none of these.
        """
        found: dict[str, Card] = {}
        for name in names:
            if name in GROUPS or (name in CLUSTERS and name not in self.paths):
                found.update({card.name: card for card in self.all() if _belongs(card, name, extras)})
            else:
                found[name] = self[name]
        return list(found.values())


def _belongs(card: Card, group: str, extras: bool) -> bool:
    if group == "all":
        return True
    if group == "world":
        return card.world is not None
    if group == "core":
        return card.core
    if group == "extras":
        return not card.core and card.world is None
    return card.cluster == group and (card.core or (extras and card.world is None))
