"""Where task cards are: shipped ones by name, a user's own in folders and files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from metalm_cli.config.locate import display
from metalm_cli.config.yaml_records import read_record
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import CLUSTERS, Card
from metalm_cli.tasks.input_target_jsonl import pairs_card
from metalm_cli.tasks.natural_instructions import PAIRS, task_card, task_name

SHIPPED = Path(__file__).parent
GROUPS = ("core", "non_core", "world", "all")
"""Names of groups of cards, beside clusters and tasks."""
CARDS = (".yaml", ".yml")
ENDINGS = (*CARDS, ".json", *PAIRS, ".csv")
"""How names of tasks end that are paths."""
TEMPLATES = "templates"
"""Folder beside cards that holds no cards."""


def is_path(name: str) -> bool:
    """Whether the name of a task is the path of a card, of tasks without one, or of a folder of such."""
    return name.endswith(ENDINGS) or "/" in name


def card_files(path: Path) -> list[Path]:
    """Files that hold tasks: a card, a task of Natural Instructions, JSON lines of pairs; or all in a folder.

    Of a folder, cards (``*.yaml``, except in ``templates/``) and tasks of Natural Instructions (``task*.json``).

    Raises:
        MetalmError: There are none.
    """
    path = path.expanduser()
    if path.is_file() and path.name.endswith((*CARDS, ".json", *PAIRS)):
        return [path]
    found: list[Path] = []
    if path.is_dir():
        cards = [one for one in path.rglob("*.yaml") if TEMPLATES not in one.relative_to(path).parts[:-1]]
        found = [*sorted(cards), *sorted(path.rglob("task*.json"))]
    if not found:
        kind = (
            "it is no card, no task of Natural Instructions, and no JSON lines" if path.exists() else "nothing is there"
        )
        raise MetalmError(
            "no task cards are found",
            where=display(path),
            why="the folder holds no .yaml and no task*.json" if path.is_dir() else kind,
            remedy="name a card, or a folder of cards; metalm tasks new FILE drafts one from a data file",
        )
    return found


def card_name(path: Path) -> str:
    """Name of the card in a file."""
    return path.stem if path.suffix in CARDS else task_name(path)


def read_card(path: Path) -> Card:
    """A card from its file, or the card that a file without one amounts to.

    Raises:
        MetalmError: It cannot be read or does not fit; its name or its cluster is not that of its file and folder.
    """
    try:
        stat = path.stat()
    except OSError:
        return _read_card(path.absolute(), None)
    return _read_card(path.absolute(), (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4096)
def _read_card(path: Path, stamp: tuple[int, int] | None) -> Card:
    """A card, read again only when its file has changed."""
    if path.suffix == ".json":
        return task_card(path)
    if path.name.endswith(PAIRS):
        return pairs_card(path)
    card = read_record(path, Card, "task card")
    if card.name != path.stem:
        raise MetalmError(
            f"a task card is named {card.name} and its file {path.name}",
            where=display(path),
            remedy=f"rename the file to {card.name}.yaml, or the card",
        )
    if path.is_relative_to(SHIPPED) and card.cluster != path.parent.name:
        raise MetalmError(f"card {card.name} of cluster {card.cluster} stands in {path.parent.name}/")
    own = card.own_templates
    return card if own is None else card.model_copy(update={"templates": str(path.parent / own)})


class Cards:
    """All cards that a command knows.

    Args:
        folders: Folders and files of a user's own; a card there replaces the shipped one of its name.

    Raises:
        MetalmError: Nothing is there; a file without a card has the name of another task.
    """

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        self.paths: dict[str, Path] = {}
        for cluster in CLUSTERS:
            self.paths.update({path.stem: path for path in sorted((SHIPPED / cluster).glob("*.yaml"))})
        for folder in map(Path, folders):
            for path in card_files(folder):
                self._add(path)

    def _add(self, path: Path) -> None:
        name = card_name(path)
        known = self.paths.get(name, path)
        if known.absolute() != path.absolute() and path.suffix not in CARDS:
            raise MetalmError(
                f"two tasks are named {name}",
                where=f"{display(path)}, {display(known)}",
                remedy="rename the file, or write a card: metalm tasks new FILE --name NAME",
            )
        self.paths[name] = path

    def at(self, path: str) -> list[str]:
        """Names of the tasks that a path brings.

        Raises:
            MetalmError: There are none.
        """
        return [card_name(one) for one in card_files(Path(path))]

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
                remedy=f"did you mean {near[0]}?"
                if near
                else "metalm tasks list shows them; cards of your own lie in --cards DIR (data.cards in a recipe)",
            )
        return read_card(self.paths[name])

    def all(self) -> list[Card]:
        """All cards, clusters in the paper's order."""
        return [self[name] for name in self.paths]

    def select(self, names: Sequence[str], all_cards: bool = False) -> list[Card]:
        """The cards that names stand for: of tasks, clusters, or groups.

        Args:
            names: Tasks by name; ``core`` (the paper's), ``non_core`` (the other real ones), ``world``, ``all``; or
                clusters, of which the core cards are taken.
            all_cards: Also take what is not core in clusters.

        Raises:
            MetalmError: A name is none of these.
        """
        found: dict[str, Card] = {}
        for name in names:
            if name in GROUPS or (name in CLUSTERS and name not in self.paths):
                found.update({card.name: card for card in self.all() if _belongs(card, name, all_cards)})
            else:
                found[name] = self[name]
        return list(found.values())


def _belongs(card: Card, group: str, all_cards: bool) -> bool:
    if group == "all":
        return True
    if group == "world":
        return card.world is not None
    if group == "core":
        return card.core
    if group == "non_core":
        return not card.core and card.world is None
    return card.cluster == group and (card.core or (all_cards and card.world is None))
