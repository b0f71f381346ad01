"""Evaluating tasks: put into words, asked by a protocol, and scored.

Protocols are told apart in :mod:`metalm_cli.evaluation.settings`. What is said freely is decoded greedily; structures
are put into words, and texts summarised, by beams of 4 with a length penalty of 0.6 (paper section 3.3).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from metalm_cli.evaluation.answer_cache import AnswerCache, AnswerKey
from metalm_cli.evaluation.chain_of_thought import extract_answer, majority_vote
from metalm_cli.evaluation.metrics import task_metrics, text_metrics
from metalm_cli.evaluation.metrics.task_metrics import ChanceLevel, Score
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.prompts import NEW_TOKENS, EncodedPrompt, PromptSet, asks_for_rationale, build_prompts
from metalm_cli.evaluation.ranking import OptionRanking, rank
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.batch_generation import UNCONSTRAINED, generate_all, sample_all
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.option_scorer import Scorer
from metalm_cli.inference.scoring.question_rows import session_digest
from metalm_cli.inference.text_streaming import strip_delimiter
from metalm_cli.tasks import Example
from metalm_cli.templates import Template

BEAMS = {"num_beams": 4, "length_penalty": 0.6}
"""Decoding of what is written freely (paper section 3.3)."""
CHUNK = 8
"""Forward passes' worth of answers that are said before they are kept."""


@dataclass(frozen=True)
class Prediction:
    """One answer: row of the split, what was read, what was to be said, what was said, its score from 0 to 1.

    Where options were ranked, their log-probabilities by option.
    """

    row: int
    input: str
    target: str
    prediction: str
    score: float | None
    log_likelihood: Mapping[str, float] | None = None


@dataclass(frozen=True)
class TemplateResult:
    """A task in one wording, with so many demonstrations.

    Args:
        template: Name of the template.
        score: None where no example fits the model.
        chance: Chance level on the same examples.
        cut: Examples whose long field was cut.
        skipped: Examples that do not fit even so, or not beside their demonstrations.
        seconds: Time of tokenising, asking and scoring.
        shots: Demonstrations in front of each example.
        extra: Further columns by name: other metrics, and the metric with options compared in other ways.
        each: Score of each example, or what was found and what is right, for metrics over a whole split.
        samples: Each answer.
        note: What demonstrations leave no room for.
    """

    template: str
    score: Score | None
    chance: ChanceLevel
    cut: int
    skipped: int
    seconds: float
    shots: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)
    each: Mapping[str, list[Any]] = field(default_factory=dict, repr=False)
    samples: tuple[Prediction, ...] = field(repr=False, default=())
    note: str = ""


@dataclass(frozen=True)
class ShotResult:
    """A task with so many demonstrations, in all its wordings."""

    shots: int
    wordings: tuple[TemplateResult, ...]

    @property
    def scores(self) -> list[Score]:
        """Scores of the wordings that have one."""
        return [one.score for one in self.wordings if one.score is not None]

    @property
    def value(self) -> float | None:
        """Mean over wordings."""
        return statistics.fmean(one.value for one in self.scores) if self.scores else None

    @property
    def error(self) -> float | None:
        """Standard error of :attr:`value`; no smaller for several wordings, which share their examples."""
        errors = [one.error for one in self.scores if one.error is not None]
        return statistics.fmean(errors) if errors else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over wordings; None for fewer than two."""
        return statistics.stdev(one.value for one in self.scores) if len(self.scores) > 1 else None

    @property
    def oracle(self) -> TemplateResult | None:
        """The wording with the highest score, chosen on what is scored; the first of those."""
        scored = [one for one in self.wordings if one.score is not None]
        return max(scored, key=lambda one: one.score.value if one.score is not None else 0.0, default=None)


@dataclass(frozen=True)
class TaskResult:
    """A task in all its settings."""

    task: EvaluatedTask
    settings: tuple[ShotResult, ...]

    @property
    def wordings(self) -> tuple[TemplateResult, ...]:
        """All of them."""
        return tuple(one for setting in self.settings for one in setting.wordings)


class Evaluator:
    """Asks a model, and keeps what it has read and answered from task to task.

    Args:
        language_model: The model.
        settings: How.
        kept: Answers that are there already.
    """

    def __init__(
        self, language_model: LanguageModel, settings: EvaluationSettings, kept: AnswerCache | None = None
    ) -> None:
        self.language_model, self.settings = language_model, settings
        self.kept = kept or AnswerCache(None, "")
        self.scorer = Scorer(language_model)

    def evaluate(
        self, tasks: Sequence[EvaluatedTask], watch: Callable[[str], None] = lambda text: None
    ) -> Iterator[TaskResult]:
        """Ask one task after the other.

        Args:
            tasks: From :func:`~metalm_cli.evaluation.open_tasks.open_tasks`, opened with the same settings.
            watch: Told what is going on.

        Raises:
            MetalmError: The model has too few positions for an answer, or no encoder that a template docks into.
        """
        for at, task in enumerate(tasks, 1):
            found = []
            for shots in self.settings.shots:
                wordings = []
                for template in task.templates:
                    title = f"{task.card.name} ({at} of {len(tasks)}), {template.name}, {shots} shots: "
                    wordings.append(self.ask(task, template, shots, partial(_with_title, watch, title)))
                found.append(ShotResult(shots, tuple(wordings)))
            yield TaskResult(task, tuple(found))

    def ask(
        self, task: EvaluatedTask, template: Template, shots: int = 0, watch: Callable[[str], None] = lambda text: None
    ) -> TemplateResult:
        """Ask the examples of a task in one wording.

        Raises:
            MetalmError: As :meth:`evaluate`.
        """
        began = time.perf_counter()
        watch(f"reading {len(task.examples)} examples")
        made = build_prompts(self.language_model, task, template, shots, self.settings)
        prompts = made.prompts
        names = [f"{task.card.name} row {one.example.row}, {template.name}, {shots} shots" for one in prompts]
        ranked: list[OptionRanking] | None = None
        if prompts and self._ranks(task) and all(one.right.options for one in prompts):
            ranked = rank(
                self.scorer,
                prompts,
                names,
                self.kept,
                ended=self.settings.protocol == "instruct",
                watch=lambda done: watch(f"{done} of {len(prompts)} examples"),
            )
            said = [one.right.options[found.chosen] for one, found in zip(prompts, ranked, strict=True)]
        else:
            said = self._said(task, prompts, names, watch)
        return self._scored(task, template, shots, made, said, ranked, began)

    def _ranks(self, task: EvaluatedTask) -> bool:
        """Whether options are ranked: what is sampled, or reasons first, has to be said."""
        settings = self.settings
        return (
            settings.protocol != "finetuned"
            and settings.samples == 1
            and not asks_for_rationale(task.card, settings.style)
        )

    def _said(
        self, task: EvaluatedTask, prompts: Sequence[EncodedPrompt], names: Sequence[str], watch: Callable[[str], None]
    ) -> list[str]:
        """What the model answers to each prompt: what it says, or of several samples what most of them answer."""
        settings, delimiter = self.settings, self.language_model.decoder_tokenizer.rules.target_delimiter
        options: dict[str, Any] = dict(UNCONSTRAINED)
        if settings.samples > 1:
            how = f"{settings.samples} samples at {settings.temperature}, seed {settings.seed}"
        else:
            free = task.card.cluster in NEW_TOKENS and not task.examples[0].options
            options |= BEAMS if free else {}
            how = f"said {sorted(options.items())}"
        found = self._texts(prompts, names, how, options, watch)
        metric, reasoned = task.card.metric.name, asks_for_rationale(task.card, settings.style)

        def answer(text: str) -> str:
            return extract_answer(text, delimiter, metric)[1] if reasoned else strip_delimiter(text, delimiter)

        return [
            answer(one) if isinstance(one, str) else majority_vote([answer(sample) for sample in one], metric)
            for one in found
        ]

    def _texts(
        self,
        prompts: Sequence[EncodedPrompt],
        names: Sequence[str],
        how: str,
        options: Mapping[str, Any],
        watch: Callable[[str], None],
    ) -> list[str | list[str]]:
        """The text of each prompt, or its samples; a chunk at a time, each kept when it is done."""
        settings = self.settings
        sessions = [one.whole for one in prompts]
        asked = [
            AnswerKey(name, session_digest(session), f"{how} {one.limit}")
            for name, session, one in zip(names, sessions, prompts, strict=True)
        ]
        found: list[Any] = [self.kept.get(one) for one in asked]
        new = sorted((at for at, one in enumerate(found) if one is None), key=lambda at: -len(sessions[at]))
        done = len(prompts) - len(new)
        size = CHUNK * settings.batch_size
        for begin in range(0, len(new), size):
            part = new[begin : begin + size]
            reads, limits = [sessions[at] for at in part], [prompts[at].limit for at in part]
            told: dict[str, Any] = {"batch_size": settings.batch_size, **options}
            answers: Sequence[Any]
            if settings.samples > 1:
                rows = [prompts[at].example.row for at in part]
                drawn: dict[str, Any] = {"temperature": settings.temperature, "seed": settings.seed, "keys": rows}
                answers = sample_all(self.language_model, reads, limits, settings.samples, **drawn, **told)
            else:
                progress = partial(_progress, watch, done, len(prompts))
                answers = generate_all(self.language_model, reads, limits, watch=progress, **told)
            for at, text in zip(part, answers, strict=True):
                found[at] = text
            self.kept.put((asked[at], found[at]) for at in part)
            done += len(part)
            watch(f"{done} of {len(prompts)} answers")
        return found

    def _scored(
        self,
        task: EvaluatedTask,
        template: Template,
        shots: int,
        made: PromptSet,
        said: list[str],
        ranked: Sequence[OptionRanking] | None,
        began: float,
    ) -> TemplateResult:
        metric, prompts = task.card.metric.name, made.prompts
        right = [one.right for one in prompts]
        if self.settings.normalise:
            said, right = [normalise(one) for one in said], [_plain(one) for one in right]
        extra: dict[str, float] = {}
        if right:
            extra |= task_metrics.extra_metrics(task.card, said, right)
        if right and ranked is not None:
            for way in ranked[0].alternatives:
                chosen = [one.options[found.alternatives[way]] for one, found in zip(right, ranked, strict=True)]
                extra[way] = task_metrics.metric_value(metric, chosen, right).value
        samples = tuple(
            Prediction(
                one.example.row,
                one.input,
                of.answers[0],
                text,
                task_metrics.score_of_example(metric, text, of),
                None if ranked is None else dict(zip(of.options, ranked[at].log_likelihood, strict=True)),
            )
            for at, (one, of, text) in enumerate(zip(prompts, right, said, strict=True))
        )
        return TemplateResult(
            template.name,
            task_metrics.metric_value(metric, said, right) if right else None,
            task_metrics.chance(metric, right),
            made.cut,
            made.skipped,
            time.perf_counter() - began,
            shots,
            extra,
            task_metrics.columns_by_example(metric, said, right) if right else {},
            samples,
            made.note,
        )


def _progress(watch: Callable[[str], None], done: int, of: int, more: int) -> None:
    watch(f"{done + more} of {of} answers")


def _with_title(watch: Callable[[str], None], title: str, text: str) -> None:
    watch(title + text)


def normalise(text: str) -> str:
    """A text without case, punctuation and articles, unless nothing else is in it."""
    return text_metrics.normalised(text) or text.strip().lower()


def _plain(example: Example) -> Example:
    return replace(
        example, answers=tuple(map(normalise, example.answers)), options=tuple(map(normalise, example.options))
    )
