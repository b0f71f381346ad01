"""Cache of answers on disk, from which an interrupted evaluation resumes.

The key of an answer is all that it depends on: the model (weights, configurations and tokenizers), the token ids and
docked contents of the prompt, and the method (scoring or decoding settings). For a missing answer the cache gives the
reason: the saved answers to the same question differ in the model, in the method, or in the text. Each answer is saved
with a checksum; an answer whose checksum differs is missing as well.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.errors import Exit, MetalmError

KEY_VERSION = 2
"""Version of the keys; increased when the same model, tokens and method give another answer."""
_SCHEMA = """create table if not exists answers (
    key text primary key, question text not null, model text not null, how text not null, text text not null,
    answer text not null) without rowid"""


@dataclass(frozen=True)
class AnswerKey:
    """Key of an answer, without the model.

    Args:
        question: Readable name of the question: task, row, template, shots.
        digest: Digest of the token ids and docked contents
            (:func:`~metalm_cli.inference.scoring.question_rows.session_digest`).
        method: Kind of answer and its settings.
    """

    question: str
    digest: str
    method: str


class AnswerCache:
    """SQLite file with the answers of one or more models.

    Args:
        path: The file; None disables the cache.
        model: Hash of the model.

    Attributes:
        hits: Number of answers read from the file.
        misses: Number of missing answers by reason.
    """

    def __init__(self, path: Path | None, model: str) -> None:
        self.model = model
        self.hits = 0
        self.misses: Counter[str] = Counter()
        self._path = path
        self._connection: sqlite3.Connection | None = None
        if path is not None and path.exists():
            self._open(path)

    def _open(self, path: Path) -> sqlite3.Connection:
        """Open the file, and create it if it does not exist (only called when there is an answer to save)."""
        with _explain_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30)
            # A damaged text is not an error of the file: its checksum differs.
            self._connection.text_factory = lambda text: text.decode(errors="replace")
            self._connection.execute(_SCHEMA)
            self._connection.execute("create index if not exists questions on answers (question)")
            self._connection.commit()
            return self._connection

    def _key_hash(self, key: AnswerKey) -> str:
        return hashlib.sha256(json.dumps([KEY_VERSION, self.model, key.method, key.digest]).encode()).hexdigest()

    def get(self, key: AnswerKey) -> Any | None:
        """Return the saved answer, or None.

        Raises:
            MetalmError: The file cannot be read.
        """
        if self._connection is None or self._path is None:
            self.misses["not answered before"] += self._path is not None
            return None
        key_hash = self._key_hash(key)
        with _explain_errors(self._path):
            query = "select cast(answer as text) from answers where key = ?"
            row = self._connection.execute(query, (key_hash,)).fetchone()
            saved = None if row is None else str(row[0])
            checksum, _, text = (saved or "").partition(" ")
            if saved is not None and checksum == _checksum(key_hash, text):
                self.hits += 1
                return json.loads(text)
            self.misses[self._miss_reason(key) if saved is None else "damaged in the file"] += 1
            return None

    def _miss_reason(self, key: AnswerKey) -> str:
        assert self._connection is not None
        query = "select model, how, text from answers where question = ?"
        records = self._connection.execute(query, (key.question,)).fetchall()
        if not records:
            return "not answered before"
        same_model = [record for record in records if record[0] == self.model]
        if not same_model:
            return "answered by another model"
        return (
            "answered with other settings"
            if any(record[2] == key.digest for record in same_model)
            else "the text has changed"
        )

    def put(self, answers: Iterable[tuple[AnswerKey, Any]]) -> None:
        """Save answers; they are on disk when this method returns.

        Raises:
            MetalmError: The file cannot be written.
        """
        if self._path is None:
            return
        connection = self._connection or self._open(self._path)
        rows = []
        for key, answer in answers:
            key_hash, text = self._key_hash(key), json.dumps(answer)
            saved = f"{_checksum(key_hash, text)} {text}"
            rows.append((key_hash, key.question, self.model, key.method, key.digest, saved))
        with _explain_errors(self._path), connection:
            connection.executemany("insert or replace into answers values (?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def summary(self) -> str:
        """Return the numbers of cached and of new answers, with reasons; an empty text if the cache was empty."""
        if not self.hits and set(self.misses) <= {"not answered before"}:
            return ""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.misses.most_common())
        return f"{self.hits:,} cached" + (f"; new: {reasons}" if reasons else "")


def _checksum(key_hash: str, text: str) -> str:
    return hashlib.sha256(f"{key_hash} {text}".encode()).hexdigest()


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Context manager that turns the errors of a file that is damaged, locked or cannot grow into a MetalmError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise MetalmError(
            "answers cannot be saved",
            where=str(path),
            why=str(error),
            remedy="free some space if the disk is full and run the command again, remove the file if it is damaged, "
            "or choose another path with --out FILE",
            exit_code=Exit.FAILED,
        ) from error
