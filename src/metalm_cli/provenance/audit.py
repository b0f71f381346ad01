"""The hold-out audit: it finds training rows that share n-grams with held-out evaluation rows.

Raw fields are compared, not rendered prompts: the text of a template is the same for all rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from metalm_cli.common.cache import cache_folder, write_to_cache
from metalm_cli.config.schema.base import Section
from metalm_cli.data.examples.open_examples import Examples, open_examples
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.sources.locate import data_folder
from metalm_cli.errors import MetalmError
from metalm_cli.provenance import ngram_index
from metalm_cli.provenance.ngram_index import MIN_WORDS, NGRAM_WORDS, NgramIndex
from metalm_cli.provenance.training_text import AncestorSource, AncestorTextFinder, all_texts
from metalm_cli.tasks import Card, Cards, Example

AUDIT_FORMAT = 1
"""Version of the audit; increased when the compared rows or the rule change."""
MAX_EXAMPLES = 3
"""Overlaps that are recorded per pair of tasks."""
MAX_LISTED = 5
"""Pairs of tasks that a message lists."""
RULE = (
    f"two rows overlap if texts of theirs share {NGRAM_WORDS} words in a row; "
    f"a text of {MIN_WORDS} to {NGRAM_WORDS - 1} words must be "
    "all of a text of the other row; shorter texts are not compared. Words are runs of letters and digits, in lower "
    "case. The texts of a row are the fields of its card, its answers, its options and its rationale"
)

Mode = Literal["drop", "fail", "report"]


class RowOverlap(Section):
    """A training row and an evaluation row that share words."""

    train: str = Field(description="Location of the training row.")
    held_out: str = Field(description="Location of the overlapping evaluation row.")
    words: str = Field(description="The first n-gram of words that both rows contain.")


class TaskOverlap(Section):
    """A training task and a held-out task with rows that overlap."""

    train: str = Field(description="Training task.")
    held_out: str = Field(description="Held-out task.")
    rows: int = Field(description="Training rows that overlap.")
    of: int = Field(description="Training rows that were compared.")
    evaluation_rows: int = Field(description="Evaluation rows that overlap.")
    examples: list[RowOverlap] = Field(default=[], description="Some of the overlaps.")


class HeldOutRows(Section):
    """The compared evaluation rows of a held-out task."""

    task: str = Field(description="The task.")
    rows: dict[str, int] = Field(description="Number of rows by role.")
    content: dict[str, str] = Field(description="Hash of the rows by role.")


class AncestorRows(Section):
    """Overlap with the training data of the base model and its ancestors."""

    read: list[str] = Field(default=[], description="Sources that were compared.")
    not_read: dict[str, str] = Field(default={}, description="Why other sources were not compared.")
    seen: dict[str, int] = Field(default={}, description="Evaluation rows of each task that overlap with the sources.")


class Audit(Section):
    """Result of an audit."""

    format: int = Field(default=AUDIT_FORMAT, description="Version of this record.")
    rule: str = Field(default=RULE, description="Rule by which two rows overlap.")
    mode: Mode = Field(default="drop", description="What is done with overlapping training rows.")
    held_out: list[HeldOutRows] = Field(description="Held-out evaluation rows that were compared.")
    not_audited: dict[str, str] = Field(description="Why other evaluation rows were not compared, by task/role.")
    trained: dict[str, int] = Field(description="Training rows that were compared, by task.")
    pairs: list[TaskOverlap] = Field(description="Pairs of tasks with rows that overlap.")
    rows: dict[str, list[int]] = Field(description="Training rows that overlap, by task, as row numbers of its split.")
    base: AncestorRows = Field(description="Overlap with the data of the base model.")

    def lineage(self) -> dict[str, Any]:
        """Record of the audit for the lineage of a model: counts and hashes, without locations and rows."""
        record = self.model_dump(exclude={"format", "rows"})
        for pair in record["pairs"]:
            del pair["examples"]
        return {**record, "overlapping": {task: len(rows) for task, rows in self.rows.items()}}

    def notes(self) -> list[str]:
        """Notes on the audit for the plan of a run."""
        training_rows, overlapping_rows = sum(self.trained.values()), sum(map(len, self.rows.values()))
        held_out_rows = sum(sum(task.rows.values()) for task in self.held_out)
        if not held_out_rows:
            notes = ["audit: no held-out evaluation rows are available; nothing was compared"]
        elif not overlapping_rows:
            notes = [
                f"audit: none of {training_rows:,} training rows overlaps "
                f"with {held_out_rows:,} held-out evaluation rows"
            ]
        else:
            action = "are left out" if self.mode == "drop" else "are trained on nevertheless (decontaminate: report)"
            notes = [
                f"audit: {overlapping_rows:,} of {training_rows:,} training rows overlap "
                f"with {held_out_rows:,} held-out evaluation rows and {action}: {describe_overlaps(self.pairs)}"
            ]
        if self.not_audited:
            audited_tasks = {task.task for task in self.held_out}
            names = [name if name.split("/")[0] in audited_tasks else name.split("/")[0] for name in self.not_audited]
            missing = ", ".join(dict.fromkeys(names))
            notes.append(f"not audited because their rows are not available: {missing} (reasons in audit.json)")
        if self.base.read and held_out_rows:
            seen = "; ".join(f"{task} {count:,}" for task, count in self.base.seen.items())
            notes.append(
                f"seen in pretraining: {sum(self.base.seen.values()):,} of {held_out_rows:,} held-out evaluation rows"
                f"{' (' + seen + ')' if seen else ''}; sources compared: {', '.join(self.base.read)}"
            )
        if self.base.not_read:
            notes.append(f"overlap with pretraining data is unknown for {', '.join(self.base.not_read)}: not readable")
        return notes


def describe_overlaps(pairs: Sequence[TaskOverlap]) -> str:
    """Describe the pairs with the most overlapping rows."""
    largest = sorted(pairs, key=lambda pair: -pair.rows)
    parts = [f"{pair.rows:,} of {pair.train} with {pair.held_out}" for pair in largest[:MAX_LISTED]]
    return "; ".join(parts) + (f"; and {len(largest) - MAX_LISTED} more pairs" if len(largest) > MAX_LISTED else "")


def audit(
    corpus: TaskCorpus,
    held_out: Sequence[Card],
    cards: Cards,
    lineages: Sequence[Mapping[str, Any]] = (),
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> Audit:
    """Compare the training rows of a mixture with the evaluation rows of held-out tasks.

    Args:
        corpus: The training mixture.
        held_out: Cards of the held-out tasks; all their splits are compared except those for training and
            demonstrations.
        cards: All cards.
        lineages: Lineages of the base model and its ancestors; their data is compared if it is available.
        data_root: Folder of local data sets; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder of the cache, which also holds the result, by the hash of everything that was compared.

    Raises:
        MetalmError: A training row does not fit its card.
    """
    folder = cache_folder(cache)
    splits, not_audited = _open_held_out(held_out, cards, data_root, offline, cache)
    finder = AncestorTextFinder(data_folder(data_root))
    sources = finder.find(lineages)
    used_rows = [task.rows.array() for task in corpus.tasks]
    key_parts: list[object] = [AUDIT_FORMAT, RULE, [split.key for split in splits], not_audited, finder.missing]
    key_parts += [[source.name, source.key] for source in sources]
    for task, rows in zip(corpus.tasks, used_rows, strict=True):
        key_parts += [task.card.model_dump_json(), task.examples.location, content_hash(task.examples)]
        key_parts.append(hashlib.sha256(rows.tobytes()).hexdigest())
    key = hashlib.sha256(json.dumps(key_parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
    cache_path = folder / "audits" / f"{key}.json"
    result = _read_cached(cache_path)
    if result is None:
        comparison = _Comparison(splits)
        pairs = [pair for task in range(len(used_rows)) for pair in comparison.pairs(corpus, task, used_rows[task])]
        base = comparison.base(sources, finder.missing)
        result = Audit(
            held_out=comparison.held_out(),
            not_audited=not_audited,
            trained={task.card.name: len(rows) for task, rows in zip(corpus.tasks, used_rows, strict=True)},
            pairs=pairs,
            rows=comparison.overlapping,
            base=base,
        )
        with write_to_cache(cache_path) as file:
            file.write(result.model_dump_json().encode())
    return result.model_copy(update={"mode": corpus.options.decontaminate})


def _read_cached(path: Path) -> Audit | None:
    try:
        return Audit.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def apply_audit(corpus: TaskCorpus, result: Audit) -> TaskCorpus:
    """Apply ``data.decontaminate`` to the result of an audit, and return the corpus to train on.

    Raises:
        MetalmError: Rows overlap and ``data.decontaminate`` is ``fail``; or a task has no row left.
    """
    if result.mode == "fail" and result.pairs:
        raise _overlap_error(result)
    if result.mode != "drop":
        return corpus
    empty = [name for name, rows in result.rows.items() if rows and len(rows) == result.trained[name]]
    if empty:
        raise MetalmError(
            f"the audit excludes all training rows of {', '.join(empty)}",
            where="data.hold_out",
            why=f"all rows overlap with held-out evaluation rows: {describe_overlaps(result.pairs)}",
            remedy=f"remove {'the task' if len(empty) == 1 else 'the tasks'} from data.tasks, or hold out fewer tasks",
        )
    return corpus.without_rows(result.rows)


def _overlap_error(result: Audit) -> MetalmError:
    examples = [
        f'{example.train} and {example.held_out}: "{example.words}"'
        for pair in result.pairs
        for example in pair.examples[:1]
    ]
    more = f"; and {len(examples) - MAX_EXAMPLES} more pairs" if len(examples) > MAX_EXAMPLES else ""
    return MetalmError(
        f"{sum(map(len, result.rows.values())):,} training rows overlap with held-out evaluation rows: "
        f"{describe_overlaps(result.pairs)}",
        where="data.decontaminate: fail",
        why="; ".join(examples[:MAX_EXAMPLES]) + more,
        remedy="remove these rows or tasks, or set data.decontaminate=drop to exclude overlapping rows",
    )


@dataclass(frozen=True)
class _HeldOutSplit:
    """An evaluation split of a held-out task."""

    card: Card
    role: str
    examples: Examples

    @property
    def key(self) -> list[object]:
        return [self.card.model_dump_json(), self.role, self.examples.location, content_hash(self.examples)]

    def texts(self, index: int) -> list[str]:
        """Texts of a row; of a row that does not fit the card (an unlabelled test split), the texts of all columns."""
        try:
            example = self.examples[index]
        except MetalmError:
            row = self.examples.split.rows(self.examples.table.rows)[index]
            return list(all_texts(self.examples.table.load(row)))
        return [] if example is None else compared_texts(example)


def compared_texts(example: Example) -> list[str]:
    """Texts of an example that are compared."""
    return [*example.fields.values(), *example.answers, *example.options, example.rationale]


def content_hash(examples: Examples) -> str:
    """Hash of the content of a split, independent of the location of its files."""
    split: list[object] = [examples.split.name, examples.split.first, examples.split.last]
    if examples.card.shares_validation:
        split += [examples.role, examples.card.validation_share]
    parts: list[object] = [split, [file.sha256 for file in examples.files], examples.revision]
    if examples.revision is not None:
        parts.append(examples.location)
    elif not examples.files:
        parts += [examples.table.load(row) for row in range(examples.table.rows)]
    return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def _open_held_out(
    held_out: Sequence[Card], cards: Cards, data_root: Path | None, offline: bool, cache: Path | None
) -> tuple[list[_HeldOutSplit], dict[str, str]]:
    splits: list[_HeldOutSplit] = []
    not_audited: dict[str, str] = {}
    for card in held_out:
        roles = [role for role in card.splits if role not in ("train", card.demonstrations)]
        if not roles:
            not_audited[card.name] = "its card has no split to evaluate on"
        for role in roles:
            try:
                examples = open_examples(
                    card, role, data_root=data_root, offline=offline, cache=cache, card_path=cards.paths.get(card.name)
                )
            except MetalmError as error:
                not_audited[f"{card.name}/{role}"] = "; ".join(part for part in (error.what, error.why) if part)
            else:
                splits.append(_HeldOutSplit(card, role, examples))
    return splits, not_audited


class _Comparison:
    """Comparison of rows with the held-out evaluation rows, which are numbered across all splits."""

    def __init__(self, splits: Sequence[_HeldOutSplit]) -> None:
        self.splits = splits
        self.task_names = list(dict.fromkeys(split.card.name for split in splits))
        self.first_rows = np.cumsum([0] + [len(split.examples) for split in splits])
        sizes = np.diff(self.first_rows)
        tasks = np.repeat(np.array([self.task_names.index(split.card.name) for split in splits], np.int64), sizes)
        blocks = list(ngram_index.row_blocks(self._rows()))
        hashes = np.concatenate([np.zeros(0, np.uint64), *(block for block, _ in blocks)])
        rows = np.concatenate([np.zeros(0, np.int64), *(block for _, block in blocks)])
        self.index = NgramIndex(hashes, rows, tasks)
        self.overlapping: dict[str, list[int]] = {}

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        for split, first in zip(self.splits, self.first_rows.tolist(), strict=False):
            for index in range(len(split.examples)):
                yield first + index, split.texts(index)

    def held_out(self) -> list[HeldOutRows]:
        records = {name: HeldOutRows(task=name, rows={}, content={}) for name in self.task_names}
        for split in self.splits:
            records[split.card.name].rows[split.role] = len(split.examples)
            records[split.card.name].content[split.role] = content_hash(split.examples)
        return list(records.values())

    def pairs(self, corpus: TaskCorpus, task_index: int, used_rows: np.ndarray) -> list[TaskOverlap]:
        """Overlaps of a training task with each held-out task; its overlapping rows are added to ``overlapping``."""
        training_task = corpus.tasks[task_index]
        shared = np.zeros(len(self.index.hashes), bool)
        counts = np.zeros(len(self.task_names), np.int64)
        rows: set[int] = set()
        examples: dict[int, list[tuple[int, int]]] = {}
        for hashes, owners in ngram_index.row_blocks(_training_rows(training_task.examples, used_rows)):
            positions, ngram_ids = self.index.find(hashes)
            shared[ngram_ids] = True
            ngram_positions, tasks = self.index.tasks_of(ngram_ids)
            keys = owners[positions][ngram_positions] * len(self.task_names) + tasks
            _, first_positions = np.unique(keys, return_index=True)
            for position in first_positions.tolist():
                row, held = int(owners[positions][ngram_positions[position]]), int(tasks[position])
                rows.add(row)
                counts[held] += 1
                task_examples = examples.setdefault(held, [])
                if len(task_examples) < MAX_EXAMPLES:
                    task_examples.append((row, self.index.first_row(int(ngram_ids[ngram_positions[position]]), held)))
        self.overlapping[training_task.card.name] = sorted(rows)
        evaluation_rows = np.bincount(self.index.tasks[self.index.rows_with(shared)], minlength=len(self.task_names))
        return [
            TaskOverlap(
                train=training_task.card.name,
                held_out=self.task_names[held],
                rows=int(counts[held]),
                of=len(used_rows),
                evaluation_rows=int(evaluation_rows[held]),
                examples=[
                    self._overlap(training_task.examples, *rows_of_example) for rows_of_example in examples[held]
                ],
            )
            for held in sorted(examples)
        ]

    def _overlap(self, train: Examples, row: int, evaluation_row: int) -> RowOverlap:
        split_index = int(np.searchsorted(self.first_rows, evaluation_row, "right")) - 1
        held_out, index = self.splits[split_index], evaluation_row - int(self.first_rows[split_index])
        example = train[row]
        assert example is not None, "it was read before"
        words = ngram_index.shared_words(compared_texts(example), held_out.texts(index))
        return RowOverlap(train=train.where(row), held_out=held_out.examples.where(index), words=words)

    def base(self, sources: Sequence[AncestorSource], missing: dict[str, str]) -> AncestorRows:
        """Overlap of the evaluation rows with the data of the base model."""
        shared = np.zeros(len(self.index.hashes), bool)
        read: list[str] = []
        not_read = dict(missing)
        for source in sources if len(self.index.hashes) else ():
            try:
                for hashes, _ in ngram_index.row_blocks(enumerate(source.rows())):
                    shared[self.index.find(hashes)[1]] = True
            except MetalmError as error:
                not_read[source.name] = error.what
            else:
                read.append(source.name)
        counts = np.bincount(self.index.tasks[self.index.rows_with(shared)], minlength=len(self.task_names)).tolist()
        seen = {name: count for name, count in zip(self.task_names, counts, strict=True) if count}
        return AncestorRows(read=list(dict.fromkeys(read)), not_read=not_read, seen=seen)


def _training_rows(train: Examples, used_rows: np.ndarray) -> Iterator[tuple[int, list[str]]]:
    for row in ngram_index.unique_sorted(used_rows).tolist():
        example = train[row]
        if example is not None:
            yield row, compared_texts(example)
