"""``metalm suites``: list and show suites of tasks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_suite
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS, CardFolders, DataRoot

if TYPE_CHECKING:
    from metalm_cli.evaluation.suites import SelectedTask, Suite
    from metalm_cli.tasks import Cards

app = typer.Typer(
    help="List and show suites of tasks.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT_SETTINGS
)


@app.command("list")
def list_shipped() -> None:
    """List the shipped suites, with their numbers of tasks and demonstrations, and their aggregates."""
    from metalm_cli.evaluation.suites import list_suites, load_suite, select_suite_tasks
    from metalm_cli.tasks import Cards

    rows = []
    for name in list_suites():
        suite = load_suite(name)
        task_count = len(select_suite_tasks(suite, Cards()).tasks)
        shots = ",".join(map(str, suite.file.shots))
        rows.append((name, str(task_count), shots, suite.file.aggregate, suite.file.description))
    console.print_table(("suite", "tasks", "shots", "aggregate", "description"), rows)


@app.command()
def show(
    suite: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="A shipped suite, or a file.", autocompletion=complete_suite),
    ],
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """Show a suite: its settings, its aggregate, and its tasks. Does not access the hub.

    data says where a task's split is read: local, hub (a download), or missing.
    """
    from metalm_cli.config.locate import display
    from metalm_cli.evaluation.suites import load_suite, select_suite_tasks
    from metalm_cli.tasks import Cards

    registry = Cards(cards or ())
    loaded = load_suite(suite)
    selection = select_suite_tasks(loaded, registry)
    entries = [
        ("suite", f"{loaded.name}: {loaded.file.description}"),
        ("file", display(loaded.path)),
        ("settings", _describe_settings(loaded)),
        *(("aggregate", text) for text in _describe_aggregates(loaded)),
        ("source", loaded.file.source),
    ]
    for label, text in entries:
        if text:
            console.stdout().print(f"{label:<9}  {text}", markup=False, soft_wrap=True)
    groups = Counter(task.group for task in selection.tasks)
    rows = [
        _row(loaded, task, task.group if groups[task.group] > 1 else "", registry, data_root)
        for task in selection.tasks
    ]
    console.write("\n")
    console.print_table(("task", "group", "cluster", "metric", "split", "data"), rows)


def _describe_settings(suite: Suite) -> str:
    from metalm_cli.evaluation.suites.settings import suite_settings

    parts = [f"{','.join(map(str, suite.file.shots))} demonstrations", f"protocol {suite.file.protocol}"]
    parts += [f"{key} {value}" for key, value in suite_settings(suite).items() if key not in ("shots", "protocol")]
    return "; ".join(parts)


def _describe_aggregates(suite: Suite) -> list[str]:
    from metalm_cli.common.registry import aggregates

    return [f"{name}: {aggregates.entry(name).description}" for name in suite.aggregates]


def _row(suite: Suite, task: SelectedTask, group: str, cards: Cards, data_root: Path | None) -> tuple[str, ...]:
    from metalm_cli.data.examples.open_examples import is_available
    from metalm_cli.tasks.derived_card import scored_split

    card = task.card
    role = scored_split(card, suite.file.split)
    has_data = is_available(card, role, data_root, cards.paths[card.name])
    data = "local" if has_data else "hub" if card.hub is not None else "missing"
    return card.name, group, card.cluster, ", ".join(task.metrics), role, data
