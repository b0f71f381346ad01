"""``metalm templates``: list, show, lint and import templates."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from rich.text import Text

    from metalm_cli.tasks import Card, Cards, Example
    from metalm_cli.templates import Collection, Prompt, Template
    from metalm_cli.templates.importers import Report
    from metalm_cli.templates.lint.rules import Finding

CONTEXT = {"help_option_names": ["-h", "--help"]}
ROLES = ("validation", "test", "train")
"""Splits that the linter looks for rows in, in this order."""
DOCKED, TARGET = "white on blue", "green"

app = typer.Typer(
    help="List, show, lint and import templates.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT
)

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
]
CardFolders = Annotated[
    list[Path] | None, typer.Option("--cards", metavar="DIR", help="Also know the task cards in this folder.")
]


@app.command("list")
def list_templates(
    collection: Annotated[
        str | None, typer.Argument(help="A collection, by name or folder; left out: all shipped ones.")
    ] = None,
) -> None:
    """List collections; of one, how many templates each data set has, turned around, with options."""
    from metalm_cli.templates import Collection, collections, read_templates

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if collection is None:
        heads = ("collection", "data sets", "templates")
        rows = []
        for name in collections():
            files = [read_templates(path) for path in sorted(Collection(name).folder.glob("*.yaml"))]
            rows.append((name, str(len(files)), str(sum(len(file.templates) for file in files))))
    else:
        heads = ("data set", "templates", "turned", "with options", "description")
        rows = []
        for path in sorted(Collection(collection).folder.glob("*.yaml")):
            file = read_templates(path)
            counts = (
                len(file.templates),
                sum(one.inverted for one in file.templates),
                sum(one.lists_options for one in file.templates),
            )
            rows.append((path.stem, *map(str, counts), file.description or file.origin))
    console.table(heads, rows)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="A task, by name.")],
    collection: Annotated[str, typer.Option("--collection", "-c", help="A collection, by name or folder.")] = "flan",
    template: Annotated[str | None, typer.Option("--template", "-t", help="One template, by name.")] = None,
    row: Annotated[int, typer.Option("--row", min=0, help="Row of the split, from 0.")] = 0,
    split: Annotated[str, typer.Option("--split", help="Role of the split: train, validation, test.")] = "validation",
    data_root: DataRoot = None,
    cards: CardFolders = None,
) -> None:
    """Show a task's templates on a row of its data: what is docked, and what is to be said.

    Without data at hand, the templates themselves are shown.
    """
    from metalm_cli.tasks import Cards
    from metalm_cli.templates import Collection

    known = Cards(cards or ())
    card, found = known[task], Collection(collection)
    wanted = _chosen(found, card, template)
    try:
        example = _row(known, card, split, row, data_root)
    except MetalmError as error:
        example = None
        console.stderr().print(f"no row is shown: {error.what}", soft_wrap=True, markup=False)
    for one in wanted:
        _print_template(one, example)


def _chosen(collection: Collection, card: Card, name: str | None) -> list[Template]:
    found = collection.of(card)
    if name is None:
        return found
    for one in found:
        if one.name == name:
            return [one]
    names = ", ".join(one.name for one in found)
    raise MetalmError(f"{card.name} has no template {name} in {collection.name}", remedy=f"name one of {names}")


def _row(cards: Cards, card: Card, split: str, row: int, data_root: Path | None) -> Example:
    from metalm_cli.data.examples.open_examples import open_examples

    examples = open_examples(card, split, data_root=data_root, offline=True, beside=cards.paths[card.name])
    found = next(islice(examples, row, None), None) if row < len(examples) else None
    if found is None:
        raise MetalmError(f"the {split} split of {card.name} has no row {row}", where=examples.location)
    return found


def _print_template(template: Template, example: Example | None) -> None:
    from rich.text import Text

    from metalm_cli.templates import render

    head = Text(template.name, style="bold")
    head.append("  (turned around)" if template.inverted else "", style="not bold dim")
    lines = [head]
    if example is None:
        for part in template.pieces:
            lines += _block("docked" if part.route == "encoder" else "read", part.text, part.route == "encoder")
        lines += _block("target", template.target, None)
    else:
        lines += _rendered(render(example, template))
    for line in [*lines, Text("")]:
        console.stdout().print(line, soft_wrap=True)


def _rendered(prompt: Prompt) -> list[Text]:
    lines = []
    for piece in prompt.pieces:
        lines += _block(f"docked {piece.encoder}" if piece.encoder else "read", piece.text, bool(piece.encoder))
    return lines + _block("target", prompt.target, None)


def _block(label: str, text: str, docked: bool | None) -> list[Text]:
    """Lines behind a label; docked ones highlighted, a target (None) in its own colour."""
    from rich.text import Text

    style = TARGET if docked is None else DOCKED if docked else ""
    lines = []
    for at, line in enumerate(text.split("\n")):
        shown = Text(f"  {label if at == 0 else '':<12} | ", style="dim")
        shown.append(console.escape_markup(line), style=f"not dim {style}")
        lines.append(shown)
    return lines


@app.command()
def lint(
    collection: Annotated[
        str | None, typer.Argument(help="A collection, by name or folder; left out: all shipped ones.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Only this task, cluster or group.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows of each task that are rendered; 0: none.")] = 100,
    data_root: DataRoot = None,
    cards: CardFolders = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
) -> None:
    """Find what is wrong with templates. Exits with 1 if an error is found.

    Rules on the wording need no data; others render rows, where the data is at hand.
    """
    from metalm_cli.tasks import Cards
    from metalm_cli.templates import Collection, collections
    from metalm_cli.templates.lint.linter import lint_collection

    known = Cards(cards or ())
    chosen = known.select(task) if task else known.all()
    reader = _Rows(known, rows, data_root)
    findings: list[Finding] = []
    for name in [collection] if collection is not None else collections():
        findings += lint_collection(Collection(name), chosen, reader if rows else None, others=not task)
    for finding in dict.fromkeys(findings):
        _print_finding(finding)
    counts = Counter(finding.severity for finding in dict.fromkeys(findings))
    console.write(f"{counts['error']} errors, {counts['warning']} warnings; {reader.summary()}\n")
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(int(Exit.FAILED))


class _Rows:
    """The first rows of cards, kept; none where the data is not at hand.

    Args:
        cards: All cards, for where they lie.
        count: Rows of each.
        data_root: ``--data-root``.
    """

    def __init__(self, cards: Cards, count: int, data_root: Path | None) -> None:
        self.cards, self.count, self.data_root = cards, count, data_root
        self.found: dict[str, list[Example]] = {}

    def __call__(self, card: Card) -> list[Example]:
        if card.name not in self.found:
            self.found[card.name] = self._read(card)
        return self.found[card.name]

    def _read(self, card: Card) -> list[Example]:
        from metalm_cli.data.examples.open_examples import open_examples
        from metalm_cli.data.sources.locate import data_folder

        if card.hub is not None and data_folder(self.data_root) is None:
            return []
        for role in ROLES:
            try:
                opened = open_examples(
                    card, role, data_root=self.data_root, offline=True, beside=self.cards.paths[card.name]
                )
            except MetalmError:
                continue
            return list(islice(opened, self.count))
        return []

    def summary(self) -> str:
        """What was rendered."""
        read = [name for name, rows in self.found.items() if rows]
        without = [name for name, rows in self.found.items() if not rows]
        if not read:
            asked = "" if self.count == 0 else " (no data is at hand: give --data-root, or METALM_DATA)"
            return f"no rows were rendered{asked}"
        missing = f"; without data: {', '.join(without)}" if without else ""
        return f"rows of {len(read)} tasks were rendered{missing}"


def _print_finding(finding: Finding) -> None:
    from rich.text import Text

    head = Text(f"{finding.where or finding.collection}: ", style="dim")
    head.append(f"{finding.severity} {finding.rule}", style="not dim red" if finding.severity == "error" else "yellow")
    who = " ".join(part for part in (finding.task, finding.template) if part)
    head.append(
        console.escape_markup(f": {who}: {finding.message}" if who else f": {finding.message}"), style="not dim"
    )
    head.append(f"\n  remedy: {finding.remedy}", style="not dim cyan")
    console.stdout().print(head, soft_wrap=True)


@app.command("import")
def import_(
    format: Annotated[
        str, typer.Argument(metavar="flan|promptsource|natural-instructions", help="What it comes from.")
    ],
    path: Annotated[Path, typer.Argument(help="A file, or a folder of files.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The collection to be written.")],
    cards: CardFolders = None,
) -> None:
    """Import templates of another toolkit; what does not pass the linter stays out, with the reason.

    Files are parsed in a process without network and with little memory and time; nothing in them is executed.
    """
    from metalm_cli.tasks import Cards
    from metalm_cli.templates.importers import import_templates

    known = {card.name: card for card in Cards(cards or ()).all()}
    with console.stderr().status("reading"):
        report = import_templates(format, path, out, known)
    _print_report(report)


def _print_report(report: Report) -> None:
    from rich.text import Text

    notes: Counter[str] = Counter()
    for file in report.files:
        serves = f" for {file.card}" if file.card else ""
        console.write(console.escape_markup(f"{file.name}.yaml: {len(file.templates)} templates{serves}\n"))
        for template, note in file.notes:
            shown = f"  note: {template}: {note}" if template else f"  note: {note}"
            notes[note] += 1
            if notes[note] <= 3:
                console.stdout().print(Text(console.escape_markup(shown), style="dim"), soft_wrap=True)
    for origin, template, reason in report.refused:
        shown = f"refused: {' '.join(part for part in (origin, template) if part)}: {reason}"
        console.stdout().print(Text(console.escape_markup(shown), style="yellow"), soft_wrap=True)
    hidden = sum(count - 3 for count in notes.values() if count > 3)
    total = sum(len(file.templates) for file in report.files)
    more = f", {hidden} more notes like these" if hidden else ""
    console.write(f"{total} templates in {len(report.files)} files in {report.folder}; ")
    console.write(f"{len(report.refused)} refused{more}\n")
