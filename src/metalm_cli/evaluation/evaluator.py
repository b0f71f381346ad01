"""Evaluator: render the examples of tasks, obtain answers by a protocol, and score them.

The protocols are described in :mod:`metalm_cli.evaluation.settings`. Open answers are decoded greedily, except for
data-to-text and summarisation tasks, which use 4 beams with a length penalty of 0.6 (paper section 3.3).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from metalm_cli.evaluation.answers.answer_cache import AnswerCache
from metalm_cli.evaluation.answers.answer_lengths import NEW_TOKENS_BY_CLUSTER, asks_for_rationale
from metalm_cli.evaluation.answers.answer_tokens import AnswerTokens, generation_notes, option_notes
from metalm_cli.evaluation.answers.chain_of_thought import extract_answer, majority_vote
from metalm_cli.evaluation.answers.generated_answers import generate_answers
from metalm_cli.evaluation.answers.ranking import OptionRanking, rank, scores_of_alternatives
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.metrics.cost import Cost, CostMeter
from metalm_cli.evaluation.metrics.task_metrics import ChanceLevel, Score
from metalm_cli.evaluation.open_tasks import EvaluatedTask, normalisation_notes, normalise_answer
from metalm_cli.evaluation.prompts import (
    EncodedPrompt,
    PromptSet,
    build_prompts,
    style_of_task,
)
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.scorers import scorer_of
from metalm_cli.inference.text_streaming import strip_delimiter
from metalm_cli.templates import Template

BEAM_SEARCH = {"num_beams": 4, "length_penalty": 0.6}
"""Decoding options of data-to-text and summarisation tasks (paper section 3.3)."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one example: row of the split, input, target, prediction, and score from 0 to 1.

    If options were ranked, ``log_likelihood`` has the log-probability of each option.
    """

    row: int
    input: str
    target: str
    prediction: str
    score: float | None
    log_likelihood: Mapping[str, float] | None = None


@dataclass(frozen=True)
class TemplateResult:
    """Result of a task with one template and a number of demonstrations.

    Args:
        template: Name of the template.
        score: The score; None if no example fits the model.
        chance: Chance level on the same examples.
        cut: Number of examples whose long field was truncated.
        skipped: Number of examples that do not fit, even truncated, or do not fit with their demonstrations.
        empty: Number of examples for which the template renders an empty input or target.
        seconds: Time of tokenising, inference and scoring.
        shots: Number of demonstrations before each example.
        extra: Further scores by name: other metrics, and the metric with options ranked in other ways.
        each: Columns by example: scores, or predictions and references for metrics over a whole split.
        also_each: Columns by example of the card's other metrics, by metric.
        samples: Predictions for all examples.
        note: Examples that do not fit with their demonstrations, as a message.
        max_answer_tokens: Maximum number of new tokens of open answers; None if answers are among options.
        at_limit: Number of open answers that met this limit, or the end of the model's positions, before their end.
        warnings: Examples with options or answers that the model's tokenizer cannot distinguish or spell, as messages.
        cost: Time, positions, FLOPs and memory of an example; None if all answers were cached.
        extra_intervals: 95% intervals of further scores, 0 to 100, by name.
        extra_chance: Chance levels of further scores, 0 to 100, by name.
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
    max_answer_tokens: int | None = None
    at_limit: int = 0
    warnings: tuple[str, ...] = ()
    also_each: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict, repr=False)
    cost: Cost | None = None
    empty: int = 0
    extra_intervals: Mapping[str, list[float]] = field(default_factory=dict)
    extra_chance: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ShotResult:
    """Results of a task with a number of demonstrations, by template."""

    shots: int
    template_results: tuple[TemplateResult, ...]

    @property
    def scores(self) -> list[Score]:
        """Scores of the templates that have one."""
        return [result.score for result in self.template_results if result.score is not None]

    @property
    def value(self) -> float | None:
        """Mean score over templates."""
        return statistics.fmean(score.value for score in self.scores) if self.scores else None

    @property
    def error(self) -> float | None:
        """Standard error of :attr:`value`; not reduced by several templates, as they share their examples."""
        errors = [score.error for score in self.scores if score.error is not None]
        return statistics.fmean(errors) if errors else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over templates; None for fewer than two."""
        return statistics.stdev(score.value for score in self.scores) if len(self.scores) > 1 else None

    @property
    def oracle(self) -> TemplateResult | None:
        """Result of the template with the highest score on these same examples; the first of equals."""
        results = [result for result in self.template_results if result.score is not None]
        return max(results, key=lambda result: result.score.value if result.score is not None else 0.0, default=None)


@dataclass(frozen=True)
class TaskResult:
    """Results of a task, by number of demonstrations.

    Args:
        task: The task.
        shot_results: Its results.
        other_metric: Metric of the scores, if it is not that of the card.
    """

    task: EvaluatedTask
    shot_results: tuple[ShotResult, ...]
    other_metric: str = ""

    @property
    def template_results(self) -> tuple[TemplateResult, ...]:
        """Results for all numbers of demonstrations and all templates."""
        return tuple(
            template_result for shot_result in self.shot_results for template_result in shot_result.template_results
        )


class Evaluator:
    """Evaluator of a model, with caches that are shared by all tasks.

    Args:
        language_model: The model.
        settings: Settings of the evaluation.
        cache: Answers of earlier evaluations.
        is_in_training: Whether the model trains, so that the memory of its training is measured.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        settings: EvaluationSettings,
        cache: AnswerCache | None = None,
        *,
        is_in_training: bool = False,
    ) -> None:
        self.language_model, self.settings, self.is_in_training = language_model, settings, is_in_training
        self.cache = cache or AnswerCache(None, "")
        self.scorer = scorer_of(language_model)
        self.answer_tokens = AnswerTokens(language_model.decoder_tokenizer)

    def evaluate(
        self, tasks: Sequence[EvaluatedTask], on_progress: Callable[[str], None] = lambda text: None
    ) -> Iterator[TaskResult]:
        """Evaluate tasks one after the other.

        Args:
            tasks: From :func:`~metalm_cli.evaluation.open_tasks.open_evaluation_tasks`, with the same settings.
            on_progress: Called with a progress message.

        Raises:
            MetalmError: The model has too few positions for an answer, or no encoder that a template docks into.
        """
        for task in tasks:
            for template in task.templates:
                style_of_task(self.language_model, task.card, template, self.settings.style)
        for index, task in enumerate(tasks, 1):
            shot_results = []
            for shots in self.settings.shots:
                template_results = []
                for template in task.templates:
                    title = f"{task.card.name} ({index} of {len(tasks)}), {template.name}, {shots} shots: "
                    template_results.append(
                        self.evaluate_template(task, template, shots, partial(_with_title, on_progress, title))
                    )
                shot_results.append(ShotResult(shots, tuple(template_results)))
            task.release_prompts()
            yield TaskResult(task, tuple(shot_results))

    def evaluate_template(
        self,
        task: EvaluatedTask,
        template: Template,
        shots: int = 0,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> TemplateResult:
        """Evaluate a task with one template.

        Raises:
            MetalmError: As :meth:`evaluate`.
        """
        start_time = time.perf_counter()
        on_progress(f"reading {len(task.examples)} examples")
        prompt_set = build_prompts(self.language_model, task, template, shots, self.settings)
        prompts = prompt_set.prompts
        names = [f"{task.card.name} row {prompt.example.row}, {template.name}, {shots} shots" for prompt in prompts]
        rankings: list[OptionRanking] | None = None
        cut_answers, cached = 0, self.cache.hits
        ranks = bool(prompts) and self._ranks_options(task) and all(prompt.reference.options for prompt in prompts)
        with CostMeter(self.language_model, may_reset=not self.is_in_training) as meter:
            if ranks:
                rankings, warnings = rank(
                    self.scorer,
                    prompts,
                    names,
                    self.cache,
                    with_end_token=self.settings.protocol == "instruct",
                    on_progress=lambda done: on_progress(f"{done} of {len(prompts)} examples"),
                )
                predictions = [
                    prompt.reference.options[ranking.best_option]
                    for prompt, ranking in zip(prompts, rankings, strict=True)
                ]
            else:
                predictions, cut_answers = self._predict(task, prompts, names, on_progress)
                warnings = generation_notes([prompt.reference for prompt in prompts], self.answer_tokens)
                warnings += self._option_notes(task, predictions, prompts)
        cost = meter.cost([prompt.session for prompt in prompts], len(prompts) - (self.cache.hits - cached))
        if self.settings.normalise:
            warnings += normalisation_notes([prompt.reference for prompt in prompts])
        outcome = prompt_set, predictions, rankings
        result = replace(score_template(self.settings, task, template.name, shots, *outcome, start_time), cost=cost)
        open_limits = [prompt.max_new_tokens for prompt in prompts if prompt.is_open]
        if rankings is not None or not open_limits:
            return replace(result, warnings=tuple(warnings))
        return replace(result, warnings=tuple(warnings), max_answer_tokens=max(open_limits), at_limit=cut_answers)

    def _ranks_options(self, task: EvaluatedTask) -> bool:
        """Whether options are ranked."""
        return self.settings.protocol != "finetuned" and self._can_rank(task)

    def _can_rank(self, task: EvaluatedTask) -> bool:
        """Whether options can be ranked: several samples, or a rationale, must be generated."""
        return self.settings.samples == 1 and not asks_for_rationale(task.card, self.settings.style)

    def _option_notes(
        self, task: EvaluatedTask, predictions: Sequence[str], prompts: Sequence[EncodedPrompt]
    ) -> list[str]:
        pairs = [(prediction, prompt.reference) for prediction, prompt in zip(predictions, prompts, strict=True)]
        if self.settings.normalise:
            pairs = [normalise_answer(*pair) for pair in pairs]
        answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return option_notes(answers, references, can_rank=self._can_rank(task))

    def _predict(
        self,
        task: EvaluatedTask,
        prompts: Sequence[EncodedPrompt],
        names: Sequence[str],
        on_progress: Callable[[str], None],
    ) -> tuple[list[str], int]:
        """Generate an answer to each prompt; of several samples, the most frequent answer counts.

        Returns:
            The answers, and the number of those that met their limit of tokens.
        """
        settings, delimiter = self.settings, self.language_model.decoder_tokenizer.rules.target_delimiter
        options: dict[str, Any] = {}
        if settings.samples > 1:
            method = f"{settings.samples} samples at {settings.temperature}, seed {settings.seed}"
        else:
            is_free_text = task.card.cluster in NEW_TOKENS_BY_CLUSTER and not task.examples[0].options
            options |= BEAM_SEARCH if is_free_text else {}
            method = f"said {sorted(options.items())}"
        generations = generate_answers(
            self.language_model, prompts, names, method, options, settings, self.cache, on_progress
        )
        metric, has_rationale = task.card.metric.name, asks_for_rationale(task.card, settings.style)

        def extract(text: str) -> str:
            return extract_answer(text, delimiter, metric)[1] if has_rationale else strip_delimiter(text, delimiter)

        answers = [
            extract(generation)
            if isinstance(generation, str)
            else majority_vote([extract(sample) for sample in generation], metric, task.card.language)
            for generation, _ in generations
        ]
        resolved = [
            self.answer_tokens.resolve(answer, prompt.reference)
            for answer, prompt in zip(answers, prompts, strict=True)
        ]
        return resolved, sum(is_cut for _, is_cut in generations)


def score_template(
    settings: EvaluationSettings,
    task: EvaluatedTask,
    template: str,
    shots: int,
    prompt_set: PromptSet,
    predictions: list[str],
    rankings: Sequence[OptionRanking] | None,
    start_time: float,
) -> TemplateResult:
    """Score the predictions of a task with a template.

    Args:
        settings: Settings of the evaluation.
        task: The task.
        template: Name of the template, or of several.
        shots: Number of demonstrations.
        prompt_set: The prompts.
        predictions: An answer to each prompt.
        rankings: The rankings that the answers come from; None: they were generated.
        start_time: Start of the evaluation, by ``time.perf_counter``.
    """
    metric, prompts = task.card.metric.name, prompt_set.prompts
    references = [prompt.reference for prompt in prompts]
    if settings.normalise:
        pairs = [normalise_answer(*pair) for pair in zip(predictions, references, strict=True)]
        predictions, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    columns = task_metrics.columns_by_example(metric, predictions, references) if references else {}
    scores = columns.get("value") or [
        task_metrics.score_of_example(metric, prediction, reference)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    extra: dict[str, float] = {}
    if references:
        extra |= task_metrics.extra_metrics(task.card, predictions, references)
        extra |= scores_of_alternatives(metric, rankings or (), references)
    samples = tuple(
        Prediction(
            prompt.example.row,
            prompt.input,
            reference.answers[0],
            prediction,
            scores[index],
            None if rankings is None else dict(zip(reference.options, rankings[index].log_likelihood, strict=True)),
        )
        for index, (prompt, reference, prediction) in enumerate(zip(prompts, references, predictions, strict=True))
    )
    return TemplateResult(
        template,
        task_metrics.metric_value(metric, predictions, references, columns) if references else None,
        task_metrics.chance(metric, references),
        prompt_set.cut,
        prompt_set.skipped,
        time.perf_counter() - start_time,
        shots,
        extra,
        columns,
        samples,
        prompt_set.note,
        empty=prompt_set.empty,
        also_each={
            name: task_metrics.columns_by_example(name, predictions, references)
            for name in (task.card.metric.also if references else ())
            if name in extra
        },
    )


def _with_title(on_progress: Callable[[str], None], title: str, text: str) -> None:
    on_progress(title + text)
