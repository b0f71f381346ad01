"""Rows of the vision-language tasks: pictures of the miniature world with text that is correct by construction.

There are four tasks, modelled on the paper's: captions, questions (VQA), statements about pairs of pictures (NLVR2),
and hypotheses with explanations (E-SNLI-VE). Every question, statement and hypothesis is paired with several pictures
that answer it differently, and every picture with several texts that have different answers: neither the text alone
nor the picture alone determines the answer. ``validation`` and ``test`` ask about combinations of a colour and a kind
that no picture of another split shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.pictures.captions import sample_statements, write_captions
from metalm_cli.miniworld.pictures.draw import encode_png
from metalm_cli.miniworld.pictures.explanations import sample_hypotheses
from metalm_cli.miniworld.pictures.scene import Scene, sample_combination, sample_scene
from metalm_cli.miniworld.pictures.vqa import QUESTION_KINDS
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import MAX_ATTEMPTS, SPLIT_SIZES

Row = dict[str, Any]
IMAGE_COLUMNS = {
    "captions": ("image",),
    "questions": ("image",),
    "statements": ("left", "right"),
    "explanations": ("image",),
}
"""Columns of each task that contain pictures."""
TASKS = tuple(IMAGE_COLUMNS)
"""Names of the tasks."""


def rows(task: str, split: str) -> list[Row]:
    """Return the rows of a task's split, the same in every process.

    ====================  ===========================================================================================
    ``captions``          ``image``, ``captions`` (three)
    ``questions``         ``image``, ``question``, ``answer``, ``about`` (a key of
                          :data:`~metalm_cli.miniworld.pictures.vqa.QUESTION_KINDS`)
    ``statements``        ``left``, ``right``, ``statement``, ``label`` (``true`` or ``false``)
    ``explanations``      ``image``, ``hypothesis``, ``label`` (``entailment``, ``neutral``, ``contradiction``),
                          ``explanation``
    ====================  ===========================================================================================

    Args:
        task: One of :data:`TASKS`.
        split: ``train`` (about 2,000 rows), ``validation`` or ``test`` (about 200 each).

    Returns:
        Copies of the rows. A picture is ``{"bytes": PNG, "path": None}``, which the ``Image`` feature of ``datasets``
        reads, with 64 by 64 pixels in RGB; ``scenes`` describes the pictures, in the order of :data:`IMAGE_COLUMNS`.

    Raises:
        MetalmError: There is no such task or split.
    """
    return [with_pictures(task, row) for row in scene_rows(task, split)]


def with_pictures(task: str, row: Row) -> Row:
    """Draw the pictures of a row of :func:`scene_rows`, as :func:`rows` returns them."""
    scenes: tuple[Scene, ...] = row["scenes"]
    pictures = {
        name: {"bytes": encode_png(scene), "path": None}
        for name, scene in zip(IMAGE_COLUMNS[task], scenes, strict=True)
    }
    return {**pictures, **row, "scenes": [scene.record() for scene in scenes]}


def scene_rows(task: str, split: str) -> list[Row]:
    """Return the rows without their pictures; ``scenes`` are the scenes to draw.

    Raises:
        MetalmError: There is no such task or split.
    """
    for noun, name, known in (("pictures for", task, TASKS), ("split", split, SPLIT_SIZES)):
        if name not in known:
            raise MetalmError(f"the miniature world has no {noun} {name}", remedy=f"use one of {', '.join(known)}")
    return [dict(row) for row in _sample_rows(task, split)]


@lru_cache(maxsize=len(TASKS) * len(SPLIT_SIZES))
def _sample_rows(task: str, split: str) -> tuple[Row, ...]:
    """Sample groups of rows until the split is full; no two rows are equal."""
    make_group = _GROUP_MAKERS[task]
    rows: list[Row] = []
    seen_texts: set[str] = set()
    counts: dict[str, int] = {}
    for attempt in range(MAX_ATTEMPTS):
        if len(rows) >= SPLIT_SIZES[split]:
            break
        rng = SeededRandom("pictures", task, split, attempt)
        group = make_group(rng, split, counts)
        texts = [repr(row) for row in group]
        if seen_texts.isdisjoint(texts):
            seen_texts.update(texts)
            rows += rng.shuffled(group)
    return tuple(rows)


def _make_caption_rows(rng: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    scene = sample_scene(rng, [(sample_combination(rng, split), None)], extra_count=rng.randbelow(4))
    return [{"captions": write_captions(scene, rng), "scenes": (scene,)}]


def _make_question_rows(rng: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    kind = min(QUESTION_KINDS, key=lambda name: counts.get(name, 0))
    questions = QUESTION_KINDS[kind](rng, split)
    counts[kind] = counts.get(kind, 0) + len(questions)
    return [
        {"question": text, "answer": answer, "about": kind, "scenes": (scene,)} for text, answer, scene in questions
    ]


def _make_statement_rows(rng: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    return [{"statement": text, "label": label, "scenes": pair} for text, label, pair in sample_statements(rng, split)]


def _make_explanation_rows(rng: SeededRandom, split: str, counts: dict[str, int]) -> list[Row]:
    return [
        {"hypothesis": text, "label": label, "explanation": explanation, "scenes": (scene,)}
        for text, label, explanation, scene in sample_hypotheses(rng, split)
    ]


_GROUP_MAKERS: dict[str, Callable[[SeededRandom, str, dict[str, int]], list[Row]]] = {
    "captions": _make_caption_rows,
    "questions": _make_question_rows,
    "statements": _make_statement_rows,
    "explanations": _make_explanation_rows,
}
