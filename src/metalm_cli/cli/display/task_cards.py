"""Task cards, their splits, and results of card checks as text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.cli import console
from metalm_cli.common.table import counted
from metalm_cli.errors import MetalmError, NoTemplatesError

if TYPE_CHECKING:
    from metalm_cli.data.examples.card_check import CardCheck, SplitCheck
    from metalm_cli.tasks import Card, Example

MAX_EXAMPLES = 2
"""Maximum number of examples that ``show`` prints."""
MAX_CLASSES = 12
"""Maximum number of classes printed of a distribution."""
MAX_CHARACTERS = 400
"""Maximum number of characters that ``show`` prints of a text."""


def answer_kind(card: Card) -> str:
    """Kind of a card's answer: n classes, options per row, or open."""
    if card.answer.label is not None:
        return f"{len(card.answer.class_names)} classes"
    return "options" if card.answer.options is not None else "open"


def print_card(card: Card, path: Path, data_root: Path | None) -> None:
    """Print a card, its splits and two examples; does not access the hub."""
    from metalm_cli.config.locate import display

    entries = [("task", f"{card.name}: {card.description}"), ("card", display(path))]
    kind = "core (a task of the paper)" if card.core else "not core"
    entries += [("cluster", card.cluster + (f"; tags {', '.join(card.tags)}" if card.tags else ""))]
    entries += [("usage", {"train_and_eval": "train and evaluate", "eval": "evaluate only"}[card.usage] + f"; {kind}")]
    entries += [("source", _describe_source(card))]
    entries += [("field", f"{name} = {source}") for name, source in card.fields.items()]
    entries += [("image", f"{name} = {source}") for name, source in card.images.items()]
    entries += [("images in", card.image_folder)] if card.image_folder is not None else []
    entries += [("answer", text) for text in _describe_answer(card)]
    if card.row_filter is not None:
        entries += [("filter", f"only rows with: {card.row_filter}")]
    if card.long_inputs is not None:
        entries += [
            (
                "long",
                f"only {card.long_inputs.field} is truncated ({card.long_inputs.truncate}) if a session is too long",
            )
        ]
    entries += [("metric", f"{card.metric.name} ({card.metric.source})"), ("shots", f"from {card.demonstrations}")]
    entries += [("language", card.language), ("licence", card.licence), ("citation", card.citation)]
    entries += [("templates", _describe_templates(card))]
    examples: list[Example] = []
    for role, split in card.splits.items():
        text, split_examples = _describe_split(card, role, path, data_root)
        entries += [("split", f"{role} = {split}: {text}")]
        examples = examples or split_examples
    for example in examples:
        entries += _example_entries(example)
    _print_entries(entries)


def _describe_source(card: Card) -> str:
    if card.hub is not None:
        words = [f"hub {card.hub.id}", card.hub.config or "", f"at {card.hub.revision}" if card.hub.revision else ""]
        return " ".join(word for word in words if word)
    return f"the miniature world, {card.world}" if card.world is not None else f"file {card.file}"


def _describe_answer(card: Card) -> list[str]:
    answer = card.answer
    if answer.label is not None:
        class_texts = ", ".join(f"{name} -> {answer.verbalizers[name]}" for name in answer.class_names)
        return [f"class {answer.label}, by id: {class_texts}"]
    lines = [f"options {answer.options}"] if answer.options is not None else []
    lines += [f"option number {answer.index}, from 0" if answer.index is not None else f"text {answer.text}"]
    return [*lines, f"reasoning {answer.rationale}"] if answer.rationale is not None else lines


def _describe_templates(card: Card) -> str:
    from metalm_cli.templates import TemplateCollection, collection_names

    entries = []
    for name in collection_names():
        try:
            templates = TemplateCollection(name).templates_for(card)
        except NoTemplatesError:
            entries.append(f"{name}: none")
            continue
        except MetalmError as error:
            entries.append(f"{name}: {error.what}")
            continue
        inverted = sum(template.inverted for template in templates)
        entries.append(f"{name}: {len(templates)}" + (f" ({inverted} inverted)" if inverted else ""))
    return ", ".join(entries)


def _describe_split(card: Card, role: str, path: Path, data_root: Path | None) -> tuple[str, list[Example]]:
    """Describe a split (number of rows, location), and read its first examples if it is available locally."""
    from metalm_cli.data.examples.open_examples import is_available, open_examples

    if not is_available(card, role, data_root, path):
        return "no local data", []
    try:
        split_examples = open_examples(card, role, data_root=data_root, offline=True, card_path=path)
        return f"{len(split_examples):,} rows in {split_examples.location}", list(islice(split_examples, MAX_EXAMPLES))
    except MetalmError as error:
        return f"error: {error.what}" + (f" ({error.where}: {error.why})" if error.why else ""), []


def _example_entries(example: Example) -> list[tuple[str, str]]:
    entries = [("", ""), ("example", f"row {example.row}")]
    entries += [(name, text) for name, text in example.fields.items()]
    entries += [(name, f"image {image}") for name, images in example.images.items() for image in images]
    entries += [("options", " | ".join(example.options))] if example.options else []
    entries += [("answer", " | ".join(dict.fromkeys(example.answers)))]
    return [*entries, ("reasoning", example.rationale)] if example.rationale else entries


def _print_entries(entries: Sequence[tuple[str, str]]) -> None:
    from rich.text import Text

    width = max(len(label) for label, _ in entries)
    previous_label = ""
    for label, text in entries:
        text = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)"
        line = Text(f"{'' if label == previous_label else label:<{width}}  ", style="cyan")
        line.append(console.escape_markup(text).replace("\n", "\n" + " " * (width + 2)), style="not cyan default")
        console.stdout().print(line, soft_wrap=True)
        previous_label = label


def print_check(check: CardCheck, rows: int | None) -> None:
    """Print the result of a card check; ``rows`` is its limit of rows per split, if it had one."""
    from rich.text import Text

    card = check.card
    heading = Text(card.name, style="bold")
    heading.append(f"  {card.cluster}, {answer_kind(card)}", style="not bold dim")
    if check.missing:
        heading.append(f"; no local data: {', '.join(check.missing)}", style="not bold dim")
    print_line = partial(console.stdout().print, soft_wrap=True)
    print_line(heading)
    for problem in check.template_problems:
        _print_problem(problem, "  ")
    for split in check.splits:
        left_out = f", {split.excluded:,} left out" if split.excluded else ""
        prefix = "the first " if rows is not None and split.rows == rows else ""
        location = os.path.normpath(split.location) if "/../" in split.location else split.location
        rows_text = f"{prefix}{counted(split.rows, 'row')}{left_out}"
        print_line(Text(console.escape_markup(f"  {split.role}: {rows_text}, {location}")))
        for line in _describe_rows(split, card):
            print_line(Text(console.escape_markup(f"    {line}"), style="dim"))
        for problem in split.problems:
            _print_problem(problem, "    ")
        if split.wrong_rows > len(split.problems):
            print_line(Text(f"    ... and {split.wrong_rows - len(split.problems):,} more rows", style="red"))
    for note in check.notes:
        print_line(Text(console.escape_markup(f"  note: {note}"), style="yellow"))


def _print_problem(problem: MetalmError, indent: str) -> None:
    from rich.text import Text

    text = f"{indent}problem: " + f"\n{indent}".join(str(problem).splitlines())
    console.stdout().print(Text(console.escape_markup(text), style="red"), soft_wrap=True)


def _describe_rows(split: SplitCheck, card: Card) -> list[str]:
    from metalm_cli.data.examples.card_check import unseen_classes

    lines = []
    answer_count = sum(split.label_counts.values())
    if answer_count:
        most_common = split.label_counts.most_common(MAX_CLASSES)
        more = f", and {len(split.label_counts) - MAX_CLASSES} more" if len(split.label_counts) > MAX_CLASSES else ""
        lines.append(
            "answers: " + ", ".join(f"{name} {count / answer_count:.1%}" for name, count in most_common) + more
        )
    missing = unseen_classes(split, card.verbalizers)
    if missing:
        lines.append(f"no row is {', '.join(missing)}")
    lengths = "; ".join(
        f"{name} {length.median:,}/{length.percentile_95:,}/{length.longest:,}"
        for name, length in split.lengths.items()
    )
    return [*lines, f"characters: {lengths}"] if lengths else lines
