"""``metalm tasks``: list, show, check and draft task cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_cluster, complete_task, complete_task_or_group
from metalm_cli.cli.display.task_cards import answer_kind, print_card, print_check
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS, DataRoot
from metalm_cli.common.registry import did_you_mean
from metalm_cli.common.table import counted
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.tasks import Card, Cards, Example

CONDITIONAL_METRICS = ("f1", "macro_f1", "matthews", "multirc_f1", "multirc_em", "pearson", "spearman", "number")
"""Metrics that do not accept every example; they check each one, and have to be loaded for that."""

app = typer.Typer(
    help="List, show, check and draft task cards.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=CONTEXT_SETTINGS,
)

CardFolders = Annotated[
    list[Path] | None,
    typer.Option("--cards", metavar="PATH", help="Also load this task card, or the cards in this folder; repeatable."),
]
ClusterNames = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster",
        metavar="CLUSTER",
        help="Only tasks of this cluster; repeatable.",
        autocompletion=complete_cluster,
    ),
]


@app.command("list")
def list_tasks(
    cluster: ClusterNames = None,
    core: Annotated[bool, typer.Option("--core", help="Only the paper's core tasks.")] = False,
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """List tasks by cluster, with the splits that are available locally. Does not access the hub."""
    from metalm_cli.data.examples.open_examples import is_available
    from metalm_cli.tasks import Cards
    from metalm_cli.tasks.registry import group_of

    registry = Cards(cards or ())
    selected = _filter_clusters(registry.all(), cluster or ())
    rows = []
    for card in selected:
        if core and not card.core:
            continue
        available_splits = [
            role for role in card.splits if is_available(card, role, data_root, registry.paths[card.name])
        ]
        data = ", ".join(available_splits) or ("hub" if card.hub is not None else "missing")
        rows.append(
            (
                card.cluster,
                card.name,
                group_of(card),
                card.usage,
                card.metric.name,
                answer_kind(card),
                data,
                card.description,
            )
        )
    rows.sort(key=lambda row: [selected_card.cluster for selected_card in selected].index(row[0]))
    headers = ("cluster", "task", "kind", "usage", "metric", "answer", "data", "description")
    console.print_table(headers, rows, unbroken=2, only_wide=("kind", "usage", "metric", "answer"))


def _filter_clusters(cards: Sequence[Card], clusters: Sequence[str]) -> list[Card]:
    known_clusters = dict.fromkeys(card.cluster for card in cards)
    for name in clusters:
        if name not in known_clusters:
            remedy = did_you_mean(name, known_clusters) or f"choose one of {', '.join(known_clusters)}"
            raise MetalmError(f"no cluster is named {name}", remedy=remedy)
    return [card for card in cards if not clusters or card.cluster in clusters]


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="A task, by name or path.", autocompletion=complete_task)],
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """Show a task: its card, its splits, two examples, and the number of its templates. Does not access the hub."""
    from metalm_cli.data.examples.record_cards import record_cards
    from metalm_cli.tasks import Cards, is_path

    paths = [task] if is_path(task) else []
    registry = Cards([*(cards or ()), *paths], record_cards(paths, data_root=data_root, offline=True))
    for name in registry.names_in_path(task) if is_path(task) else [task]:
        print_card(registry[name], registry.paths[name], data_root)


@app.command()
def check(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK]...",
            help="Tasks, clusters, groups or paths of cards. Default: all tasks.",
            autocompletion=complete_task_or_group,
        ),
    ] = None,
    cluster: ClusterNames = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Read only the first N rows of each split.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Download missing data from the hub.")] = False,
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """Check task cards against their templates and all rows of their data. Exits with 1 if there are problems.

    Prints the class distribution, and lengths in characters: median, 95th percentile, maximum.
    Of tasks without local data (data root or hub cache), only the templates are checked.
    """
    from metalm_cli.data.examples.card_check import check_card

    registry, selected, card_errors = _select_cards(tasks or [], cluster or [], cards or [], data_root, hub)
    for error in card_errors:
        console.show_error(error)
    tasks_without_data: list[str] = []
    checked_count = faulty_count = 0
    for card in selected:
        with console.stderr().status(card.name):
            result = check_card(
                card,
                max_rows=rows,
                check_example=_metric_check(card),
                data_root=data_root,
                offline=not hub,
                card_path=registry.paths[card.name],
            )
        if not result.splits:
            tasks_without_data.append(card.name)
            if not result.problems:
                continue
        checked_count += bool(result.splits)
        faulty_count += bool(result.problems)
        print_check(result, rows)
    if tasks_without_data:
        console.write(f"no local data: {', '.join(tasks_without_data)}\n")
    console.write(
        f"{counted(checked_count, 'task')} checked, {faulty_count + len(card_errors)} with problems; "
        f"{len(tasks_without_data)} without local data\n"
    )
    if faulty_count or card_errors:
        raise typer.Exit(int(Exit.FAILED))
    if not checked_count:
        raise MetalmError(
            "no task was checked", remedy="pass --data-root DIR, or set METALM_DATA; --hub downloads the data"
        )


def _select_cards(
    names: Sequence[str], clusters: Sequence[str], card_folders: Sequence[Path], data_root: Path | None, hub: bool
) -> tuple[Cards, list[Card], list[MetalmError]]:
    """Select the cards to check; also return the errors of cards that cannot be read.

    Raises:
        MetalmError: A name is unknown.
    """
    from metalm_cli.data.examples.record_cards import record_cards
    from metalm_cli.tasks import Cards, is_path
    from metalm_cli.tasks.registry import ALL_CLUSTERS, GROUP_NAMES

    paths = [name for name in names if is_path(name)]
    registry = Cards([*card_folders, *paths], record_cards(paths, data_root=data_root, offline=not hub))
    selected_names: list[str] = []
    for name in names or registry.names:
        if is_path(name):
            selected_names += registry.names_in_path(name)
        elif name in (*GROUP_NAMES, *ALL_CLUSTERS) and name not in registry.paths:
            selected_names += [card.name for card in registry.select([name], all_cards=True)]
        elif name in registry.paths:
            selected_names.append(name)
        else:
            registry[name]  # raises an error that suggests a similar name
    cards, errors = [], []
    for name in dict.fromkeys(selected_names):
        try:
            cards.append(registry[name])
        except MetalmError as error:
            errors.append(error)
    return registry, _filter_clusters(cards, clusters), errors


def _metric_check(card: Card) -> Callable[[Example], None] | None:
    """Check that the metric of a card makes of each example; None if it accepts all."""
    if card.metric.name not in CONDITIONAL_METRICS:
        return None
    from metalm_cli.evaluation.metrics import task_metrics

    def check_example(example: Example) -> None:
        task_metrics.check_metric(card.metric.name, [example])

    return check_example


@app.command()
def new(
    file: Annotated[
        Path,
        typer.Argument(
            help="A CSV or TSV file with a header, JSON lines, JSON, Parquet, a save_to_disk folder, or tar shards."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the task. Default: the file's name.")] = None,
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster", help="Cluster of the task, an existing or a new one.", autocompletion=complete_cluster
        ),
    ] = "misc",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the card into.")] = Path("cards"),
) -> None:
    """Draft a task card and templates from the columns of a data file; comments mark what was guessed.

    Writes DIR/NAME.yaml and DIR/templates/NAME.yaml, then checks the card. Existing files are not overwritten.
    """
    from metalm_cli.common.slug import slug
    from metalm_cli.data.examples.card_check import check_card
    from metalm_cli.tasks import Cards
    from metalm_cli.tasks.natural_instructions import task_name

    task = name if name is not None else task_name(file)
    for identifier in (task, cluster):
        if identifier != slug(identifier, "_"):
            raise MetalmError(
                f"{identifier!r} is not a valid name",
                why="expected lower-case letters, digits and _",
                remedy=f"did you mean {slug(identifier, '_')}?",
            )
    if task in Cards().paths:
        raise MetalmError(f"a shipped task is already named {task}", remedy="choose another --name")
    card_path, notes = _write_draft(file, task, cluster, out)
    for note in notes:
        console.stdout().print(note, markup=False, soft_wrap=True)
    registry = Cards([card_path])
    result = check_card(registry[task], check_example=_metric_check(registry[task]), card_path=card_path)
    print_check(result, None)
    console.write(f"next: read {card_path} and correct it; metalm finetune single data.tasks=[{card_path}]\n")
    if result.problems:
        raise typer.Exit(int(Exit.FAILED))


def _write_draft(file: Path, task: str, cluster: str, out: Path) -> tuple[Path, tuple[str, ...]]:
    """Write the card and the templates of a draft; return the card's path and notes on what was guessed.

    Raises:
        MetalmError: The data file cannot be read, no card can be drafted from it, or an output file exists.
    """
    from metalm_cli.config.locate import display
    from metalm_cli.tasks.card_draft import draft_card

    card_path, templates_path = out / f"{task}.yaml", out / "templates" / f"{task}.yaml"
    for path in (card_path, templates_path):
        if path.exists():
            raise MetalmError(
                f"{path.name} exists already",
                where=display(path),
                remedy="remove it, or choose another --name or --out",
            )
    rows, splits = _read_rows(file)
    draft_files = draft_card(
        rows, name=task, cluster=cluster, file=_relative_path(file, out), source=file.name, splits=splits
    )
    try:
        templates_path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((templates_path, draft_files.templates), (card_path, draft_files.card)):
            with path.open("x", encoding="utf-8") as output:
                output.write(text)
    except (OSError, UnicodeEncodeError) as error:
        raise MetalmError("the task card cannot be written", where=display(out), why=str(error)) from error
    console.write(f"wrote {display(card_path)}\nwrote {display(templates_path)}\n")
    return card_path, draft_files.notes


def _read_rows(file: Path) -> tuple[list[Any], str]:
    """Return the rows of a data file, and the entries of the card's ``splits``."""
    from metalm_cli.common.cache import cache_folder
    from metalm_cli.data.examples.record_cards import is_table, splits_of_table
    from metalm_cli.data.sources.arrow_tables import is_saved_dataset
    from metalm_cli.data.sources.file_tables import open_table
    from metalm_cli.data.sources.locate import DATA_SUFFIXES

    if not file.name.endswith(DATA_SUFFIXES) and not is_table(file):
        raise MetalmError(
            "a task card is drafted from a data file",
            where=str(file),
            why=f"expected a file named *{', *'.join(DATA_SUFFIXES)}, or a folder of save_to_disk",
        )
    roles = splits_of_table(file)
    table, _ = open_table(file, cache_folder(), roles["train"])
    has_splits = file.is_dir() and not is_saved_dataset(file) and roles["validation"] != roles["train"]
    splits = ", ".join(f"{role}: {split}" for role, split in roles.items()) if has_splits else "train: rows"
    return [_without_bytes(table.load(row)) for row in range(table.rows)], splits


def _without_bytes(row: Any) -> Any:
    """Return a row whose images have no content, of which a card needs none."""
    if not isinstance(row, dict):
        return row
    return {
        name: {**value, "bytes": b""} if isinstance(value, dict) and isinstance(value.get("bytes"), bytes) else value
        for name, value in row.items()
    }


def _relative_path(file: Path, out: Path) -> str:
    """Path of the data file relative to the card; absolute if the two are more than two folders apart."""
    relative = os.path.relpath(file.resolve(), out.resolve())
    return relative.replace(os.sep, "/") if relative.count("..") <= 2 else str(file.resolve())
