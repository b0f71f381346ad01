"""``metalm templates``: list, show, lint and import templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import (
    complete_choice,
    complete_collection,
    complete_importer,
    complete_task,
    complete_task_or_group,
    complete_template,
)
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS, CardFolders, DataRoot
from metalm_cli.common.table import counted
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from rich.text import Text

    from metalm_cli.tasks import Card, Cards, Example
    from metalm_cli.templates import Prompt, Template
    from metalm_cli.templates.importers import ImportReport
    from metalm_cli.templates.lint.rules import Finding

SPLIT_ROLES = ("validation", "test", "train")
"""Splits that the linter reads rows from; the first one that is available is used."""
DOCKED_STYLE, TARGET_STYLE = "white on blue", "green"

app = typer.Typer(
    help="List, show, lint and import templates.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=CONTEXT_SETTINGS,
)


@app.command("list")
def list_templates(
    collection: Annotated[
        str | None,
        typer.Argument(
            help="A collection, by name or folder. Default: all shipped ones.", autocompletion=complete_collection
        ),
    ] = None,
) -> None:
    """List template collections, or the template counts of one collection (all, inverted, with options)."""
    from metalm_cli.templates import TemplateCollection, collection_names, read_templates

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if collection is None:
        headers = ("collection", "data sets", "templates")
        rows = []
        for name in collection_names():
            files = [read_templates(path) for path in sorted(TemplateCollection(name).folder.glob("*.yaml"))]
            rows.append((name, str(len(files)), str(sum(len(file.templates) for file in files))))
    else:
        headers = ("data set", "templates", "inverted", "with options", "description")
        rows = []
        for path in sorted(TemplateCollection(collection).folder.glob("*.yaml")):
            file = read_templates(path)
            counts = (
                len(file.templates),
                sum(template.inverted for template in file.templates),
                sum(template.lists_options for template in file.templates),
            )
            rows.append((path.stem, *map(str, counts), file.description or file.origin))
    console.print_table(headers, rows)


@app.command()
def show(
    task: Annotated[
        str, typer.Argument(help="A task, by name or path; or a template file.", autocompletion=complete_task)
    ],
    collection: Annotated[
        str,
        typer.Option("--collection", "-c", help="A collection, by name or folder.", autocompletion=complete_collection),
    ] = "flan",
    template: Annotated[
        str | None,
        typer.Option("--template", "-t", help="Only this template.", autocompletion=complete_template),
    ] = None,
    row: Annotated[int, typer.Option("--row", min=0, help="Row of the split, counted from 0.")] = 0,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="Split, by its role: train, validation or test.",
            autocompletion=complete_choice("train|validation|test"),
        ),
    ] = "validation",
    data_root: DataRoot = None,
    cards: CardFolders = None,
) -> None:
    """Show a task's templates, rendered for one row of its data: docked text, decoder text and target.

    Without local data, the templates are shown unrendered.
    """
    from metalm_cli.tasks import Cards, is_path
    from metalm_cli.templates import TemplateCollection, read_templates

    if is_path(task):
        path, card, registry = _file_and_card(Path(task), collection, cards or ())
        templates = _select_templates(read_templates(path).templates, template, path.name)
    else:
        registry = Cards(cards or ())
        card = registry[task]
        templates = _select_templates(TemplateCollection(collection).templates_for(card), template, collection)
    try:
        if card is None:
            raise MetalmError(f"no card is named {Path(task).stem}; --cards names its file")
        example = _read_row(registry, card, split, row, data_root)
    except MetalmError as error:
        example = None
        console.stderr().print(f"templates are not rendered: {error.what}", soft_wrap=True, markup=False)
    for selected_template in templates:
        _print_template(selected_template, example)


def _select_templates(templates: list[Template], name: str | None, where: str) -> list[Template]:
    if name is None:
        return templates
    for template in templates:
        if template.name == name:
            return [template]
    names = ", ".join(template.name for template in templates)
    raise MetalmError(f"no template of {where} is named {name}", remedy=f"choose one of {names}")


def _file_and_card(path: Path, collection: str, card_folders: Sequence[Path]) -> tuple[Path, Card | None, Cards]:
    """Template file and card of a path: of a template file, or of a task.

    The card of a template file has its name; it is one of the cards, or a file of the folder above ``templates/``.

    Raises:
        MetalmError: The path is neither, or names several tasks.
    """
    from metalm_cli.tasks import Cards
    from metalm_cli.templates import TemplateCollection, is_template_file

    if is_template_file(path):
        path = path.absolute()
        beside = path.parent.parent / path.name
        own = [beside] if path.parent.name == "templates" and beside.is_file() else []
        registry = Cards([*card_folders, *own])
        return path, registry[path.stem] if path.stem in registry.paths else None, registry
    registry = Cards([*card_folders, path])
    names = registry.names_in_path(str(path))
    if len(names) > 1:
        raise MetalmError(
            f"{path} holds {len(names)} tasks", why=", ".join(names[:10]), remedy="name the file of one of them"
        )
    card = registry[names[0]]
    return TemplateCollection(collection).path_for(card), card, registry


def _read_row(cards: Cards, card: Card, split: str, row: int, data_root: Path | None) -> Example:
    from metalm_cli.data.examples.open_examples import open_examples

    examples = open_examples(card, split, data_root=data_root, offline=True, card_path=cards.paths[card.name])
    example = next(islice(examples, row, None), None) if row < len(examples) else None
    if example is None:
        raise MetalmError(f"the {split} split of {card.name} has no row {row}", where=examples.location)
    return example


def _print_template(template: Template, example: Example | None) -> None:
    from rich.text import Text

    from metalm_cli.templates import render

    heading = Text(template.name, style="bold")
    heading.append("  (inverted)" if template.inverted else "", style="not bold dim")
    lines = [heading]
    if example is None:
        for piece in template.input_parts:
            if piece.image is not None:
                lines += _labelled_lines(f"docked {piece.image_encoder}", f"image {piece.image}", True)
            if not piece.text:
                continue
            lines += _labelled_lines(
                "docked" if piece.route == "encoder" else "read", piece.text, piece.route == "encoder"
            )
        lines += _labelled_lines("target", template.target, None)
    else:
        lines += _render_lines(render(example, template))
    for line in [*lines, Text("")]:
        console.stdout().print(line, soft_wrap=True)


def _render_lines(prompt: Prompt) -> list[Text]:
    lines = []
    for piece in prompt.parts:
        lines += _labelled_lines(
            f"docked {piece.encoder}" if piece.encoder else "read", piece.label, bool(piece.encoder)
        )
    return lines + _labelled_lines("target", prompt.target, None)


def _labelled_lines(label: str, text: str, docked: bool | None) -> list[Text]:
    """Lines of a text behind a label; docked text is highlighted, a target (``docked`` None) is coloured."""
    from rich.text import Text

    style = TARGET_STYLE if docked is None else DOCKED_STYLE if docked else ""
    lines = []
    for index, line in enumerate(text.split("\n")):
        labelled_line = Text(f"  {label if index == 0 else '':<12} | ", style="dim")
        labelled_line.append(console.escape_markup(line), style=f"not dim {style}")
        lines.append(labelled_line)
    return lines


@app.command()
def lint(
    collection: Annotated[
        str | None,
        typer.Argument(
            help="A collection, by name or folder; or a template file or card. Default: all shipped ones.",
            autocompletion=complete_collection,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Only this task, cluster or group.", autocompletion=complete_task_or_group),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Number of rows to render for each task.")] = 100,
    data_root: DataRoot = None,
    cards: CardFolders = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings as well.")] = False,
) -> None:
    """Check templates for errors. Exits with 1 if there are any.

    Rules on the wording need no data; other rules render rows, for tasks with local data.
    """
    from metalm_cli.tasks import Cards
    from metalm_cli.templates import TemplateCollection, collection_names
    from metalm_cli.templates.lint.linter import lint_collection, lint_template_file

    findings: list[Finding] = []
    if collection is not None and Path(collection).is_file():
        path, card, registry = _file_and_card(Path(collection), "flan", cards or ())
        row_reader = _RowReader(registry, rows, data_root)
        examples = row_reader(card) if rows and card is not None else []
        findings += lint_template_file(path, card, examples)
    else:
        registry = Cards(cards or ())
        selected = registry.select(task) if task else registry.all()
        row_reader = _RowReader(registry, rows, data_root)
        for name in [collection] if collection is not None else collection_names():
            findings += lint_collection(
                TemplateCollection(name), selected, row_reader if rows else None, include_unserved=not task
            )
    for finding in dict.fromkeys(findings):
        _print_finding(finding)
    counts = Counter(finding.severity for finding in dict.fromkeys(findings))
    console.write(f"{counts['error']} errors, {counts['warning']} warnings; {row_reader.summary()}\n")
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(int(Exit.FAILED))


class _RowReader:
    """Reader of the first rows of each card, which are cached; cards without local data have no rows.

    Args:
        cards: All cards, with their paths.
        count: Number of rows per card.
        data_root: Folder of local data sets (``--data-root``).
    """

    def __init__(self, cards: Cards, count: int, data_root: Path | None) -> None:
        self.cards, self.count, self.data_root = cards, count, data_root
        self.examples: dict[str, list[Example]] = {}

    def __call__(self, card: Card) -> list[Example]:
        if card.name not in self.examples:
            self.examples[card.name] = self._read(card)
        return self.examples[card.name]

    def _read(self, card: Card) -> list[Example]:
        from metalm_cli.data.examples.open_examples import open_examples
        from metalm_cli.data.sources.locate import data_folder

        if card.hub is not None and data_folder(self.data_root) is None:
            return []
        for role in SPLIT_ROLES:
            try:
                examples = open_examples(
                    card, role, data_root=self.data_root, offline=True, card_path=self.cards.paths[card.name]
                )
            except MetalmError:
                continue
            return list(islice(examples, self.count))
        return []

    def summary(self) -> str:
        """Describe how many tasks had rows, and which had none."""
        names_with_rows = [name for name, rows in self.examples.items() if rows]
        names_without_rows = [name for name, rows in self.examples.items() if not rows]
        if not names_with_rows:
            reason = "" if self.count == 0 else " (no local data: pass --data-root, or set METALM_DATA)"
            return f"no rows were rendered{reason}"
        missing_note = f"; without data: {', '.join(names_without_rows)}" if names_without_rows else ""
        return f"rows of {counted(len(names_with_rows), 'task')} were rendered{missing_note}"


def _print_finding(finding: Finding) -> None:
    from rich.text import Text

    text = Text(f"{finding.where or finding.collection}: ", style="dim")
    text.append(f"{finding.severity} {finding.rule}", style="not dim red" if finding.severity == "error" else "yellow")
    subject = " ".join(part for part in (finding.task, finding.template) if part)
    text.append(
        console.escape_markup(f": {subject}: {finding.message}" if subject else f": {finding.message}"), style="not dim"
    )
    text.append(f"\n  remedy: {finding.remedy}", style="not dim cyan")
    console.stdout().print(text, soft_wrap=True)


@app.command("import")
def import_(
    source_format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="Format of the templates: flan, promptsource, natural-instructions, or that of a plug-in.",
            autocompletion=complete_importer,
        ),
    ],
    path: Annotated[Path, typer.Argument(help="A file, or a folder of files.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the new collection.")],
    cards: CardFolders = None,
) -> None:
    """Import templates of another toolkit. Templates that fail the linter are rejected, with the reason.

    Files are parsed in a process without network access and with limits on memory and time; nothing in them is run.
    """
    from metalm_cli.tasks import Cards
    from metalm_cli.templates.importers import import_templates

    cards_by_name = {card.name: card for card in Cards(cards or ()).all()}
    with console.stderr().status("reading"):
        report = import_templates(source_format, path, out, cards_by_name)
    _print_report(report)


def _print_report(report: ImportReport) -> None:
    from rich.text import Text

    notes: Counter[str] = Counter()
    for file in report.files:
        task_note = f" for {file.card}" if file.card else ""
        console.write(console.escape_markup(f"{file.name}.yaml: {len(file.templates)} templates{task_note}\n"))
        for template, note in file.notes:
            line = f"  note: {template}: {note}" if template else f"  note: {note}"
            notes[note] += 1
            if notes[note] <= 3:
                console.stdout().print(Text(console.escape_markup(line), style="dim"), soft_wrap=True)
    for origin, template, reason in report.refused:
        line = f"refused: {' '.join(part for part in (origin, template) if part)}: {reason}"
        console.stdout().print(Text(console.escape_markup(line), style="yellow"), soft_wrap=True)
    hidden_notes = sum(count - 3 for count in notes.values() if count > 3)
    template_count = sum(len(file.templates) for file in report.files)
    more_note = f", {hidden_notes} more notes like these" if hidden_notes else ""
    console.write(f"{template_count} templates in {len(report.files)} files in {report.folder}; ")
    console.write(f"{len(report.refused)} refused{more_note}\n")
