"""``metalm tasks``: list, show, check and draft task cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.display.task_cards import kind_of, print_card, print_check
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.tasks import Card, Cards, Example

CONTEXT = {"help_option_names": ["-h", "--help"]}
ALWAYS_FIT = ("accuracy", "exact_match", "token_f1", "rouge1", "rouge2", "rougeL")
"""Metrics that every example has a value of; others are asked, which takes loading them."""

app = typer.Typer(
    help="List, show, check and draft task cards.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT
)

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
]
CardFolders = Annotated[
    list[Path] | None,
    typer.Option("--cards", metavar="PATH", help="Also know the task cards in this folder, or this file."),
]
ClusterNames = Annotated[
    list[str] | None, typer.Option("--cluster", metavar="CLUSTER", help="Only this cluster; again for more.")
]


@app.command("list")
def list_tasks(
    cluster: ClusterNames = None,
    core: Annotated[bool, typer.Option("--core", help="Only the paper's.")] = False,
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """List tasks by cluster, with the splits that are at hand. The hub is not asked."""
    from metalm_cli.data.examples.open_examples import is_available
    from metalm_cli.tasks import Cards

    known = Cards(cards or ())
    chosen = _of_clusters(known.all(), cluster or ())
    rows = []
    for card in chosen:
        if core and not card.core:
            continue
        here = [role for role in card.splits if is_available(card, role, data_root, known.paths[card.name])]
        kind = "core" if card.core else "world" if card.world is not None else "extra"
        data = ", ".join(here) or ("hub" if card.hub is not None else "missing")
        rows.append(
            (card.cluster, card.name, kind, card.usage, card.metric.name, kind_of(card), data, card.description)
        )
    rows.sort(key=lambda row: [one.cluster for one in chosen].index(row[0]))
    console.table(("cluster", "task", "kind", "use", "metric", "answer", "data", "description"), rows)


def _of_clusters(cards: Sequence[Card], clusters: Sequence[str]) -> list[Card]:
    known = dict.fromkeys(card.cluster for card in cards)
    for name in clusters:
        if name not in known:
            raise MetalmError(f"no cluster is named {name}", remedy=f"name one of {', '.join(known)}")
    return [card for card in cards if not clusters or card.cluster in clusters]


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="A task, by name or path.")],
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """Show a task: what its card says, its splits, two of its examples, and how many templates it has."""
    from metalm_cli.tasks import Cards, is_path

    known = Cards([*(cards or ()), *([task] if is_path(task) else [])])
    for name in known.at(task) if is_path(task) else [task]:
        print_card(known[name], known.paths[name], data_root)


@app.command()
def check(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks, clusters, groups or paths; left out: all.")
    ] = None,
    cluster: ClusterNames = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Only the first so many of each split.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Also download from the hub what is not at hand.")] = False,
    cards: CardFolders = None,
    data_root: DataRoot = None,
) -> None:
    """Read all rows of tasks and say what is wrong: exits with 1 if anything is.

    Prints how classes are distributed, and lengths in characters: median, 95th percentile, most. What is neither at
    hand nor in the hub's cache is named and not checked.
    """
    from metalm_cli.data.examples.card_check import check_card

    known, chosen, broken = _chosen(tasks or [], cluster or [], cards or [])
    for error in broken:
        console.show_error(error)
    absent: list[str] = []
    checked = wrong = 0
    for card in chosen:
        with console.stderr().status(card.name):
            found = check_card(
                card,
                rows=rows,
                fits=_fits(card),
                data_root=data_root,
                offline=not hub,
                beside=known.paths[card.name],
            )
        if not found.splits:
            absent.append(card.name)
            continue
        checked += 1
        wrong += bool(found.problems)
        print_check(found, rows)
    if absent:
        console.write(f"not at hand: {', '.join(absent)}\n")
    console.write(f"{checked} tasks checked, {wrong + len(broken)} wrong; {len(absent)} not at hand\n")
    if wrong or broken:
        raise typer.Exit(int(Exit.FAILED))
    if not checked:
        raise MetalmError("nothing was checked", remedy="give --data-root DIR, or METALM_DATA; --hub downloads")


def _chosen(
    names: Sequence[str], clusters: Sequence[str], folders: Sequence[Path]
) -> tuple[Cards, list[Card], list[MetalmError]]:
    """The cards to check, and what is wrong with those that cannot be read.

    Raises:
        MetalmError: A name is unknown, or nothing is chosen.
    """
    from metalm_cli.tasks import CLUSTERS, Cards, is_path
    from metalm_cli.tasks.registry import GROUPS

    known = Cards([*folders, *(name for name in names if is_path(name))])
    wanted: list[str] = []
    for name in names or known.names:
        if is_path(name):
            wanted += known.at(name)
        elif name in (*GROUPS, *CLUSTERS) and name not in known.paths:
            wanted += [card.name for card in known.select([name], all_cards=True)]
        elif name in known.paths:
            wanted.append(name)
        else:
            known[name]  # says which name is near
    cards, broken = [], []
    for name in dict.fromkeys(wanted):
        try:
            cards.append(known[name])
        except MetalmError as error:
            broken.append(error)
    return known, _of_clusters(cards, clusters), broken


def _fits(card: Card) -> Callable[[Example], None] | None:
    """What the metric of a card asks of each example; None: nothing."""
    if card.metric.name in ALWAYS_FIT:
        return None
    from metalm_cli.evaluation.metrics import task_metrics

    def fits(example: Example) -> None:
        task_metrics.check_metric(card.metric.name, [example])

    return fits


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="A CSV with a header, or JSON lines (.jsonl, .jsonl.gz, .jsonl.zst).")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the task; default the file's.")] = None,
    cluster: Annotated[str, typer.Option("--cluster", help="Its cluster; one of your own will do.")] = "misc",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of cards to write into.")] = Path("cards"),
) -> None:
    """Draft a card and its templates from the columns of a data file; what was guessed stands in comments.

    Writes DIR/NAME.yaml and DIR/templates/NAME.yaml, then checks the card. Nothing is overwritten.
    """
    from metalm_cli.data.examples.card_check import check_card
    from metalm_cli.tasks import Cards
    from metalm_cli.tasks.natural_instructions import slug, task_name

    task = name if name is not None else task_name(file)
    for given in (task, cluster):
        if given != slug(given):
            raise MetalmError(
                f"{given!r} is no name", why="small letters, digits and _", remedy=f"did you mean {slug(given)}?"
            )
    if task in Cards().paths:
        raise MetalmError(f"a shipped task is named {task}", remedy="give another --name")
    card, notes = _write_draft(file, task, cluster, out)
    for note in notes:
        console.stdout().print(note, markup=False, soft_wrap=True)
    known = Cards([card])
    found = check_card(known[task], fits=_fits(known[task]), beside=card)
    print_check(found, None)
    console.write(f"next: read {card} and correct it; metalm finetune single data.tasks=[{card}]\n")
    if found.problems:
        raise typer.Exit(int(Exit.FAILED))


def _write_draft(file: Path, task: str, cluster: str, out: Path) -> tuple[Path, tuple[str, ...]]:
    """Write both files of a draft; the card's path and what was guessed.

    Raises:
        MetalmError: The file cannot be read, no card can be drafted, or a file is there already.
    """
    from metalm_cli.config.locate import display
    from metalm_cli.tasks.card_draft import draft

    card, templates = out / f"{task}.yaml", out / "templates" / f"{task}.yaml"
    for path in (card, templates):
        if path.exists():
            raise MetalmError(
                f"{path.name} is there already",
                where=display(path),
                remedy="remove it, or give another --name or --out",
            )
    made = draft(_rows(file), name=task, cluster=cluster, file=_relative(file, out), source=file.name)
    try:
        templates.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((templates, made.templates), (card, made.card)):
            with path.open("x", encoding="utf-8") as written:
                written.write(text)
    except (OSError, UnicodeEncodeError) as error:
        raise MetalmError("a card cannot be written", where=display(out), why=str(error)) from error
    console.write(f"wrote {display(card)}\nwrote {display(templates)}\n")
    return card, made.notes


def _rows(file: Path) -> list[Any]:
    from metalm_cli.common.cache import cache_folder
    from metalm_cli.common.jsonl_files import SUFFIXES
    from metalm_cli.data.sources.jsonl import JsonlTable, prepare
    from metalm_cli.data.sources.row_tables import CsvRows

    if file.suffix == ".csv":
        table: CsvRows | JsonlTable = CsvRows(file)
    elif file.name.endswith(SUFFIXES):
        table = JsonlTable([prepare(file, cache_folder())])
    else:
        raise MetalmError(
            "a card is drafted from a CSV or from JSON lines",
            where=str(file),
            why=f"expected a file named *.csv, *{', *'.join(SUFFIXES)}",
        )
    return [table.load(row) for row in range(table.rows)]


def _relative(file: Path, out: Path) -> str:
    """The file as seen from the card; absolute where they have little in common."""
    found = os.path.relpath(file.resolve(), out.resolve())
    return found.replace(os.sep, "/") if found.count("..") <= 2 else str(file.resolve())
