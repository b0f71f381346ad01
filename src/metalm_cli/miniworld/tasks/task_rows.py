"""Rows of the labelled tasks of the miniature world, one or more for each cluster, correct by construction.

In tasks whose labels could be guessed from words (``nli``, ``paraphrase``, ``pronouns``, ``outcomes``, ``yes_no``,
``grammar``), rows come in groups that contain the same words in different places, so that counting words does not
help. Their people and towns are from worlds of other seeds than the documents of default recipes, so that memorised
documents do not help either. Only ``facts`` asks for facts that the documents of seed 0 state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.lexical.lexical_rows import LEXICAL_GROUP_MAKERS, lexical_rows_by_split
from metalm_cli.miniworld.tasks.choice import make_outcome_rows, make_pronoun_rows
from metalm_cli.miniworld.tasks.facts import make_fact_rows
from metalm_cli.miniworld.tasks.grammar import make_grammar_rows
from metalm_cli.miniworld.tasks.logic import make_nli_rows, make_paraphrase_rows
from metalm_cli.miniworld.tasks.reading import make_passage_rows, make_yes_no_rows
from metalm_cli.miniworld.tasks.reviews import make_review_rows
from metalm_cli.miniworld.tasks.splits import SPLIT_SIZES, GroupMaker, RowDict, collect_rows
from metalm_cli.miniworld.tasks.writing import make_gist_rows, make_triple_rows

GROUP_MAKERS: dict[str, GroupMaker] = {
    "nli": make_nli_rows,
    "reviews": make_review_rows,
    "paraphrase": make_paraphrase_rows,
    "pronouns": make_pronoun_rows,
    "outcomes": make_outcome_rows,
    "passages": make_passage_rows,
    "yes_no": make_yes_no_rows,
    "grammar": make_grammar_rows,
    "triples": make_triple_rows,
    "gist": make_gist_rows,
}
"""Function that makes a group of rows of each task."""

TABLE_MAKERS: dict[str, Callable[[], dict[str, tuple[RowDict, ...]]]] = {"facts": make_fact_rows}
"""Functions of the tasks whose rows are enumerated rather than sampled."""

TASKS = (*GROUP_MAKERS, *TABLE_MAKERS)
"""Names of the tasks about the world."""
LEXICAL_TASKS = tuple(LEXICAL_GROUP_MAKERS)
"""Names of the tasks about the meanings of words."""


def rows(task: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of a task's split, the same in every process.

    Args:
        task: One of :data:`TASKS` or :data:`LEXICAL_TASKS`.
        split: ``train`` (about 2,000 rows), ``validation`` or ``test`` (about 200 each; 400 of a lexical task). The
            subject of a row (the pair of people, the fact, the visit) occurs in one split only; the words that a
            lexical task asks about do not occur in training.

    Raises:
        MetalmError: There is no such task or split.
    """
    for noun, name, known in (("task", task, (*TASKS, *LEXICAL_TASKS)), ("split", split, SPLIT_SIZES)):
        if name not in known:
            raise MetalmError(f"the miniature world has no {noun} {name}", remedy=f"use one of {', '.join(known)}")
    return [dict(row) for row in _rows_by_split(task)[split]]


@lru_cache(maxsize=len(TASKS))
def _rows_by_split(task: str) -> dict[str, tuple[RowDict, ...]]:
    if task in LEXICAL_GROUP_MAKERS:
        return lexical_rows_by_split(task)
    if task in TABLE_MAKERS:
        return TABLE_MAKERS[task]()
    return collect_rows(task, GROUP_MAKERS[task])
