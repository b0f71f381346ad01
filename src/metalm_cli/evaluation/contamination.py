"""Contamination check: evaluation rows that share 13-grams with training data, by the rule of the audits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.jsonl_files import parse_line, read_lines
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.provenance.audit import compared_texts
from metalm_cli.provenance.ngram_index import NGRAM_WORDS, NgramIndex, row_blocks
from metalm_cli.provenance.training_text import all_texts

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def training_files(roots: Iterable[Path]) -> list[Path]:
    """List the JSONL files among paths: files, and all JSONL files below folders.

    Raises:
        MetalmError: A path does not exist, or has no JSONL files.
    """
    jsonl_files: list[Path] = []
    for root in roots:
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        files = [path for path in files if path.name.endswith(SUFFIXES)]
        if not files:
            raise MetalmError(
                "no training data to compare with",
                where=str(root),
                why="it does not exist" if not root.exists() else f"no file here ends in {', '.join(SUFFIXES)}",
                remedy="name JSONL files, or a folder of them",
            )
        jsonl_files += files
    return jsonl_files


def find_overlap(tasks: Sequence[EvaluatedTask], files: Sequence[Path]) -> dict[str, Any]:
    """Find the evaluation rows that share a span of 13 words with training data.

    Args:
        tasks: The evaluated tasks.
        files: JSONL files; every text in a row counts.

    Returns:
        ``{"rule", "files", "tasks": {name: {"rows": overlapping rows, "of": number of examples}}}``

    Raises:
        MetalmError: A file cannot be read.
    """
    offsets = np.cumsum([0, *(len(task.examples) for task in tasks)])
    numbered_texts = [
        (int(offsets[task_index]) + example_index, compared_texts(example))
        for task_index, task in enumerate(tasks)
        for example_index, example in enumerate(task.examples)
    ]
    blocks = list(row_blocks(iter(numbered_texts)))
    hashes = np.concatenate([np.zeros(0, np.uint64), *(block_hashes for block_hashes, _ in blocks)])
    rows = np.concatenate([np.zeros(0, np.int64), *(block_rows for _, block_rows in blocks)])
    index = NgramIndex(hashes, rows, np.repeat(np.arange(len(tasks)), np.diff(offsets)))
    is_shared = np.zeros(len(index.hashes), bool)
    for path in files:
        texts = (
            (line_number, list(all_texts(parse_line(line, f"{path}:{line_number}"))))
            for line_number, line in read_lines(path)
        )
        for block_hashes, _ in row_blocks(texts):
            is_shared[index.find(block_hashes)[1]] = True
    overlapping_rows = np.flatnonzero(index.rows_with(is_shared)).tolist()
    overlaps: Mapping[str, Any] = {
        task.card.name: {
            "rows": [
                task.examples[row - offsets[task_index]].row
                for row in overlapping_rows
                if offsets[task_index] <= row < offsets[task_index + 1]
            ],
            "of": len(task.examples),
        }
        for task_index, task in enumerate(tasks)
    }
    return {"rule": f"{NGRAM_WORDS}-grams of words", "files": [path.name for path in files], "tasks": overlaps}
