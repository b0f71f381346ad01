"""Tasks that are ready to be asked: rows, cards and templates, read and checked before a model works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.data.examples import Examples, open_examples
from metalm_cli.data.fit import TextReader
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import metrics
from metalm_cli.tasks import Card, Cards, Example
from metalm_cli.templates import Collection, Style, Template, render, scorable


@dataclass(frozen=True)
class Settings:
    """How tasks are evaluated.

    Args:
        collection: Collection of templates.
        template: ``first``, ``all``, a number (so many of the first), or a name; turned-around ones never count.
        role: Split of the cards; None: validation, or test where a card has no validation split.
        limit: Examples of a task, drawn without replacement by a fixed seed; None: all.
        length: Decoder positions of a session with its answer; None: what the model has.
        batch_size: Sequences of a forward pass.
        style: How prompts are made.
        also: Encoders of other models that are to read the same characters of long inputs.
    """

    collection: str = "flan"
    template: str = "first"
    role: str | None = None
    limit: int | None = None
    length: int | None = None
    batch_size: int = 16
    style: Style = field(default_factory=Style)
    also: tuple[TextReader, ...] = ()


@dataclass(frozen=True)
class Task:
    """A task that is ready to be asked.

    Args:
        card: Its card.
        templates: The wordings, none turned around.
        examples: What is asked.
        opened: Where the examples come from.
        path: File of the card.
        template_path: File of the templates.
    """

    card: Card
    templates: tuple[Template, ...]
    examples: tuple[Example, ...]
    opened: Examples
    path: Path
    template_path: Path


def open_tasks(
    cards: Cards,
    chosen: Sequence[Card],
    settings: Settings,
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> tuple[list[Task], dict[str, str]]:
    """Read everything that tasks need, and check all of it.

    Args:
        cards: All cards.
        chosen: Those to evaluate.
        settings: How.
        data_root: Where data sets lie.
        offline: Open no connection.
        cache: Folder for unpacked files.

    Returns:
        The tasks, and why each of the others has no rows at hand.

    Raises:
        MetalmError: A row does not fit its card, a card has no such template, a template fails, a metric does not fit.
    """
    collection = Collection(settings.collection)
    picked = {card.name: tuple(pick(collection.of(card), settings.template, card)) for card in chosen}
    tasks: list[Task] = []
    missing: dict[str, str] = {}
    for card in chosen:
        path, role = cards.paths[card.name], settings.role or usual_role(card)
        where: dict[str, Any] = {"data_root": data_root, "offline": offline, "cache": cache, "beside": path}
        try:
            opened = open_examples(card, role, **where)
        except MetalmError as error:
            reason = _absence(error, card, role)
            if reason is None:
                raise
            missing[card.name] = reason
            continue
        examples = tuple(drawn(opened, settings.limit))
        if not examples:
            raise MetalmError(f"the card of {card.name} leaves out every row", where=opened.location)
        metrics.fits(card.metric.name, examples)
        for template in picked[card.name]:
            for example in examples:
                render(example, template, settings.style)
        tasks.append(Task(card, picked[card.name], examples, opened, path, collection.path(card)))
    return tasks, missing


def usual_role(card: Card) -> str:
    """The split that scores are of: validation, as in the paper; test where a card has no other."""
    return "test" if "validation" not in card.splits and "test" in card.splits else "validation"


def _absence(error: MetalmError, card: Card, role: str) -> str | None:
    """Why a task has no rows at hand; None if something else is wrong with it."""
    if card.split(role, local=True) is None and card.split(role, local=False) is None:
        return error.what
    if "cannot be had" in error.what:
        return "; ".join(part for part in (error.what, error.why) if part)
    return None


def pick(templates: Sequence[Template], wanted: str, card: Card) -> list[Template]:
    """The templates to ask with.

    Args:
        templates: Those of the card.
        wanted: ``first``, ``all``, a number, or a name.
        card: The card, for messages.

    Raises:
        MetalmError: There is none of that name, or it is turned around.
    """
    usable = scorable(templates)
    if wanted in ("first", "all"):
        return usable[:1] if wanted == "first" else usable
    if wanted.isdecimal():
        if int(wanted) == 0:
            raise MetalmError("got --template 0, expected at least one template")
        return usable[: int(wanted)]
    named = [one for one in templates if one.name == wanted]
    if not named:
        raise MetalmError(
            f"{card.name} has no template {wanted}",
            why=f"it has {', '.join(one.name for one in usable)}",
            remedy="name one of these, first, all, or a number",
        )
    if named[0].turned:
        raise MetalmError(
            f"template {wanted} of {card.name} asks for something else than the answer",
            why="it is turned around: it trains, and is never scored",
            remedy=f"name one of {', '.join(one.name for one in usable)}",
        )
    return named


def drawn(opened: Examples, limit: int | None) -> Iterator[Example]:
    """Examples of a split in the order of their rows: all, or as many as asked for, the same ones every time.

    Raises:
        MetalmError: A row does not fit the card.
    """
    order = range(len(opened)) if limit is None else np.random.default_rng(0).permutation(len(opened)).tolist()
    found: list[Example] = []
    for index in order:
        if limit is not None and len(found) == limit:
            break
        example = opened[index]
        if example is not None:
            found.append(replace(example, raw={}))
    return iter(sorted(found, key=lambda example: example.row))
