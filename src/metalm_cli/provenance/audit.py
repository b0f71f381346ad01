"""The audit of a hold-out: which training rows share words with held-out evaluation rows.

Raw fields are compared, not renderings: what templates say is the same for all rows.
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
from metalm_cli.provenance.ngram_index import NGRAM, WHOLE, SpanIndex, row_blocks, shared_words, unique_sorted
from metalm_cli.provenance.training_text import AncestorSource, AncestorTextFinder, all_texts
from metalm_cli.tasks import Card, Cards, Example

FORMAT = 1
"""Of the audit; a new one when what is compared, or how, changes."""
EXAMPLES = 3
"""Overlaps that are shown of each pair."""
SHOWN = 5
"""Pairs that a line names."""
RULE = (
    f"two rows overlap if texts of theirs share {NGRAM} words in a row; a text of {WHOLE} to {NGRAM - 1} words must be "
    "all of a text of the other row; shorter texts are not compared. Words are runs of letters and digits, in lower "
    "case. The texts of a row are the fields of its card, its answers, its options and its rationale"
)

Mode = Literal["drop", "fail", "report"]


class RowOverlap(Section):
    """Two rows that share words."""

    train: str = Field(description="Place of the training row.")
    held_out: str = Field(description="Place of the evaluation row.")
    words: str = Field(description="The first words that they share.")


class TaskOverlap(Section):
    """A training task and a held-out task with rows that overlap."""

    train: str = Field(description="Training task.")
    held_out: str = Field(description="Held-out task.")
    rows: int = Field(description="Training rows that overlap.")
    of: int = Field(description="Training rows compared.")
    evaluation_rows: int = Field(description="Evaluation rows that overlap.")
    examples: list[RowOverlap] = Field(default=[], description="Some of them.")


class HeldOutRows(Section):
    """The evaluation rows of a held-out task that were compared."""

    task: str = Field(description="The task.")
    rows: dict[str, int] = Field(description="Rows by role.")
    content: dict[str, str] = Field(description="Hash of what was read, by role.")


class AncestorRows(Section):
    """What the base model and its ancestors had read."""

    read: list[str] = Field(default=[], description="Sources that were compared.")
    not_read: dict[str, str] = Field(default={}, description="Why others were not.")
    seen: dict[str, int] = Field(default={}, description="Evaluation rows of each task that overlap with them.")


class Audit(Section):
    """The result of an audit."""

    format: int = Field(default=FORMAT, description="Of this record.")
    rule: str = Field(default=RULE, description="What overlaps.")
    mode: Mode = Field(default="drop", description="What is done about it.")
    held_out: list[HeldOutRows] = Field(description="What was compared with.")
    not_audited: dict[str, str] = Field(description="Why other held-out evaluation rows were not, by task/role.")
    trained: dict[str, int] = Field(description="Training rows that were compared, by task.")
    pairs: list[TaskOverlap] = Field(description="Tasks with rows that overlap.")
    rows: dict[str, list[int]] = Field(description="Training rows that overlap, by task: numbers in its split.")
    base: AncestorRows = Field(description="The base model's own data.")

    def lineage(self) -> dict[str, Any]:
        """What the lineage of a model says of it: counts and hashes, no places and no rows."""
        found = self.model_dump(exclude={"format", "rows"})
        for pair in found["pairs"]:
            del pair["examples"]
        return {**found, "overlapping": {task: len(rows) for task, rows in self.rows.items()}}

    def notes(self) -> list[str]:
        """What a plan says of it."""
        total, met = sum(self.trained.values()), sum(map(len, self.rows.values()))
        held = sum(sum(one.rows.values()) for one in self.held_out)
        if not held:
            notes = ["audit: no evaluation row of what is held out is at hand: nothing was compared"]
        elif not met:
            notes = [f"audit: none of {total:,} training rows overlaps with {held:,} held-out evaluation rows"]
        else:
            done = "are left out" if self.mode == "drop" else "train nevertheless (decontaminate: report)"
            notes = [
                f"audit: {met:,} of {total:,} training rows overlap with {held:,} held-out evaluation rows "
                f"and {done}: {describe_overlaps(self.pairs)}"
            ]
        if self.not_audited:
            partly = {one.task for one in self.held_out}
            names = [name if name.split("/")[0] in partly else name.split("/")[0] for name in self.not_audited]
            missing = ", ".join(dict.fromkeys(names))
            notes.append(f"not audited, as their rows are not at hand: {missing} (audit.json says why)")
        if self.base.read and held:
            seen = "; ".join(f"{task} {count:,}" for task, count in self.base.seen.items())
            notes.append(
                f"seen in pretraining: {sum(self.base.seen.values()):,} of {held:,} held-out evaluation rows"
                f"{' (' + seen + ')' if seen else ''}; read for it: {', '.join(self.base.read)}"
            )
        if self.base.not_read:
            notes.append(f"not known whether seen in pretraining: {', '.join(self.base.not_read)} cannot be read")
        return notes


def describe_overlaps(pairs: Sequence[TaskOverlap]) -> str:
    """The pairs with most rows, in words."""
    most = sorted(pairs, key=lambda pair: -pair.rows)
    parts = [f"{pair.rows:,} of {pair.train} with {pair.held_out}" for pair in most[:SHOWN]]
    return "; ".join(parts) + (f"; and {len(most) - SHOWN} more pairs" if len(most) > SHOWN else "")


def audit(
    corpus: TaskCorpus,
    held: Sequence[Card],
    cards: Cards,
    lineages: Sequence[Mapping[str, Any]] = (),
    *,
    data_root: Path | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> Audit:
    """Compare the training rows of a mixture with the evaluation rows of what is held out.

    Args:
        corpus: What is trained on.
        held: The cards that are held out; of their splits all are compared but those to train and to demonstrate.
        cards: All cards.
        lineages: Of the base model and its ancestors: their data is read where it is at hand.
        data_root: Folder in which data sets lie; default ``$METALM_DATA``.
        offline: Open no connection.
        cache: Folder of the cache, which also keeps the result by the hash of all that was compared.

    Raises:
        MetalmError: A training row does not fit its card.
    """
    folder = cache_folder(cache)
    splits, not_audited = _open_held(held, cards, data_root, offline, cache)
    finder = AncestorTextFinder(data_folder(data_root))
    sources = finder.find(lineages)
    used = [corpus.used_rows(task) for task in range(len(corpus.tasks))]
    parts: list[object] = [FORMAT, RULE, [one.key for one in splits], not_audited, finder.missing]
    parts += [[one.name, one.key] for one in sources]
    for task, rows in zip(corpus.tasks, used, strict=True):
        parts += [task.card.model_dump_json(), task.train.location, content_hash(task.train)]
        parts.append(hashlib.sha256(rows.tobytes()).hexdigest())
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
    kept = folder / "audits" / f"{key}.json"
    found = _kept(kept)
    if found is None:
        comparison = _Comparison(splits)
        pairs = [pair for task in range(len(used)) for pair in comparison.pairs(corpus, task, used[task])]
        base = comparison.base(sources, finder.missing)
        found = Audit(
            held_out=comparison.held_out(),
            not_audited=not_audited,
            trained={task.card.name: len(rows) for task, rows in zip(corpus.tasks, used, strict=True)},
            pairs=pairs,
            rows=comparison.overlapping,
            base=base,
        )
        with write_to_cache(kept) as file:
            file.write(found.model_dump_json().encode())
    return found.model_copy(update={"mode": corpus.options.decontaminate})


def _kept(path: Path) -> Audit | None:
    try:
        return Audit.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def apply_audit(corpus: TaskCorpus, found: Audit) -> None:
    """Do about an audit what the recipe says: leave rows out, fail, or nothing.

    Raises:
        MetalmError: Rows overlap and ``data.decontaminate`` is ``fail``; or a task has no row left.
    """
    if found.mode == "fail" and found.pairs:
        raise _leaks(found)
    if found.mode != "drop":
        return
    empty = [name for name, rows in found.rows.items() if rows and len(rows) == found.trained[name]]
    if empty:
        raise MetalmError(
            f"the audit leaves nothing of {', '.join(empty)} to train on",
            where="data.hold_out",
            why=f"all rows overlap with held-out evaluation rows: {describe_overlaps(found.pairs)}",
            remedy=f"take {'it' if len(empty) == 1 else 'them'} out of data.tasks, or hold out less",
        )
    for task in corpus.tasks:
        task.left_out = frozenset(found.rows.get(task.card.name, ()))


def _leaks(found: Audit) -> MetalmError:
    shown = [f'{one.train} and {one.held_out}: "{one.words}"' for pair in found.pairs for one in pair.examples[:1]]
    more = f"; and {len(shown) - EXAMPLES} more pairs" if len(shown) > EXAMPLES else ""
    return MetalmError(
        f"{sum(map(len, found.rows.values())):,} training rows overlap with held-out evaluation rows: "
        f"{describe_overlaps(found.pairs)}",
        where="data.decontaminate: fail",
        why="; ".join(shown[:EXAMPLES]) + more,
        remedy="take these rows or tasks out, or set data.decontaminate=drop to leave such rows out",
    )


@dataclass(frozen=True)
class _Held:
    """An evaluation split of a held-out task."""

    card: Card
    role: str
    examples: Examples

    @property
    def key(self) -> list[object]:
        return [self.card.model_dump_json(), self.role, self.examples.location, content_hash(self.examples)]

    def texts(self, index: int) -> list[str]:
        """Texts of a row; of one that does not fit the card (an unlabelled test split) all columns."""
        try:
            example = self.examples[index]
        except MetalmError:
            row = self.examples.split.rows(self.examples.table.rows)[index]
            return list(all_texts(self.examples.table.load(row)))
        return [] if example is None else compared_texts(example)


def compared_texts(example: Example) -> list[str]:
    """What of an example is compared."""
    return [*example.fields.values(), *example.answers, *example.options, example.rationale]


def content_hash(examples: Examples) -> str:
    """A hash that changes whenever the rows of a split could, wherever its files lie."""
    split = [examples.split.name, examples.split.first, examples.split.last]
    parts: list[object] = [split, [file.sha256 for file in examples.files], examples.revision]
    if examples.revision is not None:
        parts.append(examples.location)
    elif not examples.files:
        parts += [examples.table.load(row) for row in range(examples.table.rows)]
    return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def _open_held(
    held: Sequence[Card], cards: Cards, data_root: Path | None, offline: bool, cache: Path | None
) -> tuple[list[_Held], dict[str, str]]:
    found: list[_Held] = []
    not_audited: dict[str, str] = {}
    for card in held:
        roles = [role for role in card.splits if role not in ("train", card.demonstrations)]
        if not roles:
            not_audited[card.name] = "its card has no split to evaluate on"
        for role in roles:
            try:
                examples = open_examples(
                    card, role, data_root=data_root, offline=offline, cache=cache, beside=cards.paths.get(card.name)
                )
            except MetalmError as error:
                not_audited[f"{card.name}/{role}"] = "; ".join(part for part in (error.what, error.why) if part)
            else:
                found.append(_Held(card, role, examples))
    return found, not_audited


class _Comparison:
    """Held-out evaluation rows, numbered through all splits, against whatever is read."""

    def __init__(self, splits: Sequence[_Held]) -> None:
        self.splits = splits
        self.names = list(dict.fromkeys(one.card.name for one in splits))
        self.firsts = np.cumsum([0] + [len(one.examples) for one in splits])
        sizes = np.diff(self.firsts)
        tasks = np.repeat(np.array([self.names.index(one.card.name) for one in splits], np.int64), sizes)
        made = list(row_blocks(self._rows()))
        hashes = np.concatenate([np.zeros(0, np.uint64), *(one for one, _ in made)])
        rows = np.concatenate([np.zeros(0, np.int64), *(one for _, one in made)])
        self.index = SpanIndex(hashes, rows, tasks)
        self.overlapping: dict[str, list[int]] = {}

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        for split, first in zip(self.splits, self.firsts.tolist(), strict=False):
            for index in range(len(split.examples)):
                yield first + index, split.texts(index)

    def held_out(self) -> list[HeldOutRows]:
        found = {name: HeldOutRows(task=name, rows={}, content={}) for name in self.names}
        for one in self.splits:
            found[one.card.name].rows[one.role] = len(one.examples)
            found[one.card.name].content[one.role] = content_hash(one.examples)
        return list(found.values())

    def pairs(self, corpus: TaskCorpus, task: int, used: np.ndarray) -> list[TaskOverlap]:
        """What a training task shares with each held-out task; its rows that do are kept in ``overlapping``."""
        opened = corpus.tasks[task]
        met = np.zeros(len(self.index.hashes), bool)
        counts = np.zeros(len(self.names), np.int64)
        rows: set[int] = set()
        first: dict[int, list[tuple[int, int]]] = {}
        for hashes, owners in row_blocks(_training_rows(opened.train, used)):
            at, spans = self.index.find(hashes)
            met[spans] = True
            which, tasks = self.index.tasks_of(spans)
            keys = owners[at][which] * len(self.names) + tasks
            _, where = np.unique(keys, return_index=True)
            for one in where.tolist():
                row, held = int(owners[at][which[one]]), int(tasks[one])
                rows.add(row)
                counts[held] += 1
                shown = first.setdefault(held, [])
                if len(shown) < EXAMPLES:
                    shown.append((row, self.index.row_of(int(spans[which[one]]), held)))
        self.overlapping[opened.card.name] = sorted(rows)
        touched = np.bincount(self.index.tasks[self.index.rows_with(met)], minlength=len(self.names))
        return [
            TaskOverlap(
                train=opened.card.name,
                held_out=self.names[held],
                rows=int(counts[held]),
                of=len(used),
                evaluation_rows=int(touched[held]),
                examples=[self._overlap(opened.train, *one) for one in first[held]],
            )
            for held in sorted(first)
        ]

    def _overlap(self, train: Examples, row: int, evaluation: int) -> RowOverlap:
        split = int(np.searchsorted(self.firsts, evaluation, "right")) - 1
        held, index = self.splits[split], evaluation - int(self.firsts[split])
        example = train[row]
        assert example is not None, "it was read before"
        words = shared_words(compared_texts(example), held.texts(index))
        return RowOverlap(train=train.where(row), held_out=held.examples.where(index), words=words)

    def base(self, sources: Sequence[AncestorSource], missing: dict[str, str]) -> AncestorRows:
        """Which evaluation rows share words with what the base model has read."""
        met = np.zeros(len(self.index.hashes), bool)
        read: list[str] = []
        not_read = dict(missing)
        for source in sources if len(self.index.hashes) else ():
            try:
                for hashes, _ in row_blocks(enumerate(source.rows())):
                    met[self.index.find(hashes)[1]] = True
            except MetalmError as error:
                not_read[source.name] = error.what
            else:
                read.append(source.name)
        counts = np.bincount(self.index.tasks[self.index.rows_with(met)], minlength=len(self.names)).tolist()
        seen = {name: count for name, count in zip(self.names, counts, strict=True) if count}
        return AncestorRows(read=list(dict.fromkeys(read)), not_read=not_read, seen=seen)


def _training_rows(train: Examples, used: np.ndarray) -> Iterator[tuple[int, list[str]]]:
    for row in unique_sorted(used).tolist():
        example = train[row]
        if example is not None:
            yield row, compared_texts(example)
