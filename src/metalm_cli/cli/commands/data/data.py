"""``metalm data``: mirror hub data sets, list local data sets, clean up."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_recipe, complete_task_or_group
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS, AllCards, CardFolders, DataRoot
from metalm_cli.common.paths import expand_user
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.data.mirrors.mirror import MirrorRequest, MirrorResult


app = typer.Typer(
    help="Mirror hub data sets, list local data sets, clean up.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=CONTEXT_SETTINGS,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Tasks, clusters or groups (core, non_core, world, lexical, all).",
        autocompletion=complete_task_or_group,
    ),
]


@app.command()
def mirror(
    names: Names = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="Mirror the sources or tasks of this recipe; repeatable.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    data_root: DataRoot = None,
    cards: CardFolders = None,
    all_cards: AllCards = False,
    offline: Annotated[bool, typer.Option("--offline", help="Copy only what the hub's cache holds.")] = False,
) -> None:
    """Copy hub data sets into the data root, as DIR/<name>/<split>.jsonl.gz with class names and a MANIFEST.json.

    Complete copies are not downloaded again. Folders that metalm did not write are not changed.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries
    from metalm_cli.data.mirrors.mirror import mirror as write_mirror

    if not names and not recipe:
        raise MetalmError("no data set is named", remedy="name tasks, a cluster or core; or pass --recipe RECIPE")
    root = _writable_root(data_root)
    requests, names_without_hub = _mirror_requests(names or [], recipe or [], cards or [], all_cards)
    if not requests:
        raise MetalmError("none of these data sets is on the hub", why=", ".join(names_without_hub))
    for name in names_without_hub:
        console.stderr().print(f"{name} is not on the hub", markup=False, soft_wrap=True)
    silence_libraries(offline)
    failure_count = 0
    with console.stderr().status("") as status:

        def progress(name: str, split: str, rows: int) -> None:
            status.update(f"{name} {split}: {rows:,} rows")

        for request in requests:
            status.update(request.name)
            try:
                for result in write_mirror(request, root, offline=offline, progress=progress):
                    _print_result(result, root)
            except MetalmError as error:
                failure_count += 1
                console.show_error(error)
    if failure_count:
        console.write(f"{failure_count} of {len(requests)} data sets could not be mirrored\n")
        raise typer.Exit(int(Exit.FAILED))


def _writable_root(data_root: Path | None) -> Path:
    """Data root, created if it does not exist."""
    variable = os.environ.get("METALM_DATA")
    root = data_root if data_root is not None else Path(variable) if variable else None
    if root is None:
        raise MetalmError("no data root is given", remedy="pass --data-root DIR, or set METALM_DATA")
    root = expand_user(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MetalmError(
            "the data root cannot be created", where=str(root), why=error.strerror or str(error)
        ) from error
    return root


def _mirror_requests(
    names: list[str], recipes: list[str], card_folders: list[Path], all_cards: bool
) -> tuple[list[MirrorRequest], list[str]]:
    """Select the hub data sets to mirror; also return the names of tasks and sources that are not on the hub."""
    from metalm_cli.config import resolve
    from metalm_cli.data.examples.task_selection import load_cards, select_tasks
    from metalm_cli.data.mirrors.mirror import request_for_card, request_for_source
    from metalm_cli.tasks import Cards

    requests = {card.name: request_for_card(card) for card in Cards(card_folders).select(names, all_cards)}
    for name in recipes:
        data = resolve(None, name).recipe.data
        if hasattr(data, "tasks"):
            selection = select_tasks(data, load_cards(data))
            requests.update({card.name: request_for_card(card) for card in (*selection.cards, *selection.held_out)})
            continue
        for source in (*data.sources, *(data.validation.sources or ())):
            requests[source.name] = request_for_source(source)
    return [request for request in requests.values() if request is not None], [
        name for name, request in requests.items() if request is None
    ]


def _print_result(result: MirrorResult, root: Path) -> None:
    from rich.filesize import decimal

    if result.state == "left alone":
        text = f"{result.name}: not changed: {root / result.name} holds a copy that metalm did not write"
    else:
        state = "written" if result.state == "written" else "already complete"
        text = f"{result.name} {result.split}: {state}, {result.rows:,} rows, {decimal(result.size)}"
    console.stdout().print(text, markup=False, soft_wrap=True)


@app.command("list")
def list_data(data_root: DataRoot = None) -> None:
    """List the data sets in the data root, and the folders of metalm's cache."""
    from rich.filesize import decimal

    from metalm_cli.common.cache import cache_folder
    from metalm_cli.data.mirrors.inventory import list_cache_folders, list_datasets
    from metalm_cli.data.sources.locate import data_folder

    root, cache = data_folder(data_root), cache_folder()
    rows = []
    for dataset in list_datasets(root) if root is not None else ():
        count = f"{dataset.rows:,}" if dataset.rows is not None else "?"
        rows.append(
            (dataset.name, ", ".join(dataset.splits), count, decimal(dataset.size), dataset.origin or "another copy")
        )
    for folder in list_cache_folders(cache):
        files = f"{folder.files:,} {'file' if folder.files == 1 else 'files'}"
        rows.append((f"cache: {folder.name}", folder.content, files, decimal(folder.size), str(cache / folder.name)))
    console.print_table(("data set", "splits", "rows", "size", "from"), rows)
    if root is None:
        console.stderr().print("no data root is given (--data-root, METALM_DATA)", markup=False)


@app.command()
def clean(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Mirrored data sets to remove. Default: clean the cache."),
    ] = None,
    data_root: DataRoot = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove the cache (unpacked copies and indexes, which are created again when needed), or mirrors by name.

    Files in the data root are removed only for mirrors that are named; copies that metalm did not write are kept.
    """
    from rich.filesize import decimal

    from metalm_cli.common.cache import cache_folder
    from metalm_cli.data.mirrors.inventory import clean_cache, find_dataset, list_cache_folders, remove_mirror
    from metalm_cli.data.sources.locate import data_folder

    if names:
        root = data_folder(data_root)
        if root is None:
            raise MetalmError("no data root is given", remedy="pass --data-root DIR, or set METALM_DATA")
        datasets = find_dataset(root, names)
        size = sum(dataset.size for dataset in datasets)
        _confirm(f"remove {', '.join(dataset.name for dataset in datasets)} ({decimal(size)}) from {root}?", yes)
        files = sum(remove_mirror(root, dataset.name) for dataset in datasets)
    else:
        cache = cache_folder()
        size = sum(folder.size for folder in list_cache_folders(cache))
        if not list_cache_folders(cache):
            console.write(f"the cache is empty: {cache}\n")
            return
        _confirm(f"remove {decimal(size)} of unpacked copies and indexes from {cache}?", yes)
        files = clean_cache(cache)
    console.write(f"{files} files removed, {decimal(size)}\n")


def _confirm(question: str, confirmed: bool) -> None:
    """Ask for confirmation; a no ends the command.

    Raises:
        MetalmError: Standard input is not a terminal.
    """
    if confirmed:
        return
    if not sys.stdin.isatty():
        raise MetalmError("the command needs confirmation", why=question, remedy="run it in a terminal, or pass --yes")
    typer.confirm(question, abort=True)
