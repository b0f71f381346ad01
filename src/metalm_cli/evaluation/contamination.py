"""Evaluation rows whose words stand in given training data: the 13-gram rule of the audits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.jsonl_files import lines, parse
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.provenance.audit import compared_texts
from metalm_cli.provenance.ngram_index import NGRAM, SpanIndex, row_blocks
from metalm_cli.provenance.training_text import all_texts

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def training_files(places: Iterable[Path]) -> list[Path]:
    """The JSONL files that places stand for: files, and all below folders.

    Raises:
        MetalmError: A place is not there, or holds no such file.
    """
    found: list[Path] = []
    for place in places:
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        files = [path for path in files if path.name.endswith(SUFFIXES)]
        if not files:
            raise MetalmError(
                "no training data to compare with",
                where=str(place),
                why="it is not there" if not place.exists() else f"no file here ends in {', '.join(SUFFIXES)}",
                remedy="name JSONL files, or a folder of them",
            )
        found += files
    return found


def find_overlap(tasks: Sequence[EvaluatedTask], files: Sequence[Path]) -> dict[str, Any]:
    """Which evaluation rows share a span of 13 words with training data.

    Args:
        tasks: What is evaluated.
        files: JSONL files; every text in a row counts.

    Returns:
        ``{"rule", "files", "tasks": {name: {"rows": those that do, "of": examples}}}``

    Raises:
        MetalmError: A file cannot be read.
    """
    first = np.cumsum([0, *(len(task.examples) for task in tasks)])
    numbered = [
        (int(first[at]) + number, compared_texts(example))
        for at, task in enumerate(tasks)
        for number, example in enumerate(task.examples)
    ]
    made = list(row_blocks(iter(numbered)))
    hashes = np.concatenate([np.zeros(0, np.uint64), *(one for one, _ in made)])
    rows = np.concatenate([np.zeros(0, np.int64), *(one for _, one in made)])
    index = SpanIndex(hashes, rows, np.repeat(np.arange(len(tasks)), np.diff(first)))
    met = np.zeros(len(index.hashes), bool)
    for path in files:
        texts = ((number, list(all_texts(parse(line, f"{path}:{number}")))) for number, line in lines(path))
        for found, _ in row_blocks(texts):
            met[index.find(found)[1]] = True
    touched = np.flatnonzero(index.rows_with(met)).tolist()
    counted: Mapping[str, Any] = {
        task.card.name: {
            "rows": [task.examples[row - first[at]].row for row in touched if first[at] <= row < first[at + 1]],
            "of": len(task.examples),
        }
        for at, task in enumerate(tasks)
    }
    return {"rule": f"{NGRAM}-grams of words", "files": [path.name for path in files], "tasks": counted}
