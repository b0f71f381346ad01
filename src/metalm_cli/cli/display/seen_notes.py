"""Notes on the tasks of result files that are not held out: trained on, leaked, or seen by a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import ResultRecord

DESCRIPTIONS = {
    "seen": "trained on",
    "seen by the encoder": "seen by the encoder, in the training of its checkpoint",
    "seen by the decoder": "seen by the decoder, in the training of its checkpoint",
    "leak partner": "leaked: tasks that share their data were trained on",
}
"""Descriptions of the labels of tasks that are not held out."""


def not_held_out(record: ResultRecord, letter: str = "") -> list[str]:
    """Name all tasks of a file that are not held out, by label.

    Args:
        record: The result file.
        letter: Letter of the file in a comparison.
    """
    notes = []
    for label, description in DESCRIPTIONS.items():
        names = [name for name, task in record.tasks.items() if task.seen.label == label]
        if names:
            notes.append(f"{letter} {description}: {', '.join(names)}".strip())
    return notes
