"""From numbers of a task mixture to sessions, and from an optimiser step's sessions to rows."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.data.examples.fit_prompt import build_session
from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.task_corpus import PlannedExample, TaskCorpus
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import SessionTokeniser, TokenisedSession

CACHED_TOKENS = 4_000_000
"""Decoder positions of sessions that are kept, for when they come again in later epochs."""
MAX_REPLACEMENTS = 1_000
"""Examples in a row that may fit into no session."""


@dataclass
class SessionBuilder:
    """Turns numbers into sessions. Picklable.

    Args:
        corpus: What stands at each number.
        tokenise: The model's.
        limits: What a session must fit into.
    """

    corpus: TaskCorpus
    tokenise: SessionTokeniser
    limits: LengthLimits
    _cache: OrderedDict[Any, tuple[TokenisedSession, dict[str, int]]] = field(default_factory=OrderedDict)
    _cached: int = 0
    hits: int = 0
    misses: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached": 0}

    @property
    def delimiter(self) -> str:
        """Between an input and its answer."""
        return self.tokenise.tokenizer.rules.target_delimiter

    def session(self, number: int) -> TaskSession:
        """The session at a number.

        Raises:
            MetalmError: A row or a template is wrong, or nothing of a task fits.
        """
        asked = self.corpus.get(number)
        key = asked.key
        if key in self._cache:
            self.hits += 1
            self._cache.move_to_end(key)
            made, counts = self._cache[key]
            return TaskSession(made, asked.task, counts, number)
        self.misses += 1
        made, counts = self._made(asked)
        self._keep(key, made, counts)
        return TaskSession(made, asked.task, counts, number)

    def _keep(self, key: Any, made: TokenisedSession, counts: dict[str, int]) -> None:
        self._cache[key] = made, counts
        self._cached += len(made)
        while self._cached > CACHED_TOKENS:
            _, (old, _counts) = self._cache.popitem(last=False)
            self._cached -= len(old)

    def _made(self, asked: PlannedExample) -> tuple[TokenisedSession, dict[str, int]]:
        counts: Counter[str] = Counter()
        for tries in range(1, MAX_REPLACEMENTS + 1):
            found = build_session(
                self.corpus.tasks[asked.task].card,
                asked.example,
                asked.template,
                asked.demonstrations,
                self.corpus.style,
                self.delimiter,
                self.limits,
                budget=self.corpus.options.demonstrations.max_tokens or float("inf"),
            )
            if found is not None:
                session, was_cut, shown = found
                made = self.tokenise(session, require_targets=True)
                counts["cut_examples"] += was_cut
                counts["demonstrations"] += shown
                counts["lost_demonstrations"] += len(asked.demonstrations) - shown
                return made, dict(counts) | _sizes(made)
            counts["too_long_examples"] += 1
            asked = self.corpus.replacement(asked, tries)
        card = self.corpus.tasks[asked.task].card
        raise MetalmError(
            f"{MAX_REPLACEMENTS:,} examples of {card.name} in a row do not fit into {self.limits.length} positions",
            where=self.corpus.where(asked.number),
            why=f"its long field: {card.long_inputs.field if card.long_inputs is not None else 'none is marked'}",
            remedy="raise data.sequence_length or the encoder's max_length, or leave the task out",
        )


def _sizes(made: TokenisedSession) -> dict[str, int]:
    docked = sum(dock.positions for _, dock in made.docks)
    return {"documents": 1, "source_tokens": len(made), "docked_positions": docked, "docked_tokens": docked}
