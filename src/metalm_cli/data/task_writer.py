"""From numbers of a task mixture to sessions, and from an optimiser step's sessions to rows."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from metalm_cli.data.fit import Limits, fit
from metalm_cli.data.lanes import LaneState
from metalm_cli.data.loader import StepRows
from metalm_cli.data.passes import least
from metalm_cli.data.task_corpus import Asked, TaskCorpus
from metalm_cli.data.windows import windowed
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.sessions import Row, Session, SessionTokeniser, TokenisedSession, build_row
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import Prompt, Style, Template, render, session_of

CACHED_TOKENS = 4_000_000
"""Decoder positions of sessions that are kept, for when they come again in later epochs."""
TRAINED = "trained_of."
"""Begins the counters of trained tokens by index of the task: losses are divided by them, known on the host."""
REPLACED = 1_000
"""Examples in a row that may fit into no session."""


@dataclass(frozen=True)
class TaskSession:
    """A session ready to be packed.

    Args:
        session: It.
        task: Index of its task.
        counts: Counters.
        number: Of the index plan.
    """

    session: TokenisedSession
    task: int
    counts: dict[str, int]
    number: int


@dataclass
class TaskWriter:
    """Turns numbers into sessions. Picklable.

    Args:
        corpus: What stands at each number.
        tokenise: The model's.
        limits: What a session must fit into.
    """

    corpus: TaskCorpus
    tokenise: SessionTokeniser
    limits: Limits
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

    def _made(self, asked: Asked) -> tuple[TokenisedSession, dict[str, int]]:
        counts: Counter[str] = Counter()
        for tries in range(1, REPLACED + 1):
            found = fitted(
                self.corpus.tasks[asked.task].card,
                asked.example,
                asked.template,
                asked.demonstrations,
                self.corpus.style,
                self.delimiter,
                self.limits,
                budget=self.corpus.options.demonstrations.tokens or float("inf"),
            )
            if found is not None:
                session, was_cut, shown = found
                made = self.tokenise(session, need_trained=True)
                counts["cut_examples"] += was_cut
                counts["demonstrations"] += shown
                counts["lost_demonstrations"] += len(asked.demonstrations) - shown
                return made, dict(counts) | _sizes(made)
            counts["too_long_examples"] += 1
            asked = self.corpus.after(asked, tries)
        card = self.corpus.tasks[asked.task].card
        raise MetalmError(
            f"{REPLACED:,} examples of {card.name} in a row do not fit into {self.limits.length} positions",
            where=self.corpus.where(asked.number),
            why=f"its long field: {card.long.field if card.long is not None else 'none is marked'}",
            remedy="raise data.sequence_length or the encoder's max_length, or leave the task out",
        )


def fitted(
    card: Card,
    example: Example,
    template: Template,
    demonstrations: Sequence[Example],
    style: Style,
    delimiter: str,
    limits: Limits,
    answered: bool = True,
    budget: float = float("inf"),
) -> tuple[Session, bool, int] | None:
    """The session of an example, cut where it must be; as many demonstrations as fit are kept.

    Args:
        card: Of its task.
        example: The example.
        template: Its wording, and that of its demonstrations.
        demonstrations: Answered examples in front.
        style: How prompts are made.
        delimiter: Between an input and its answer.
        limits: What the session must fit into.
        answered: With the answer, trained; its room is kept free either way.
        budget: Most decoder tokens of all demonstrations.

    Returns:
        The session, whether its long field was cut, and how many demonstrations it has; None if it does not fit.
    """
    whole = render(example, template, style)
    for shown in range(len(demonstrations), -1, -1):
        before = [render(one, template, style) for one in demonstrations[:shown]]

        def make(one: Example, before: Any = before, answered: bool = True) -> Session:
            prompt = whole if one is example else render(one, template, style)
            asked = session_of(prompt, before, delimiter=delimiter, style=style, answered=answered)
            if not style.windows or card.long is None:
                return asked
            return windowed(asked, one.fields[card.long.field], limits)

        if shown and (_tokens(before, limits) > budget or not limits.holds(make(example))):
            continue
        found = fit(example, card, make, limits)
        if found is None:
            return None
        cut_example, was_cut = found
        return make(cut_example, answered=answered), was_cut, shown
    return None


def _tokens(prompts: Sequence[Prompt], limits: Limits) -> int:
    """Decoder tokens of answered prompts, read by the decoder."""
    return sum(len(limits.tokenizer.continuation(f"{one.input} {one.target}")) for one in prompts)


def _sizes(made: TokenisedSession) -> dict[str, int]:
    docked = sum(dock.positions for _, dock in made.docks)
    return {"documents": 1, "source_tokens": len(made), "docked_positions": docked, "docked_tokens": docked}


@dataclass
class TaskLane:
    """A slot of the batch: one session a step. Picklable.

    Args:
        writer: Makes the sessions.
        state: Where to go on.
        lanes: Sessions of a step.
    """

    writer: TaskWriter
    state: LaneState
    lanes: int

    def next_row(self) -> TaskSession:
        """The session of the next step.

        Raises:
            MetalmError: As :meth:`TaskWriter.session`, while the run is under way.
        """
        try:
            made = self.writer.session(self.state.number)
        except MetalmError as error:
            error.exit_code = Exit.FAILED
            raise
        self.state = LaneState(self.state.number + self.lanes, 0)
        return made


@dataclass
class TaskLanes:
    """Makes the lanes of a process; those of a worker share a writer and its cache. Picklable."""

    writer: TaskWriter
    lanes: int
    states: dict[int, LaneState] = field(default_factory=dict)

    def __call__(self, lane: int, _owned: frozenset[int]) -> TaskLane:
        return TaskLane(self.writer, self.states.get(lane, LaneState(lane, 0)), self.lanes)


@dataclass(frozen=True)
class Layout:
    """How the sessions of a step become rows.

    Args:
        pack: Several sessions a row, isolated; else one each, in the order of their lengths.
        length: Decoder positions of a packed row.
        encoder_tokens: Most encoder tokens of a packed row.
        snug: Packed rows are shorter where that costs less on a CPU: as long as one of the step's sessions, and
            longer sessions stand alone.
    """

    pack: bool
    length: int
    encoder_tokens: int | None = None
    snug: bool = False

    def rows(self, sessions: Sequence[TaskSession]) -> list[Row]:
        """The rows of a step's sessions, the longest first."""
        ordered = sorted(sessions, key=lambda one: (-len(one.session), one.number))
        if not self.pack:
            groups = [[one] for one in ordered]
        elif self.snug and ordered:
            lengths = {len(ordered[at].session) for at in (0, 1, 2, 4, 8, 16, 32, 64) if at < len(ordered)}
            groups = min((self._packed(ordered, length) for length in sorted(lengths)), key=_cost)
        else:
            groups = self._packed(ordered, self.length)
        return [row_of(group) for group in groups]

    def _packed(self, ordered: Sequence[TaskSession], length: int) -> list[list[TaskSession]]:
        """First fit, the longest first; bounded in decoder positions and in encoder tokens."""
        rows: list[list[TaskSession]] = []
        room: list[list[float]] = []
        for one in ordered:
            need = (len(one.session), encoder_cost(one.session))
            at = next((at for at, (free, left) in enumerate(room) if free >= need[0] and left >= need[1]), None)
            if at is None:
                rows.append([])
                room.append(
                    [max(length, need[0]), float("inf") if self.encoder_tokens is None else self.encoder_tokens]
                )
                at = len(rows) - 1
            rows[at].append(one)
            room[at][0] -= need[0]
            room[at][1] -= need[1]
        return rows

    def join(self, made: Sequence[tuple[int, TaskSession, LaneState]]) -> StepRows:
        """One step's rows of a process, from the sessions of its lanes."""
        return StepRows(self.rows([one for _, one, _ in made]), {lane: state for lane, _, state in made})


def _cost(groups: Sequence[Sequence[TaskSession]]) -> float:
    """What rows of these sessions cost on a CPU."""
    return least([sum(len(one.session) for one in group) for group in groups])[0]


def encoder_cost(session: TokenisedSession) -> int:
    """Encoder positions that a session's docks take."""
    return sum(sum(dock.cost.values()) for _, dock in session.docks)


def row_of(sessions: Sequence[TaskSession]) -> Row:
    """A row of isolated sessions."""
    counts: Counter[str] = Counter(sessions=len(sessions))
    for one in sessions:
        counts.update(one.counts)
        counts[TRAINED + str(one.task)] += int(one.session.trained[1:].sum())
    row = build_row(
        [one.session for one in sessions],
        groups=[one.task for one in sessions],
        counts=dict(counts),
        numbers=[one.number for one in sessions],
    )
    return replace(row, counts={**row.counts, "positions": len(row)})
