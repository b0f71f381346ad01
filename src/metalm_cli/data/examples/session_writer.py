"""Building the tokenised sessions of a task mixture by number."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.prompt_builder import PromptBuilder
from metalm_cli.data.examples.task_corpus import PlannedExample, TaskCorpus
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.errors import EmptyRenderingError, MetalmError
from metalm_cli.sessions import Session, SessionTokeniser, TokenisedSession, UnreadableImageError
from metalm_cli.sessions.images import OUTSIDE
from metalm_cli.templates import Template

MAX_CACHED_TOKENS = 4_000_000
"""Decoder positions of cached sessions, which are used again in later epochs."""
MIN_CACHED_TOKENS = 16
"""Decoder positions that a cached session counts for at least."""
MAX_DRAWS = 1_000
"""A task fails if this many independent draws in place of an example do not fit."""
TOO_LONG, EMPTY, BROKEN_IMAGES = "too_long_examples", "empty_examples", "broken_images"
"""Counters of examples in whose place another is drawn: those that do not fit, those that their template renders empty,
and those with an image that is not read."""
BYTES_PER_POSITION = 16
"""Bytes of a tokenised session per decoder position, for sessions with images, whose pixels take far more."""
Fitted = tuple[TokenisedSession, dict[str, int]] | str
"""A session with its counters, or the counter of the reason why there is none."""


@dataclass
class SessionBuilder:
    """Builder of sessions by number. Picklable.

    Args:
        corpus: The examples by number.
        tokenise: Tokeniser of sessions for the model.
        limits: Length limits of a session.
    """

    corpus: TaskCorpus
    tokenise: SessionTokeniser
    limits: LengthLimits
    _cache: OrderedDict[Any, Fitted] = field(default_factory=OrderedDict)
    _cached_tokens: int = 0
    hits: int = 0
    misses: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_tokens": 0}

    @property
    def delimiter(self) -> str:
        """Text between an input and its answer."""
        return self.tokenise.tokenizer.rules.target_delimiter

    def session(self, number: int) -> TaskSession:
        """The session at a number.

        Raises:
            MetalmError: A row or a template is wrong, or no example of a task fits and is rendered.
        """
        planned = self.corpus.get(number)
        reasons: list[str] = []
        for attempt in range(MAX_DRAWS):
            if attempt:
                planned = self.corpus.replacement(number, attempt)
            fitted = self._fitted_session(planned)
            if not isinstance(fitted, str):
                tokenised, counts = fitted
                replaced = {reason: int(reasons[:1] == [reason]) for reason in (TOO_LONG, EMPTY, BROKEN_IMAGES)}
                return TaskSession(tokenised, planned.task, {**counts, **replaced}, number)
            reasons.append(fitted)
        raise self._no_session_error(planned, number, Counter(reasons))

    def _no_session_error(self, planned: PlannedExample, number: int, reasons: Counter[str]) -> MetalmError:
        card = self.corpus.tasks[planned.task].card
        long_field = card.long_inputs.field if card.long_inputs is not None else "none"
        empty = f"templates render an empty input or target for {reasons[EMPTY]:,} of them" if reasons[EMPTY] else ""
        broken = f"images of {reasons[BROKEN_IMAGES]:,} of them cannot be read" if reasons[BROKEN_IMAGES] else ""
        if not reasons[TOO_LONG]:
            return MetalmError(
                f"{reasons.total():,} examples drawn from {card.name} are left out",
                where=self.corpus.where(number),
                why="; ".join(filter(None, [empty, broken])),
                remedy=f"{'choose other templates' if empty else 'repair the images'}, or leave the task out",
            )
        return MetalmError(
            f"{reasons[TOO_LONG]:,} examples drawn from {card.name} do not fit into {self.limits.length} positions",
            where=self.corpus.where(number),
            why="; ".join(filter(None, [f"the long field of the card: {long_field}", empty, broken])),
            remedy="raise data.sequence_length or the encoder's max_length, or leave the task out",
        )

    def prompts_of(self, task: int, template: Template) -> PromptBuilder:
        """Prompt builder of a task and a template."""
        card = self.corpus.tasks[task].card
        return PromptBuilder(card, template, self.corpus.style, self.delimiter, self.limits)

    def read(self, session: Session) -> TokenisedSession | None:
        """Tokenise a session that fits, with its images; None if an image cannot be read.

        Raises:
            MetalmError: The session is wrong, an image lies outside its folder, or one cannot be read and that is an
                error (``data.broken_images``).
        """
        try:
            return self.tokenise(session, require_targets=True)
        except UnreadableImageError as error:
            if self.corpus.options.broken_images == "fail" or error.reason == OUTSIDE:
                raise
            return None

    def _fitted_session(self, planned: PlannedExample) -> Fitted:
        """The cached session of an example with its counters, or why it has none."""
        if planned.key in self._cache:
            self.hits += 1
            self._cache.move_to_end(planned.key)
            return self._cache[planned.key]
        self.misses += 1
        fitted = self._build(planned)
        self._cache[planned.key] = fitted
        self._cached_tokens += _cache_cost(fitted)
        while self._cached_tokens > MAX_CACHED_TOKENS:
            _, oldest = self._cache.popitem(last=False)
            self._cached_tokens -= _cache_cost(oldest)
        return fitted

    def _build(self, planned: PlannedExample) -> Fitted:
        max_tokens = self.corpus.options.demonstrations.max_tokens or float("inf")
        prompts = self.prompts_of(planned.task, planned.template)
        try:
            fitted = prompts.fit(planned.example, planned.demonstrations, max_tokens)
        except EmptyRenderingError:
            return EMPTY
        if fitted is None:
            return TOO_LONG
        tokenised = self.read(fitted.session)
        if tokenised is None:
            return BROKEN_IMAGES
        counts = {
            "cut_examples": int(fitted.truncated),
            "demonstrations": fitted.shots,
            "lost_demonstrations": len(planned.demonstrations) - fitted.shots,
        }
        return tokenised, counts | _size_counts(tokenised)


def _cache_cost(fitted: Fitted) -> int:
    """Decoder positions that a cached session counts for, or the obstacle of an example without one."""
    if isinstance(fitted, str):
        return MIN_CACHED_TOKENS
    pixels = (dock.arrays["pixel_values"] for _, dock in fitted[0].docks if "pixel_values" in dock.arrays)
    return max(MIN_CACHED_TOKENS, len(fitted[0])) + sum(array.nbytes for array in pixels) // BYTES_PER_POSITION


def _size_counts(tokenised: TokenisedSession) -> dict[str, int]:
    docked_positions = sum(dock.positions for _, dock in tokenised.docks)
    return {
        "documents": 1,
        "source_tokens": len(tokenised),
        "docked_positions": docked_positions,
        "docked_tokens": docked_positions,
    }
