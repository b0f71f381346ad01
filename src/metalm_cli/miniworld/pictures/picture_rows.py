"""Pictures of the miniature world with words about them, correct by construction: the data of vision-language work.

Four tasks, after the paper's: captions (its captioning), questions (VQA), statements about pairs of pictures
(NLVR2), and hypotheses with explanations (E-SNLI-VE). Every question, statement and hypothesis stands with several
pictures that answer it differently, and every picture with several texts that are answered differently: neither the
words alone nor the pictures alone tell the answer. What ``validation`` and ``test`` ask about are combinations of a
colour and a kind that no picture of ``train`` shows, nor any of the other of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.pictures.captions import captions, claims
from metalm_cli.miniworld.pictures.draw import png
from metalm_cli.miniworld.pictures.explanations import judged
from metalm_cli.miniworld.pictures.scene import Scene, asked, scene
from metalm_cli.miniworld.pictures.vqa import ABOUT
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import SPLITS, TRIES

Row = dict[str, Any]
IMAGES = {"captions": ("image",), "questions": ("image",), "statements": ("left", "right"), "explanations": ("image",)}
"""The columns that hold pictures, of each task."""
TASKS = tuple(IMAGES)
"""Names of the tasks."""


def rows(task: str, split: str) -> list[Row]:
    """The rows of a task's split, the same in every process.

    ====================  ===========================================================================================
    ``captions``          ``image``, ``captions`` (three)
    ``questions``         ``image``, ``question``, ``answer``, ``about`` (a key of
                          :data:`~metalm_cli.miniworld.pictures.vqa.ABOUT`)
    ``statements``        ``left``, ``right``, ``statement``, ``label`` (``true`` or ``false``)
    ``explanations``      ``image``, ``hypothesis``, ``label`` (``entailment``, ``neutral``, ``contradiction``),
                          ``explanation``
    ====================  ===========================================================================================

    Args:
        task: One of :data:`TASKS`.
        split: ``train`` (about 2,000 rows), ``validation`` or ``test`` (about 200 each).

    Returns:
        New rows. A picture is ``{"bytes": PNG, "path": None}``, as the ``Image`` feature of ``datasets`` reads it,
        of 64 by 64 pixels in RGB; ``scenes`` says of each picture, in the order of :data:`IMAGES`, what it shows.

    Raises:
        MetalmError: There is no such task or split.
    """
    made = []
    for row in described(task, split):
        shown: tuple[Scene, ...] = row.pop("scenes")
        pictures = {name: {"bytes": png(one), "path": None} for name, one in zip(IMAGES[task], shown, strict=True)}
        made.append({**pictures, **row, "scenes": [one.record() for one in shown]})
    return made


def described(task: str, split: str) -> list[Row]:
    """The rows without their pictures; ``scenes`` are the scenes to draw.

    Raises:
        MetalmError: There is no such task or split.
    """
    for what, name, known in (("pictures for", task, TASKS), ("split", split, SPLITS)):
        if name not in known:
            raise MetalmError(f"the miniature world has no {what} {name}", remedy=f"name one of {', '.join(known)}")
    return [dict(row) for row in _drawn(task, split)]


@lru_cache(maxsize=len(TASKS) * len(SPLITS))
def _drawn(task: str, split: str) -> tuple[Row, ...]:
    """Draw groups of rows until the split is full; no two rows are equal."""
    make = _MAKERS[task]
    found: list[Row] = []
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for turn in range(TRIES):
        if len(found) >= SPLITS[split]:
            break
        dice = SeededRandom("pictures", task, split, turn)
        group = make(dice, split, counts)
        written = [repr(row) for row in group]
        if seen.isdisjoint(written):
            seen.update(written)
            found += dice.shuffled(group)
    return tuple(found)


def _captions(dice: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    shown = scene(dice, [(asked(dice, split), None)], more=dice.below(4))
    return [{"captions": captions(shown, dice), "scenes": (shown,)}]


def _questions(dice: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    about = min(ABOUT, key=lambda name: counts.get(name, 0))
    found = ABOUT[about](dice, split)
    counts[about] = counts.get(about, 0) + len(found)
    return [{"question": text, "answer": answer, "about": about, "scenes": (one,)} for text, answer, one in found]


def _statements(dice: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    return [{"statement": text, "label": label, "scenes": pair} for text, label, pair in claims(dice, split)]


def _explanations(dice: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    return [
        {"hypothesis": text, "label": label, "explanation": explanation, "scenes": (one,)}
        for text, label, explanation, one in judged(dice, split)
    ]


_MAKERS: dict[str, Callable[[SeededRandom, str, dict[str, int]], list[Row]]] = {
    "captions": _captions,
    "questions": _questions,
    "statements": _statements,
    "explanations": _explanations,
}
