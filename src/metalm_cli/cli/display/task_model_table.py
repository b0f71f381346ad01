"""Table of tasks by models: the scores of several result files side by side, the best ones marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.cli.display import seen_notes
from metalm_cli.cli.display.tables import Page
from metalm_cli.common.table import Table

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import ResultRecord, SettingRecord

NARROW = 80
"""Width in characters above which models are columns of letters in a terminal."""
MISSING = "–"
"""Cell of a task that a model was not evaluated on."""


@dataclass(frozen=True)
class Column:
    """Results of a model by one protocol, from one or more files.

    Args:
        label: Name of the model in the table.
        records: The result files, oldest first; of a task in several of them, the newest counts.
    """

    label: str
    records: tuple[ResultRecord, ...]

    def record_with(self, task: str, shots: int) -> ResultRecord | None:
        """Return the newest file that has a task with this number of demonstrations, or None."""
        holding = (record for record in reversed(self.records) if _setting(record, task, shots) is not None)
        return next(holding, None)

    def files_with(self, task: str, shots: int) -> int:
        """Count the files that have a task with this number of demonstrations."""
        return sum(_setting(record, task, shots) is not None for record in self.records)


def task_model_page(records: Sequence[ResultRecord], *, width: int | None = None) -> Page:
    """Page of several result files: a table for each number of demonstrations, with a column for each model.

    The best score of a task is marked; equal ones are all marked. Scores that are not comparable with those of the
    first model (other rows, templates, protocol, ...) are named in a warning, and no score of their task is marked.

    Args:
        records: The result files, oldest first.
        width: Width of the terminal, in which models have letters if their names do not fit; None: no limit.
    """
    columns = _columns(records)
    labels = [column.label for column in columns]
    has_letters = width is not None and 34 + sum(max(7, len(label) + 2) for label in labels) > min(width, NARROW)
    headers = [_letter(index) for index in range(len(labels))] if has_letters else labels
    page = Page(
        [
            f"{header}  {f'{label}: ' if has_letters else ''}{', '.join(record.name for record in column.records)}"
            for header, label, column in zip(headers, labels, columns, strict=True)
        ]
    )
    obstacles: dict[str, list[str]] = {}
    for shots in dict.fromkeys(shots for record in records for shots in record.shots):
        _add_table(page, columns, headers, shots, obstacles)
    for reason, tasks in obstacles.items():
        page.warnings.append(f"NOT COMPARABLE, none marked as best: {reason} [{', '.join(tasks)}]")
    for header, column in zip(headers, columns, strict=True):
        notes = (note for record in column.records for note in seen_notes.not_held_out(record, header))
        page.notes += list(dict.fromkeys(notes))
        if not all(record.complete for record in column.records):
            page.warnings.append(f"{header} is NOT COMPLETE: an evaluation was interrupted")
    return page


def _add_table(
    page: Page, columns: Sequence[Column], headers: Sequence[str], shots: int, obstacles: dict[str, list[str]]
) -> None:
    """Add the table for a number of demonstrations to a page, with its rows for programs."""
    names = dict.fromkeys(
        name for column in columns for record in column.records for name in record.tasks
        if _setting(record, name, shots) is not None
    )  # fmt: skip
    rows: list[list[str]] = []
    marked: set[tuple[int, int]] = set()
    complete: list[list[float]] = []
    for name in names:
        holders = [column.record_with(name, shots) for column in columns]
        settings = [None if record is None else _setting(record, name, shots) for record in holders]
        scores = [None if setting is None else setting.score for setting in settings]
        reasons = _obstacles(holders, headers, name, shots)
        for reason in reasons:
            obstacles.setdefault(reason, []).append(f"{name} ({shots}-shot)")
        best = [] if reasons else _best(scores)
        marked |= {(len(rows), 2 + index) for index in best}
        task = next(record.tasks[name] for record in holders if record is not None)
        rows.append([name, task.metric, *map(_format, scores)])
        page.data_rows.append(
            {"kind": "task", "shots": shots, "cluster": task.cluster, "task": name, "metric": task.metric}
            | _by_model(columns, scores, settings, best)
        )
        if None not in scores and not reasons:
            complete.append([score for score in scores if score is not None])
        for header, column in zip(headers, columns, strict=True):
            if (count := column.files_with(name, shots)) > 1:
                page.notes.append(f"{header}, {name} ({shots}-shot): the newest of {count} files")
    has_mean = len(complete) > 1
    if has_mean:
        means = [sum(values) / len(complete) for values in zip(*complete, strict=True)]
        best = _best(means)
        marked |= {(len(rows), 2 + index) for index in best}
        rows.append([f"mean of {len(complete)} tasks", "", *map(_format, means)])
        page.data_rows.append(
            {"kind": f"mean of {len(complete)} tasks", "shots": shots, "cluster": "", "task": "", "metric": ""}
            | _by_model(columns, means, [None] * len(columns), best)
        )
        if len(complete) < len(names):
            page.notes.append(f"the mean ({shots}-shot) is over the tasks that all models have, with comparable scores")
    page.tables.append(
        Table(
            f"{shots}-shot",
            ["task", "metric", *headers],
            rows,
            text_columns=frozenset({0, 1}),
            mean_rows=int(has_mean),
            marked=frozenset(marked),
        )
    )


def _columns(records: Sequence[ResultRecord]) -> list[Column]:
    groups: dict[tuple[str, str], list[ResultRecord]] = {}
    for record in records:
        groups.setdefault((record.source, record.protocol), []).append(record)
    candidates: Sequence[Callable[[str, str], str]] = (
        lambda source, protocol: _short_name(source),
        lambda source, protocol: f"{_short_name(source)} ({protocol})",
        lambda source, protocol: source,
    )
    for candidate in candidates:
        labels = [candidate(*key) for key in groups]
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [f"{source} ({protocol})" for source, protocol in groups]
    return [Column(label, tuple(group)) for label, group in zip(labels, groups.values(), strict=True)]


def _short_name(source: str) -> str:
    path = Path(source)
    return path.parent.name if path.name == "model" and path.parent.name else path.name or source


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"M{index + 1}"


def _setting(record: ResultRecord, task: str, shots: int) -> SettingRecord | None:
    return record.tasks[task].with_shots(shots) if task in record.tasks else None


def _obstacles(holders: Sequence[ResultRecord | None], headers: Sequence[str], name: str, shots: int) -> list[str]:
    from metalm_cli.evaluation.results.comparison import incomparable_because

    present = [(header, record) for header, record in zip(headers, holders, strict=True) if record is not None]
    (first_header, first), *others = present
    return [
        f"{first_header} and {header}: {reason}"
        for header, record in others
        for reason in incomparable_because(first, record, name, shots)
    ]


def _best(scores: Sequence[float | None]) -> list[int]:
    """Return the indices of the highest of at least two scores, as printed; none if all are equal."""
    known = [round(score, 1) for score in scores if score is not None]
    if len(known) < 2 or len(set(known)) < 2:
        return []
    return [index for index, score in enumerate(scores) if score is not None and round(score, 1) == max(known)]


def _by_model(
    columns: Sequence[Column],
    scores: Sequence[float | None],
    settings: Sequence[SettingRecord | None],
    best: Sequence[int],
) -> dict[str, Any]:
    labels = [column.label for column in columns]
    intervals = [None if setting is None else setting.interval for setting in settings]
    ends: Mapping[str, dict[str, float | None]] = {
        side: {label: None if bounds is None else bounds[end] for label, bounds in zip(labels, intervals, strict=True)}
        for end, side in enumerate(("low", "high"))
    }
    return {"score": dict(zip(labels, scores, strict=True)), **ends, "best": [labels[index] for index in best]}


def _format(score: float | None) -> str:
    return MISSING if score is None else f"{score:.1f}"
