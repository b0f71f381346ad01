"""``metalm tasks``: list, show, check and draft task cards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.data.task_check import CardCheck, SplitCheck
    from metalm_cli.tasks import Card, Cards, Example

CONTEXT = {"help_option_names": ["-h", "--help"]}
SHOWN = 2
"""Examples that ``show`` prints."""
CLASSES = 12
"""Classes of a distribution that are printed."""
TEXT = 400
"""Characters of a text that ``show`` prints."""
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
    from metalm_cli.data.examples import at_hand
    from metalm_cli.tasks import Cards

    known = Cards(cards or ())
    chosen = _of_clusters(known.all(), cluster or ())
    rows = []
    for card in chosen:
        if core and not card.core:
            continue
        here = [role for role in card.splits if at_hand(card, role, data_root, known.paths[card.name])]
        kind = "core" if card.core else "world" if card.world is not None else "extra"
        data = ", ".join(here) or ("hub" if card.hub is not None else "missing")
        rows.append((card.cluster, card.name, kind, card.use, card.metric.name, _kind(card), data, card.description))
    rows.sort(key=lambda row: [one.cluster for one in chosen].index(row[0]))
    console.table(("cluster", "task", "kind", "use", "metric", "answer", "data", "description"), rows)


def _of_clusters(cards: Sequence[Card], clusters: Sequence[str]) -> list[Card]:
    known = dict.fromkeys(card.cluster for card in cards)
    for name in clusters:
        if name not in known:
            raise MetalmError(f"no cluster is named {name}", remedy=f"name one of {', '.join(known)}")
    return [card for card in cards if not clusters or card.cluster in clusters]


def _kind(card: Card) -> str:
    if card.answer.label is not None:
        return f"{len(card.answer.names)} classes"
    return "options" if card.answer.options is not None else "open"


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
        _show(known[name], known.paths[name], data_root)


def _show(card: Card, path: Path, data_root: Path | None) -> None:
    from metalm_cli.recipes.find import display

    lines = [("task", f"{card.name}: {card.description}"), ("card", display(path))]
    kind = "one of the paper's" if card.core else "not one of the paper's"
    lines += [("cluster", card.cluster + (f"; tags {', '.join(card.tags)}" if card.tags else ""))]
    lines += [("use", {"train+eval": "train and evaluate", "eval": "evaluate only"}[card.use] + f"; {kind}")]
    lines += [("source", _source(card))]
    lines += [("field", f"{name} = {source}") for name, source in card.fields.items()]
    lines += [("answer", text) for text in _answer(card)]
    if card.where is not None:
        lines += [("left out", f"rows that are not: {card.where}")]
    if card.long is not None:
        lines += [("long", f"{card.long.field} alone is cut, at its {card.long.cut}, where a session is too long")]
    lines += [("metric", f"{card.metric.name} ({card.metric.source})"), ("shots", f"from {card.demonstrations}")]
    lines += [("language", card.language), ("licence", card.licence), ("citation", card.citation)]
    lines += [("templates", _templates(card))]
    examples: list[Example] = []
    for role, split in card.splits.items():
        text, found = _split(card, role, path, data_root)
        lines += [("split", f"{role} = {split}: {text}")]
        examples = examples or found
    for example in examples:
        lines += _example(example)
    _print(lines)


def _source(card: Card) -> str:
    if card.hub is not None:
        parts = [f"hub {card.hub.id}", card.hub.config or "", f"at {card.hub.revision}" if card.hub.revision else ""]
        return " ".join(part for part in parts if part)
    return f"the miniature world, {card.world}" if card.world is not None else f"file {card.file}"


def _answer(card: Card) -> list[str]:
    answer = card.answer
    if answer.label is not None:
        words = ", ".join(f"{name} -> {answer.words[name]}" for name in answer.names)
        return [f"class {answer.label}, by id: {words}"]
    lines = [f"options {answer.options}"] if answer.options is not None else []
    lines += [f"number {answer.index} of the options, from 0" if answer.index is not None else f"text {answer.text}"]
    return [*lines, f"reasoning {answer.rationale}"] if answer.rationale is not None else lines


def _templates(card: Card) -> str:
    from metalm_cli.templates import Collection, collections

    found = []
    for name in collections():
        try:
            templates = Collection(name).of(card)
        except MetalmError as error:
            found.append(f"{name}: {'none' if 'has no templates' in error.what else error.what}")
            continue
        turned = sum(one.turned for one in templates)
        found.append(f"{name}: {len(templates)}" + (f" ({turned} turned around)" if turned else ""))
    return ", ".join(found)


def _split(card: Card, role: str, path: Path, data_root: Path | None) -> tuple[str, list[Example]]:
    """How many rows a split has and where, and its first examples; no examples where it is not at hand."""
    from metalm_cli.data.examples import at_hand, open_examples

    if not at_hand(card, role, data_root, path):
        return "not at hand", []
    try:
        opened = open_examples(card, role, data_root=data_root, offline=True, beside=path)
        return f"{len(opened):,} rows in {opened.location}", list(islice(opened, SHOWN))
    except MetalmError as error:
        return f"wrong: {error.what}" + (f" ({error.where}: {error.why})" if error.why else ""), []


def _example(example: Example) -> list[tuple[str, str]]:
    lines = [("", ""), ("example", f"row {example.row}")]
    lines += [(name, text) for name, text in example.fields.items()]
    lines += [("options", " | ".join(example.options))] if example.options else []
    lines += [("answer", " | ".join(dict.fromkeys(example.answers)))]
    return [*lines, ("reasoning", example.rationale)] if example.rationale else lines


def _print(lines: Sequence[tuple[str, str]]) -> None:
    from rich.text import Text

    width = max(len(label) for label, _ in lines)
    last = ""
    for label, text in lines:
        text = text if len(text) <= TEXT else f"{text[:TEXT]} ... ({len(text):,} characters)"
        shown = Text(f"{'' if label == last else label:<{width}}  ", style="cyan")
        shown.append(console.visible(text).replace("\n", "\n" + " " * (width + 2)), style="not cyan default")
        console.stdout().print(shown, soft_wrap=True)
        last = label


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
    from metalm_cli.data.task_check import check_card

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
        _print_check(found, rows)
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
    from metalm_cli.tasks.find import GROUPS

    known = Cards([*folders, *(name for name in names if is_path(name))])
    wanted: list[str] = []
    for name in names or known.names:
        if is_path(name):
            wanted += known.at(name)
        elif name in (*GROUPS, *CLUSTERS) and name not in known.paths:
            wanted += [card.name for card in known.choose([name], extras=True)]
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
    from metalm_cli.evaluation import metrics

    def fits(example: Example) -> None:
        metrics.fits(card.metric.name, [example])

    return fits


def _print_check(found: CardCheck, rows: int | None) -> None:
    from rich.text import Text

    card = found.card
    head = Text(card.name, style="bold")
    head.append(f"  {card.cluster}, {_kind(card)}", style="not bold dim")
    if found.absent:
        head.append(f"; not at hand: {', '.join(found.absent)}", style="not bold dim")
    say = partial(console.stdout().print, soft_wrap=True)
    say(head)
    for split in found.splits:
        out = f", {split.left_out:,} left out" if split.left_out else ""
        first = "the first " if rows is not None and split.rows == rows else ""
        say(Text(console.visible(f"  {split.role}: {first}{split.rows:,} rows{out}, {split.location}")))
        for line in _facts(split, card):
            say(Text(console.visible(f"    {line}"), style="dim"))
        for problem in split.problems:
            say(Text(console.visible("    wrong: " + "\n    ".join(str(problem).splitlines())), style="red"))
        if split.wrong > len(split.problems):
            say(Text(f"    ... and {split.wrong - len(split.problems):,} more rows", style="red"))


def _facts(split: SplitCheck, card: Card) -> list[str]:
    from metalm_cli.data.task_check import never

    lines = []
    total = sum(split.labels.values())
    if total:
        shown = split.labels.most_common(CLASSES)
        more = f", and {len(split.labels) - CLASSES} more" if len(split.labels) > CLASSES else ""
        lines.append("answers: " + ", ".join(f"{name} {count / total:.1%}" for name, count in shown) + more)
    missing = never(split, card.words)
    if missing:
        lines.append(f"no row is {', '.join(missing)}")
    lengths = "; ".join(f"{name} {one.median:,}/{one.high:,}/{one.most:,}" for name, one in split.lengths.items())
    return [*lines, f"characters: {lengths}"] if lengths else lines
