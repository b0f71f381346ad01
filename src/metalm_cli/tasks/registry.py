"""Lookup of task cards: shipped cards by name, and user cards in folders and files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from metalm_cli.common.paths import expand_user
from metalm_cli.common.registry import did_you_mean
from metalm_cli.common.tar_shards import COMPRESSED_SHARD_SUFFIXES, SHARD_SUFFIX
from metalm_cli.config.locate import display
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.config.yaml_records import read_record
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import CLUSTERS, VISION_CLUSTERS, Card
from metalm_cli.tasks.derived_card import DerivedCard
from metalm_cli.tasks.natural_instructions import INPUT_TARGET_SUFFIXES, natural_instructions_card, task_name
from metalm_cli.tasks.record_files import has_records, record_file_card

SHIPPED_FOLDER = Path(__file__).parent
GROUP_NAMES = ("core", "non_core", "world", "lexical", "vision", "all")
"""Names of groups of cards, which select tasks like cluster and task names do; ``all`` are all tasks without images."""
ALL_CLUSTERS = (*CLUSTERS, *VISION_CLUSTERS)
"""Ids of the shipped clusters, in their order."""
LEXICAL_TAG = "lexical"
"""Tag of the generated tasks about the meanings of words, which are a group of their own."""
CARD_SUFFIXES = (".yaml", ".yml")
SHARD_SUFFIXES = (SHARD_SUFFIX, *COMPRESSED_SHARD_SUFFIXES)
PATH_SUFFIXES = (*CARD_SUFFIXES, ".json", *INPUT_TARGET_SUFFIXES, ".csv", ".tsv", ".parquet", *SHARD_SUFFIXES)
"""Suffixes of task names that are paths."""
TEMPLATES_FOLDER = "templates"
"""Folder beside cards that contains templates, not cards."""


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Return whether a task name is the hub id of a data set: owner/name, where no folder here is named owner."""
    owner = name.partition("/")[0]
    return HUB_ID.fullmatch(name) is not None and not name.endswith(PATH_SUFFIXES) and not Path(owner).exists()


def is_path(name: str) -> bool:
    """Return whether a task name is a path: of a card, of a data file without a card, or of a folder of these."""
    return name.endswith(PATH_SUFFIXES) or "/" in name


def card_files(path: Path) -> list[Path]:
    """Return the task files of a path: a card, Natural Instructions task or file of records, or all of a folder.

    In a folder, these are cards (``*.yaml``, except in ``templates/``) and Natural Instructions tasks (``task*.json``).

    Raises:
        MetalmError: There are no task files.
    """
    path = expand_user(path)
    if path.is_file() and path.name.endswith((*CARD_SUFFIXES, ".json", *INPUT_TARGET_SUFFIXES)):
        return [path]
    files: list[Path] = []
    if path.is_dir():
        cards = [
            card_path
            for card_path in path.rglob("*.yaml")
            if TEMPLATES_FOLDER not in card_path.relative_to(path).parts[:-1]
        ]
        files = [*sorted(cards), *sorted(path.rglob("task*.json"))]
    if not files:
        why = (
            "the file is not a card, Natural Instructions task, JSON or JSON lines file"
            if path.exists()
            else "no such file"
        )
        raise MetalmError(
            "no task cards found",
            where=display(path),
            why="the folder contains no .yaml and no task*.json" if path.is_dir() else why,
            remedy="give a card or a folder of cards; metalm tasks new FILE drafts a card from a data file"
            + ("" if path.exists() else "; a hub data set is named owner/name"),
        )
    return files


def card_name(path: Path) -> str:
    """Return the name of the card in a file."""
    return path.stem if path.suffix in CARD_SUFFIXES else task_name(path)


def read_card(path: Path) -> Card:
    """Read a card from its file, or build the card of a data file without one.

    Raises:
        MetalmError: The card cannot be read or is invalid, or its name or cluster differs from its file or folder name.
    """
    try:
        stat = path.stat()
    except OSError:
        return _read_card_version(path.absolute(), None)
    return _read_card_version(path.absolute(), (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4096)
def _read_card_version(path: Path, stamp: tuple[int, int] | None) -> Card:
    """Read a card; cached until its file changes."""
    if path.name.endswith(INPUT_TARGET_SUFFIXES) or (path.suffix == ".json" and has_records(path)):
        return record_file_card(path)
    if path.suffix == ".json":
        return natural_instructions_card(path)
    card = read_record(path, Card, "task card")
    if card.name != path.stem:
        raise MetalmError(
            f"task card {card.name} has the file name {path.name}",
            where=display(path),
            remedy=f"rename the file to {card.name}.yaml, or change the card's name",
        )
    if path.is_relative_to(SHIPPED_FOLDER) and card.cluster != path.parent.name:
        raise MetalmError(f"task card {card.name} of cluster {card.cluster} is in the folder {path.parent.name}/")
    updates: dict[str, Any] = {}
    if card.bundled_templates is not None:
        updates["templates"] = str(path.parent / card.bundled_templates)
    if card.file is not None and set(card.splits) == {"train"} and card.validation_share:
        updates["splits"] = {**card.splits, "validation": card.splits["train"]}
    return card.model_copy(update=updates) if updates else card


class Cards:
    """All cards available to a command.

    Args:
        folders: Folders and files of user cards; a user card replaces the shipped card of the same name.

        record_cards: Cards of hub data sets and table files without a card, by hub id or path.

    Raises:
        MetalmError: A path has no cards, or a file without a card has the name of another task.
    """

    def __init__(self, folders: Iterable[str | Path] = (), record_cards: Mapping[str, Card] | None = None) -> None:
        self.paths: dict[str, Path] = {}
        self._record_cards = {card.name: card for card in (record_cards or {}).values()}
        self._names_of_records = {str(Path(place)): card.name for place, card in (record_cards or {}).items()}
        self._derived: dict[str, DerivedCard] = {}
        for cluster in ALL_CLUSTERS:
            self.paths.update({path.stem: path for path in sorted((SHIPPED_FOLDER / cluster).glob("*.yaml"))})
        for place, name in self._names_of_records.items():
            self._add(name, Path(place))
        for folder in map(Path, folders):
            for path in card_files(folder) if str(folder) not in self._names_of_records else ():
                self._add(card_name(path), path)

    def _add(self, name: str, path: Path) -> None:
        known_path = self.paths.get(name, path)
        if known_path.absolute() != path.absolute() and path.suffix not in CARD_SUFFIXES:
            raise MetalmError(
                f"two tasks are named {name}",
                where=f"{display(path)}, {display(known_path)}",
                remedy="rename the file, or create a card: metalm tasks new FILE --name NAME",
            )
        self.paths[name] = path

    def add_derived(self, card: DerivedCard) -> None:
        """Add a derived card, whose file is that of its original; it may take the name of its original.

        Raises:
            MetalmError: Another task has its name.
        """
        known = self._derived.get(card.name)
        if card.name in self.paths and card.name != card.derived_from and known != card:
            raise MetalmError(
                f"two tasks are named {card.name}",
                where=display(self.paths[card.name]),
                remedy="give the task of the suite another name",
            )
        self._derived[card.name] = card
        self.paths[card.name] = self.paths[card.derived_from]

    def names_in_path(self, path: str) -> list[str]:
        """Return the names of the tasks of a path or hub id.

        Raises:
            MetalmError: There are no tasks.
        """
        if str(Path(path)) in self._names_of_records:
            return [self._names_of_records[str(Path(path))]]
        return [card_name(file) for file in card_files(Path(path))]

    @property
    def names(self) -> list[str]:
        """Names of all cards."""
        return list(self.paths)

    def __getitem__(self, name: str) -> Card:
        """Return the card with a name.

        Raises:
            MetalmError: There is no such card (the message suggests a similar name), or it is invalid.
        """
        if name in self._derived:
            return self._derived[name]
        if name in self._record_cards:
            return self._record_cards[name]
        if name not in self.paths:
            if current := TaskDataConfig.renamed_values["tasks"].get(name):
                raise MetalmError(f"the group {name} is now {current}", remedy=f"write {current}")
            raise MetalmError(
                f"no task is named {name}",
                remedy=did_you_mean(name, [*self.paths, *ALL_CLUSTERS])
                or "metalm tasks list lists all tasks; --cards DIR (in a recipe: data.cards) adds your own cards",
            )
        return read_card(self.paths[name])

    def all(self) -> list[Card]:
        """Return all cards, clusters in the paper's order."""
        return [self[name] for name in self.paths]

    def select(self, names: Sequence[str], all_cards: bool = False) -> list[Card]:
        """Return the cards that names of tasks, clusters or groups select.

        Args:
            names: Names of tasks; ``core`` (the paper's), ``non_core`` (other real tasks), ``world``, ``lexical``,
                ``vision`` (all with images), ``all`` (all others); or names of clusters, which select their core cards.
            all_cards: Clusters also select cards that are not core.

        Raises:
            MetalmError: A name is unknown.
        """
        selected: dict[str, Card] = {}
        for name in names:
            if name in GROUP_NAMES or (name in ALL_CLUSTERS and name not in self.paths):
                selected.update({card.name: card for card in self.all() if _in_group(card, name, all_cards)})
            else:
                selected[name] = self[name]
        return list(selected.values())


def group_of(card: Card) -> str:
    """Return the group of a card, besides ``all``: vision, core, world, lexical or non_core."""
    if card.images:
        return "vision"
    if card.core:
        return "core"
    if card.world is None:
        return "non_core"
    return "lexical" if LEXICAL_TAG in card.tags else "world"


def _in_group(card: Card, group: str, all_cards: bool) -> bool:
    if group == group_of(card) or (group == "all" and not card.images):
        return True
    return card.cluster == group and (card.core or (all_cards and card.world is None))
