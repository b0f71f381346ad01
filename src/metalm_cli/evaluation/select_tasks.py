"""Selection of the tasks to evaluate, by names of tasks, clusters and groups, and by paths of cards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metalm_cli.common.paths import expand_user
from metalm_cli.common.registry import did_you_mean
from metalm_cli.data.examples.record_cards import record_cards
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.suites import Suite, SuiteSelection, select_suite_tasks
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.resume_check import read_recipe
from metalm_cli.tasks import Card, Cards
from metalm_cli.tasks.registry import ALL_CLUSTERS, GROUP_NAMES, card_files, card_name, is_path

LEVELS_BELOW_RUN = 3
"""Levels of folders below a run in which a model is: ``checkpoints/step-100/model``."""


@dataclass(frozen=True)
class TaskSelection:
    """Selected tasks.

    Args:
        cards: All available cards.
        selected: Cards of the tasks to evaluate.
        names: Names of tasks and clusters, or of the suite, that selected them.
        suite: Tasks of the suite that selected them; None without a suite.
    """

    cards: Cards
    selected: tuple[Card, ...]
    names: tuple[str, ...]
    suite: SuiteSelection | None = None


def select_tasks(
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    card_folders: Sequence[Path] = (),
    all_cards: bool = False,
    data_root: Path | None = None,
    offline: bool = False,
) -> TaskSelection:
    """Select tasks.

    Args:
        tasks: Names of tasks, paths of cards, of data files or of folders of cards, and hub ids of known records.
        clusters: Names of clusters or groups.
        card_folders: Folders of user cards.
        all_cards: Clusters also select cards that are not core.
        data_root: Folder of local data sets, in which hub data sets are looked up first.
        offline: Open no connection.

    Raises:
        MetalmError: Nothing is selected, a name is unknown, or a path has no cards.
    """
    paths = [name for name in tasks if is_path(name)]
    cards = Cards([*card_folders, *paths], record_cards(paths, data_root=data_root, offline=offline))
    names = [task for name in tasks for task in (cards.names_in_path(name) if is_path(name) else [name])]
    return TaskSelection(cards, tuple(select_cards(cards, names, clusters, all_cards)), (*names, *clusters))


def select_suite(suite: Suite, card_folders: Sequence[Path], changed: Sequence[str]) -> TaskSelection:
    """Select the tasks of a suite.

    Args:
        suite: The suite.
        card_folders: Folders of user cards.
        changed: Settings of the suite that arguments have replaced.

    Raises:
        MetalmError: A name in the suite is unknown.
    """
    cards = Cards(card_folders)
    selection = replace(select_suite_tasks(suite, cards), changed=tuple(changed))
    return TaskSelection(cards, tuple(selection.cards), (suite.name,), selection)


def select_cards(cards: Cards, tasks: Sequence[str], clusters: Sequence[str], all_cards: bool) -> list[Card]:
    """Cards that names of tasks and of clusters select.

    Raises:
        MetalmError: No names are given, or a name is unknown.
    """
    if not tasks and not clusters:
        raise MetalmError(
            "no tasks are selected",
            remedy="select tasks (--task rte), clusters (--cluster nli), or a suite (--suite core)",
        )
    unknown = [name for name in clusters if name not in (*ALL_CLUSTERS, *GROUP_NAMES)]
    if unknown:
        raise MetalmError(
            f"no cluster is named {unknown[0]}",
            why=f"clusters: {', '.join(ALL_CLUSTERS)}; groups: {', '.join(GROUP_NAMES)}",
            remedy=f"{unknown[0]} is a task: --task {unknown[0]}"
            if unknown[0] in cards.paths
            else did_you_mean(unknown[0], (*ALL_CLUSTERS, *GROUP_NAMES)) or "choose one of these",
        )
    selected = cards.select([*tasks, *clusters], all_cards)
    if not selected:
        raise MetalmError(f"no task is in {', '.join(clusters)}", remedy="add --all-cards, or select tasks with --task")
    return selected


def cards_of_run(source: str, names: Collection[str]) -> list[Path]:
    """Files of the cards of some tasks that a run was trained with, as far as they exist.

    The paths of its recipe are relative to the working directory, or to a folder above the run.

    Args:
        source: The model: a run folder, a folder in one, or anything else, which has no cards.
        names: Names of the tasks.
    """
    model = expand_user(source)
    folders = [model, *model.absolute().parents[:LEVELS_BELOW_RUN]] if model.is_dir() else []
    run = next((folder for folder in folders if (folder / "recipe.yaml").is_file()), None)
    record = read_recipe(RunFolder(run)) if run is not None else None
    data = record.get("data") if record is not None else None
    if run is None or not isinstance(data, dict):
        return []
    card_folders, tasks = (list(map(str, data.get(key) or ())) for key in ("cards", "tasks"))
    bases = [Path.cwd(), *run.absolute().parents]
    cards: dict[str, Path] = {}
    for name in (*card_folders, *(task for task in tasks if is_path(task))):
        path = next((base / expand_user(name) for base in bases if (base / expand_user(name)).exists()), None)
        for file in files_of_cards(path) if path is not None else ():
            cards.setdefault(card_name(file), file)
    return [file for name, file in cards.items() if name in names]


def files_of_cards(path: Path) -> list[Path]:
    """Task files of a path; none if it has none."""
    try:
        return card_files(path)
    except MetalmError:
        return []
