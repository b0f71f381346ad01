"""Answers that are kept from one evaluation to the next, so that an interrupted one goes on from what it had.

An answer is found by what it depends on alone: the model's weights, the token ids and docked contents that it reads,
and how it is asked. Where an answer is missing, the reason is told: what was kept of the same question differs in the
model, in the way of asking, or in its text.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.errors import Exit, MetalmError

VERSION = 1
"""Changes when the same model, tokens and way of asking give another answer."""
_TABLE = """create table if not exists answers (
    key text primary key, question text not null, model text not null, how text not null, text text not null,
    answer text not null) without rowid"""


@dataclass(frozen=True)
class AnswerKey:
    """A question, as an answer is kept for it.

    Args:
        question: What a person would call it: task, row, template, shots.
        text: Digest of the token ids and docked contents
            (:func:`~metalm_cli.inference.scoring.question_rows.session_digest`).
        how: Kind of answer and its settings.
    """

    question: str
    text: str
    how: str


class AnswerCache:
    """A file of answers of one model or more.

    Args:
        path: The file (SQLite); None keeps nothing.
        model: Hash of the model's weights.

    Attributes:
        found: Answers that were there.
        missed: Answers that were not, by reason.
    """

    def __init__(self, path: Path | None, model: str) -> None:
        self.model = model
        self.found = 0
        self.missed: Counter[str] = Counter()
        self._path = path
        self._base: sqlite3.Connection | None = None
        if path is not None and path.exists():
            self._open(path)

    def _open(self, path: Path) -> sqlite3.Connection:
        """Open the file, which is made where there is none: only when there is something to be kept."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=30)
            self._base.execute(_TABLE)
            self._base.execute("create index if not exists questions on answers (question)")
            self._base.commit()
            return self._base
        except (OSError, sqlite3.Error) as error:
            raise MetalmError(
                "answers cannot be kept",
                where=str(path),
                why=str(error),
                remedy="remove the file if it is damaged, or choose another place with --out FILE",
                exit_code=Exit.FAILED,
            ) from error

    def _key(self, asked: AnswerKey) -> str:
        return hashlib.sha256(json.dumps([VERSION, self.model, asked.how, asked.text]).encode()).hexdigest()

    def get(self, asked: AnswerKey) -> Any | None:
        """The answer, or None."""
        if self._base is None:
            self.missed["not asked before"] += self._path is not None
            return None
        row = self._base.execute("select answer from answers where key = ?", (self._key(asked),)).fetchone()
        if row is not None:
            self.found += 1
            return json.loads(row[0])
        self.missed[self._reason(asked)] += 1
        return None

    def _reason(self, asked: AnswerKey) -> str:
        assert self._base is not None
        query = "select model, how, text from answers where question = ?"
        others = self._base.execute(query, (asked.question,)).fetchall()
        if not others:
            return "not asked before"
        same = [one for one in others if one[0] == self.model]
        if not same:
            return "asked of other weights"
        return "asked in another way" if any(one[2] == asked.text for one in same) else "its text has changed"

    def put(self, answers: Iterable[tuple[AnswerKey, Any]]) -> None:
        """Keep answers; they are on disk when this returns."""
        if self._path is None:
            return
        base = self._base or self._open(self._path)
        rows = [
            (self._key(asked), asked.question, self.model, asked.how, asked.text, json.dumps(answer))
            for asked, answer in answers
        ]
        with base:
            base.executemany("insert or replace into answers values (?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        if self._base is not None:
            self._base.close()

    def summary(self) -> str:
        """How many answers were kept and how many are new, and why; empty where nothing was there to be found."""
        if not self.found and set(self.missed) <= {"not asked before"}:
            return ""
        new = ", ".join(f"{count:,} {reason}" for reason, count in self.missed.most_common())
        return f"{self.found:,} kept" + (f"; new: {new}" if new else "")
