"""Task cards, their splits and what a check found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.cli import console
from metalm_cli.errors import MetalmError, NoTemplatesError

if TYPE_CHECKING:
    from metalm_cli.data.examples.card_check import CardCheck, SplitCheck
    from metalm_cli.tasks import Card, Example

SHOWN = 2
"""Examples that ``show`` prints."""
CLASSES = 12
"""Classes of a distribution that are printed."""
TEXT = 400
"""Characters of a text that ``show`` prints."""


def kind_of(card: Card) -> str:
    """How its answer is: so many classes, options of each row, or open."""
    if card.answer.label is not None:
        return f"{len(card.answer.class_names)} classes"
    return "options" if card.answer.options is not None else "open"


def print_card(card: Card, path: Path, data_root: Path | None) -> None:
    """Print what a card says, its splits and two examples; the hub is not asked."""
    from metalm_cli.config.locate import display

    lines = [("task", f"{card.name}: {card.description}"), ("card", display(path))]
    kind = "one of the paper's" if card.core else "not one of the paper's"
    lines += [("cluster", card.cluster + (f"; tags {', '.join(card.tags)}" if card.tags else ""))]
    lines += [("use", {"train_and_eval": "train and evaluate", "eval": "evaluate only"}[card.usage] + f"; {kind}")]
    lines += [("source", _source(card))]
    lines += [("field", f"{name} = {source}") for name, source in card.fields.items()]
    lines += [("answer", text) for text in _answer(card)]
    if card.row_filter is not None:
        lines += [("left out", f"rows that are not: {card.row_filter}")]
    if card.long_inputs is not None:
        lines += [
            (
                "long",
                f"{card.long_inputs.field} alone is truncated ({card.long_inputs.truncate}) if a session is too long",
            )
        ]
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
        words = ", ".join(f"{name} -> {answer.verbalizers[name]}" for name in answer.class_names)
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
        except NoTemplatesError:
            found.append(f"{name}: none")
            continue
        except MetalmError as error:
            found.append(f"{name}: {error.what}")
            continue
        turned = sum(one.inverted for one in templates)
        found.append(f"{name}: {len(templates)}" + (f" ({turned} turned around)" if turned else ""))
    return ", ".join(found)


def _split(card: Card, role: str, path: Path, data_root: Path | None) -> tuple[str, list[Example]]:
    """How many rows a split has and where, and its first examples; no examples where it is not at hand."""
    from metalm_cli.data.examples.open_examples import is_available, open_examples

    if not is_available(card, role, data_root, path):
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
        shown.append(console.escape_markup(text).replace("\n", "\n" + " " * (width + 2)), style="not cyan default")
        console.stdout().print(shown, soft_wrap=True)
        last = label


def print_check(found: CardCheck, rows: int | None) -> None:
    """Print what a check found; ``rows`` is the number that it was held to."""
    from rich.text import Text

    card = found.card
    head = Text(card.name, style="bold")
    head.append(f"  {card.cluster}, {kind_of(card)}", style="not bold dim")
    if found.absent:
        head.append(f"; not at hand: {', '.join(found.absent)}", style="not bold dim")
    say = partial(console.stdout().print, soft_wrap=True)
    say(head)
    for split in found.splits:
        out = f", {split.left_out:,} left out" if split.left_out else ""
        first = "the first " if rows is not None and split.rows == rows else ""
        say(Text(console.escape_markup(f"  {split.role}: {first}{split.rows:,} rows{out}, {split.location}")))
        for line in _facts(split, card):
            say(Text(console.escape_markup(f"    {line}"), style="dim"))
        for problem in split.problems:
            say(Text(console.escape_markup("    wrong: " + "\n    ".join(str(problem).splitlines())), style="red"))
        if split.wrong > len(split.problems):
            say(Text(f"    ... and {split.wrong - len(split.problems):,} more rows", style="red"))


def _facts(split: SplitCheck, card: Card) -> list[str]:
    from metalm_cli.data.examples.card_check import unseen_classes

    lines = []
    total = sum(split.labels.values())
    if total:
        shown = split.labels.most_common(CLASSES)
        more = f", and {len(split.labels) - CLASSES} more" if len(split.labels) > CLASSES else ""
        lines.append("answers: " + ", ".join(f"{name} {count / total:.1%}" for name, count in shown) + more)
    missing = unseen_classes(split, card.verbalizers)
    if missing:
        lines.append(f"no row is {', '.join(missing)}")
    lengths = "; ".join(f"{name} {one.median:,}/{one.high:,}/{one.most:,}" for name, one in split.lengths.items())
    return [*lines, f"characters: {lengths}"] if lengths else lines
