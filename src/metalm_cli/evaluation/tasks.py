"""Evaluating tasks by the ``finetuned`` protocol (paper section 3.3): say the answer, unconstrained, and score it.

Choices and questions are answered greedily; structures are put into words, and texts summarised, by beams of 4 with a
length penalty of 0.6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from metalm_cli.data.fit import Limits, fit
from metalm_cli.data.windows import windowed
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import metrics
from metalm_cli.evaluation.batched import continuations
from metalm_cli.evaluation.interface import Interface
from metalm_cli.evaluation.metrics import Chance, Score
from metalm_cli.evaluation.opening import Settings, Task
from metalm_cli.sessions import Session
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import Style, Template, render, session_of
from metalm_cli.templates.template import ANSWER

BEAMS = {"num_beams": 4, "length_penalty": 0.6}
"""Decoding of what is written freely (paper section 3.3)."""
UNCONSTRAINED = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Set, because a checkpoint may bring such constraints in its ``generation_config.json``."""
NEW_TOKENS = {"struct_to_text": 64, "summarization": 128}
"""Most new tokens in clusters whose answers are written freely, with beams."""
ANSWER_TOKENS = 32
"""Most new tokens of an open answer."""
BEYOND = 2
"""New tokens beyond the longest option: its end, and one that shows that a text goes on."""
LENGTH = 2048
"""Decoder positions of a session where the model states none."""
NOTES = {"drop": "token F1 as for SQuAD; DROP's own metric also compares numbers and sets of spans"}


@dataclass(frozen=True)
class Sample:
    """One answer: row of the split, what was read, what was to be said, what was said, its score from 0 to 1."""

    row: int
    input: str
    target: str
    prediction: str
    score: float | None


@dataclass(frozen=True)
class Wording:
    """A task in one wording.

    Args:
        template: Name of the template.
        score: None where no example fits the model.
        chance: Chance level on the same examples.
        cut: Examples whose long field was cut.
        skipped: Examples that do not fit even so.
        seconds: Time of tokenising, generating and scoring.
        samples: Each answer.
    """

    template: str
    score: Score | None
    chance: Chance
    cut: int
    skipped: int
    seconds: float
    samples: tuple[Sample, ...] = field(repr=False, default=())


@dataclass(frozen=True)
class Result:
    """A task in all its wordings."""

    task: Task
    wordings: tuple[Wording, ...]

    @property
    def scores(self) -> list[Score]:
        """Scores of the wordings that have one."""
        return [one.score for one in self.wordings if one.score is not None]

    @property
    def value(self) -> float | None:
        """Mean over wordings."""
        return sum(one.value for one in self.scores) / len(self.scores) if self.scores else None

    @property
    def error(self) -> float | None:
        """Standard error of :attr:`value`; no smaller for several wordings, which share their examples."""
        errors = [one.error for one in self.scores if one.error is not None]
        return sum(errors) / len(errors) if errors else None

    @property
    def best(self) -> Wording | None:
        """The wording with the highest score; the first of those."""
        scored = [one for one in self.wordings if one.score is not None]
        return max(scored, key=lambda one: one.score.value if one.score is not None else 0.0, default=None)


def evaluate(
    interface: Interface,
    tasks: Sequence[Task],
    settings: Settings,
    watch: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Ask a model, one task after the other.

    Args:
        interface: The model.
        tasks: From :func:`open_tasks`.
        settings: How.
        watch: Told what is going on.

    Raises:
        MetalmError: The model has too few positions for an answer, or no encoder that a template docks into.
    """
    for at, task in enumerate(tasks, 1):
        wordings = []
        for template in task.templates:
            title = f"{task.card.name} ({at} of {len(tasks)}), {template.name}: "
            wordings.append(ask(interface, task, template, settings, partial(_titled, watch, title)))
        yield Result(task, tuple(wordings))


def _titled(watch: Callable[[str], None], title: str, text: str) -> None:
    watch(title + text)


def ask(
    interface: Interface,
    task: Task,
    template: Template,
    settings: Settings,
    watch: Callable[[str], None] = lambda text: None,
) -> Wording:
    """Ask a model the examples of a task in one wording.

    Raises:
        MetalmError: As :func:`evaluate`.
    """
    began = time.perf_counter()
    delimiter = interface.decoder_tokenizer.rules.target_delimiter
    style = settings.style

    scored = [_as_said(example, template, style) for example in task.examples]
    limits = [new_tokens(interface, task.card, example) for example in scored]
    room = limits_of(interface, settings, max(limits))

    def make(example: Example) -> Session:
        asked = session_of(render(example, template, style), delimiter=delimiter, style=style, answered=False)
        long = task.card.long
        return windowed(asked, example.fields[long.field], room) if style.windows and long is not None else asked

    watch(f"reading {len(scored)} examples")
    fitted = [fit(example, task.card, make, room) for example in task.examples]
    kept = [at for at, one in enumerate(fitted) if one is not None]
    asked = [one[0] for one in fitted if one is not None]
    texts = continuations(
        interface,
        [make(example) for example in asked],
        [limits[at] for at in kept],
        batch_size=settings.batch_size,
        watch=lambda done: watch(f"{done} of {len(kept)} answers"),
        **UNCONSTRAINED,
        **(BEAMS if task.card.cluster in NEW_TOKENS and not task.examples[0].options else {}),
    )
    said = [without(text, delimiter) for text in texts]
    right = [scored[at] for at in kept]
    metric = task.card.metric.name
    samples = tuple(
        Sample(
            example.row, render(example, template, style).input, one.answers[0], text, metrics.each(metric, text, one)
        )
        for example, one, text in zip(asked, right, said, strict=True)
    )
    return Wording(
        template.name,
        metrics.score(metric, said, right) if right else None,
        metrics.chance(metric, right),
        sum(one is not None and one[1] for one in fitted),
        len(fitted) - len(kept),
        time.perf_counter() - began,
        samples,
    )


def limits_of(interface: Interface, settings: Settings, new: int) -> Limits:
    """What inputs must fit into, so that an answer has room.

    Args:
        interface: The model.
        settings: Their ``length`` counts the answer.
        new: Most new tokens.

    Raises:
        MetalmError: There is no room, or the length is more than the model has.
    """
    has = interface.model.positions
    length = (
        settings.length or has or getattr(interface.model.decoder.config, "max_position_embeddings", None) or LENGTH
    )
    if has is not None and length > has:
        raise MetalmError(f"sessions of {length} positions: the decoder has {has}", remedy="ask for fewer")
    if length <= new:
        raise MetalmError(
            f"sessions of {length} positions hold no answer of up to {new} tokens and its question",
            remedy="allow longer sessions, or use a model with more positions",
        )
    return Limits.of(interface.tokenise, length - new, settings.also)


def new_tokens(interface: Interface, card: Card, example: Example) -> int:
    """Most new tokens of an answer: of the longest option and a little more, or by cluster."""
    if not example.options:
        return NEW_TOKENS.get(card.cluster, ANSWER_TOKENS)
    tokenizer = interface.decoder_tokenizer
    delimiter = tokenizer.rules.target_delimiter
    return BEYOND + max(len(tokenizer.continuation(delimiter + option)) for option in example.options)


def _as_said(example: Example, template: Template, style: Style) -> Example:
    """The example with answers and options as the template has them said."""
    if template.target == ANSWER:
        return example

    def said(answer: str) -> str:
        return render(replace(example, answers=(answer,)), template, replace(style, rationale=False)).target

    return replace(example, answers=tuple(map(said, example.answers)), options=tuple(map(said, example.options)))


def without(text: str, delimiter: str) -> str:
    """What was said after the delimiter, which a model says first.

    >>> without(" Answer: yes ", " Answer:")
    'yes'
    """
    return text.strip().removeprefix(delimiter.strip()).strip()
