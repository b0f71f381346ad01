"""Labelled tasks of the miniature world, one or more for each cluster, correct by construction.

Where labels could be guessed from words (``nli``, ``paraphrase``, ``pronouns``, ``outcomes``, ``yes_no``, ``grammar``),
rows are written in groups that hold the same words and differ in who stands where, so that counting words tells
nothing. Their people and towns come from worlds of other seeds than the documents of a default recipe, so that
remembering documents does not help. ``facts`` alone asks for what the documents of seed 0 state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.tasks.choice import outcomes, pronouns
from metalm_cli.miniworld.tasks.facts import facts
from metalm_cli.miniworld.tasks.grammar import grammar
from metalm_cli.miniworld.tasks.logic import nli, paraphrase
from metalm_cli.miniworld.tasks.reading import passages, yes_no
from metalm_cli.miniworld.tasks.reviews import reviews
from metalm_cli.miniworld.tasks.splits import SPLITS, Maker, RowDict, collect_rows
from metalm_cli.miniworld.tasks.writing import gist, triples

MAKERS: dict[str, Maker] = {
    "nli": nli,
    "reviews": reviews,
    "paraphrase": paraphrase,
    "pronouns": pronouns,
    "outcomes": outcomes,
    "passages": passages,
    "yes_no": yes_no,
    "grammar": grammar,
    "triples": triples,
    "gist": gist,
}
"""What writes a group of rows of each task."""

TABLES: dict[str, Callable[[], dict[str, tuple[RowDict, ...]]]] = {"facts": facts}
"""Tasks whose rows are counted out rather than drawn."""

TASKS = (*MAKERS, *TABLES)
"""Names of the tasks."""


def rows(task: str, split: str) -> list[dict[str, Any]]:
    """The rows of a task's split, the same in every process.

    Args:
        task: One of :data:`TASKS`.
        split: ``train`` (about 2,000 rows), ``validation`` or ``test`` (about 200 each). What rows are about (the
            pair of people, the fact, the visit) is in one split only.

    Raises:
        MetalmError: There is no such task or split.
    """
    for what, name, known in (("task", task, TASKS), ("split", split, SPLITS)):
        if name not in known:
            raise MetalmError(f"the miniature world has no {what} {name}", remedy=f"name one of {', '.join(known)}")
    return [dict(row) for row in _splits(task)[split]]


@lru_cache(maxsize=len(TASKS))
def _splits(task: str) -> dict[str, tuple[RowDict, ...]]:
    if task in TABLES:
        return TABLES[task]()
    return collect_rows(task, MAKERS[task])
