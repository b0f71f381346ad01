"""Tasks that are ready to be asked: rows, cards and templates, read and checked before a model works."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.data.examples.open_examples import Examples, open_examples
from metalm_cli.errors import MetalmError, RowsUnavailableError
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.settings import PAPER_TEMPLATES, EvaluationSettings
from metalm_cli.tasks import Card, Cards, Example
from metalm_cli.templates import Collection, Template, render, scorable


@dataclass(frozen=True)
class EvaluatedTask:
    """A task that is ready to be asked.

    Args:
        card: Its card.
        templates: The wordings, none turned around.
        examples: What is asked.
        opened: Where the examples come from.
        path: File of the card.
        template_path: File of the templates.
        pool: Where demonstrations come from; None for none.
    """

    card: Card
    templates: tuple[Template, ...]
    examples: tuple[Example, ...]
    opened: Examples
    path: Path
    template_path: Path
    pool: Examples | None = None

    def demonstrations(self, example: Example, count: int, settings: EvaluationSettings) -> tuple[Example, ...]:
        """Answered examples to stand in front of one; fewer are the beginning of more.

        Args:
            example: What is asked; never among them.
            count: How many.
            settings: Whether they are the task's or the example's own, and the seed.

        Raises:
            MetalmError: There are not so many.
        """
        if not count:
            return ()
        assert self.pool is not None, "tasks are opened with the numbers of demonstrations"
        seed = [settings.seed, zlib.crc32(self.card.name.encode()), *([example.row] if settings.drawn else [])]
        same = self.pool.location == self.opened.location and self.pool.role == self.opened.role
        found: list[Example] = []
        for index in np.random.default_rng(seed).permutation(len(self.pool)).tolist():
            shown = self.pool[index]
            if shown is not None and not (same and shown.row == example.row) and shown.fields != example.fields:
                found.append(shown)
                if len(found) == count:
                    return tuple(found)
        raise MetalmError(
            f"{count} demonstrations of {self.card.name} are asked for, there are {len(found)}",
            where=self.pool.location,
            remedy=f"ask for at most {len(found)}",
        )


def open_evaluation_tasks(
    cards: Cards,
    chosen: Sequence[Card],
    settings: EvaluationSettings,
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> tuple[list[EvaluatedTask], dict[str, str]]:
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
    picked = {card.name: tuple(select_templates(collection.of(card), settings.template, card)) for card in chosen}
    tasks: list[EvaluatedTask] = []
    missing: dict[str, str] = {}
    for card in chosen:
        path, role = cards.paths[card.name], settings.role or default_split(card)
        where: dict[str, Any] = {"data_root": data_root, "offline": offline, "cache": cache, "beside": path}
        try:
            opened = open_examples(card, role, **where)
        except MetalmError as error:
            reason = _absence(error, card, role)
            if reason is None:
                raise
            missing[card.name] = reason
            continue
        examples = tuple(draw_examples(opened, settings.limit))
        if not examples:
            raise MetalmError(f"the card of {card.name} leaves out every row", where=opened.location)
        task_metrics.check_metric(card.metric.name, examples)
        _different(examples)
        pool = open_examples(card, card.demonstrations, **where) if max(settings.shots, default=0) else None
        for template in picked[card.name]:
            for example in examples:
                render(example, template, settings.style)
        task = EvaluatedTask(card, picked[card.name], examples, opened, path, collection.path(card), pool)
        task.demonstrations(examples[0], max(settings.shots, default=0), settings)
        tasks.append(task)
    return tasks, missing


def default_split(card: Card) -> str:
    """The split that scores are of: validation, as in the paper; test where a card has no other."""
    return "test" if "validation" not in card.splits and "test" in card.splits else "validation"


def _absence(error: MetalmError, card: Card, role: str) -> str | None:
    """Why a task has no rows at hand; None if something else is wrong with it."""
    if card.split(role, local=True) is None and card.split(role, local=False) is None:
        return error.what
    if isinstance(error, RowsUnavailableError):
        return "; ".join(part for part in (error.what, error.why) if part)
    return None


def select_templates(templates: Sequence[Template], wanted: str, card: Card) -> list[Template]:
    """The templates to ask with.

    Args:
        templates: Those of the card.
        wanted: ``first``, ``paper``, ``all``, a number, or a name.
        card: The card, for messages.

    Raises:
        MetalmError: There is none of that name, or it is turned around.
    """
    usable = scorable(templates)
    if wanted in ("first", "all", "paper"):
        return usable[: {"first": 1, "paper": PAPER_TEMPLATES}.get(wanted)]
    if wanted.isdecimal():
        if int(wanted) == 0:
            raise MetalmError("got --template 0, expected at least one template")
        return usable[: int(wanted)]
    named = [one for one in templates if one.name == wanted]
    if not named:
        raise MetalmError(
            f"{card.name} has no template {wanted}",
            why=f"it has {', '.join(one.name for one in usable)}",
            remedy="name one of these, first, paper, all, or a number",
        )
    if named[0].inverted:
        raise MetalmError(
            f"template {wanted} of {card.name} asks for something else than the answer",
            why="it is turned around: it trains, and is never scored",
            remedy=f"name one of {', '.join(one.name for one in usable)}",
        )
    return named


def _different(examples: Sequence[Example]) -> None:
    """Refuse examples whose options are all the same."""
    for one in examples:
        if len(one.options) > 1 and len(set(one.options)) == 1:
            raise MetalmError(
                f"all options of {one.task} row {one.row} are the same: {one.options[0]!r:.60}",
                why="no answer can be told from another",
                remedy="correct the card's options, or leave the row out with its where expression",
            )


def draw_examples(opened: Examples, limit: int | None) -> Iterator[Example]:
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
