"""Page of the wrong answers of a result file, from the predictions next to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from metalm_cli.cli.display.tables import Page
from metalm_cli.common.table import Table
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.result_paths import samples_path
from metalm_cli.evaluation.results.schema import SampleRecord, damaged_file

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import ResultRecord

RIGHT = 0.5
"""Score from which an answer with a graded score counts as right, as in reports."""
MAX_INPUT = 200
"""Number of characters at the end of an input that the table for people shows."""


def wrong_answers_page(record: ResultRecord) -> Page:
    """Page of the wrong answers of a result file: those with a score below one half.

    Raises:
        MetalmError: The predictions are missing or damaged.
    """
    samples = _read_samples(Path(record.name), record.source)
    scored = [sample for sample in samples if sample.score is not None]
    wrong = [sample for sample in scored if (sample.score or 0.0) < RIGHT]
    page = Page([f"results  {record.name}", f"model    {record.source}"])
    for task, shots, template in dict.fromkeys((sample.task, sample.shots, sample.template) for sample in scored):
        key = (task, shots, template)
        members = [sample for sample in wrong if (sample.task, sample.shots, sample.template) == key]
        count = sum((sample.task, sample.shots, sample.template) == key for sample in scored)
        title = f"{task}, {shots}-shot, template {template}: {len(members)} of {count} answers are wrong"
        rows = [[sample.row, sample.target, sample.prediction, _end_of(sample.input)] for sample in members]
        headers = ["row", "target", "answer", "input"]
        page.tables.append(Table(title, headers, rows, text_columns=frozenset({1, 2, 3}), wrapped=frozenset({1, 2, 3})))
        page.data_rows += [{"file": record.name, "model": record.source, **sample.model_dump()} for sample in members]
    unscored = len(samples) - len(scored)
    if unscored:
        page.notes.append(f"{unscored} answers have no score of their own, as their metric is one of the whole split")
    return page


def _end_of(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_INPUT else f"…{line[-MAX_INPUT:]}"


def _read_samples(path: Path, source: str) -> list[SampleRecord]:
    samples = samples_path(path)
    try:
        lines = samples.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MetalmError(
            "the answers of the result file are not stored",
            where=str(samples),
            why=error.strerror or str(error),
            remedy=f"evaluate again with --save-samples: metalm eval {source} … --save-samples",
        ) from error
    try:
        return [SampleRecord.model_validate(json.loads(line)) for line in lines if line]
    except (ValueError, ValidationError) as error:
        raise damaged_file(str(samples), str(error).splitlines()[0]) from error
