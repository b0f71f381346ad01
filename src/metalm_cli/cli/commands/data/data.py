"""``metalm data``: mirror hub data sets, list what is at hand, clean up."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.data.mirrors.mirror import MirrorRequest, MirrorResult

CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Mirror data sets, list what is at hand, clean up.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=CONTEXT,
)

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Tasks, clusters or groups.")]


@app.command()
def mirror(
    names: Names = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", metavar="RECIPE", help="The data of this recipe: its sources, or its tasks."),
    ] = None,
    data_root: DataRoot = None,
    cards: Annotated[
        list[Path] | None, typer.Option("--cards", metavar="DIR", help="Also know the task cards in this folder.")
    ] = None,
    all_cards: Annotated[
        bool, typer.Option("--all-cards", help="Clusters also stand for cards that are not core.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only what the hub's cache holds.")] = False,
) -> None:
    """Copy hub data below the data root: DIR/<name>/<split>.jsonl.gz, its class names, and MANIFEST.json.

    What is there and whole is not downloaded again. A folder that metalm did not write is left alone.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries
    from metalm_cli.data.mirrors.mirror import mirror as write

    if not names and not recipe:
        raise MetalmError("nothing is named", remedy="name tasks, a cluster or core; or give --recipe RECIPE")
    root = _root_to_write(data_root)
    wanted, without = _wanted(names or [], recipe or [], cards or [], all_cards)
    if not wanted:
        raise MetalmError("nothing of this is on the hub", why=", ".join(without))
    for name in without:
        console.stderr().print(f"{name} is not on the hub", markup=False, soft_wrap=True)
    silence_libraries(offline)
    failed = 0
    with console.stderr().status("") as status:

        def progress(name: str, split: str, rows: int) -> None:
            status.update(f"{name} {split}: {rows:,} rows")

        for one in wanted:
            status.update(one.name)
            try:
                for done in write(one, root, offline=offline, progress=progress):
                    _print_done(done, root)
            except MetalmError as error:
                failed += 1
                console.show_error(error)
    if failed:
        console.write(f"{failed} of {len(wanted)} data sets could not be mirrored\n")
        raise typer.Exit(int(Exit.FAILED))


def _root_to_write(given: Path | None) -> Path:
    """The data root; made if it does not exist."""
    variable = os.environ.get("METALM_DATA")
    root = given if given is not None else Path(variable) if variable else None
    if root is None:
        raise MetalmError("no data root is given", remedy="give --data-root DIR, or METALM_DATA")
    root = root.expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MetalmError("the data root cannot be made", where=str(root), why=error.strerror or str(error)) from error
    return root


def _wanted(
    names: list[str], recipes: list[str], folders: list[Path], all_cards: bool
) -> tuple[list[MirrorRequest], list[str]]:
    """Hub data by folder, and names of what has none."""
    from metalm_cli.config import resolve
    from metalm_cli.data.examples.task_selection import load_cards, select_tasks
    from metalm_cli.data.mirrors.mirror import wanted_by_card, wanted_by_source
    from metalm_cli.tasks import Cards

    found = {card.name: wanted_by_card(card) for card in Cards(folders).select(names, all_cards)}
    for name in recipes:
        data = resolve(None, name).recipe.data
        if hasattr(data, "tasks"):
            chosen = select_tasks(data, load_cards(data))
            found.update({card.name: wanted_by_card(card) for card in (*chosen.cards, *chosen.held_out)})
            continue
        for source in (*data.sources, *(data.validation.sources or ())):
            found[source.name] = wanted_by_source(source)
    return [one for one in found.values() if one is not None], [name for name, one in found.items() if one is None]


def _print_done(done: MirrorResult, root: Path) -> None:
    from rich.filesize import decimal

    if done.state == "left alone":
        text = f"{done.name}: left alone: {root / done.name} holds a copy that metalm did not write"
    else:
        said = "written" if done.state == "written" else "there and whole"
        text = f"{done.name} {done.split}: {said}, {done.rows:,} rows, {decimal(done.size)}"
    console.stdout().print(text, markup=False, soft_wrap=True)


@app.command("list")
def list_data(data_root: DataRoot = None) -> None:
    """List the data sets below the data root, and what the cache holds of them."""
    from rich.filesize import decimal

    from metalm_cli.common.cache import cache_folder
    from metalm_cli.data.mirrors.inventory import list_cache_folders, list_datasets
    from metalm_cli.data.sources.locate import data_folder

    root, cache = data_folder(data_root), cache_folder()
    rows = []
    for one in list_datasets(root) if root is not None else ():
        count = f"{one.rows:,}" if one.rows is not None else "?"
        rows.append((one.name, ", ".join(one.splits), count, decimal(one.size), one.origin or "another copy"))
    for kept in list_cache_folders(cache):
        files = f"{kept.files:,} {'file' if kept.files == 1 else 'files'}"
        rows.append((f"cache: {kept.name}", kept.holds, files, decimal(kept.size), str(cache / kept.name)))
    console.table(("data set", "splits", "rows", "size", "from"), rows)
    if root is None:
        console.stderr().print("no data root is given (--data-root, METALM_DATA)", markup=False)


@app.command()
def clean(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Mirrored data sets to remove; left out: the cache.")
    ] = None,
    data_root: DataRoot = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the cache's unpacked copies and indexes, which are made again when needed; or mirrors, by name.

    Files below the data root go only where a mirror is named; copies that metalm did not write never do.
    """
    from rich.filesize import decimal

    from metalm_cli.common.cache import cache_folder
    from metalm_cli.data.mirrors.inventory import clean_cache, find_dataset, list_cache_folders, remove_mirror
    from metalm_cli.data.sources.locate import data_folder

    if names:
        root = data_folder(data_root)
        if root is None:
            raise MetalmError("no data root is given", remedy="give --data-root DIR, or METALM_DATA")
        chosen = find_dataset(root, names)
        size = sum(one.size for one in chosen)
        _ask(f"remove {', '.join(one.name for one in chosen)} ({decimal(size)}) from {root}?", yes)
        files = sum(remove_mirror(root, one.name) for one in chosen)
    else:
        cache = cache_folder()
        size = sum(kept.size for kept in list_cache_folders(cache))
        if not list_cache_folders(cache):
            console.write(f"the cache is empty: {cache}\n")
            return
        _ask(f"remove {decimal(size)} of unpacked copies and indexes from {cache}?", yes)
        files = clean_cache(cache)
    console.write(f"{files} files removed, {decimal(size)}\n")


def _ask(question: str, yes: bool) -> None:
    """Go on after a yes.

    Raises:
        MetalmError: Nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise MetalmError("nobody can be asked", why=question, remedy="run it in a terminal, or with --yes")
    typer.confirm(question, abort=True)
