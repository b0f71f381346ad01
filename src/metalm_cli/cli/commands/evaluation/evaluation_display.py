"""Display of an evaluation in the terminal: progress, notes, results and comparisons."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.cli import console

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.results import Results
    from metalm_cli.evaluation.results.schema import ResultRecord


class EvaluationDisplay:
    """Display of what an evaluation does: progress and notes on standard error, results on standard output."""

    def __init__(self) -> None:
        self._status: Any = None
        self._records: list[ResultRecord] = []

    def progress(self, text: str) -> None:
        """Show what is being done."""
        if self._status is None:
            self._status = console.stderr().status(text)
            self._status.start()
        else:
            self._status.update(text)

    def results(self, results: Results, path: Path | None) -> None:
        """Print the results of a model."""
        from metalm_cli.cli.commands.evaluation.results import print_record

        self.close()
        print_record(results.record)
        for text in describe_contamination(results.record):
            print_note(text)
        print_note(f"results  {path}")
        self._records.append(results.record.model_copy(update={"name": str(path)}))

    def comparisons(self) -> None:
        """Print the comparisons of the first model with each other one, by the names of their files."""
        from metalm_cli.cli.commands.evaluation.results import print_comparison

        self.close()
        first, *others = self._records
        for other in others:
            print_comparison(first, other)

    def close(self) -> None:
        """Remove the progress from the terminal."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> EvaluationDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_contamination(record: ResultRecord) -> list[str]:
    """Describe the overlap with training data in a line; no line if it was not checked."""
    contamination = record.contamination
    if contamination is None:
        return []
    overlaps = [
        f"{name} {len(task['rows'])} of {task['of']}" for name, task in contamination["tasks"].items() if task["rows"]
    ]
    sentence = f"{', '.join(overlaps)} examples share" if overlaps else "no example shares"
    return [f"{sentence} 13 words in a row with the training data of {len(contamination['files'])} files"]


def print_note(text: str) -> None:
    """Print a line to standard error; a closed terminal or a full disk does not end the command."""
    with suppress(OSError):
        console.stderr().print(text, markup=False, soft_wrap=True)
